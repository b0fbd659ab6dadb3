//! What packets and their owner have in common: the heap, and the ways to it.
//!
//! ```text
//! ┌ Home ───────────────────────────────┐
//! │ Door: who owns   │ any thread reads │
//! │       the stack  │ any thread       │
//! ├──────────────────┼──────────────────┤
//! │ the heap         │ the owner only   │
//! └──────────────────┴──────────────────┘
//! ```
//!
//! A `Home` lives in a box of its own, from its owner's beginning until the owner and the last packet are gone.
//! [`super::returns`] says who takes it down.

use alloc::boxed::Box;
use core::cell::Cell;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicUsize, Ordering};

use super::batch;
use super::near::{Nearness, Whereabouts};
use super::returns::{Bundle, Last, Returns};
use crate::descriptor::Plate;
use crate::geometry::Fixed;
use crate::heap::Heap;
use crate::system::{Os, System};

/// Keeps apart what different threads write: a pair of cache lines, which processors fetch together.
#[repr(align(128))]
struct Apart<T>(T);

/// What threads look at when they drop or borrow, and hardly ever write.
struct Owner {
    /// The number of the thread that owns the heap.
    thread: AtomicUsize,
    whereabouts: Whereabouts,
}

/// The part of a home that every thread may look at, whatever the heap's type.
#[repr(C)]
pub(super) struct Door {
    owner: Apart<Owner>,
    returns: Apart<Returns>,
    /// Takes the home down.
    demolish: unsafe fn(NonNull<Door>),
}

impl Door {
    /// Whether a packet of another home may have a block of this one: if it is near, and as long as there is an owner that
    /// gets it back.
    ///
    /// # Safety
    /// A block of the home is live.
    #[inline(always)]
    pub(super) unsafe fn lends(door: NonNull<Door>, nearness: Nearness) -> bool {
        // SAFETY: the home stands while the block is live, and the door is for everybody.
        let owner = unsafe { &(*door.as_ptr()).owner.0 };
        owner.whereabouts.get().lends_to(nearness) && owner.thread.load(Ordering::Relaxed) != NOBODY
    }

    /// Hands a bundle in; takes the home down when that was its last block.
    ///
    /// # Safety
    /// As for [`Returns::push`]; `door` is derived from the pointer to the whole home.
    #[inline(never)]
    pub(super) unsafe fn push(door: NonNull<Door>, bundle: NonNull<Bundle>, blocks: usize) {
        // SAFETY: the home stays while blocks of it are out, and those of the bundle are.
        let last = unsafe { (*door.as_ptr()).returns.0.push(bundle, blocks) };
        if last == Last::Yes {
            // SAFETY: nobody else knows of the home any more.
            unsafe { ((*door.as_ptr()).demolish)(door) };
        }
    }
}

/// A heap, and the ways to it.
#[repr(C)]
pub(super) struct Home<const UNIT: usize, const WINDOW_UNITS: usize, S: System> {
    door: Door,
    heap: Apart<Heap<Fixed<UNIT, WINDOW_UNITS>, S>>,
}

/// The number of no thread.
const NOBODY: usize = usize::MAX;

std::thread_local! {
    /// The number of this thread, once it has owned a heap; 0 before.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
    /// The door of a home that is bound to this thread: the one that was bound or had to look for memory last.
    static AT_HAND: Cell<*const Door> = const { Cell::new(ptr::null()) };
}

/// A number that no other thread has or had.
fn number_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    if NUMBER.get() == 0 {
        let next = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            next.checked_add(1).filter(|&after| after != NOBODY)
        });
        NUMBER.set(next.expect("fewer threads than numbers"));
    }
    NUMBER.get()
}

/// The right to a home's heap: there is one for each home, with its owner.
pub(super) struct Key<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(NonNull<Home<UNIT, WINDOW_UNITS, S>>);

// SAFETY: the heap may be used on another thread when the key moves there, as long as its system may.
unsafe impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System + Send> Send for Key<UNIT, WINDOW_UNITS, S> {}

impl<const UNIT: usize, const WINDOW_UNITS: usize> Key<UNIT, WINDOW_UNITS, Os> {
    /// A home on the system's memory, which nobody owns yet. Such homes lend blocks to each other, unless there is
    /// something to be done to a block or to be counted when it is handed out.
    pub(super) fn new(heap: Heap<Fixed<UNIT, WINDOW_UNITS>, Os>) -> Self {
        let lends = heap.settings.is_plain() && heap.settings.memory_limit.is_none();
        let nearness = if lends { Nearness::of_shape::<UNIT, WINDOW_UNITS>() } else { Nearness::ALONE };
        // SAFETY: the shape and the system are all that the type depends on, and only homes on `Os` have such a nearness.
        unsafe { Self::of_nearness(heap, nearness) }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Key<UNIT, WINDOW_UNITS, S> {
    /// A home for `heap`, which nobody owns yet. It neither lends nor borrows.
    pub(super) fn alone(heap: Heap<Fixed<UNIT, WINDOW_UNITS>, S>) -> Self {
        // SAFETY: a home that is alone lends to nobody.
        unsafe { Self::of_nearness(heap, Nearness::ALONE) }
    }

    /// A home for `heap`, which nobody owns yet. It lends to others of that `nearness` and borrows from them.
    ///
    /// # Safety
    /// Homes that lend to each other have the same type.
    unsafe fn of_nearness(heap: Heap<Fixed<UNIT, WINDOW_UNITS>, S>, nearness: Nearness) -> Self {
        let door = Door {
            owner: Apart(Owner { thread: AtomicUsize::new(NOBODY), whereabouts: Whereabouts::new(nearness) }),
            returns: Apart(Returns::new()),
            demolish: demolish::<UNIT, WINDOW_UNITS, S>,
        };
        let home = NonNull::from(Box::leak(Box::new(Home { door, heap: Apart(heap) })));
        let key = Self(home);
        key.heap().lead_to(home.cast());
        key
    }

    /// Has packets that are dropped on this thread go straight back to the heap.
    ///
    /// The key must not leave this thread before [`unbind`](Self::unbind).
    pub(super) fn bind(&self) {
        self.door().owner.0.thread.store(number_of_this_thread(), Ordering::Relaxed);
        self.come_to_hand();
        self.look_around();
        // What this thread dropped while nobody owned the home.
        batch::flush();
    }

    /// Has all packets come back by the stack. On the thread that the key is bound to, if it is.
    pub(super) fn unbind(&self) {
        if AT_HAND.get() == ptr::from_ref(self.door()) {
            AT_HAND.set(ptr::null());
        }
        self.door().owner.0.thread.store(NOBODY, Ordering::Relaxed);
    }

    /// Has a block lead here that lies in no window. Its *label* takes the block's first unit.
    ///
    /// # Safety
    /// The block is one of this heap's, and nobody uses its first unit.
    pub(super) unsafe fn label(&self, block: NonNull<u8>) {
        const { assert!(size_of::<Plate>() <= UNIT && align_of::<Plate>() <= UNIT) };
        // SAFETY: the caller says so, and a plate fits.
        unsafe { block.cast().write(Plate::new(block.addr().get(), self.0.as_ptr().cast_const().cast())) };
    }

    fn door(&self) -> &Door {
        // SAFETY: a home stands at least as long as its key, and the door is for everybody.
        unsafe { &(*self.0.as_ptr()).door }
    }

    /// The heap.
    #[inline(always)]
    pub(super) fn heap(&self) -> &Heap<Fixed<UNIT, WINDOW_UNITS>, S> {
        // SAFETY: a home stands at least as long as its key. The heap is used where its key is, and by packets on the
        // thread that the key is bound to, which is the same one.
        unsafe { &(*self.0.as_ptr()).heap.0 }
    }

    /// Notes on which core the owner is.
    pub(super) fn look_around(&self) {
        self.door().owner.0.whereabouts.update();
    }

    /// Has the home at hand on this thread, which the key is bound to.
    pub(super) fn come_to_hand(&self) {
        AT_HAND.set(self.door());
    }

    /// A block of `capacity` bytes that this thread has freed, as it is, in a window of a home of this type that is near.
    #[inline(always)]
    pub(super) fn borrow(&self, capacity: usize) -> Option<NonNull<u8>> {
        batch::borrow(self.door().owner.0.whereabouts.get(), capacity)
    }

    /// Gives the heap what came back by the stack; returns how many blocks.
    pub(super) fn collect(&self) -> usize {
        let returns = &self.door().returns.0;
        if returns.is_empty() { 0 } else { self.take_back(returns.take()) }
    }

    fn take_back(&self, blocks: impl Iterator<Item = NonNull<u8>>) -> usize {
        // SAFETY: blocks on the stack are live ones of this heap that their packets gave up.
        unsafe { self.heap().free_latest_first(blocks) }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Drop for Key<UNIT, WINDOW_UNITS, S> {
    fn drop(&mut self) {
        self.unbind();
        self.take_back(self.door().returns.0.close());
        // What nobody uses need not wait for the last packet.
        self.heap().trim();
        let out = self.heap().stats().live_blocks;
        if self.door().returns.0.settle(out as isize) == Last::Yes {
            // SAFETY: no packet is left, and the key goes.
            unsafe { demolish::<UNIT, WINDOW_UNITS, S>(self.0.cast()) };
        }
    }
}

/// Takes a home down.
///
/// # Safety
/// `door` is the pointer to a whole home, of which nobody else knows any more.
unsafe fn demolish<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(door: NonNull<Door>) {
    // SAFETY: the home was made as a box by `Key::of_nearness`, and its door is its first field.
    drop(unsafe { Box::from_raw(door.cast::<Home<UNIT, WINDOW_UNITS, S>>().as_ptr()) });
}

/// A home, for those who have a block that is live there; it stands as long.
///
/// A packet does not carry it. A [`Plate`] leads there: that of the window that the block lies in, or the block's label.
pub(super) struct Lodger<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(NonNull<Home<UNIT, WINDOW_UNITS, S>>);

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Lodger<UNIT, WINDOW_UNITS, S> {
    /// Where a plate leads; `None` if it was written to.
    ///
    /// # Safety
    /// The plate is, or was, that of a window of a home of this type in which a block is live, or the label of such a
    /// block.
    pub(super) unsafe fn at(plate: NonNull<Plate>) -> Option<Self> {
        // SAFETY: the caller says so. What is sealed is what `of_nearness` or `label` wrote: a home of this type.
        unsafe { Plate::sealed_home(plate) }.map(|home| Self(home.cast()))
    }

    /// The heap that a plate leads to, if it is the one at hand.
    ///
    /// # Safety
    /// As for [`at`](Self::at), and the block is live for as long as the reference is used.
    #[inline(always)]
    pub(super) unsafe fn heap_at_hand<'a>(plate: NonNull<Plate>) -> Option<&'a Heap<Fixed<UNIT, WINDOW_UNITS>, S>> {
        // SAFETY: the caller says so. What a thread has at hand is the address of a home that is bound to it, or whose
        // owner was forgotten there, and which therefore stands: so the heap may be used here.
        unsafe {
            let home: *const Home<UNIT, WINDOW_UNITS, S> = Plate::home(plate).cast();
            if home.cast() == AT_HAND.get() { Some(&(*home).heap.0) } else { None }
        }
    }

    /// The heap, on its owner's thread.
    ///
    /// # Safety
    /// A block of the heap is live for as long as the reference is used.
    #[inline(always)]
    pub(super) unsafe fn heap<'a>(&self) -> Option<&'a Heap<Fixed<UNIT, WINDOW_UNITS>, S>> {
        // SAFETY: the home stands while the block is live, and the door is for everybody.
        let owner = unsafe { (*self.0.as_ptr()).door.owner.0.thread.load(Ordering::Relaxed) };
        // SAFETY: a thread finds its own number there only while the key is bound to it or was forgotten there, because
        // nobody else stores it; then the heap is this thread's to use.
        (owner == NUMBER.get()).then(|| unsafe { &(*self.0.as_ptr()).heap.0 })
    }

    /// Where to hand in blocks on other threads.
    #[inline(always)]
    pub(super) fn door(&self) -> NonNull<Door> {
        self.0.cast()
    }
}

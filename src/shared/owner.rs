//! What packets and their owner have in common: the heap, and the ways to it.
//!
//! ```text
//! ┌ Shared ──────────────────────────────────┐
//! │ Owner: whose thread   │ any thread reads │
//! │        remote frees   │ any thread       │
//! │        lock           │ any thread       │
//! ├───────────────────────┼──────────────────┤
//! │ heap, frees at hand   │ lock's holder    │
//! └───────────────────────┴──────────────────┘
//! ```
//!
//! A `Shared` lies in a box of its own, until the owner and the last packet are gone. The header of each region of the
//! heap points to it.
//!
//! The owner holds the lock for as long as it is there, and so never has to look at it. When it goes it closes the
//! queue of remote frees and unlocks. A thread that frees a packet after that finds the queue closed, takes the lock,
//! and frees the block itself, which gives windows that become empty back to the system. The holder of the lock that
//! finds no live block left takes the memory down: all packets are gone, and so is everybody who could wait for the
//! lock.
//!
//! The heap of a pool's share has an owner that does not hold the lock: a thread that allocates takes it for that, and
//! so does a thread that frees a packet, unless another one has it; then it uses the queue.

use alloc::alloc::handle_alloc_error;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::cell::{Cell, UnsafeCell};
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicUsize;

use super::batch;
use super::label::Label;
use super::queue::{Bundle, Queue, Taken};
use super::sync::{AtomicBool, Ordering, wait_a_little};
use crate::geometry::Fixed;
use crate::heap::Heap;
use crate::prefetch::ToWrite;
use crate::region::OwnerPointer;
use crate::system::System;

/// Keeps apart what different threads write: a pair of cache lines, which processors fetch together.
#[repr(align(128))]
struct Apart<T>(T);

/// What threads look at when they drop a packet, and hardly ever write.
struct Facts {
    /// The number of the thread that owns the heap.
    thread: AtomicUsize,
    /// How blocks come back that are freed elsewhere.
    returns: Returns,
    /// Frees blocks once the owner is gone.
    free_orphans: unsafe fn(NonNull<Owner>, &mut dyn Iterator<Item = NonNull<u8>>),
}

/// How blocks come back that are freed on a thread that is not the owner's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Returns {
    /// Threads keep them for a while, and hand them in together.
    Batched,
    /// One by one, where memory is limited: the owner could wait for the others for ever.
    Queued,
    /// To the heap, whose lock the owner does not hold.
    Locked,
}

/// The part of a `Shared` that every thread may look at, whatever the heap's type.
#[repr(C)]
pub(super) struct Owner {
    facts: Apart<Facts>,
    queue: Apart<Queue>,
    lock: Lock,
}

/// Who may use the heap.
pub(super) struct Lock(AtomicBool);

impl Lock {
    /// A lock that the caller holds.
    pub(super) fn held() -> Self {
        Self(AtomicBool::new(true))
    }

    /// Waits for the lock.
    pub(super) fn lock(&self) {
        while self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            wait_a_little();
        }
    }

    /// Takes the lock if nobody has it.
    #[inline(always)]
    pub(super) fn try_lock(&self) -> bool {
        self.0.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Gives the lock up. Nothing that it protects, nor the lock itself, may be used afterwards.
    pub(super) fn unlock(&self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Owner {
    /// How blocks come back that are freed elsewhere.
    ///
    /// # Safety
    /// A block of the heap is live.
    #[inline(always)]
    pub(super) unsafe fn returns(this: NonNull<Self>) -> Returns {
        // SAFETY: the owner stands while the block is live, and this part is for everybody.
        unsafe { (*this.as_ptr()).facts.0.returns }
    }

    /// Hands in a bundle of blocks of this owner's.
    ///
    /// # Safety
    /// The bundle lies in a freed block of the owner's, aligned for it, and names `blocks - 1` others; nobody else
    /// holds any of them. `this` may be gone afterwards.
    #[inline(never)]
    pub(super) unsafe fn push(this: NonNull<Self>, bundle: NonNull<Bundle>, blocks: usize) {
        // SAFETY: the owner stands while blocks are out, and those of the bundle are. After a push that succeeds it may
        // be gone; after one that does not, the blocks are still this thread's.
        unsafe {
            if (*this.as_ptr()).queue.0.push(bundle, blocks).is_err() {
                ((*this.as_ptr()).facts.0.free_orphans)(this, &mut Taken::one(bundle, blocks));
            }
        }
    }
}

/// A heap, and the ways to it.
#[repr(C)]
pub(super) struct Shared<const UNIT: usize, const WINDOW_UNITS: usize, S: System> {
    owner: Owner,
    heap: Apart<HeapOf<UNIT, WINDOW_UNITS, S>>,
    /// Blocks that were taken from the queue and not freed yet.
    taken: UnsafeCell<Taken>,
}

/// A heap of a shape that is known at compile time.
pub(super) type HeapOf<const UNIT: usize, const WINDOW_UNITS: usize, S> = Heap<Fixed<UNIT, WINDOW_UNITS, S>, S>;

/// A value in a box of its own, for [`Box::from_raw`]; `None` when there is no memory for it.
pub(super) fn try_leak<T>(value: T) -> Option<NonNull<T>> {
    let mut place = Vec::new();
    place.try_reserve_exact(1).ok()?;
    place.push(value);
    // A slice of one has the layout of its element.
    Some(NonNull::from(Box::leak(place.into_boxed_slice())).cast())
}

/// An address at which there is no owner. Not null, which a region without an owner leads to.
const NO_OWNER: *const Owner = (&raw const NOTHING).cast();
static NOTHING: u8 = 0;
/// The number of no thread.
const NOBODY: usize = usize::MAX;

std::thread_local! {
    /// The number of this thread, once it has owned a heap; 0 before.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
    /// The owner at hand: one that is bound to this thread, the one that was bound or had to look for memory last;
    /// otherwise [`NO_OWNER`].
    static AT_HAND: Cell<*const Owner> = const { Cell::new(NO_OWNER) };
}

/// The number of this thread, if it has one already.
#[inline(always)]
pub(super) fn known_number_of_this_thread() -> Option<usize> {
    Some(NUMBER.get()).filter(|&number| number > 0)
}

/// A number that no other thread has or had.
pub(super) fn number_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    if NUMBER.get() == 0 {
        let next = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |next| {
            next.checked_add(1).filter(|&after| after != NOBODY)
        });
        NUMBER.set(next.expect("fewer threads than numbers"));
    }
    NUMBER.get()
}

/// The right to a heap: there is one for each, with its owner.
pub(super) struct Key<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(NonNull<Shared<UNIT, WINDOW_UNITS, S>>);

// SAFETY: the heap may be used on another thread when the key moves there, as long as its system may.
unsafe impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System + Send> Send for Key<UNIT, WINDOW_UNITS, S> {}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Key<UNIT, WINDOW_UNITS, S> {
    /// The key to `heap`, which is bound to no thread yet. It holds the lock.
    pub(super) fn new(heap: HeapOf<UNIT, WINDOW_UNITS, S>) -> Self {
        Self::try_new(heap).unwrap_or_else(|| handle_alloc_error(Layout::new::<Shared<UNIT, WINDOW_UNITS, S>>()))
    }

    /// The same; `None` when there is no memory for a `Shared`.
    pub(super) fn try_new(heap: HeapOf<UNIT, WINDOW_UNITS, S>) -> Option<Self> {
        let returns = if heap.settings.memory_limit.is_none() { Returns::Batched } else { Returns::Queued };
        Self::with_returns(heap, returns)
    }

    /// The key to `heap`, which does not hold the lock: see [`try_with`](Self::try_with). It is never bound.
    pub(super) fn without_lock(heap: HeapOf<UNIT, WINDOW_UNITS, S>) -> Self {
        let key = Self::with_returns(heap, Returns::Locked)
            .unwrap_or_else(|| handle_alloc_error(Layout::new::<Shared<UNIT, WINDOW_UNITS, S>>()));
        key.owner().lock.unlock();
        key
    }

    fn with_returns(heap: HeapOf<UNIT, WINDOW_UNITS, S>, returns: Returns) -> Option<Self> {
        let facts =
            Facts { thread: AtomicUsize::new(NOBODY), returns, free_orphans: free_orphans::<UNIT, WINDOW_UNITS, S> };
        let owner = Owner { facts: Apart(facts), queue: Apart(Queue::new()), lock: Lock::held() };
        let shared = Shared { owner, heap: Apart(heap), taken: UnsafeCell::new(Taken::none()) };
        let shared = try_leak(shared)?;
        let key = Self(shared);
        key.heap().set_owner(shared.cast());
        Some(key)
    }

    /// Does `work` with the heap of a key [without the lock](Self::without_lock), unless another thread has that.
    #[inline(always)]
    pub(super) fn try_with<T>(&self, work: impl FnOnce(&Self) -> T) -> Option<T> {
        if !self.owner().lock.try_lock() {
            return None;
        }
        // SAFETY: this thread has the lock; the queue is open while there is a key.
        let _held = unsafe { Held::new(self.0) };
        Some(work(self))
    }

    /// Does `work` with the heap of a key [without the lock](Self::without_lock), once it has that.
    pub(super) fn with<T>(&self, work: impl FnOnce(&Self) -> T) -> T {
        self.owner().lock.lock();
        // SAFETY: as above.
        let _held = unsafe { Held::new(self.0) };
        work(self)
    }

    /// Has packets that are dropped on this thread go straight back to the heap.
    ///
    /// The key must not leave this thread before [`unbind`](Self::unbind).
    pub(super) fn bind(&self) {
        self.owner().facts.0.thread.store(number_of_this_thread(), Ordering::Relaxed);
        self.come_to_hand();
        // What this thread dropped while the key was bound to none.
        batch::flush();
    }

    /// Has all packets come back by the queue. On the thread that the key is bound to, if it is.
    pub(super) fn unbind(&self) {
        if AT_HAND.get() == ptr::from_ref(self.owner()) {
            AT_HAND.set(NO_OWNER);
        }
        self.owner().facts.0.thread.store(NOBODY, Ordering::Relaxed);
    }

    /// Labels a block of which a packet may use `size` bytes.
    ///
    /// # Safety
    /// The block is one of this heap's, and begins with room for a label, which nobody uses.
    pub(super) unsafe fn label(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: the caller says so.
        unsafe { Label::write(block, self.0.as_ptr().cast_const().cast(), size) };
    }

    fn owner(&self) -> &Owner {
        // SAFETY: it stands at least as long as its key, and this part is for everybody.
        unsafe { &(*self.0.as_ptr()).owner }
    }

    /// The heap.
    #[inline(always)]
    pub(super) fn heap(&self) -> &HeapOf<UNIT, WINDOW_UNITS, S> {
        // SAFETY: it stands at least as long as its key, which holds the lock, or whose user does. The heap is used
        // where its key is, and by packets on the thread that the key is bound to, which is the same one.
        unsafe { &(*self.0.as_ptr()).heap.0 }
    }

    /// Has the owner at hand on this thread, which the key is bound to.
    pub(super) fn come_to_hand(&self) {
        AT_HAND.set(self.owner());
    }

    /// Frees all blocks that came back from other threads; returns how many.
    pub(super) fn collect(&self) -> usize {
        self.collect_at_most(usize::MAX)
    }

    /// Frees at most so many of the blocks that came back from other threads; returns how many.
    pub(super) fn collect_at_most(&self, most: usize) -> usize {
        // SAFETY: the key holds the lock, and nothing below comes back here.
        let taken = unsafe { &mut *(*self.0.as_ptr()).taken.get() };
        let mut freed = 0;
        let to_write = ToWrite::if_known();
        loop {
            for block in taken.take(most - freed) {
                freed += 1;
                // It is about to be handed out, and another core has read or written it last.
                if let Some(to_write) = to_write {
                    to_write.prefetch(block.as_ptr());
                }
                // SAFETY: blocks on the queue are live ones of this heap that their packets gave up.
                unsafe { self.heap().free(block) };
            }
            let queue = &self.owner().queue.0;
            if freed == most || queue.is_empty() {
                return freed;
            }
            queue.take(taken);
        }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Drop for Key<UNIT, WINDOW_UNITS, S> {
    fn drop(&mut self) {
        if self.owner().facts.0.returns == Returns::Locked {
            self.owner().lock.lock();
        }
        let _leaving = Leaving(self.0);
        self.unbind();
        self.collect();
        for block in self.owner().queue.0.close() {
            // SAFETY: as in `collect_at_most`.
            unsafe { self.heap().free(block) };
        }
        if self.heap().used_bytes() > 0 {
            self.heap().trim_all();
        }
    }
}

/// What a key does last, also where it panics over a block that was written to: packets that are left must not wait for
/// it.
struct Leaving<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(NonNull<Shared<UNIT, WINDOW_UNITS, S>>);

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Drop for Leaving<UNIT, WINDOW_UNITS, S> {
    fn drop(&mut self) {
        // SAFETY: the key holds the lock, and is not used any more. While the queue is open blocks are out, or none has
        // come back: nobody takes the heap down.
        unsafe {
            if (*self.0.as_ptr()).owner.queue.0.is_closed() {
                leave(self.0);
            } else {
                (*self.0.as_ptr()).owner.lock.unlock();
            }
        }
    }
}

/// Gives the lock of a heap without an owner up, or takes everything down if no block is left.
///
/// # Safety
/// The caller holds the lock, the queue is closed, and the caller does not use `shared` any more.
unsafe fn leave<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(
    shared: NonNull<Shared<UNIT, WINDOW_UNITS, S>>,
) {
    // SAFETY: the holder of the lock may use the heap.
    let (heap, lock) = unsafe { (&(*shared.as_ptr()).heap.0, &(*shared.as_ptr()).owner.lock) };
    if heap.used_bytes() == 0 {
        // SAFETY: it was made as a box by `Key::new`. No block is out, so nobody else knows of it: a thread that waits
        // for the lock has a block.
        drop(unsafe { Box::from_raw(shared.as_ptr()) });
    } else {
        lock.unlock();
    }
}

/// The lock of a heap, held by this thread, which gives it up in the right way, also when it panics.
pub(super) struct Held<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(NonNull<Shared<UNIT, WINDOW_UNITS, S>>);

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Held<UNIT, WINDOW_UNITS, S> {
    /// # Safety
    /// The caller has taken the lock, and uses the heap for no longer than this lives.
    #[inline(always)]
    unsafe fn new(shared: NonNull<Shared<UNIT, WINDOW_UNITS, S>>) -> Self {
        Self(shared)
    }

    /// The heap.
    #[inline(always)]
    pub(super) fn heap(&self) -> &HeapOf<UNIT, WINDOW_UNITS, S> {
        // SAFETY: the holder of the lock may use it.
        unsafe { &(*self.0.as_ptr()).heap.0 }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Drop for Held<UNIT, WINDOW_UNITS, S> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: the lock is held, so the heap is there; the queue was closed with the lock.
        unsafe {
            if (*self.0.as_ptr()).owner.queue.0.is_closed() {
                leave_for_good(self.0);
            } else {
                (*self.0.as_ptr()).owner.lock.unlock();
            }
        }
    }
}

/// Gives the lock of a heap up whose owner is gone, with what has become empty.
///
/// # Safety
/// As for [`leave`].
#[cold]
#[inline(never)]
unsafe fn leave_for_good<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(
    shared: NonNull<Shared<UNIT, WINDOW_UNITS, S>>,
) {
    // SAFETY: the caller says so: it may use the heap, until it leaves.
    unsafe {
        (*shared.as_ptr()).heap.0.release_empty();
        leave(shared);
    }
}

/// Frees blocks of a heap whose owner is gone.
///
/// # Safety
/// `owner` is the pointer to a whole `Shared` of this type whose queue is closed; the blocks are live ones of its heap
/// that nobody else holds. It may be gone afterwards.
unsafe fn free_orphans<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(
    owner: NonNull<Owner>,
    blocks: &mut dyn Iterator<Item = NonNull<u8>>,
) {
    let shared = owner.cast::<Shared<UNIT, WINDOW_UNITS, S>>();
    // SAFETY: it stands while the blocks are live. The holder of the lock may use the heap.
    unsafe {
        (*shared.as_ptr()).owner.lock.lock();
        let held = Held::new(shared);
        for block in blocks {
            held.heap().free(block);
        }
    }
}

/// A `Shared`, for those who have a block that is live there; it stands as long.
///
/// A packet does not carry it. An [`OwnerPointer`] leads there: that of the region that the block lies in, or the
/// block's label.
pub(super) struct OwnerOf<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(
    NonNull<Shared<UNIT, WINDOW_UNITS, S>>,
);

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> OwnerOf<UNIT, WINDOW_UNITS, S> {
    /// Where a pointer leads; `None` if it was written to.
    ///
    /// # Safety
    /// The pointer is, or was, that of a region of a `Shared` of this type in which a block is live, or the label of
    /// such a block.
    pub(super) unsafe fn at(pointer: NonNull<OwnerPointer>) -> Option<Self> {
        // SAFETY: the caller says so. What is sealed is what `Key` wrote: a `Shared` of this type.
        unsafe { OwnerPointer::sealed_owner(pointer) }.map(|shared| Self(shared.cast()))
    }

    /// The heap that a pointer leads to, if its owner is the one at hand.
    ///
    /// # Safety
    /// As for [`at`](Self::at), and the block is live for as long as the reference is used.
    #[inline(always)]
    pub(super) unsafe fn heap_at_hand<'a>(pointer: NonNull<OwnerPointer>) -> Option<&'a HeapOf<UNIT, WINDOW_UNITS, S>> {
        // SAFETY: the caller says so. What a thread has at hand is where no owner is, or the address of an owner that
        // is bound to it or was forgotten there, and which therefore stands: so the heap may be used here.
        unsafe {
            let shared: *const Shared<UNIT, WINDOW_UNITS, S> = OwnerPointer::owner(pointer).cast();
            if shared.cast() == AT_HAND.get() { Some(&(*shared).heap.0) } else { None }
        }
    }

    /// The heap, on its owner's thread.
    ///
    /// # Safety
    /// A block of the heap is live for as long as the reference is used.
    #[inline(always)]
    pub(super) unsafe fn heap<'a>(&self) -> Option<&'a HeapOf<UNIT, WINDOW_UNITS, S>> {
        // SAFETY: it stands while the block is live, and this part is for everybody.
        let thread = unsafe { (*self.0.as_ptr()).owner.facts.0.thread.load(Ordering::Relaxed) };
        // SAFETY: a thread finds its own number there only while the key is bound to it or was forgotten there, because
        // nobody else stores it; then the heap is this thread's to use.
        (thread == NUMBER.get()).then(|| unsafe { &(*self.0.as_ptr()).heap.0 })
    }

    /// The lock, and with it the heap, where its blocks come [back under the lock](Returns::Locked): if nobody has
    /// that, or, where it `waits`, once nobody has.
    ///
    /// # Safety
    /// A block of the heap is live until this returns.
    #[inline(always)]
    pub(super) unsafe fn lock(&self, waits: bool) -> Option<Held<UNIT, WINDOW_UNITS, S>> {
        // SAFETY: it stands while the block is live, and this part is for everybody.
        let owner = unsafe { &(*self.0.as_ptr()).owner };
        if owner.facts.0.returns != Returns::Locked {
            return None;
        }
        if waits {
            owner.lock.lock();
        } else if !owner.lock.try_lock() {
            return None;
        }
        // SAFETY: this thread has the lock.
        Some(unsafe { Held::new(self.0) })
    }

    /// Where to hand in blocks on other threads.
    #[inline(always)]
    pub(super) fn owner(&self) -> NonNull<Owner> {
        self.0.cast()
    }
}

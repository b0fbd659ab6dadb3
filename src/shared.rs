//! One thread allocates, any thread frees.
//!
//! A [`SharedAllocator`] is an allocator whose regions name their owner, so its packets may be sent anywhere, and free
//! themselves wherever they are dropped.
//!
//! ```text
//! owner's thread                         other threads
//! ┌──────────────────┐   SharedPacket   ┌───────────────────────┐
//! │ SharedAllocator  │ ───────────────▶ │ drop: into the batch  │
//! │ heap             │                  │ of the thread         │
//! └──────────────────┘                  └───────────────────────┘
//!      ▲ a bundle of up to 31 blocks, one atomic exchange │
//!      └────── queue of remote frees ◀────────────────────┘
//!        taken a bounded number at a time when the extent is used up
//! ```
//!
//! The owner allocates as [`Allocator`](crate::Allocator) does and looks at the queue only where that one leaves its
//! hot path, about once in a hundred packets. A packet that is dropped on its owner's thread is freed at once; a thread
//! knows that it is the owner's by comparing the owner that the packet's region names with the one that it has at hand,
//! and where that is another, by a number.
//!
//! - [`queue`] is the queue of remote frees;
//! - [`batch`] is what a thread has freed and not yet handed in;
//! - [`owner`] keeps apart what is the owner's and what is everybody's, and says what its end means;
//! - [`pool`] is an allocator for each of many threads, or memory that they share;
//! - [`packet`] is what packets know of their owner, and [`label`] what lies in front of long ones;
//! - [`frozen`] is the packet that many hold, and [`references`] counts them.

mod batch;
mod frozen;
mod label;
#[cfg(all(test, loom))]
mod loom_tests;
mod owner;
mod packet;
mod pool;
mod queue;
mod references;
mod sync;

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;

use crate::config::{Config, ConfigError, Settings};
use crate::error::{AllocError, IntegrityError};
use crate::geometry::Fixed;
use crate::heap::Heap;
use crate::packet::owner::sealed::Take;
use crate::packet::span::Span;
use crate::packet::{Source, packet_methods};
use crate::stats::Stats;
use crate::system::{Os, System};

pub use frozen::FrozenPacket;
use owner::{HeapOf, Key};
pub use packet::{AnyThread, SharedPacket};
pub use pool::Pool;

/// An allocator whose packets any thread may hold and free.
///
/// It allocates on one thread, the one that it was made on or [bound](Unbound::bind) to, and is neither `Send` nor
/// `Sync`; its packets are both. Dropping it leaves packets that are still held valid: the last of them takes the
/// memory with it, on whatever thread that happens.
///
/// ```
/// use pktalloc::SharedAllocator;
/// use std::sync::mpsc;
///
/// let (sender, receiver) = mpsc::channel();
/// let worker = std::thread::spawn(move || {
///     receiver.into_iter().map(|packet: pktalloc::SharedPacket| packet.len()).sum::<usize>()
/// });
/// let allocator = SharedAllocator::new();
/// for sequence in 0..1000u32 {
///     let mut packet = allocator.packet(1400)?;
///     packet[..4].copy_from_slice(&sequence.to_be_bytes());
///     sender.send(packet).expect("the worker listens");
/// }
/// drop(sender);
/// assert_eq!(worker.join().unwrap(), 1_400_000);
/// allocator.collect();
/// assert_eq!(allocator.used_bytes(), 0);
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
///
/// # Misuse that does not compile
///
/// ```compile_fail,E0277
/// let allocator = pktalloc::SharedAllocator::new();
/// std::thread::spawn(move || allocator.packet(100)); // not `Send`: use `unbind`
/// ```
pub struct SharedAllocator<const UNIT: usize = 64, const WINDOW_UNITS: usize = 2048, S: System = Os> {
    key: Key<UNIT, WINDOW_UNITS, S>,
    /// Why the last allocation failed.
    refusal: Cell<AllocError>,
    /// The key is bound to this thread.
    here: PhantomData<*const ()>,
}

/// A [`SharedAllocator`] on its way to another thread.
///
/// ```
/// use pktalloc::SharedAllocator;
///
/// let unbound = SharedAllocator::new().unbind();
/// std::thread::spawn(move || {
///     let allocator = unbound.bind();
///     allocator.packet(1400).map(drop)
/// })
/// .join()
/// .unwrap()?;
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
pub struct Unbound<const UNIT: usize = 64, const WINDOW_UNITS: usize = 2048, S: System = Os> {
    key: Key<UNIT, WINDOW_UNITS, S>,
}

impl SharedAllocator {
    /// An allocator of the default shape and configuration, bound to this thread. Asks for no packet memory until the
    /// first allocation.
    ///
    /// For another shape: `SharedAllocator::<32, 1024>::default()`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize> Default for SharedAllocator<UNIT, WINDOW_UNITS> {
    fn default() -> Self {
        Self::of_key(Key::new(Heap::new(Fixed::new(), Settings::new(), Os)))
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize> SharedAllocator<UNIT, WINDOW_UNITS> {
    /// An allocator that behaves as `config` says, bound to this thread.
    ///
    /// # Errors
    /// [`ConfigError`] names a setting that makes no sense, and what is allowed.
    pub fn with_config(config: Config<UNIT, WINDOW_UNITS>) -> Result<Self, ConfigError> {
        Heap::with_settings(Fixed::new(), config.settings, Os).map(|heap| Self::of_key(Key::new(heap)))
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System + 'static> SharedAllocator<UNIT, WINDOW_UNITS, S> {
    /// An allocator that behaves as `config` says and takes its memory from `system`, bound to this thread.
    ///
    /// The system lasts for ever, as its packets may: a thread that has dropped them holds on to their blocks until it
    /// hands them in, and nobody waits for that. So a [`Buffer`](crate::system::Buffer) has to be over memory that
    /// stays:
    ///
    /// ```compile_fail,E0597
    /// use core::mem::MaybeUninit;
    /// use pktalloc::{Config, SharedAllocator, system::Buffer};
    ///
    /// let mut memory = vec![MaybeUninit::uninit(); 256 << 10];
    /// let system = Buffer::new(&mut memory); // `memory` does not live long enough
    /// let allocator = SharedAllocator::with_config_in(Config::<64, 256>::default(), system);
    /// ```
    ///
    /// # Errors
    /// As for [`with_config`](SharedAllocator::with_config).
    pub fn with_config_in(config: Config<UNIT, WINDOW_UNITS>, system: S) -> Result<Self, ConfigError> {
        Heap::with_settings(Fixed::new(), config.settings, system).map(|heap| Self::of_key(Key::new(heap)))
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> SharedAllocator<UNIT, WINDOW_UNITS, S> {
    /// The allocator of a heap; `None` when there is no memory for what is kept beside that.
    fn try_of_heap(heap: HeapOf<UNIT, WINDOW_UNITS, S>) -> Option<Self> {
        Key::try_new(heap).map(Self::of_key)
    }

    fn of_key(key: Key<UNIT, WINDOW_UNITS, S>) -> Self {
        Unbound { key }.bind()
    }

    /// Makes it an allocator that can be sent to another thread, to be [bound](Unbound::bind) there.
    #[must_use]
    pub fn unbind(self) -> Unbound<UNIT, WINDOW_UNITS, S> {
        self.key.unbind();
        Unbound { key: self.key }
    }

    packet_methods!('a, AnyThread<UNIT, WINDOW_UNITS, S>);

    /// [`take_slow`](Take::take_slow), which comes back in registers. `None` leaves the reason in `refusal`.
    #[cold]
    #[inline(never)]
    fn take_refilled(&self, size: usize) -> Option<Span> {
        self.key.come_to_hand();
        self.key.take_slow(size).inspect_err(|&error| self.refusal.set(error)).ok()
    }

    /// Takes back all that other threads have handed in; returns how many packets. Happens by itself, a bounded number
    /// at a time, whenever the allocator has used up an extent.
    #[inline]
    pub fn collect(&self) -> usize {
        self.key.collect()
    }

    /// Bytes of this allocator's memory in packets that were not taken back yet, in whole units. Takes constant time.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.key.heap().used_bytes()
    }

    /// Bytes taken from the system. Takes constant time.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.key.heap().allocated_bytes()
    }

    /// All figures of this moment. Takes time linear in the number of windows.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.key.heap().stats()
    }

    /// The self-check: walks all bookkeeping, and with [`check`](Config::check) on the canary of every block. Takes
    /// time linear in the memory held.
    ///
    /// # Errors
    /// [`IntegrityError`] says what is damaged, and where.
    pub fn integrity_check(&self) -> Result<(), IntegrityError> {
        self.key.heap().integrity_check()
    }

    /// Takes back what was handed in and gives every page without a live byte to the system, down to the preallocated
    /// windows; returns how many bytes. Takes time linear in the memory held. With [`check`](Config::check) on, the
    /// holes of windows with blocks stay.
    pub fn trim(&self) -> usize {
        self.collect();
        // What lies in this address space fits a `usize`.
        self.key.heap().trim() as usize
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Take for &SharedAllocator<UNIT, WINDOW_UNITS, S> {
    type Owner = AnyThread<UNIT, WINDOW_UNITS, S>;

    #[inline(always)]
    fn take_hot(self, size: usize) -> Option<Span> {
        self.key.take_hot(size)
    }

    #[inline(always)]
    fn take_slow(self, size: usize) -> Result<Span, AllocError> {
        self.take_refilled(size).ok_or_else(|| self.refusal.get())
    }

    fn take_aside(self, size: usize, count: usize, take: impl FnMut(Span)) {
        self.key.take_aside(size, count, take);
    }

    #[inline(always)]
    fn owner(self) -> Self::Owner {
        AnyThread::HERE
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Source for &SharedAllocator<UNIT, WINDOW_UNITS, S> {}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> fmt::Debug for SharedAllocator<UNIT, WINDOW_UNITS, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedAllocator<{UNIT}, {WINDOW_UNITS}> {{ {} }}", self.stats())
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Unbound<UNIT, WINDOW_UNITS, S> {
    /// Makes it this thread's.
    #[must_use]
    pub fn bind(self) -> SharedAllocator<UNIT, WINDOW_UNITS, S> {
        self.key.bind();
        SharedAllocator { key: self.key, refusal: Cell::new(AllocError::OutOfMemory), here: PhantomData }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> fmt::Debug for Unbound<UNIT, WINDOW_UNITS, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unbound").finish_non_exhaustive()
    }
}

/// Hands the packets that this thread has dropped, and still holds together, back to their allocator now.
///
/// A thread keeps up to 31 packets of other threads' allocators that it dropped before it hands them in together. It
/// does so as well when it ends. A worker that goes to sleep for long may want to do it first, so that the memory is of
/// use meanwhile. Packets of an allocator with a [`memory_limit`](Config::memory_limit) are handed in one by one: it
/// must not run out while others hold what it needs.
///
/// ```
/// let allocator = pktalloc::SharedAllocator::new();
/// let packet = allocator.packet(1400)?;
/// let (freed, wait) = std::sync::mpsc::channel();
/// let (end, ends) = std::sync::mpsc::channel::<()>();
/// let worker = std::thread::spawn(move || {
///     drop(packet);
///     pktalloc::flush_freed();
///     freed.send(()).unwrap();
///     ends.recv().unwrap();
/// });
/// wait.recv().unwrap();
/// assert_eq!(allocator.collect(), 1);
/// end.send(()).unwrap();
/// worker.join().unwrap();
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
pub fn flush_freed() {
    batch::flush();
}

//! [`Pool`]: packets on any thread.
//!
//! ```text
//! without a limit                               with a limit
//! ┌ thread ──────────┐  ┌ thread ──────────┐    ┌ share ──────────┐ ┌ share ──────────┐
//! │ SharedAllocator  │  │ SharedAllocator  │    │ heap, its lock  │ │ heap, its lock  │
//! └──────────────────┘  └──────────────────┘    └─────────────────┘ └─────────────────┘
//!   a thread that ends leaves its own             a thread begins at one, and goes on to
//!   to the next one that comes                    the others when that is busy or refuses
//! ```
//!
//! Without a limit a thread has a `SharedAllocator` of its own, so that nothing is shared on the way, and what one
//! thread keeps is nobody else's loss. With a limit it is: the memory must be found wherever it lies, also while the
//! thread that used it sleeps. So the heaps of a limited pool belong to no thread. Who allocates takes a heap's lock,
//! if it is free, and otherwise another heap's; who frees a packet does so as well, and otherwise uses the queue of
//! remote frees.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use core::cell::{Cell, RefCell};
use core::fmt;
use core::ptr::{self, NonNull};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use super::owner::{Key, known_number_of_this_thread, number_of_this_thread, try_leak};
use super::packet::AnyThread;
use super::{SharedAllocator, Unbound};
use crate::config::{Config, ConfigError};
use crate::error::AllocError;
use crate::geometry::Fixed;
use crate::heap::Heap;
use crate::packet::owner::sealed::Take;
use crate::packet::span::Span;
use crate::packet::{Source, packet_methods};
use crate::system::Os;

/// A share of a limited pool is at least so large, so that the bookkeeping of each is a small part of it.
const LEAST_SHARE: u64 = 4 << 20;
/// The most shares: more threads than this seldom allocate in the same moment.
const MOST_SHARES: u64 = 16;

/// A source of [`SharedPacket`](super::SharedPacket)s for many threads: a clone is the same pool, on any of them.
///
/// ```
/// use std::thread;
/// use pktalloc::{AllocError, Pool};
///
/// let pool = Pool::new();
/// let workers = [1, 2, 3].map(|worker| {
///     let pool = pool.clone();
///     thread::spawn(move || pool.packet_from(&[worker; 100]))
/// });
/// for (worker, thread) in (1..).zip(workers) {
///     assert_eq!(thread.join().unwrap()?, [worker; 100]); // made there, dropped here
/// }
/// # Ok::<(), AllocError>(())
/// ```
///
/// Each thread that asks it for a packet gets a [`SharedAllocator`] of its own, which it leaves to another thread when
/// it ends. No lock is on the way, nor anything else that threads share. The pool's memory goes when the last clone is
/// dropped, except for packets that are still held and for what other threads have of it, which goes when they end or
/// ask another pool for a packet.
///
/// A pool with a [`memory_limit`](Config::memory_limit) cuts it into shares of 4 MiB at least, one for each processor
/// at most, that any thread may use. A thread uses the same one again as long as no other does; a packet is refused
/// when all have refused. So it finds a block that was freed wherever that lies, also while the thread that freed it
/// sleeps. A packet fits one share.
pub struct Pool(Arc<Inner>);

enum Inner {
    /// Without a limit: the settings, and the allocators of threads that are gone.
    Threads { config: Config, idle: Mutex<Vec<Unbound>> },
    /// With one: the heaps.
    Shares(Box<[Share]>),
}

/// A heap that any thread may use, one at a time.
struct Share(Key<64, 2048, Os>);

// SAFETY: the key, which may go to another thread, is used by the thread alone that has its lock.
unsafe impl Sync for Share {}

impl Share {
    fn new(config: Config) -> Result<Self, ConfigError> {
        let heap = Heap::with_settings(Fixed::new(), config.settings, Os)?;
        Ok(Self(Key::without_lock(heap)))
    }

    /// Does `work` with the heap, unless another thread does.
    #[inline(always)]
    fn try_with<T>(&self, work: impl FnOnce(&Key<64, 2048, Os>) -> T) -> Option<T> {
        self.0.try_with(work)
    }

    /// Does `work` with the heap, once no other thread does.
    fn with<T>(&self, work: impl FnOnce(&Key<64, 2048, Os>) -> T) -> T {
        self.0.with(work)
    }
}

/// What a thread has of a pool without a limit.
struct Mine {
    pool: Weak<Inner>,
    /// From a box.
    allocator: NonNull<SharedAllocator>,
}

impl Drop for Mine {
    fn drop(&mut self) {
        if CURRENT.get().allocator == self.allocator.as_ptr() {
            CURRENT.set(Current::NONE);
        }
        // SAFETY: it came from a box, and nothing leads to it any more.
        let allocator = *unsafe { Box::from_raw(self.allocator.as_ptr()) };
        let leave = || {
            if let Some(pool) = self.pool.upgrade()
                && let Inner::Threads { idle, .. } = &*pool
            {
                allocator.trim();
                let idle = &mut *idle.lock().unwrap_or_else(PoisonError::into_inner);
                // Without memory for the list it goes, as one does that belongs to no pool.
                if idle.try_reserve(1).is_ok() {
                    idle.push(allocator.unbind());
                }
            }
        };
        if MINE.try_with(|_| ()).is_ok() {
            leave();
        } else {
            // The thread ends. A panic in here would end the process; it has been reported.
            _ = catch_unwind(AssertUnwindSafe(leave));
        }
    }
}

/// A pool, and this thread's allocator of it.
#[derive(Clone, Copy)]
struct Current {
    pool: *const Inner,
    allocator: *const SharedAllocator,
}

impl Current {
    const NONE: Self = Self { pool: ptr::null(), allocator: ptr::null() };
}

std::thread_local! {
    /// The pool that this thread used last, of those without a limit. Has no destructor, so that it can always be
    /// asked.
    static CURRENT: Cell<Current> = const { Cell::new(Current::NONE) };
    /// All of them.
    static MINE: RefCell<Vec<Mine>> = const { RefCell::new(Vec::new()) };
}

impl Default for Pool {
    fn default() -> Self {
        Self::without_limit(Config::new())
    }
}

impl Pool {
    /// A pool without a limit, in the default configuration. Asks for no packet memory until the first allocation.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A pool whose allocators behave as `config` says, and which all together keep to its
    /// [`memory_limit`](Config::memory_limit).
    ///
    /// ```
    /// use pktalloc::{AllocError, Config, Pool};
    ///
    /// let pool = Pool::with_config(Config::new().memory_limit(8 << 20))?;
    /// let mut packets = Vec::new();
    /// while let Ok(packet) = pool.packet(1400) {
    ///     packets.push(packet);
    /// }
    /// assert!(packets.len() > 5000);
    /// std::thread::spawn(|| drop(packets)).join().unwrap();
    /// assert!(pool.packet(1400).is_ok());
    /// # Ok::<(), pktalloc::ConfigError>(())
    /// ```
    ///
    /// # Errors
    /// [`ConfigError`] names a setting that makes no sense, and what is allowed.
    pub fn with_config(config: Config) -> Result<Self, ConfigError> {
        let Some(limit) = config.settings.memory_limit else {
            SharedAllocator::with_config(config)?;
            return Ok(Self::without_limit(config));
        };
        let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
        // A power of two, so that a thread finds its own without a division.
        let shares = 1 << threads.min(MOST_SHARES).min(limit / LEAST_SHARE).max(1).ilog2();
        let part = config.memory_limit(limit / shares);
        let shares: Result<Box<[_]>, _> = (0..shares).map(|_| Share::new(part)).collect();
        Ok(Self(Arc::new(Inner::Shares(shares?))))
    }

    fn without_limit(config: Config) -> Self {
        Self(Arc::new(Inner::Threads { config, idle: Mutex::default() }))
    }

    packet_methods!('a, AnyThread);

    /// Takes back what other threads have handed in and gives every page without a live byte to the system; returns how
    /// many bytes. Covers all of a limited pool; of another one, what this thread has and what threads that are gone
    /// have left.
    pub fn trim(&self) -> usize {
        match &*self.0 {
            Inner::Threads { idle, .. } => {
                let mine = self.mine().map_or(0, SharedAllocator::trim);
                let idle = &mut *idle.lock().unwrap_or_else(PoisonError::into_inner);
                let mut bytes = mine;
                // Each in turn out of its place and back again: the list has room.
                for place in 0..idle.len() {
                    let allocator = idle.swap_remove(place).bind();
                    bytes += allocator.trim();
                    idle.push(allocator.unbind());
                    let last = idle.len() - 1;
                    idle.swap(place, last);
                }
                bytes
            }
            Inner::Shares(shares) => {
                let trim = |key: &Key<64, 2048, Os>| {
                    key.collect();
                    // What lies in this address space fits a `usize`.
                    key.heap().trim() as usize
                };
                shares.iter().map(|share| share.with(trim)).sum()
            }
        }
    }

    /// This thread's allocator, if the pool is the one that the thread used last.
    #[inline(always)]
    fn current(&self) -> Option<&SharedAllocator> {
        let current = CURRENT.get();
        // SAFETY: the thread's current allocator stands: `CURRENT` is cleared before it is taken down.
        ptr::eq(current.pool, Arc::as_ptr(&self.0)).then(|| unsafe { &*current.allocator })
    }

    /// This thread's allocator, if the pool has no limit, the thread does not end, and there is memory for one.
    fn mine(&self) -> Option<&SharedAllocator> {
        let Inner::Threads { config, idle } = &*self.0 else { return None };
        let allocator = MINE.try_with(|mine| {
            let mut mine = mine.borrow_mut();
            let pool = Arc::as_ptr(&self.0);
            if let Some(found) = mine.iter().find(|found| found.pool.as_ptr() == pool) {
                return Some(found.allocator);
            }
            // What is left of pools that are gone.
            mine.retain(|found| found.pool.strong_count() > 0);
            mine.try_reserve(1).ok()?;
            let left = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let allocator = try_leak(left.map_or_else(|| new_allocator(*config), |left| Some(left.bind()))?)?;
            mine.push(Mine { pool: Arc::downgrade(&self.0), allocator });
            Some(allocator)
        });
        // SAFETY: it stands until this thread's end, or until this pool's.
        allocator.ok().flatten().map(|allocator| unsafe { &*allocator.as_ptr() })
    }

    /// The span of a new block of this thread's share, where the pool has shares and that one is not busy and has one
    /// at hand.
    #[inline(never)]
    fn take_shared(&self, size: usize) -> Option<Span> {
        let Inner::Shares(shares) = &*self.0 else { return None };
        let share = shares.get(known_number_of_this_thread()? & (shares.len() - 1))?;
        share.try_with(|key| key.take_hot(size))?
    }

    /// The span of a new block where the pool is not the one that this thread used last.
    #[cold]
    #[inline(never)]
    fn take_otherwise(&self, size: usize) -> Result<Span, AllocError> {
        let take = |allocator: &SharedAllocator| allocator.take_hot(size).map_or_else(|| allocator.take_slow(size), Ok);
        match &*self.0 {
            Inner::Threads { config, .. } => match self.mine() {
                Some(allocator) => {
                    CURRENT.set(Current { pool: Arc::as_ptr(&self.0), allocator });
                    take(allocator)
                }
                // The thread is being taken down, or memory is short. What the packet lies in goes with it.
                None => take(&new_allocator(*config).ok_or(AllocError::OutOfMemory)?),
            },
            Inner::Shares(shares) => take_anywhere(shares, number_of_this_thread() & (shares.len() - 1), size),
        }
    }
}

/// An allocator for one thread of a pool; `None` when there is no memory for what it is made of.
fn new_allocator(config: Config) -> Option<SharedAllocator> {
    let heap = Heap::with_settings(Fixed::new(), config.settings, Os);
    SharedAllocator::try_of_heap(heap.expect("the pool was made with these settings"))
}

/// The span of a new block of any share: of the first, if it is not busy and has one, or else of one that is not busy,
/// and at last of whichever, with all that came back.
fn take_anywhere(shares: &[Share], first: usize, size: usize) -> Result<Span, AllocError> {
    let from = |first: usize| (0..shares.len()).map(move |place| &shares[(first + place) % shares.len()]);
    for share in from(first) {
        if let Some(Ok(span)) = share.try_with(|key| key.take(size)) {
            return Ok(span);
        }
    }
    let mut refusal = AllocError::OutOfMemory;
    for share in from(first) {
        // This collects what came back by itself.
        match share.with(|key| key.take(size)) {
            Ok(span) => return Ok(span),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}

impl Drop for Pool {
    fn drop(&mut self) {
        // What this thread has of the pool goes with it. Other threads find out when they come by.
        if Arc::strong_count(&self.0) == 1 && matches!(*self.0, Inner::Threads { .. }) {
            let pool = Arc::as_ptr(&self.0);
            let gone = MINE.try_with(|mine| {
                let mut mine = mine.borrow_mut();
                let place = mine.iter().position(|found| found.pool.as_ptr() == pool);
                place.map(|place| mine.swap_remove(place))
            });
            drop(gone);
        }
    }
}

impl Take for &Pool {
    type Owner = AnyThread;

    #[inline(always)]
    fn take_hot(self, size: usize) -> Option<Span> {
        match self.current() {
            Some(allocator) => allocator.take_hot(size),
            None => self.take_shared(size),
        }
    }

    #[inline(always)]
    fn take_slow(self, size: usize) -> Result<Span, AllocError> {
        match self.current() {
            Some(allocator) => allocator.take_slow(size),
            None => self.take_otherwise(size),
        }
    }

    fn take_aside(self, size: usize, count: usize, take: impl FnMut(Span)) {
        if let Some(allocator) = self.current() {
            allocator.take_aside(size, count, take);
        }
    }

    #[inline(always)]
    fn owner(self) -> AnyThread {
        AnyThread::HERE
    }
}

impl Source for &Pool {}

impl Clone for Pool {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0 {
            Inner::Threads { .. } => f.write_str("Pool { an allocator for each thread }"),
            Inner::Shares(shares) => write!(f, "Pool {{ {} shares of a limit }}", shares.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Region;
    use crate::shared::owner::OwnerOf;

    /// A busy share is passed by, and its memory found all the same once it is not.
    #[test]
    fn nobody_waits_for_a_share_while_another_has_memory() {
        let shares = [0; 2].map(|_| Share::new(Config::new().memory_limit(4 << 20)).unwrap());
        let taken = shares[0].try_with(|_| {
            assert!(shares[0].try_with(|_| ()).is_none());
            take_anywhere(&shares, 0, 1400).unwrap()
        });
        // SAFETY: the block is live and its owner that of any thread.
        let free = |span| unsafe { crate::packet::owner::sealed::Blocks::end(&AnyThread::<64, 2048, Os>::HERE, span) };
        assert!(shares[1].with(|key| key.heap().used_bytes()) == 1408);
        free(taken.unwrap());
        let mut blocks = Vec::new();
        while let Ok(block) = take_anywhere(&shares, 0, 1400) {
            blocks.push(block);
        }
        assert!(blocks.len() > 5000, "{}", blocks.len());
        assert_eq!(take_anywhere(&shares, 1, 1400).err(), Some(AllocError::MemoryLimit));
        blocks.into_iter().for_each(free);
        for share in &shares {
            share.with(|key| {
                key.collect();
                assert_eq!((key.heap().used_bytes(), key.heap().integrity_check()), (0, Ok(())));
            });
        }
    }

    /// A share that panics when it goes, over a block that was written to after it had been freed, leaves no thread
    /// waiting for its lock.
    #[test]
    fn a_share_that_panics_over_an_overwritten_block_gives_its_lock_up() {
        let shares = [Share::new(Config::new().memory_limit(4 << 20)).unwrap()];
        let [freed, left] = [0; 2].map(|_| take_anywhere(&shares, 0, 1400).unwrap());
        let first = freed.start();
        // SAFETY: the block is live and its owner that of any thread, whose lock is taken: it waits in the queue.
        shares[0]
            .with(|_| unsafe { crate::packet::owner::sealed::Blocks::end(&AnyThread::<64, 2048, Os>::HERE, freed) });
        // SAFETY: nobody reads it meanwhile.
        unsafe { first.write_bytes(0xf8, 4) };
        assert!(catch_unwind(AssertUnwindSafe(|| drop(shares))).is_err());
        // SAFETY: a block of the region is live.
        let lock = unsafe {
            let geometry = Fixed::<64, 2048, Os>::new();
            let pointer = Region::of_block(left.start(), geometry).owner_pointer(geometry);
            OwnerOf::<64, 2048, Os>::at(pointer).unwrap().lock(false)
        };
        assert!(lock.is_some());
    }
}

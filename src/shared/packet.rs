//! The owner of a block that any thread may hold.
//!
//! ```text
//! block ├ label ┼──────── what the packet may use ────────┼ tail ┤
//!       only where the block lies in no region              8 bytes, for the references to a frozen packet
//! ```

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::batch;
use super::owner::{HeapOf, Key, Owner, OwnerOf, Returns};
use super::queue::BUNDLE_BYTES;
use crate::error::AllocError;
use crate::geometry::Fixed;
use crate::packet::Packet;
use crate::packet::owner::sealed::Blocks;
use crate::packet::span::{Block, LONGEST, Span};
use crate::region::{OwnerPointer, Region};
use crate::system::{Os, System};

/// Bytes that every block has behind what its packet may use, and what they are aligned to.
pub(super) const TAIL_BYTES: usize = 8;

/// A packet of a [`SharedAllocator`](super::SharedAllocator) or a [`Pool`](super::Pool): bytes that any thread may hold,
/// write and drop.
///
/// It has all that a [`Packet`] has, but grows within its own block only: ask for what it will need with a
/// [`Space`](crate::Space). [`freeze`](Self::freeze) makes it one that many may hold.
///
/// Dropping it frees its block, and the memory stays valid until then, whatever became of the allocator. On the
/// allocator's thread that is an ordinary free; on any other the block is put aside, and goes back with others that the
/// same thread drops ([`flush_freed`](super::flush_freed) says when). Blocks that lie in no region, and all with
/// [`passthrough`](crate::Config::passthrough), go back at once.
///
/// ```
/// use pktalloc::SharedAllocator;
///
/// let allocator = SharedAllocator::new();
/// let mut packet = allocator.packet_from(b"ping")?;
/// let worker = std::thread::spawn(move || {
///     packet.make_ascii_uppercase();
///     packet
/// });
/// assert_eq!(worker.join().unwrap(), b"PING");
/// # Ok::<(), pktalloc::AllocError>(())
/// ```
pub type SharedPacket<const UNIT: usize = 64, const WINDOW_UNITS: usize = 2048, S = Os> =
    Packet<AnyThread<UNIT, WINDOW_UNITS, S>>;

/// The [owner](crate::Owner) of a [`SharedPacket`], which takes no memory: the block itself leads to its allocator, on any
/// thread.
pub struct AnyThread<const UNIT: usize = 64, const WINDOW_UNITS: usize = 2048, S: System = Os>(PhantomData<S>);

// SAFETY: it has no system, and leads to none by itself.
unsafe impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Sync for AnyThread<UNIT, WINDOW_UNITS, S> {}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> AnyThread<UNIT, WINDOW_UNITS, S> {
    /// The owner of every block of its type.
    pub(super) const HERE: Self = Self(PhantomData);

    /// What a packet may use of a block that lies in a region.
    #[inline(always)]
    pub(super) fn in_region(block: NonNull<[u8]>) -> Block {
        debug_assert!(block.len() >= BUNDLE_BYTES && block.len().is_multiple_of(TAIL_BYTES));
        Block { start: block.cast(), size: block.len() - TAIL_BYTES, tag: false }
    }

    /// What a packet may use of a block that is labelled.
    ///
    /// # Safety
    /// The block is longer than a label and a tail.
    pub(super) unsafe fn labelled(block: NonNull<[u8]>) -> Block {
        debug_assert!(block.len().is_multiple_of(TAIL_BYTES));
        // SAFETY: the caller says so.
        Block { start: unsafe { block.cast().add(UNIT) }, size: block.len() - UNIT - TAIL_BYTES, tag: true }
    }

    /// Bytes to ask the heap for, so that a packet may use `size`.
    #[inline(always)]
    pub(super) fn whole_size(size: usize) -> usize {
        (size + TAIL_BYTES).next_multiple_of(TAIL_BYTES).max(BUNDLE_BYTES)
    }

    /// Bytes of a block in front of what its packet may use: of its label, if it has one.
    #[inline(always)]
    fn front(block: Block) -> usize {
        if block.tag { UNIT } else { 0 }
    }

    /// The heap's block.
    #[inline(always)]
    fn whole(block: Block) -> NonNull<u8> {
        // SAFETY: a label lies in the block.
        unsafe { block.start.sub(Self::front(block)) }
    }

    /// What leads to a block's owner.
    ///
    /// # Safety
    /// The block is live.
    #[inline(always)]
    unsafe fn owner_pointer(block: Block) -> NonNull<OwnerPointer> {
        if block.tag {
            return Self::whole(block).cast();
        }
        let geometry = Fixed::<UNIT, WINDOW_UNITS, S>::new();
        // SAFETY: the block lies in a region that is held, and its pointer may reach that (`region`, invariant 3).
        unsafe { Region::of_block(block.start, geometry) }.owner_pointer(geometry)
    }

    /// A block's owner.
    ///
    /// # Safety
    /// The block is live, in a heap of this type.
    ///
    /// # Panics
    /// When stray bytes have made that impossible to find.
    unsafe fn owner(block: Block) -> OwnerOf<UNIT, WINDOW_UNITS, S> {
        // SAFETY: the caller says so.
        let pointer = unsafe { Self::owner_pointer(block) };
        // SAFETY: as above.
        unsafe { OwnerOf::at(pointer) }.unwrap_or_else(|| {
            let place = if block.tag { "packet's label" } else { "region's header" };
            panic!("cannot free: the {place} at {pointer:p} was overwritten")
        })
    }

    /// See [`end`](Blocks::end).
    ///
    /// # Safety
    /// As there, for the words of a span.
    #[inline(never)]
    unsafe fn end_words(bytes: NonNull<u8>, lengths: u64, front: usize) {
        // SAFETY: the caller keeps the same contract.
        unsafe {
            let span = Span::of_words(bytes, lengths, front);
            if span.has_block() {
                Self::free_block(span.block());
            }
        }
    }

    /// Frees a block.
    ///
    /// # Safety
    /// As for [`free`](Blocks::free).
    #[inline(always)]
    unsafe fn free_block(block: Block) {
        // SAFETY: the caller keeps the same contract; without a label the block starts with what its packet may use.
        unsafe {
            if !block.tag
                && let Some(heap) = OwnerOf::<UNIT, WINDOW_UNITS, S>::heap_at_hand(Self::owner_pointer(block))
            {
                heap.free(block.start);
            } else {
                Self::free_elsewhere(block.start, block.size, block.tag);
            }
        }
    }

    /// Frees a block whose owner is not at hand.
    ///
    /// # Safety
    /// As for [`free`](Blocks::free).
    ///
    /// # Panics
    /// As [`owner`](Self::owner).
    #[cold]
    #[inline(never)]
    unsafe fn free_elsewhere(start: NonNull<u8>, size: usize, tag: bool) {
        let block = Block { start, size, tag };
        // SAFETY: the block is live, nobody else's, and not used afterwards; it is aligned to a unit and has room for a
        // bundle.
        unsafe {
            let owner = Self::owner(block);
            if let Some(heap) = owner.heap() {
                return heap.free(Self::whole(block));
            }
            match Owner::returns(owner.owner()) {
                Returns::Batched if !block.tag => {
                    batch::hand_in(owner.owner(), block.start, block.size + TAIL_BYTES);
                }
                Returns::Locked if owner.with_lock(false, |heap| heap.free(Self::whole(block))).is_some() => {}
                _ => Owner::push(owner.owner(), Self::whole(block).cast(), 1),
            }
        }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Blocks for AnyThread<UNIT, WINDOW_UNITS, S> {
    const UNIT: usize = UNIT;

    #[inline(always)]
    unsafe fn grow(&self, _: Block, _: usize) -> Result<Block, AllocError> {
        Err(AllocError::NoTailroom)
    }

    #[inline]
    unsafe fn cut(&self, block: Block, size: usize) -> Block {
        // SAFETY: the block is live, and on its heap's thread a tail that the packet does not use may go.
        unsafe {
            if size == 0 {
                Blocks::free(self, block);
                return Block::NONE;
            }
            let kept = Self::front(block) + Self::whole_size(size);
            let whole = Self::front(block) + block.size + TAIL_BYTES;
            if kept >= whole {
                return block;
            }
            let shrink = |heap: &HeapOf<UNIT, WINDOW_UNITS, S>| heap.shrink(Self::whole(block), kept);
            let at_hand = OwnerOf::<UNIT, WINDOW_UNITS, S>::heap_at_hand(Self::owner_pointer(block));
            let left = match at_hand {
                Some(heap) => Some(shrink(heap)),
                None => {
                    let owner = Self::owner(block);
                    owner.heap().map(shrink).or_else(|| owner.with_lock(true, shrink))
                }
            };
            match left {
                // With a check behind it the block has exactly as many bytes as it was asked to keep.
                Some(Ok(left)) => Block { size: left - Self::front(block) - TAIL_BYTES, ..block },
                _ => block,
            }
        }
    }

    #[inline(always)]
    unsafe fn free(&self, block: Block) {
        // SAFETY: the caller keeps the same contract.
        unsafe { Self::free_block(block) };
    }

    #[inline(always)]
    unsafe fn end(&self, span: Span) {
        let (bytes, lengths, front) = span.words();
        // SAFETY: the caller keeps the same contract.
        unsafe { Self::end_words(bytes, lengths, front) };
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> crate::Owner for AnyThread<UNIT, WINDOW_UNITS, S> {}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> fmt::Debug for AnyThread<UNIT, WINDOW_UNITS, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyThread")
    }
}

/// Blocks that came back from other threads and that the slow path of an allocation frees at most. As many of the shortest
/// blocks are handed out in front of it, so that what waits does not get more.
pub(super) const TAKEN_AT_A_TIME: usize = 64;

/// Blocks of a heap for packets.
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Key<UNIT, WINDOW_UNITS, S> {
    /// Units of the extent from one look at what came back to the next, while anything does.
    const UNITS_AT_ONCE: usize = TAKEN_AT_A_TIME * BUNDLE_BYTES.div_ceil(UNIT);

    /// A block of which a packet may use `size` bytes, [`LONGEST`] at most, where the heap has one at hand.
    #[inline(always)]
    pub(super) fn take_hot(&self, size: usize) -> Option<Block> {
        // Whole units, none of which is smaller than a bundle.
        self.heap().allocate_hot(size + TAIL_BYTES).map(AnyThread::<UNIT, WINDOW_UNITS, S>::in_region)
    }

    /// A block of which a packet may use `size` bytes. The heap gets some of what came back first.
    pub(super) fn take_slow(&self, size: usize) -> Result<Block, AllocError> {
        if size > LONGEST {
            return Err(AllocError::TooLarge);
        }
        let came_back = self.collect_at_most(TAKEN_AT_A_TIME);
        self.heap().stop_every(if came_back > 0 { Self::UNITS_AT_ONCE } else { usize::MAX });
        let size = AnyThread::<UNIT, WINDOW_UNITS, S>::whole_size(size);
        loop {
            match self.take_once(size) {
                // What is to come back may be what is missing.
                Err(AllocError::MemoryLimit | AllocError::OutOfMemory) if self.collect_at_most(TAKEN_AT_A_TIME) > 0 => {
                }
                outcome => return outcome,
            }
        }
    }

    /// A block of whole units for a packet.
    fn take_once(&self, size: usize) -> Result<Block, AllocError> {
        if self.heap().stays_in_region(size) {
            return self.heap().allocate(size).map(AnyThread::<UNIT, WINDOW_UNITS, S>::in_region);
        }
        let block = self.heap().allocate(UNIT + size)?;
        // SAFETY: the block is new, and of no region; it has a unit, and what was asked for behind it.
        unsafe {
            self.label(block.cast());
            Ok(AnyThread::<UNIT, WINDOW_UNITS, S>::labelled(block))
        }
    }

    /// A block of which a packet may use `size` bytes, [`LONGEST`] at most.
    #[inline]
    pub(super) fn take(&self, size: usize) -> Result<Block, AllocError> {
        match self.take_hot(size) {
            Some(block) => Ok(block),
            None => self.take_slow(size),
        }
    }
}

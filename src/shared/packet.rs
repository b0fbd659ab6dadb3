//! The owner of a block that any thread may hold.
//!
//! ```text
//! block ├ label ┼──────── what the packet may use ────────┼ tail ┤
//!       only of long blocks                                 8 bytes, for the references to a frozen packet
//! ```
//!
//! A block is long when it lies in no region, or when a packet may use more of it than a span can say. The header of a
//! region says whose its blocks are; the [label](super::label) of a long block says that and its size.

use core::fmt;
use core::marker::PhantomData;
use core::ptr::NonNull;

use super::batch;
use super::label::Label;
use super::owner::{HeapOf, Key, Owner, OwnerOf, Returns};
use super::queue::BUNDLE_BYTES;
use crate::error::AllocError;
use crate::geometry::Fixed;
use crate::map::LONGEST_EXACT;
use crate::packet::Packet;
use crate::packet::owner::sealed::Blocks;
use crate::packet::span::{Block, LONGEST, LONGEST_SHORT, Span};
use crate::region::{OwnerPointer, Region};
use crate::system::{Os, System};

/// Bytes that every block has behind what its packet may use, and what they are aligned to.
pub(super) const TAIL_BYTES: usize = 8;

/// A packet of a [`SharedAllocator`](super::SharedAllocator) or a [`Pool`](super::Pool): bytes that any thread may
/// hold, write and drop.
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

/// The [owner](crate::Owner) of a [`SharedPacket`], which takes no memory: the block itself leads to its allocator, on
/// any thread.
pub struct AnyThread<const UNIT: usize = 64, const WINDOW_UNITS: usize = 2048, S: System = Os>(PhantomData<S>);

// SAFETY: it has no system, and leads to none by itself.
unsafe impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Sync for AnyThread<UNIT, WINDOW_UNITS, S> {}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> AnyThread<UNIT, WINDOW_UNITS, S> {
    /// The owner of every block of its type.
    pub(super) const HERE: Self = Self(PhantomData);

    /// Bytes of a label.
    const LABEL_BYTES: usize = Label::bytes(UNIT);

    /// What a packet may use of a block that is not long, `longest` bytes at most.
    #[inline(always)]
    pub(super) fn short(block: NonNull<[u8]>, longest: usize) -> Block {
        debug_assert!(block.len() >= BUNDLE_BYTES && block.len().is_multiple_of(TAIL_BYTES));
        Block { start: block.cast(), size: (block.len() - TAIL_BYTES).min(longest), is_long: false }
    }

    /// What a packet may use of a block that is labelled.
    ///
    /// # Safety
    /// The block is longer than a label and a tail.
    pub(super) unsafe fn long(block: NonNull<[u8]>) -> Block {
        debug_assert!(block.len().is_multiple_of(TAIL_BYTES));
        let size = (block.len() - Self::LABEL_BYTES - TAIL_BYTES).min(LONGEST);
        // SAFETY: the caller says so.
        Block { start: unsafe { block.cast().add(Self::LABEL_BYTES) }, size, is_long: true }
    }

    /// Bytes to ask the heap for, so that a packet may use `size`.
    #[inline(always)]
    pub(super) fn whole_size(size: usize) -> usize {
        (size + TAIL_BYTES).next_multiple_of(TAIL_BYTES).max(BUNDLE_BYTES)
    }

    /// Bytes of a block in front of what its packet may use: of its label, if it has one.
    #[inline(always)]
    fn front(block: Block) -> usize {
        if block.is_long { Self::LABEL_BYTES } else { 0 }
    }

    /// The heap's block.
    #[inline(always)]
    fn whole(block: Block) -> NonNull<u8> {
        // SAFETY: a label lies in the block.
        unsafe { block.start.sub(Self::front(block)) }
    }

    /// The label of a long block.
    ///
    /// # Safety
    /// What the packet may use of the block starts there.
    #[inline(always)]
    unsafe fn label(start: NonNull<u8>) -> NonNull<Label> {
        // SAFETY: the label lies in the block.
        unsafe { start.sub(Self::LABEL_BYTES).cast() }
    }

    /// What leads to a block's owner.
    ///
    /// # Safety
    /// The block is live.
    #[inline(always)]
    unsafe fn owner_pointer(block: Block) -> NonNull<OwnerPointer> {
        let geometry = Fixed::<UNIT, WINDOW_UNITS, S>::new();
        // SAFETY: the caller says so; without a label the block lies in a region that is held, and its pointer may
        // reach that (`region`, invariant 3).
        unsafe {
            if block.is_long {
                Label::owner_pointer(Self::label(block.start))
            } else {
                Region::of_block(block.start, geometry).owner_pointer(geometry)
            }
        }
    }

    /// A block's owner; `None` where stray bytes have made that impossible to find and the thread panics already: a
    /// second panic would end the process.
    ///
    /// # Safety
    /// The block is live, in a heap of this type.
    ///
    /// # Panics
    /// When stray bytes have made that impossible to find.
    unsafe fn owner(block: Block) -> Option<OwnerOf<UNIT, WINDOW_UNITS, S>> {
        // SAFETY: the caller says so.
        let pointer = unsafe { Self::owner_pointer(block) };
        // SAFETY: as above.
        let owner = unsafe { OwnerOf::at(pointer) };
        if owner.is_none() && !std::thread::panicking() {
            let place = if block.is_long { "packet's label" } else { "region's header" };
            panic!("cannot free: the {place} at {pointer:p} was overwritten");
        }
        owner
    }

    /// See [`end`](Blocks::end).
    ///
    /// # Safety
    /// As there, for the words of a span.
    #[inline(never)]
    unsafe fn end_words(bytes: NonNull<u8>, numbers: u64) {
        // SAFETY: the caller keeps the same contract.
        unsafe {
            let span = Span::of_words(bytes, numbers);
            if span.has_block() {
                match span.short_block() {
                    Some(block) => Self::free_block(block),
                    None => Self::free_long(span),
                }
            }
        }
    }

    /// Frees the block of a long span, unless its label was overwritten and the thread panics already.
    ///
    /// # Safety
    /// As for [`free`](Blocks::free).
    #[cold]
    #[inline(never)]
    unsafe fn free_long(span: Span) {
        // SAFETY: the caller keeps the same contract.
        unsafe {
            if std::thread::panicking() && Label::size(Self::label(span.start())).is_none() {
                return;
            }
            Self::free_block(Self::long_block_of(span));
        }
    }

    /// Whether a long span has so many bytes of tailroom.
    ///
    /// # Safety
    /// It is that of a packet.
    #[cold]
    #[inline(never)]
    unsafe fn has_long_tailroom(span: Span, bytes: usize) -> bool {
        // SAFETY: the caller says so.
        let block = unsafe { Self::long_block_of(span) };
        bytes <= block.size - span.headroom() - span.len()
    }

    /// The block of a long span.
    ///
    /// # Safety
    /// It is that of a packet.
    ///
    /// # Panics
    /// When stray bytes have overwritten the label.
    #[cold]
    #[inline(never)]
    unsafe fn long_block_of(span: Span) -> Block {
        let start = span.start();
        // SAFETY: the caller says so.
        let (label, size) = unsafe {
            let label = Self::label(start);
            (label, Label::size(label))
        };
        let size = size.unwrap_or_else(|| panic!("cannot use the packet: its label at {label:p} was overwritten"));
        Block { start, size, is_long: true }
    }

    /// Frees a block.
    ///
    /// # Safety
    /// As for [`free`](Blocks::free).
    #[inline(always)]
    unsafe fn free_block(block: Block) {
        // SAFETY: the caller keeps the same contract; without a label the block starts with what its packet may use.
        unsafe {
            if !block.is_long
                && let Some(heap) = OwnerOf::<UNIT, WINDOW_UNITS, S>::heap_at_hand(Self::owner_pointer(block))
            {
                Self::free_in(heap, block);
            } else {
                Self::free_elsewhere(block.start, block.size, block.is_long);
            }
        }
    }

    /// Frees a block in its heap, which may be used.
    ///
    /// # Safety
    /// As for [`free`](Blocks::free).
    #[inline(always)]
    unsafe fn free_in(heap: &HeapOf<UNIT, WINDOW_UNITS, S>, block: Block) {
        // SAFETY: the caller keeps the same contract.
        unsafe {
            if block.is_long {
                heap.free(Self::whole(block));
            } else {
                heap.free_whole(block.start, block.size + TAIL_BYTES);
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
    unsafe fn free_elsewhere(start: NonNull<u8>, size: usize, is_long: bool) {
        let block = Block { start, size, is_long };
        // SAFETY: the block is live, nobody else's, and not used afterwards; it is aligned to a unit and has room for a
        // bundle.
        unsafe {
            let Some(owner) = Self::owner(block) else { return };
            let returns = Owner::returns(owner.owner());
            if returns == Returns::Locked {
                if let Some(held) = owner.lock(false) {
                    return Self::free_in(held.heap(), block);
                }
            } else if let Some(heap) = owner.heap() {
                return Self::free_in(heap, block);
            } else if returns == Returns::Batched && !is_long {
                return batch::hand_in(owner.owner(), start, size + TAIL_BYTES);
            }
            Owner::push(owner.owner(), Self::whole(block).cast(), 1);
        }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Blocks for AnyThread<UNIT, WINDOW_UNITS, S> {
    const UNIT: usize = UNIT;

    #[inline(always)]
    unsafe fn make_room(&self, span: Span, additional: usize, _: bool) -> Result<Span, AllocError> {
        // SAFETY: the caller keeps the same contract.
        if span.is_long() && unsafe { Self::has_long_tailroom(span, additional) } {
            return Ok(span);
        }
        Err(AllocError::NoTailroom)
    }

    #[inline(always)]
    unsafe fn long_block(&self, span: Span) -> Block {
        // SAFETY: the caller keeps the same contract.
        unsafe { Self::long_block_of(span) }
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
            if kept.next_multiple_of(UNIT) >= whole {
                return block;
            }
            let shrink = |heap: &HeapOf<UNIT, WINDOW_UNITS, S>| heap.shrink(Self::whole(block), kept);
            let at_hand = OwnerOf::<UNIT, WINDOW_UNITS, S>::heap_at_hand(Self::owner_pointer(block));
            let left = match at_hand {
                Some(heap) => Some(shrink(heap)),
                None => {
                    let Some(owner) = Self::owner(block) else { return block };
                    owner.heap().map(shrink).or_else(|| owner.lock(true).map(|held| shrink(held.heap())))
                }
            };
            // With a check behind it the block has exactly as many bytes as it was asked to keep.
            let Some(Ok(left)) = left else { return block };
            let longest = if block.is_long { LONGEST } else { LONGEST_SHORT };
            let size = (left - Self::front(block) - TAIL_BYTES).min(longest);
            if !block.is_long {
                return Block { size, ..block };
            }
            Label::set_size(Self::label(block.start), size);
            Block { size, ..block }
        }
    }

    #[inline(always)]
    unsafe fn free(&self, block: Block) {
        // SAFETY: the caller keeps the same contract.
        unsafe { Self::free_block(block) };
    }

    #[inline(always)]
    unsafe fn end(&self, span: Span) {
        let (bytes, numbers) = span.words();
        // SAFETY: the caller keeps the same contract.
        unsafe { Self::end_words(bytes, numbers) };
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> crate::Owner for AnyThread<UNIT, WINDOW_UNITS, S> {}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> fmt::Debug for AnyThread<UNIT, WINDOW_UNITS, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyThread")
    }
}

/// Blocks that came back from other threads and that the slow path of an allocation frees at most. As many of the
/// shortest blocks are handed out in front of it, so that what waits does not get more.
const TAKEN_AT_A_TIME: usize = 64;

/// Blocks of a heap for packets.
impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Key<UNIT, WINDOW_UNITS, S> {
    /// The most bytes that a packet uses of a block from the hot path of the heap, where all of those are short.
    const LONGEST_HOT: usize = if LONGEST_EXACT as usize * UNIT <= LONGEST_SHORT { usize::MAX } else { LONGEST_SHORT };

    /// Units of the extent from one look at what came back to the next, while anything does.
    const UNITS_AT_ONCE: usize = TAKEN_AT_A_TIME * BUNDLE_BYTES.div_ceil(UNIT);

    /// The span of a new block of which a packet may use `size` bytes, where the heap has one at hand; `None` for 0,
    /// and where the block would be long.
    #[inline(always)]
    pub(super) fn take_hot(&self, size: usize) -> Option<Span> {
        if size.wrapping_sub(1) >= LONGEST_SHORT {
            return None;
        }
        // Whole units, none of which is smaller than a bundle.
        let block = self.heap().allocate_hot(size + TAIL_BYTES)?;
        Some(Span::new(AnyThread::<UNIT, WINDOW_UNITS, S>::short(block, Self::LONGEST_HOT)))
    }

    /// See [`Take::take_aside`](crate::packet::owner::sealed::Take::take_aside).
    pub(super) fn take_aside(&self, size: usize, count: usize, mut take: impl FnMut(Span)) {
        if size.wrapping_sub(1) < LONGEST_SHORT {
            let short = |block| AnyThread::<UNIT, WINDOW_UNITS, S>::short(block, LONGEST_SHORT);
            let whole = AnyThread::<UNIT, WINDOW_UNITS, S>::whole_size(size);
            self.heap().allocate_aside(whole, count, |block| take(Span::new(short(block))));
        }
    }

    /// The span of a new block of which a packet may use `size` bytes, not 0. The heap gets some of what came back
    /// first.
    pub(super) fn take_slow(&self, size: usize) -> Result<Span, AllocError> {
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
                outcome => return outcome.map(Span::new),
            }
        }
    }

    /// A block of whole units for a packet.
    fn take_once(&self, size: usize) -> Result<Block, AllocError> {
        if size <= LONGEST_SHORT + TAIL_BYTES && self.heap().stays_in_region(size) {
            let block = self.heap().allocate(size)?;
            return Ok(AnyThread::<UNIT, WINDOW_UNITS, S>::short(block, LONGEST_SHORT));
        }
        let whole = self.heap().allocate(AnyThread::<UNIT, WINDOW_UNITS, S>::LABEL_BYTES + size)?;
        // SAFETY: the block is new, and has a label's bytes, and what was asked for behind them.
        unsafe {
            let block = AnyThread::<UNIT, WINDOW_UNITS, S>::long(whole);
            self.label(whole.cast(), block.size);
            Ok(block)
        }
    }

    /// The span of a new block of which a packet may use `size` bytes, not 0.
    #[inline]
    pub(super) fn take(&self, size: usize) -> Result<Span, AllocError> {
        match self.take_hot(size) {
            Some(span) => Ok(span),
            None => self.take_slow(size),
        }
    }
}

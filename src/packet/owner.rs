//! Where packets come from, and where their blocks go back to.

use core::ops::Deref;
use core::ptr::NonNull;

use super::span::{Block, LONGEST, Span};
use crate::allocator::Allocator;
use crate::error::AllocError;
use crate::heap::Realloc;
use crate::rc_allocator::RcAllocator;
use crate::system::System;

/// Traits that cannot be named from outside, and with them what they are for.
pub(crate) mod sealed {
    use super::{AllocError, Block, Deref, NonNull, Span};

    /// What a packet asks of its owner. An implementor leads to the same allocator every time, also after it was moved.
    pub trait Blocks {
        /// The alignment of blocks.
        const UNIT: usize;

        /// The span with at least `additional` bytes of tailroom, which are [not there for sure](Span::has_tailroom). A
        /// packet that `grows` on and on gets half as many again as it had room for.
        ///
        /// # Safety
        /// The span is that of a packet of this owner; on `Ok` only the returned one is used.
        unsafe fn make_room(&self, span: Span, additional: usize, grows: bool) -> Result<Span, AllocError>;

        /// The block of a span that does not know its size.
        ///
        /// # Safety
        /// The span is that of a packet of this owner, and long.
        unsafe fn long_block(&self, span: Span) -> Block;

        /// Gives what lies behind the first `size` bytes of a block back as far as that can be done; returns what is
        /// left, with `size` 0 nothing.
        ///
        /// # Safety
        /// `block` is live, and longer than `size`; only what is returned is used afterwards.
        unsafe fn cut(&self, block: Block, size: usize) -> Block;

        /// # Safety
        /// `block` is live, and not used afterwards.
        unsafe fn free(&self, block: Block);

        /// Frees the block of a packet that goes, if it has one. Hands the words of the span on to a function, which is
        /// no part of the caller: the end of a packet is in many places, among them all that may panic, and were it
        /// longer it would be a function that wants the packet in memory.
        ///
        /// # Safety
        /// The span is that of a packet of this owner that is not used any more.
        unsafe fn end(&self, span: Span);
    }

    /// What the making of a packet asks of its source.
    pub trait Take: Copy {
        /// The owner of what is taken.
        type Owner: Blocks;

        /// The span of a new block of at least `size` bytes, where there is one at hand; `None` for sizes that make no
        /// sense, and for 0.
        fn take_hot(self, size: usize) -> Option<Span>;

        /// The span of a new block of at least `size` bytes, not 0 and [`LONGEST`](super::LONGEST) at most.
        fn take_slow(self, size: usize) -> Result<Span, AllocError>;

        /// Hands at most `count` spans of new blocks to `take`, each of at least `size` bytes, that lie apart from
        /// those which stay: they are about to be cut or freed. The rest, or all, where that is not possible, are to be
        /// taken one by one.
        fn take_aside(self, size: usize, count: usize, take: impl FnMut(Span));

        /// The owner of what was taken.
        fn owner(self) -> Self::Owner;
    }

    /// An owner that leads to an allocator by itself.
    pub trait Local: Deref<Target: Plain> + Blocks {}

    /// Allocators whose blocks are all that a packet has.
    pub trait Plain {
        /// A live block of the allocator's.
        ///
        /// # Safety
        /// It starts there.
        unsafe fn block(&self, start: NonNull<u8>) -> Block;
    }
}

use sealed::{Blocks, Local, Plain, Take};

/// What leads a [`Packet`](crate::Packet) to its allocator: `&Allocator`; [`RcAllocator`], for packets that lie in the
/// same structure as their allocator or outlive the function that made it; with the feature `shared` `AnyThread`, for
/// those that any thread may hold. Cannot be implemented elsewhere.
pub trait Owner: Blocks {}

/// What packets are made from: a reference to an [`Allocator`] or an [`RcAllocator`], with the feature `shared` to a
/// `SharedAllocator` or a `Pool`. Cannot be implemented elsewhere.
pub trait Source: Take<Owner: Owner> {}

/// Makes the type an owner of blocks of the allocator that it derefs to.
macro_rules! local_owner {
    ($type:ty $(, $lifetime:lifetime)?) => {
        impl<$($lifetime,)? const UNIT: usize, const WINDOW_UNITS: usize, S: System> Blocks for $type {
            const UNIT: usize = UNIT;

            // Hands the allocator on, not itself, so that a packet that may grow needs no place in memory.
            #[inline(always)]
            unsafe fn make_room(&self, span: Span, additional: usize, grows: bool) -> Result<Span, AllocError> {
                // SAFETY: the caller keeps the same contract.
                unsafe { make_room(&**self, span, additional, grows) }
            }

            #[inline(always)]
            unsafe fn long_block(&self, span: Span) -> Block {
                // SAFETY: the caller keeps the same contract.
                unsafe { long_block(&**self, span) }
            }

            #[inline]
            unsafe fn cut(&self, block: Block, size: usize) -> Block {
                // SAFETY: the caller keeps the same contract.
                unsafe {
                    if size == 0 {
                        Blocks::free(self, block);
                        return Block::NONE;
                    }
                    if size.next_multiple_of(UNIT) >= block.size {
                        return block;
                    }
                    let left = self.heap.shrink(block.start, size).unwrap_or(block.size);
                    Block::plain(NonNull::slice_from_raw_parts(block.start, left))
                }
            }

            #[inline(always)]
            unsafe fn free(&self, block: Block) {
                // SAFETY: the caller keeps the same contract.
                unsafe { Allocator::free(self, block.start) }
            }

            #[inline(always)]
            unsafe fn end(&self, span: Span) {
                let (bytes, numbers) = span.words();
                // SAFETY: the caller keeps the same contract.
                unsafe { end(&**self, bytes, numbers) }
            }
        }

        impl<$($lifetime,)? const UNIT: usize, const WINDOW_UNITS: usize, S: System> Local for $type {}
        impl<$($lifetime,)? const UNIT: usize, const WINDOW_UNITS: usize, S: System> Owner for $type {}
    };
}

/// See [`Blocks::make_room`].
///
/// # Safety
/// As there; the block is the allocator's.
#[cold]
#[inline(never)]
unsafe fn make_room<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(
    allocator: &Allocator<UNIT, WINDOW_UNITS, S>,
    mut span: Span,
    additional: usize,
    grows: bool,
) -> Result<Span, AllocError> {
    // SAFETY: the caller keeps the same contract.
    let block = span.short_block().unwrap_or_else(|| unsafe { long_block(allocator, span) });
    let capacity = block.size - span.headroom();
    if additional <= capacity - span.len() {
        return Ok(span);
    }
    let mut size = (span.headroom() + span.len()).saturating_add(additional);
    if size > LONGEST {
        return Err(AllocError::TooLarge);
    }
    if grows {
        size = size.max(block.size + capacity / 2).min(LONGEST);
    }
    let grown = if block.size == 0 {
        allocator.allocate(size)
    } else {
        // SAFETY: the caller keeps the same contract.
        unsafe { allocator.reallocate(block.start, size, Realloc::CopyExisting) }
    };
    // SAFETY: the block is as long as was asked for.
    grown.map(|block| unsafe {
        span.set_block(Block::plain(block));
        span
    })
}

/// The long block of a span.
///
/// # Safety
/// As for [`Blocks::long_block`]; the block is the allocator's.
#[cold]
#[inline(never)]
unsafe fn long_block<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(
    allocator: &Allocator<UNIT, WINDOW_UNITS, S>,
    span: Span,
) -> Block {
    let start = span.start();
    // SAFETY: the caller keeps the same contract.
    let size = unsafe { allocator.capacity(start) }.min(LONGEST);
    Block { start, size, is_long: true }
}

/// See [`Blocks::end`].
///
/// # Safety
/// As there, for the words of a span.
#[inline(never)]
unsafe fn end<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(
    allocator: &Allocator<UNIT, WINDOW_UNITS, S>,
    bytes: NonNull<u8>,
    numbers: u64,
) {
    // SAFETY: the caller keeps the same contract.
    unsafe {
        match Span::of_words(bytes, numbers).only_short_block() {
            Some(block) => allocator.heap.free_whole(block.start, block.size),
            None => end_slow(allocator, bytes, numbers),
        }
    }
}

/// The same for a packet that has no block, or a long one.
///
/// # Safety
/// As for [`Blocks::end`], for the words of a span.
#[cold]
#[inline(never)]
unsafe fn end_slow<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(
    allocator: &Allocator<UNIT, WINDOW_UNITS, S>,
    bytes: NonNull<u8>,
    numbers: u64,
) {
    // SAFETY: the caller keeps the same contract.
    unsafe {
        let span = Span::of_words(bytes, numbers);
        if span.has_block() {
            allocator.free(span.start());
        }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Plain for Allocator<UNIT, WINDOW_UNITS, S> {
    #[inline]
    unsafe fn block(&self, start: NonNull<u8>) -> Block {
        // SAFETY: the caller says so.
        Block::plain(NonNull::slice_from_raw_parts(start, unsafe { self.capacity(start) }))
    }
}

local_owner!(&'a Allocator<UNIT, WINDOW_UNITS, S>, 'a);
local_owner!(RcAllocator<UNIT, WINDOW_UNITS, S>);

impl<'a, const UNIT: usize, const WINDOW_UNITS: usize, S: System> Take for &'a Allocator<UNIT, WINDOW_UNITS, S> {
    type Owner = &'a Allocator<UNIT, WINDOW_UNITS, S>;

    #[inline(always)]
    fn take_hot(self, size: usize) -> Option<Span> {
        self.heap.allocate_hot(size).map(|block| Span::new(Block::plain(block)))
    }

    #[inline(always)]
    fn take_slow(self, size: usize) -> Result<Span, AllocError> {
        self.heap.allocate_long(size).map(|block| Span::new(Block::plain(block))).ok_or_else(|| self.heap.refusal())
    }

    fn take_aside(self, size: usize, count: usize, mut take: impl FnMut(Span)) {
        self.heap.allocate_aside(size, count, |block| take(Span::new(Block::plain(block))));
    }

    #[inline(always)]
    fn owner(self) -> Self::Owner {
        self
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Source for &Allocator<UNIT, WINDOW_UNITS, S> {}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Take for &RcAllocator<UNIT, WINDOW_UNITS, S> {
    type Owner = RcAllocator<UNIT, WINDOW_UNITS, S>;

    #[inline(always)]
    fn take_hot(self, size: usize) -> Option<Span> {
        (&**self).take_hot(size)
    }

    #[inline(always)]
    fn take_slow(self, size: usize) -> Result<Span, AllocError> {
        (&**self).take_slow(size)
    }

    fn take_aside(self, size: usize, count: usize, take: impl FnMut(Span)) {
        (&**self).take_aside(size, count, take);
    }

    #[inline(always)]
    fn owner(self) -> Self::Owner {
        self.clone()
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Source for &RcAllocator<UNIT, WINDOW_UNITS, S> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::span::LONGEST_SHORT;
    use crate::system::Os;
    use crate::{Config, Packet, Space};

    /// What a packet tells when it ends must be what its block has, or each end takes the slow path.
    #[test]
    fn a_packet_knows_the_size_of_its_block_whatever_happened_to_it() {
        for config in [Config::new(), Config::new().check(true), Config::new().zero(true)] {
            let allocator = Allocator::<64, 2048, Os>::with_config_in(config, Os).unwrap();
            // SAFETY: the packet has a live block.
            let real = |packet: &Packet<&Allocator<64, 2048, Os>>| unsafe { allocator.capacity(packet.block().start) };
            for size in [1, 64, 65, 1400, 4000, 8128, 20_000, LONGEST_SHORT, LONGEST_SHORT + 1, 200_000] {
                let mut packet = allocator.packet(Space::new(size).headroom(30).tailroom(3)).unwrap();
                assert_eq!(packet.block().size, real(&packet), "{size}, new");
                packet.advance(size / 2);
                packet.shrink_to(1);
                assert_eq!(packet.block().size, real(&packet), "{size}, cut");
                packet.reserve(size).unwrap();
                packet.prepend(&[1; 20]).unwrap();
                assert_eq!(packet.block().size, real(&packet), "{size}, grown");
                packet.truncate(1);
                packet.resize(size + 300).unwrap();
                assert_eq!(packet.block().size, real(&packet), "{size}, grown again");
                let (owner, block) = packet.into_raw();
                // SAFETY: they are the packet's, which is there no more.
                let packet = unsafe { Packet::from_raw(owner, block) };
                assert_eq!(packet.block().size, real(&packet), "{size}, taken apart");
            }
            assert_eq!(allocator.used_bytes(), 0);
        }
    }
}

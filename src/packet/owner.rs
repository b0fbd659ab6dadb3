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
    use super::{AllocError, Block, Deref, Span};

    /// What a packet asks of its owner. An implementor leads to the same allocator every time, also after it was moved.
    pub trait Blocks {
        /// The alignment of blocks.
        const UNIT: usize;

        /// A block of at least `size` bytes, not 0, that begins with the bytes of `block`, if that is one.
        ///
        /// # Safety
        /// `block` is live or none; on `Ok` only the returned one is used.
        unsafe fn grow(&self, block: Block, size: usize) -> Result<Block, AllocError>;

        /// Gives what lies behind the first `size` bytes of a block back as far as that can be done; returns what is left,
        /// with `size` 0 nothing.
        ///
        /// # Safety
        /// `block` is live, and longer than `size`; only what is returned is used afterwards.
        unsafe fn cut(&self, block: Block, size: usize) -> Block;

        /// # Safety
        /// `block` is live, and not used afterwards.
        unsafe fn free(&self, block: Block);

        /// Frees the block of a packet that goes, if it has one. Hands the words of the span on to a function, which is no part of the
        /// caller: the end of a packet is in many places, among them all that may panic, and were it longer it would be a function
        /// that wants the packet in memory, where it is stored in words and loaded as a whole right after.
        ///
        /// # Safety
        /// The span is that of a packet of this owner that is not used any more.
        unsafe fn end(&self, span: Span);
    }

    /// What the making of a packet asks of its source.
    pub trait Take: Copy {
        /// The owner of what is taken.
        type Owner: Blocks;

        /// A block of at least `size` bytes, not 0 and [`LONGEST`](super::LONGEST) at most.
        fn take(self, size: usize) -> Result<Block, AllocError>;

        /// The owner of what was taken.
        fn owner(self) -> Self::Owner;
    }

    /// An owner that leads to an allocator by itself.
    pub trait Local: Deref<Target: Plain> + Blocks {}

    /// Marks allocators whose blocks are all that a packet has.
    pub trait Plain {}
}

use sealed::{Blocks, Local, Plain, Take};

/// What leads a [`Packet`](crate::Packet) to its allocator: `&Allocator`; [`RcAllocator`], for packets that lie in the same
/// structure as their allocator or outlive the function that made it; with the feature `shared` `AnyThread`, for those that
/// any thread may hold. Cannot be implemented elsewhere.
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
            unsafe fn grow(&self, block: Block, size: usize) -> Result<Block, AllocError> {
                // SAFETY: the caller keeps the same contract.
                unsafe { grow(&**self, block, size) }
            }

            #[inline]
            unsafe fn cut(&self, block: Block, size: usize) -> Block {
                // SAFETY: the caller keeps the same contract.
                unsafe {
                    if size == 0 {
                        Blocks::free(self, block);
                        return Block::NONE;
                    }
                    Block { size: self.shrink_to(block.start, size).unwrap_or(block.size), ..block }
                }
            }

            #[inline(always)]
            unsafe fn free(&self, block: Block) {
                // SAFETY: the caller keeps the same contract.
                unsafe { Allocator::free(self, block.start) }
            }

            #[inline(always)]
            unsafe fn end(&self, span: Span) {
                let (bytes, lengths, front) = span.words();
                // SAFETY: the caller keeps the same contract.
                unsafe { end(&**self, bytes, lengths, front) }
            }
        }

        impl<$($lifetime,)? const UNIT: usize, const WINDOW_UNITS: usize, S: System> Local for $type {}
        impl<$($lifetime,)? const UNIT: usize, const WINDOW_UNITS: usize, S: System> Owner for $type {}
    };
}

/// See [`Blocks::grow`].
///
/// # Safety
/// As there; the block is the allocator's.
#[cold]
#[inline(never)]
unsafe fn grow<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(
    allocator: &Allocator<UNIT, WINDOW_UNITS, S>,
    block: Block,
    size: usize,
) -> Result<Block, AllocError> {
    if size > LONGEST {
        return Err(AllocError::TooLarge);
    }
    let grown = if block.size == 0 {
        allocator.allocate(size)
    } else {
        // SAFETY: the caller keeps the same contract.
        unsafe { allocator.reallocate(block.start, size, Realloc::CopyExisting) }
    };
    grown.map(Block::plain)
}

/// See [`Blocks::end`].
///
/// # Safety
/// As there, for the words of a span.
#[inline(never)]
unsafe fn end<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(
    allocator: &Allocator<UNIT, WINDOW_UNITS, S>,
    bytes: NonNull<u8>,
    lengths: u64,
    front: usize,
) {
    // SAFETY: the caller keeps the same contract.
    unsafe {
        let span = Span::of_words(bytes, lengths, front);
        if span.has_block() {
            allocator.free(span.block().start);
        }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Plain for Allocator<UNIT, WINDOW_UNITS, S> {}

local_owner!(&'a Allocator<UNIT, WINDOW_UNITS, S>, 'a);
local_owner!(RcAllocator<UNIT, WINDOW_UNITS, S>);

impl<'a, const UNIT: usize, const WINDOW_UNITS: usize, S: System> Take for &'a Allocator<UNIT, WINDOW_UNITS, S> {
    type Owner = &'a Allocator<UNIT, WINDOW_UNITS, S>;

    #[inline(always)]
    fn take(self, size: usize) -> Result<Block, AllocError> {
        self.allocate(size).map(Block::plain)
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
    fn take(self, size: usize) -> Result<Block, AllocError> {
        self.allocate(size).map(Block::plain)
    }

    #[inline(always)]
    fn owner(self) -> Self::Owner {
        self.clone()
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Source for &RcAllocator<UNIT, WINDOW_UNITS, S> {}

//! Where the bytes of a packet lie in its block.
//!
//! ```text
//! block ├──── headroom ────┼──── len ────┼── tailroom ──┤
//!       start              bytes                        start + size
//!                          ├──────── capacity ──────────┤
//! ```

use core::ptr::NonNull;

use crate::geometry::UNIT_BYTES;

/// The most bytes that a packet asks for: a length and a capacity are half a word each, and blocks are whole units.
pub(crate) const LONGEST: usize = i32::MAX as usize & !(UNIT_BYTES.end - 2);

/// A packet's block, as its owner knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub(crate) start: NonNull<u8>,
    /// Bytes that the packet may use, no more than fit 31 bits; 0 where there is no block.
    pub(crate) size: usize,
    /// Something that the owner has to remember of the block.
    pub(crate) tag: bool,
}

impl Block {
    /// No block.
    pub(crate) const NONE: Self = Self { start: NonNull::dangling(), size: 0, tag: false };

    /// A block without a tag.
    #[inline(always)]
    pub(crate) fn plain(bytes: NonNull<[u8]>) -> Self {
        // A large block may have got an eighth more than was asked for.
        Self { start: bytes.cast(), size: bytes.len().min(LONGEST), tag: false }
    }
}

/// Where a packet's bytes lie in its block. Three words that move as words: a value that is stored in parts and loaded as
/// a whole has to wait for the stores.
#[derive(Clone, Copy)]
pub struct Span {
    /// The packet's first byte.
    bytes: NonNull<u8>,
    /// The capacity in the upper half, the length in the lower one.
    lengths: u64,
    /// The headroom; on top, the block's tag.
    front: usize,
}

/// The bit of `front` that is the block's tag.
const TAG: usize = 1 << (usize::BITS - 1);

/// `bytes` in both halves of `lengths`.
const fn both(bytes: usize) -> u64 {
    (bytes as u64) << u32::BITS | bytes as u64
}

impl Span {
    /// No bytes of no block.
    pub(crate) const EMPTY: Self = Self { bytes: NonNull::dangling(), lengths: 0, front: 0 };

    /// No bytes of a block, behind `headroom` of it.
    ///
    /// # Safety
    /// The block is there as `block` says, and `headroom` is at most its size.
    #[inline(always)]
    pub(crate) unsafe fn new(block: Block, headroom: usize) -> Self {
        debug_assert!(headroom <= block.size && block.size <= i32::MAX as usize);
        Self {
            // SAFETY: the caller says so.
            bytes: unsafe { block.start.add(headroom) },
            lengths: ((block.size - headroom) as u64) << u32::BITS,
            front: headroom | if block.tag { TAG } else { 0 },
        }
    }

    /// The three words.
    #[inline(always)]
    pub(crate) fn words(self) -> (NonNull<u8>, u64, usize) {
        (self.bytes, self.lengths, self.front)
    }

    /// The span of three words.
    ///
    /// # Safety
    /// They came from [`words`](Self::words).
    #[inline(always)]
    pub(crate) unsafe fn of_words(bytes: NonNull<u8>, lengths: u64, front: usize) -> Self {
        Self { bytes, lengths, front }
    }

    /// The packet's first byte.
    #[inline(always)]
    pub(crate) fn bytes(self) -> NonNull<u8> {
        self.bytes
    }

    /// Bytes of the packet.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.lengths as u32 as usize
    }

    /// Bytes from the packet's first one to the end of the block.
    #[inline(always)]
    pub(crate) fn capacity(self) -> usize {
        (self.lengths >> u32::BITS) as usize
    }

    /// Bytes of the block in front of the packet.
    #[inline(always)]
    pub(crate) fn headroom(self) -> usize {
        self.front & !TAG
    }

    /// Bytes of the block behind the packet.
    #[inline(always)]
    pub(crate) fn tailroom(self) -> usize {
        self.capacity() - self.len()
    }

    /// Whether there is a block.
    #[inline(always)]
    pub(crate) fn has_block(self) -> bool {
        self.lengths >> u32::BITS != 0 || self.front != 0
    }

    /// The block.
    #[inline(always)]
    pub(crate) fn block(self) -> Block {
        let headroom = self.headroom();
        // SAFETY: the headroom lies in the block, in front of the packet.
        let start = unsafe { self.bytes.sub(headroom) };
        Block { start, size: headroom + self.capacity(), tag: self.front & TAG != 0 }
    }

    /// Changes the length.
    #[inline(always)]
    pub(crate) fn set_len(&mut self, len: usize) {
        debug_assert!(len <= self.capacity());
        self.lengths = self.lengths >> u32::BITS << u32::BITS | len as u64;
    }

    /// Moves the packet's first byte back, by no more than the length.
    #[inline(always)]
    pub(crate) fn advance(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.len());
        // SAFETY: no further than to the packet's end.
        self.bytes = unsafe { self.bytes.add(bytes) };
        self.lengths -= both(bytes);
        self.front += bytes;
    }

    /// Moves the packet's first byte to the front, by no more than the headroom.
    #[inline(always)]
    pub(crate) fn retreat(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.headroom());
        // SAFETY: no further than to the start of the block.
        self.bytes = unsafe { self.bytes.sub(bytes) };
        self.lengths += both(bytes);
        self.front -= bytes;
    }

    /// The same bytes of another block.
    ///
    /// # Safety
    /// As for [`new`](Self::new); the block has at least as many bytes as headroom and packet.
    #[inline(always)]
    pub(crate) unsafe fn set_block(&mut self, block: Block) {
        let (headroom, len) = (self.headroom(), self.len());
        // SAFETY: the caller says so.
        *self = unsafe { Self::new(block, headroom) };
        self.set_len(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_moves_from_one_side_to_the_other_and_back() {
        let mut memory = [0u8; 256];
        for tag in [false, true] {
            let start = NonNull::from(&mut memory[..]).cast();
            // SAFETY: the block is the array.
            let mut span = unsafe { Span::new(Block { start, size: 256, tag }, 64) };
            let parts = |span: Span| (span.headroom(), span.len(), span.tailroom(), span.capacity());
            assert_eq!(parts(span), (64, 0, 192, 192));
            span.set_len(100);
            span.advance(14);
            assert_eq!(parts(span), (78, 86, 92, 178));
            span.retreat(78);
            assert_eq!(parts(span), (0, 164, 92, 256));
            assert_eq!(span.bytes(), start);
            span.advance(164);
            assert_eq!(parts(span), (164, 0, 92, 92));
            assert_eq!(span.block(), Block { start, size: 256, tag });
            assert!(span.has_block());
        }
        assert!(!Span::EMPTY.has_block());
    }

    #[test]
    fn a_block_without_room_behind_is_still_one() {
        let mut byte = 0u8;
        let block = Block { start: NonNull::from(&mut byte), size: 1, tag: false };
        // SAFETY: the block is the byte.
        let mut span = unsafe { Span::new(block, 0) };
        span.set_len(1);
        span.advance(1);
        assert!(span.has_block() && span.capacity() == 0);
        assert_eq!(span.block(), block);
    }
}

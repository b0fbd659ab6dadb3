//! Where the bytes of a packet lie in its block.
//!
//! ```text
//! block ├──── headroom ────┼──── len ────┼── tailroom ──┤
//!       start              bytes                        start + size
//!                          ├──────── capacity ──────────┤
//! ```

use core::ptr::NonNull;

use crate::geometry::UNIT_BYTES;

/// The most bytes that a packet asks for: a length is 31 bits, and blocks are whole units.
pub(crate) const LONGEST: usize = i32::MAX as usize & !(UNIT_BYTES.end - 2);
/// The most bytes of a block whose size a span holds: 15 bits, and a multiple of what every block's size is one of.
pub(crate) const LONGEST_SHORT: usize = i16::MAX as usize & !7;

/// A packet's block, as its owner knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    pub(crate) start: NonNull<u8>,
    /// Bytes that the packet may use, [`LONGEST`] at most; 0 where there is no block.
    pub(crate) size: usize,
    /// Whether the size has to be looked up: see [`Blocks::long_block`](super::owner::sealed::Blocks::long_block).
    pub(crate) is_long: bool,
}

impl Block {
    /// No block.
    pub(crate) const NONE: Self = Self { start: NonNull::dangling(), size: 0, is_long: false };

    /// A block all of which the packet may use, of an owner that can look up how long it is.
    #[inline(always)]
    pub(crate) fn plain(bytes: NonNull<[u8]>) -> Self {
        // A large block may have got an eighth more than was asked for.
        let size = bytes.len().min(LONGEST);
        Self { start: bytes.cast(), size, is_long: size > LONGEST_SHORT }
    }
}

/// Where a packet's bytes lie in its block: two words, so that it is passed and returned in registers.
///
/// ```text
///         63  62        48 47        32 31               0
/// short │ 0 │  tailroom  │  headroom  │      length       │
/// long  │ 1 │        headroom         │      length       │
/// ```
///
/// A long block's size is its owner's to know.
#[derive(Clone, Copy)]
pub struct Span {
    /// The packet's first byte.
    bytes: NonNull<u8>,
    /// 0 where there is no block.
    numbers: u64,
}

/// Where the numbers are; the length is the lower half.
const HEADROOM_SHIFT: u32 = 32;
const TAILROOM_SHIFT: u32 = 48;
/// The block is long.
const LONG: u64 = 1 << 63;

impl Span {
    /// No bytes of no block.
    pub(crate) const EMPTY: Self = Self { bytes: NonNull::dangling(), numbers: 0 };

    /// No bytes of a block, all of it tailroom. The block is not empty.
    #[inline(always)]
    pub(crate) fn new(block: Block) -> Self {
        debug_assert!(block.size > 0 && block.size <= if block.is_long { LONGEST } else { LONGEST_SHORT });
        let numbers = if block.is_long { LONG } else { (block.size as u64) << TAILROOM_SHIFT };
        Self { bytes: block.start, numbers }
    }

    /// No bytes of a new block, behind `headroom` bytes of its tailroom.
    ///
    /// # Safety
    /// The block is there, and has as many bytes.
    #[inline(always)]
    pub(crate) unsafe fn behind(self, headroom: usize) -> Self {
        debug_assert!(self.len() == 0 && self.short_tailroom().is_none_or(|tailroom| headroom <= tailroom));
        let bytes = headroom as u64;
        let tailroom = if self.is_long() { 0 } else { bytes << TAILROOM_SHIFT };
        // SAFETY: the caller says so.
        let first = unsafe { self.bytes.add(headroom) };
        Self { bytes: first, numbers: self.numbers + (bytes << HEADROOM_SHIFT) - tailroom }
    }

    /// The two words.
    #[inline(always)]
    pub(crate) fn words(self) -> (NonNull<u8>, u64) {
        (self.bytes, self.numbers)
    }

    /// The span of two words.
    ///
    /// # Safety
    /// They came from [`words`](Self::words).
    #[inline(always)]
    pub(crate) unsafe fn of_words(bytes: NonNull<u8>, numbers: u64) -> Self {
        Self { bytes, numbers }
    }

    /// The packet's first byte.
    #[inline(always)]
    pub(crate) fn bytes(self) -> NonNull<u8> {
        self.bytes
    }

    /// Bytes of the packet.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.numbers as u32 as usize
    }

    /// Whether there is a block.
    #[inline(always)]
    pub(crate) fn has_block(self) -> bool {
        self.numbers != 0
    }

    /// Whether the block's size has to be looked up.
    #[inline(always)]
    pub(crate) fn is_long(self) -> bool {
        self.numbers & LONG != 0
    }

    /// Bytes of the block in front of the packet.
    #[inline(always)]
    pub(crate) fn headroom(self) -> usize {
        let headroom = self.numbers >> HEADROOM_SHIFT;
        if self.is_long() { (headroom & ((LONG >> HEADROOM_SHIFT) - 1)) as usize } else { headroom as u16 as usize }
    }

    /// Bytes of the block behind the packet; `None` where the size has to be looked up.
    #[inline(always)]
    pub(crate) fn short_tailroom(self) -> Option<usize> {
        (!self.is_long()).then_some((self.numbers >> TAILROOM_SHIFT) as usize)
    }

    /// The block, of size 0 where there is none; `None` where the size has to be looked up.
    #[inline(always)]
    pub(crate) fn short_block(self) -> Option<Block> {
        let size = self.short_size()?;
        let headroom = (self.numbers >> HEADROOM_SHIFT) as u16 as usize;
        // SAFETY: the headroom lies in the block, in front of the packet.
        let start = unsafe { self.bytes.sub(headroom) };
        Some(Block { start, size, is_long: false })
    }

    /// The block, where there is one whose size is known.
    #[inline(always)]
    pub(super) fn only_short_block(self) -> Option<Block> {
        // One comparison: a long span's numbers are negative.
        if self.numbers as i64 > 0 { self.short_block() } else { None }
    }

    /// The size of the block, 0 where there is none; `None` where it has to be looked up.
    #[inline(always)]
    fn short_size(self) -> Option<usize> {
        // The sum of the numbers, each of which has 16 bits where the block is short, in three instructions: it comes
        // out on top.
        const SUM: u64 = 1 << TAILROOM_SHIFT | 1 << HEADROOM_SHIFT | 1 << 16 | 1;
        (!self.is_long()).then_some((self.numbers.wrapping_mul(SUM) >> TAILROOM_SHIFT) as usize)
    }

    /// Whether `bytes` bytes of tailroom are there for sure; false also where the size has to be looked up.
    #[inline(always)]
    pub(crate) fn has_tailroom(self, bytes: usize) -> bool {
        // One comparison for both: a long span's numbers are negative.
        bytes <= isize::MAX as usize && bytes as i64 <= self.numbers as i64 >> TAILROOM_SHIFT
    }

    /// The same with `bytes` bytes of the [tailroom](Self::has_tailroom).
    #[inline(always)]
    pub(crate) fn extended(self, bytes: usize) -> Self {
        debug_assert!(self.has_tailroom(bytes));
        let bytes = bytes as u64;
        // What is added does not depend on the span, so that it is known early.
        Self { numbers: self.numbers.wrapping_add(bytes.wrapping_sub(bytes << TAILROOM_SHIFT)), ..self }
    }

    /// The first byte of the block that the packet may use.
    #[inline(always)]
    pub(crate) fn start(self) -> NonNull<u8> {
        // SAFETY: the headroom lies in the block, in front of the packet.
        unsafe { self.bytes.sub(self.headroom()) }
    }

    /// Changes the length, to one that the block has room for.
    #[inline(always)]
    pub(crate) fn set_len(&mut self, len: usize) {
        debug_assert!(self.short_tailroom().is_none_or(|tailroom| len <= self.len() + tailroom) && len <= LONGEST);
        let more = (len as u64).wrapping_sub(self.len() as u64);
        let tailroom = if self.is_long() { 0 } else { more << TAILROOM_SHIFT };
        self.numbers = self.numbers.wrapping_add(more).wrapping_sub(tailroom);
    }

    /// Moves the packet's first byte back, by no more than the length.
    #[inline(always)]
    pub(crate) fn advance(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.len());
        // SAFETY: no further than to the packet's end.
        self.bytes = unsafe { self.bytes.add(bytes) };
        self.numbers = self.numbers - bytes as u64 + ((bytes as u64) << HEADROOM_SHIFT);
    }

    /// Moves the packet's first byte to the front, by no more than the headroom.
    #[inline(always)]
    pub(crate) fn retreat(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.headroom());
        // SAFETY: no further than to the start of the block.
        self.bytes = unsafe { self.bytes.sub(bytes) };
        self.numbers = self.numbers + bytes as u64 - ((bytes as u64) << HEADROOM_SHIFT);
    }

    /// The same bytes of another block.
    ///
    /// # Safety
    /// The block is there, and has at least as many bytes as headroom and packet.
    #[inline(always)]
    pub(crate) unsafe fn set_block(&mut self, block: Block) {
        let (headroom, len) = (self.headroom(), self.len());
        // SAFETY: the caller says so.
        *self = unsafe { Self::new(block).behind(headroom) };
        self.set_len(len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn a_span_takes_two_words_and_an_absent_one_no_more() {
        assert_eq!(size_of::<Span>(), 16);
        assert_eq!(size_of::<Option<Span>>(), size_of::<Span>());
    }

    #[test]
    fn room_moves_from_one_side_to_the_other_and_back() {
        let mut memory = vec![0u8; LONGEST_SHORT];
        let start = NonNull::from(&mut memory[..]).cast();
        for (size, is_long) in [(256, false), (256, true), (LONGEST_SHORT, false), (LONGEST_SHORT, true)] {
            // SAFETY: the block is the array, or a part of it.
            let mut span = unsafe { Span::new(Block { start, size, is_long }).behind(64) };
            let known = |tailroom: usize| (!is_long).then_some(tailroom);
            let parts = |span: Span| (span.headroom(), span.len(), span.short_tailroom());
            assert_eq!(parts(span), (64, 0, known(size - 64)));
            span.set_len(100);
            span.advance(14);
            assert_eq!(parts(span), (78, 86, known(size - 164)));
            span.retreat(78);
            assert_eq!(parts(span), (0, 164, known(size - 164)));
            assert_eq!(span.bytes(), start);
            span.set_len(size);
            span.advance(size);
            assert_eq!(parts(span), (size, 0, known(0)));
            assert_eq!((span.start(), span.is_long(), span.has_block()), (start, is_long, true));
            span.retreat(size);
            assert_eq!(parts(span), (0, size, known(0)));
            span.set_len(0);
            assert_eq!(parts(span), (0, 0, known(size)));
        }
        assert!(!Span::EMPTY.has_block());
    }

    /// The largest numbers that there may be, at an address that nobody uses.
    #[test]
    fn the_longest_span_has_room_for_its_numbers() {
        let (start, headroom) = (NonNull::dangling(), LONGEST - 1);
        let block = Block { start, size: LONGEST, is_long: true };
        let mut span = Span::new(block);
        span.set_len(LONGEST);
        assert_eq!((span.headroom(), span.len(), span.has_block()), (0, LONGEST, true));
        span.numbers = span.numbers - headroom as u64 + ((headroom as u64) << HEADROOM_SHIFT);
        assert_eq!((span.headroom(), span.len(), span.is_long()), (headroom, 1, true));
    }

    #[test]
    fn a_block_without_room_behind_is_still_one() {
        let mut byte = 0u8;
        let block = Block { start: NonNull::from(&mut byte), size: 1, is_long: false };
        let mut span = Span::new(block);
        span.set_len(1);
        span.advance(1);
        assert!(span.has_block());
        assert_eq!((span.short_block(), span.short_tailroom()), (Some(block), Some(0)));
    }
}

//! A bitset over any number of bits and any storage of 64-bit words.
//!
//! The allocator finds things with it: runs of idle windows for a block that is longer than one, holes in a window that
//! is used again, pages that can go back to the system; and [`Occupancy::used`](crate::Occupancy::used) draws a window
//! as one. It is a module of its own because queues have other uses for it: acknowledgement maps, loss maps, free
//! slots.
//!
//! ```
//! use pktalloc::bitset::Bitset;
//!
//! let mut acked = Bitset::new(1000);
//! acked.set_range(0..700);
//! acked.clear(42);
//! assert_eq!(acked.first_clear_from(0), Some(42));
//! assert_eq!(acked.first_clear_from(43), Some(700));
//! assert_eq!(acked.count_range(0..1000), 699);
//! assert_eq!(acked.first_set_in(700..1000), None);
//! ```
//!
//! Single-bit operations take constant time; the others a word at a time, 64 bits in a few instructions.

use alloc::vec::Vec;
use core::ops::Range;

/// Bits of a word.
const WORD: usize = u64::BITS as usize;

/// Words that can be read.
pub trait Words {
    /// How many words there are.
    fn count(&self) -> usize;
    /// The word at `index`; panics when there is none.
    fn get(&self, index: usize) -> u64;
}

/// Words that can be written, too.
pub trait WordsMut: Words {
    /// Replaces the word at `index`; panics when there is none.
    fn set(&mut self, index: usize, word: u64);
}

impl<T: AsRef<[u64]>> Words for T {
    fn count(&self) -> usize {
        self.as_ref().len()
    }

    fn get(&self, index: usize) -> u64 {
        self.as_ref()[index]
    }
}

impl<T: AsRef<[u64]> + AsMut<[u64]>> WordsMut for T {
    fn set(&mut self, index: usize, word: u64) {
        self.as_mut()[index] = word;
    }
}

/// A fixed number of bits over words of type `W`: a `Vec<u64>`, an array, a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitset<W = Vec<u64>> {
    words: W,
    bits: usize,
}

impl Bitset {
    /// `bits` clear bits on the heap.
    #[must_use]
    pub fn new(bits: usize) -> Self {
        Self { words: alloc::vec![0; bits.div_ceil(WORD)], bits }
    }
}

impl<W: Words> Bitset<W> {
    /// The first `bits` bits of `words`, as they are.
    ///
    /// # Panics
    /// When `words` holds fewer.
    ///
    /// ```
    /// use pktalloc::bitset::Bitset;
    /// let mut on_the_stack = Bitset::over([0u64; 4], 200);
    /// on_the_stack.set(199);
    /// ```
    #[must_use]
    pub fn over(words: W, bits: usize) -> Self {
        let held = words.count() * WORD;
        assert!(bits <= held, "{bits} bits do not fit into {held}");
        Self { words, bits }
    }

    /// How many bits there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bits
    }

    /// Whether there are no bits at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits == 0
    }

    /// Whether `bit` is set.
    ///
    /// # Panics
    /// When `bit` is out of range.
    #[must_use]
    pub fn test(&self, bit: usize) -> bool {
        self.bound(bit);
        self.words.get(bit / WORD) >> (bit % WORD) & 1 != 0
    }

    /// How many bits of `range` are set.
    ///
    /// # Panics
    /// When `range` ends before it starts or beyond the last bit.
    #[must_use]
    pub fn count_range(&self, range: Range<usize>) -> usize {
        self.masks(range).map(|(index, mask)| (self.words.get(index) & mask).count_ones() as usize).sum()
    }

    /// The first clear bit at or behind `from`, if any.
    ///
    /// # Panics
    /// When `from` is beyond the last bit.
    #[must_use]
    pub fn first_clear_from(&self, from: usize) -> Option<usize> {
        self.first(from..self.bits, |word| !word)
    }

    /// The first set bit in `range`, if any.
    ///
    /// # Panics
    /// When `range` ends before it starts or beyond the last bit.
    #[must_use]
    pub fn first_set_in(&self, range: Range<usize>) -> Option<usize> {
        self.first(range, |word| word)
    }

    /// The first run of at least `len` set bits in `range`, whole: up to the next clear bit or the end of `range`.
    ///
    /// ```
    /// use pktalloc::bitset::Bitset;
    /// let mut free = Bitset::new(100);
    /// free.set_range(3..5);
    /// free.set_range(60..70);
    /// assert_eq!(free.first_set_run_in(0..100, 2), Some(3..5));
    /// assert_eq!(free.first_set_run_in(0..100, 3), Some(60..70));
    /// assert_eq!(free.first_set_run_in(0..100, 11), None);
    /// ```
    ///
    /// # Panics
    /// When `range` ends before it starts or beyond the last bit.
    #[must_use]
    pub fn first_set_run_in(&self, range: Range<usize>, len: usize) -> Option<Range<usize>> {
        let mut from = range.start;
        loop {
            let start = self.first(from..range.end, |word| word)?;
            let end = self.first(start..range.end, |word| !word).unwrap_or(range.end);
            if end - start >= len {
                return Some(start..end);
            }
            from = end;
        }
    }

    /// The first bit of `range` whose word has it set after `view`.
    #[inline]
    fn first(&self, range: Range<usize>, view: impl Fn(u64) -> u64) -> Option<usize> {
        self.masks(range)
            .map(|(index, mask)| (index, view(self.words.get(index)) & mask))
            .find(|&(_, word)| word != 0)
            .map(|(index, word)| index * WORD + word.trailing_zeros() as usize)
    }

    fn bound(&self, bit: usize) {
        assert!(bit < self.bits, "bit {bit} is out of range, there are {}", self.bits);
    }

    /// The words that `range` touches, each with a mask of its bits in the range.
    fn masks(&self, range: Range<usize>) -> impl Iterator<Item = (usize, u64)> + use<W> {
        let Range { start, end } = range;
        assert!(start <= end && end <= self.bits, "bits {start}..{end} are out of range, there are {}", self.bits);
        let words = if start == end { 0..0 } else { start / WORD..(end - 1) / WORD + 1 };
        words.map(move |index| {
            let low = if index == start / WORD { u64::MAX << (start % WORD) } else { u64::MAX };
            let high = if index == (end - 1) / WORD { u64::MAX >> (WORD - 1 - (end - 1) % WORD) } else { u64::MAX };
            (index, low & high)
        })
    }
}

impl<W: WordsMut> Bitset<W> {
    /// Sets `bit`.
    ///
    /// # Panics
    /// When `bit` is out of range.
    pub fn set(&mut self, bit: usize) {
        self.bound(bit);
        self.words.set(bit / WORD, self.words.get(bit / WORD) | 1 << (bit % WORD));
    }

    /// Clears `bit`.
    ///
    /// # Panics
    /// When `bit` is out of range.
    pub fn clear(&mut self, bit: usize) {
        self.bound(bit);
        self.words.set(bit / WORD, self.words.get(bit / WORD) & !(1 << (bit % WORD)));
    }

    /// Sets every bit of `range`.
    ///
    /// # Panics
    /// When `range` ends before it starts or beyond the last bit.
    pub fn set_range(&mut self, range: Range<usize>) {
        for (index, mask) in self.masks(range) {
            self.words.set(index, self.words.get(index) | mask);
        }
    }

    /// Clears every bit of `range`.
    ///
    /// # Panics
    /// When `range` ends before it starts or beyond the last bit.
    pub fn clear_range(&mut self, range: Range<usize>) {
        for (index, mask) in self.masks(range) {
            self.words.set(index, self.words.get(index) & !mask);
        }
    }
}

//! Units and holes: which units of a window are in use. Knows integers only, no pointers and no system.
//!
//! A window's map has two bits a unit:
//!
//! - `live` is set on the **first** unit of each live block;
//! - `ends` is set on the **last** unit of each live block.
//!
//! ```text
//! unit   0 1 2 3 4 5 6 7 8 9
//! block    [---A---]   [-B-]
//! live   . 1 . . . . . 1 . .
//! ends   . . . . 1 . ? . . 1     ?: may be left over from a block that was freed
//! ```
//!
//! Invariants:
//!
//! 1. From a live block's first unit, the first `ends` bit at or behind it is its own.
//! 2. Blocks do not overlap, hence no `live` bit lies within a block behind its first unit.
//! 3. `ends` bits outside of live blocks mean nothing. They are cleared when the units are handed out again.
//!
//! To free a block is to clear its `live` bit; `ends` tells how long it was. Which units are in use is not stored but
//! derived, 64 units at a time, by one addition: in `!ends + live` a carry starts at each first unit and runs to the
//! block's last unit, so the bits that the addition changed are the units in use.

use core::cell::Cell;
use core::ops::Range;

use crate::bitset::{Bitset, Words, WordsMut};
use crate::geometry::WORD_UNITS;

/// 64 units' bits. The two words lie side by side because a free needs both.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Pair {
    live: Cell<u64>,
    ends: Cell<u64>,
}

/// The map of a window: a [`Pair`] for every 64 units and one behind them that is always zero.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map<'a>(&'a [Pair]);

/// The `ends` words of a map.
struct Ends<'a>(&'a [Pair]);

impl Words for Ends<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> u64 {
        self.0[index].ends.get()
    }
}

impl WordsMut for Ends<'_> {
    fn set(&mut self, index: usize, word: u64) {
        self.0[index].ends.set(word);
    }
}

/// The `live` words of a map.
struct Live<'a>(&'a [Pair]);

impl Words for Live<'_> {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> u64 {
        self.0[index].live.get()
    }
}

impl<'a> Map<'a> {
    /// The map over `pairs`, the last of which is the empty one behind the units.
    #[inline(always)]
    pub(crate) fn over(pairs: &'a [Pair]) -> Self {
        Self(pairs)
    }

    /// How many units the map covers.
    fn units(self) -> usize {
        (self.0.len() - 1) * WORD_UNITS
    }

    fn ends(self) -> Bitset<Ends<'a>> {
        Bitset::over(Ends(self.0), self.units())
    }

    fn live(self) -> Bitset<Live<'a>> {
        Bitset::over(Live(self.0), self.units())
    }

    /// Forgets every block.
    pub(crate) fn reset(self) {
        for pair in self.0 {
            pair.live.set(0);
            pair.ends.set(0);
        }
    }

    /// Records a block on the units `start..end`, none of which has a bit set.
    #[inline(always)]
    pub(crate) fn mark(self, start: u32, end: u32) {
        let (first, last) = (start as usize, end as usize - 1);
        let live = &self.0[first / WORD_UNITS].live;
        live.set(live.get() | 1 << (first % WORD_UNITS));
        let ends = &self.0[last / WORD_UNITS].ends;
        ends.set(ends.get() | 1 << (last % WORD_UNITS));
    }

    /// Removes the block that starts at `start` and tells its length in units; `None` when no block starts there.
    #[inline(always)]
    pub(crate) fn release(self, start: u32) -> Option<u32> {
        let pair = &self.0[start as usize / WORD_UNITS];
        let bit = 1u64 << (start as usize % WORD_UNITS);
        let live = pair.live.get();
        if live & bit == 0 {
            return None;
        }
        pair.live.set(live ^ bit);
        Some(self.length(start))
    }

    /// The distance from `start` to the end of its block, in units.
    #[inline(always)]
    fn length(self, start: u32) -> u32 {
        let index = start as usize / WORD_UNITS;
        let shift = start as usize % WORD_UNITS;
        let here = self.0[index].ends.get() >> shift;
        // Shifted in two steps, because a shift by 64 is none.
        let next = self.0[index + 1].ends.get() << 1 << (WORD_UNITS - 1 - shift);
        let ends = here | next;
        if ends != 0 { ends.trailing_zeros() + 1 } else { self.length_beyond(index + 1, shift) }
    }

    /// The length of a block that has no end in its first 64 units; `index` is the word behind its first.
    #[cold]
    fn length_beyond(self, index: usize, shift: usize) -> u32 {
        let words = self.0.iter().skip(index).position(|pair| pair.ends.get() != 0);
        // A damaged map may have no end at all; the length then reaches beyond the window, which the self-check tells.
        let word = words.map_or(self.0.len(), |words| index + words);
        let bit = self.0.get(word).map_or(0, |pair| pair.ends.get().trailing_zeros());
        ((word + 1 - index) * WORD_UNITS - shift) as u32 + bit + 1
    }

    /// The length in units of the block that starts at `start`; `None` when no block starts there.
    pub(crate) fn block_at(self, start: u32) -> Option<u32> {
        self.live().test(start as usize).then(|| self.length(start))
    }

    /// The block that `unit` belongs to.
    pub(crate) fn block_around(self, unit: u32) -> Option<Range<u32>> {
        let word = unit as usize / WORD_UNITS;
        let upto = |index| {
            if index == word { u64::MAX >> (WORD_UNITS - 1 - unit as usize % WORD_UNITS) } else { u64::MAX }
        };
        let (index, live) = (0..=word)
            .rev()
            .map(|index| (index, self.0[index].live.get() & upto(index)))
            .find(|&(_, live)| live != 0)?;
        let start = (index * WORD_UNITS + 63 - live.leading_zeros() as usize) as u32;
        let end = start + self.length(start);
        (unit < end).then_some(start..end)
    }

    /// Moves the end of a live block from `old` to a smaller `new`, both exclusive. The old end bit stays, as one of a
    /// freed block's would.
    pub(crate) fn shorten(self, new: u32) {
        self.ends().set(new as usize - 1);
    }

    /// Moves the end of a live block from `old` to a larger `new`, both exclusive; the units between are free.
    pub(crate) fn lengthen(self, old: u32, new: u32) {
        let mut ends = self.ends();
        ends.clear_range(old as usize - 1..new as usize);
        ends.set(new as usize - 1);
    }

    /// Forgets the end bits in `units`, which are about to be handed out.
    pub(crate) fn forget_ends(self, units: Range<u32>) {
        self.ends().clear_range(units.start as usize..units.end as usize);
    }

    /// The first unit in `units` that starts a block, or the end of `units`.
    pub(crate) fn next_live(self, units: Range<u32>) -> u32 {
        self.live().first_set_in(units.start as usize..units.end as usize).map_or(units.end, |unit| unit as u32)
    }

    /// The first hole of at least `need` units in `units`. `units.start` must not lie within a block; the hole is
    /// returned whole, up to the next block or the end of `units`.
    pub(crate) fn next_hole(self, units: Range<u32>, need: u32) -> Option<Range<u32>> {
        let Range { start: from, end: until } = units;
        let mut hole = None;
        let mut carry = false;
        for index in from as usize / WORD_UNITS..(until as usize).div_ceil(WORD_UNITS) {
            let at = (index * WORD_UNITS) as u32;
            let before = low_bits(from.saturating_sub(at));
            let used;
            (used, carry) = self.used(index, !before, carry);
            let used = used | before | !low_bits(until - at);
            let mut bit = 0;
            while bit < u64::BITS {
                let rest = u64::MAX << bit;
                if let Some(start) = hole {
                    let busy = used & rest;
                    if busy == 0 {
                        break;
                    }
                    bit = busy.trailing_zeros();
                    if at + bit - start >= need {
                        return Some(start..at + bit);
                    }
                    hole = None;
                } else {
                    let free = !used & rest;
                    if free == 0 {
                        break;
                    }
                    bit = free.trailing_zeros();
                    hole = Some(at + bit);
                }
            }
        }
        hole.filter(|start| until - start >= need).map(|start| start..until)
    }

    /// The units in use of word `index`, of the blocks that start within `mask` or run on from the word before
    /// (`carry`); and whether the last of them runs on into the next word.
    #[inline]
    fn used(self, index: usize, mask: u64, carry: bool) -> (u64, bool) {
        let inside = !self.0[index].ends.get();
        let (sum, over) = inside.overflowing_add(self.0[index].live.get() & mask);
        let (sum, again) = sum.overflowing_add(u64::from(carry));
        (sum ^ inside, over | again)
    }

    /// The live blocks in order of address.
    pub(crate) fn blocks(self) -> impl Iterator<Item = Range<u32>> + use<'a> {
        let units = self.units() as u32;
        let mut from = 0;
        core::iter::from_fn(move || {
            let start = self.next_live(from.min(units)..units);
            (start < units).then(|| {
                let end = (start + self.length(start)).min(units);
                from = end;
                start..end
            })
        })
    }

    /// How many blocks are live.
    pub(crate) fn live_blocks(self) -> u64 {
        self.0.iter().map(|pair| u64::from(pair.live.get().count_ones())).sum()
    }

    /// The first unit in `units` with a bit of either kind set.
    pub(crate) fn first_marked(self, units: Range<u32>) -> Option<u32> {
        let range = units.start as usize..units.end as usize;
        let live = self.live().first_set_in(range.clone());
        let ends = self.ends().first_set_in(range);
        live.into_iter().chain(ends).min().map(|unit| unit as u32)
    }

    /// Whether the entry behind the units is still zero.
    pub(crate) fn is_terminated(self) -> bool {
        self.0.last().is_some_and(|pair| pair.live.get() | pair.ends.get() == 0)
    }

    /// Writes behind the units, as stray bytes would.
    #[cfg(test)]
    pub(crate) fn break_terminator(self) {
        self.0[self.0.len() - 1].ends.set(1);
    }
}

/// The lowest `count` bits.
fn low_bits(count: u32) -> u64 {
    if count >= u64::BITS { u64::MAX } else { (1 << count) - 1 }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Units of the maps under test.
    const UNITS: u32 = 256;

    fn pairs() -> Vec<Pair> {
        (0..=UNITS as usize / WORD_UNITS).map(|_| Pair::default()).collect()
    }

    /// The first hole that a look at every single unit finds.
    fn next_hole_unit_by_unit(live: &BTreeMap<u32, u32>, units: Range<u32>, need: u32) -> Option<Range<u32>> {
        let used = |unit: u32| live.range(..=unit).next_back().is_some_and(|(_, &end)| unit < end);
        let mut start = units.start;
        while start < units.end {
            let end = (start..units.end).find(|&unit| used(unit)).unwrap_or(units.end);
            if end > start && end - start >= need {
                return Some(start..end);
            }
            start = end + 1;
        }
        None
    }

    proptest! {
        /// Marks, releases, shortens, lengthens at random, leaving stale end bits behind, against a plain list of blocks.
        #[test]
        fn the_map_agrees_with_a_list_of_blocks(steps in prop::collection::vec((any::<u32>(), 1u32..140, 0u8..4), 1..80)) {
            let pairs = pairs();
            let map = Map::over(&pairs);
            let mut live = BTreeMap::new();
            for (place, length, step) in steps {
                let pick = live.iter().nth(place as usize % live.len().max(1)).map(|(&start, &end)| (start, end));
                match (step, pick) {
                    (0, Some((start, end))) => {
                        live.remove(&start);
                        prop_assert_eq!(map.release(start), Some(end - start));
                        prop_assert_eq!(map.release(start), None);
                    }
                    (1, Some((start, end))) if end - start > 1 => {
                        let new = start + 1 + length % (end - start - 1);
                        map.shorten(new);
                        live.insert(start, new);
                    }
                    (2, Some((start, end))) => {
                        let new = map.next_live(end..UNITS).min(end + length);
                        if new > end {
                            map.lengthen(end, new);
                            live.insert(start, new);
                        }
                    }
                    _ => {
                        let from = live.range(..place % UNITS).next_back().map_or(0, |(_, &end)| end);
                        let hole = map.next_hole(from..UNITS, length);
                        prop_assert_eq!(hole.clone(), next_hole_unit_by_unit(&live, from..UNITS, length));
                        if let Some(hole) = hole {
                            map.forget_ends(hole.clone());
                            map.mark(hole.start, hole.start + length);
                            live.insert(hole.start, hole.start + length);
                        }
                    }
                }
                let blocks: Vec<_> = map.blocks().map(|block| (block.start, block.end)).collect();
                prop_assert_eq!(&blocks, &live.iter().map(|(&start, &end)| (start, end)).collect::<Vec<_>>());
                prop_assert_eq!(map.live_blocks(), live.len() as u64);
                let unit = place % UNITS;
                let around = live.range(..=unit).next_back().filter(|&(_, &end)| unit < end);
                prop_assert_eq!(map.block_around(unit), around.map(|(&start, &end)| start..end));
            }
        }
    }

    #[test]
    fn a_block_may_span_the_whole_map() {
        let pairs = pairs();
        let map = Map::over(&pairs);
        for start in [0, 1, 63, 64, 100] {
            map.mark(start, UNITS);
            assert_eq!(map.block_at(start), Some(UNITS - start));
            assert_eq!(map.next_hole(0..UNITS, 1), (start > 0).then_some(0..start));
            assert_eq!(map.release(start), Some(UNITS - start));
            map.reset();
        }
    }
}

//! The map of a window: which of its units are in use. Knows integers only, no pointers and no system.
//!
//! A map has a byte a unit: the length code of the block that **starts** there, or 0.
//!
//! ```text
//! unit   0 1 2 3 4 5 6 7 8 9
//! block    [---A---]   [-B-]
//! map    0 4 0 0 0 0 0 3 0 0
//! ```
//!
//! Invariants:
//!
//! 1. A block's bytes behind its first are 0, but for the second one of a longer block that is cached.
//! 2. Blocks do not overlap.
//!
//! To hand a block out is to store one byte, and to free it is to read that byte and store 0. A byte that is 0 already
//! is a double free or an interior pointer.
//!
//! | byte | stands for |
//! |---|---|
//! | 0 | no block starts here |
//! | 1 to 127 | a block of that many units |
//! | 128 to 159 | a *cached* block of 1 to 32 units: freed, and about to be handed out again |
//! | 160 to 254 | a longer block, in eight steps an octave ([`whole_length`] rounds up to one) |
//! | 255 | a longer block that is cached; the byte behind, from 128 on, says which of the shortest 32 longer ones it is |
//!
//! The last block of a window may be a span, which goes on in the windows behind it. How many units a span takes at the
//! front of those, their *lead*, is not in their maps: walks start behind it.

use core::cell::Cell;
use core::ops::Range;

/// The longest block, in units, whose length may be any number.
pub(crate) const LONGEST_EXACT: u32 = FIRST_LONG - 1;
/// The longest block, in units, that can be cached and whose length may be any number.
pub(crate) const LONGEST_CACHED: u32 = 32;
/// As many of the shortest longer lengths can be cached as well.
pub(crate) const LONG_CACHED: u32 = LONGEST_CACHED;
/// The byte of a cached block, less its length.
const CACHED: u32 = FIRST_LONG - 1;
/// The byte of a longer block that is cached.
const CACHED_LONG: u8 = u8::MAX;
/// The first byte of a longer block.
const LONG: u32 = FIRST_LONG + LONGEST_CACHED;
/// The length in units of the shortest longer block. A block of several windows is at least that long, so that the hot
/// path, which serves shorter ones, finds them in one window.
pub(crate) const FIRST_LONG: u32 = 128;
/// Steps of an octave from there on.
const STEPS: u32 = 8;
/// Base-2 logarithm of the first step.
const FIRST_STEP: u32 = FIRST_LONG.ilog2() - STEPS.ilog2();
/// The longest block, in units, whose length a map can keep.
pub(crate) const LONGEST: u32 = length_of(CACHED_LONG - 1);
/// Units that are looked at together when a hole is measured.
const WORD: usize = size_of::<u64>();
/// The same for holes that are longer.
const LINE: usize = 64;

/// The smallest length that a map can keep and that is at least `units`, which is not 0 and at most [`LONGEST`].
pub(crate) fn whole_length(units: u32) -> u32 {
    length_of(code_of(units))
}

/// What a map stores for a block of `units` units, rounded up; at most [`LONGEST`].
pub(crate) fn code_of(units: u32) -> u8 {
    debug_assert!(units <= LONGEST);
    if units <= LONGEST_EXACT {
        return units as u8;
    }
    let step = units.ilog2() - STEPS.ilog2();
    // A length that rounds up to the next octave has 2 * STEPS steps, which is the next octave's first code.
    let steps = units.div_ceil(1 << step);
    (LONG + (step - FIRST_STEP) * STEPS + (steps - STEPS)) as u8
}

/// The length in units that a map's byte stands for.
pub(crate) const fn length_of(code: u8) -> u32 {
    match code as u32 {
        exact @ ..FIRST_LONG => exact,
        cached @ FIRST_LONG..LONG => cached - CACHED,
        long => {
            let above = long - LONG;
            (STEPS + above % STEPS) << (FIRST_STEP + above / STEPS)
        }
    }
}

/// What a map stores for a cached block of `units` units, at most `LONGEST_CACHED`.
#[inline(always)]
pub(crate) fn cached_code(units: u32) -> u8 {
    debug_assert!((1..=LONGEST_CACHED).contains(&units));
    (CACHED + units) as u8
}

/// Whether a map's byte stands for a cached block, or says how long one is.
fn is_cached(code: u8) -> bool {
    (FIRST_LONG..LONG).contains(&u32::from(code)) || code == CACHED_LONG
}

/// The length in units of the live block that a map's byte stands for, if it is at most `LONGEST_EXACT`.
#[inline(always)]
pub(crate) fn exact_length(code: u8) -> Option<u32> {
    // One comparison: 0 wraps around.
    (u32::from(code.wrapping_sub(1)) < LONGEST_EXACT).then_some(u32::from(code))
}

/// The length in units of the longer live block that a map's byte stands for, if it does.
pub(crate) fn long_length(code: u8) -> Option<u32> {
    (LONG..u32::from(CACHED_LONG)).contains(&u32::from(code)).then(|| length_of(code))
}

/// Which of the longer lengths a live block's byte stands for, counted from 0, if that one can be cached.
pub(crate) fn long_step(code: u8) -> Option<u32> {
    u32::from(code).checked_sub(LONG).filter(|&step| step < LONG_CACHED)
}

/// What a map stores for a live block of a longer length.
pub(crate) const fn long_code(step: u32) -> u8 {
    (LONG + step) as u8
}

/// What a map stores for a cached block of a longer length, in its first two bytes; the second one of a live block is 0.
pub(crate) fn cached_long_codes(step: u32) -> [u8; 2] {
    [CACHED_LONG, cached_code(step + 1)]
}

/// The map of a window.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Map<'a>(&'a [Cell<u8>]);

impl<'a> Map<'a> {
    /// The map over a byte for each unit.
    #[inline(always)]
    pub(crate) fn over(bytes: &'a [Cell<u8>]) -> Self {
        Self(bytes)
    }

    /// Records that the block that starts at `start` has `units` units, a length that the map can keep.
    pub(crate) fn set(self, start: u32, units: u32) {
        debug_assert_eq!(units, whole_length(units));
        self.0[start as usize].set(code_of(units));
    }

    /// Takes the live block that starts at `start` out.
    pub(crate) fn release(self, start: u32) {
        self.0[start as usize].set(0);
    }

    /// The length in units of the live or cached block that starts at `start`; `None` when neither does.
    #[inline]
    fn taken_at(self, start: u32) -> Option<u32> {
        match self.0[start as usize].get() {
            0 => None,
            CACHED_LONG => {
                // Any byte stands for a length here, so that a walk over a damaged map ends.
                let step = self.0.get(start as usize + 1).map_or(0, |second| u32::from(second.get()));
                Some(length_of(long_code(step % LONG_CACHED)))
            }
            code => Some(length_of(code)),
        }
    }

    /// The length in units of the cached block that starts at `start`; `None` when none does.
    pub(crate) fn cached_at(self, start: u32) -> Option<u32> {
        if is_cached(self.0[start as usize].get()) { self.taken_at(start) } else { None }
    }

    /// The first unit whose byte does not belong to what starts at `start`.
    pub(crate) fn behind_start(self, start: u32) -> u32 {
        start + if self.0[start as usize].get() == CACHED_LONG { 2 } else { 1 }
    }

    /// The length in units of the live block that starts at `start`; `None` when none does.
    #[inline]
    pub(crate) fn block_at(self, start: u32) -> Option<u32> {
        let code = self.0[start as usize].get();
        (code != 0 && !is_cached(code)).then(|| length_of(code))
    }

    /// The live or cached block that starts last at or before `unit`, and whether it is live; it may end before `unit`,
    /// and behind the map.
    pub(crate) fn last_start(self, unit: u32) -> Option<(Range<u32>, bool)> {
        let last = self.0[..=unit as usize].iter().rposition(|byte| byte.get() != 0)?;
        let is_second = last > 0 && self.0[last - 1].get() == CACHED_LONG;
        let start = last as u32 - u32::from(is_second);
        Some((start..start + self.taken_at(start)?, self.block_at(start).is_some()))
    }

    /// The first unit in `units` at which a live or cached block starts, or the end of `units`.
    pub(crate) fn next_start(self, units: Range<u32>) -> u32 {
        let bytes = &self.0[units.start as usize..units.end as usize];
        // Holes between long blocks are long: a line without a start is passed over in a few vectors.
        let is_free = |line: &&[Cell<u8>; LINE]| line.iter().fold(0, |any, byte| any | byte.get()) == 0;
        let free = bytes.as_chunks::<LINE>().0.iter().take_while(is_free).count() * LINE;
        let start = units.start + free as u32;
        let (words, rest) = bytes[free..].as_chunks::<WORD>();
        for (index, word) in words.iter().enumerate() {
            let word = u64::from_le_bytes(word.each_ref().map(Cell::get));
            if word != 0 {
                return start + (index * WORD) as u32 + word.trailing_zeros() / u8::BITS;
            }
        }
        let in_rest = rest.iter().position(|byte| byte.get() != 0).unwrap_or(rest.len());
        start + (words.len() * WORD + in_rest) as u32
    }

    /// The first hole of at least `need` units in `units`. `units.start` must not lie within a block; the hole is
    /// returned whole, up to the next block or the end of `units`.
    pub(crate) fn next_hole(self, units: Range<u32>, need: u32) -> Option<Range<u32>> {
        let mut start = units.start;
        while start < units.end {
            if let Some(length) = self.taken_at(start) {
                start += length;
                continue;
            }
            let end = self.next_start(start..units.end);
            if end - start >= need {
                return Some(start..end);
            }
            start = end;
        }
        None
    }

    /// The live blocks that start in this map, in order; the last one may end behind it.
    pub(crate) fn blocks(self) -> impl Iterator<Item = Range<u32>> + Clone + use<'a> {
        let units = self.0.len() as u32;
        let mut from = 0;
        core::iter::from_fn(move || {
            loop {
                let start = self.next_start(from..units);
                if start >= units {
                    return None;
                }
                let end = start + self.taken_at(start)?;
                from = end.min(units);
                if self.block_at(start).is_some() {
                    return Some(start..end);
                }
            }
        })
    }

    /// How many live blocks start in this map.
    pub(crate) fn starts(self) -> u64 {
        self.0.iter().filter(|byte| byte.get() != 0 && !is_cached(byte.get())).count() as u64
    }

    /// Writes any byte, as stray bytes would.
    #[cfg(test)]
    pub(crate) fn damage(self, unit: u32, byte: u8) {
        self.0[unit as usize].set(byte);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Units of the map under test.
    const UNITS: u32 = 700;

    fn bytes() -> Vec<Cell<u8>> {
        vec![Cell::new(0); UNITS as usize]
    }

    #[test]
    fn every_length_is_kept_exactly_or_an_eighth_longer() {
        for units in (1..=16_384).chain([1 << 18, (1 << 18) + 1, LONGEST]) {
            let whole = whole_length(units);
            assert!(whole >= units && whole - units <= units / STEPS, "{units} becomes {whole}");
            assert!(units > LONGEST_EXACT || whole == units);
            assert_eq!(whole_length(whole), whole);
        }
        // The largest blocks of every window fit exactly.
        for shift in 0..=18 {
            assert_eq!(whole_length(1 << shift), 1 << shift);
        }
    }

    #[test]
    fn a_cached_block_keeps_its_units_and_is_not_live() {
        for units in 1..=LONGEST_CACHED {
            let bytes = bytes();
            let map = Map::over(&bytes);
            map.set(10, units);
            assert_eq!((exact_length(bytes[10].get()), map.block_at(10)), (Some(units), Some(units)));
            assert_eq!(map.last_start(9 + units), Some((10..10 + units, true)));
            bytes[10].set(cached_code(units));
            assert_eq!((exact_length(bytes[10].get()), map.block_at(10)), (None, None));
            assert_eq!((map.cached_at(10), map.last_start(10)), (Some(units), Some((10..10 + units, false))));
            assert_eq!((map.starts(), map.blocks().count()), (0, 0));
            assert_eq!(map.next_hole(0..UNITS, 11), Some(10 + units..UNITS));
            map.release(10);
            assert_eq!((exact_length(bytes[10].get()), map.cached_at(10)), (None, None));
            assert_eq!(map.next_hole(0..UNITS, 11), Some(0..UNITS));
        }
    }

    #[test]
    fn a_cached_longer_block_says_its_length_in_two_bytes_and_is_not_live() {
        for step in 0..LONG_CACHED {
            let bytes: Vec<_> = (0..2500).map(|_| Cell::new(0)).collect();
            let map = Map::over(&bytes);
            let units = length_of(long_code(step));
            map.set(10, units);
            let code = bytes[10].get();
            assert_eq!((long_step(code), long_length(code), exact_length(code)), (Some(step), Some(units), None));
            let [first, second] = cached_long_codes(step);
            bytes[10].set(first);
            bytes[11].set(second);
            // Neither is a block that could be freed.
            assert!([first, second].iter().all(|&code| exact_length(code).or(long_length(code)).is_none()));
            assert_eq!((map.cached_at(10), map.block_at(10), map.behind_start(10)), (Some(units), None, 12));
            for unit in [10, 11, 12, 9 + units, 2499] {
                assert_eq!(map.last_start(unit), Some((10..10 + units, false)), "seen from {unit}");
            }
            assert_eq!((map.starts(), map.blocks().count()), (0, 0));
            assert_eq!(map.next_hole(0..2500, 11), Some(10 + units..2500));
            // Damaged, it still has a length, so that walks end.
            bytes[11].set(0);
            assert!(map.cached_at(10).is_some_and(|units| units >= FIRST_LONG));
        }
        assert_eq!((long_step(code_of(LONGEST_EXACT)), long_step(code_of(1921))), (None, None));
        assert_eq!(length_of(long_code(LONG_CACHED - 1)), 1920);
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
        /// Blocks come, go, and change their length at random, against a plain list of blocks.
        #[test]
        fn the_map_agrees_with_a_list_of_blocks(steps in prop::collection::vec((any::<u32>(), 1u32..200, 0u8..4), 1..80)) {
            let bytes = bytes();
            let map = Map::over(&bytes);
            let mut live = BTreeMap::new();
            for (place, length, step) in steps {
                let length = whole_length(length);
                let pick = live.iter().nth(place as usize % live.len().max(1)).map(|(&start, &end)| (start, end));
                match (step, pick) {
                    (0, Some((start, end))) => {
                        live.remove(&start);
                        prop_assert_eq!(map.block_at(start), Some(end - start));
                        map.release(start);
                        prop_assert_eq!(map.block_at(start), None);
                    }
                    (1, Some((start, end))) if length < end - start => {
                        map.set(start, length);
                        live.insert(start, start + length);
                    }
                    (2, Some((start, end))) if length > end - start && start + length <= UNITS => {
                        if map.next_start(end..start + length) == start + length {
                            map.set(start, length);
                            live.insert(start, start + length);
                        }
                    }
                    _ => {
                        let from = live.range(..place % UNITS).next_back().map_or(0, |(_, &end)| end);
                        let hole = map.next_hole(from..UNITS, length);
                        prop_assert_eq!(hole.clone(), next_hole_unit_by_unit(&live, from..UNITS, length));
                        if let Some(hole) = hole {
                            map.set(hole.start, length);
                            live.insert(hole.start, hole.start + length);
                        }
                    }
                }
                let blocks: Vec<_> = map.blocks().map(|block| (block.start, block.end)).collect();
                prop_assert_eq!(&blocks, &live.iter().map(|(&start, &end)| (start, end)).collect::<Vec<_>>());
                prop_assert_eq!(map.starts(), live.len() as u64);
                let unit = place % UNITS;
                let last = live.range(..=unit).next_back();
                prop_assert_eq!(map.last_start(unit), last.map(|(&start, &end)| (start..end, true)));
            }
        }
    }
}

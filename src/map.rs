//! The map of a window: which of its units are in use. Knows integers only, no pointers and no system.
//!
//! A map has a byte a unit: for the block that **starts** there its length, or else 0.
//!
//! ```text
//! unit   0 1 2 3 4 5 6 7 8 9
//! block    [---A---]   [-B-]
//! map    0 4 0 0 0 0 0 3 0 0
//! ```
//!
//! Invariants:
//!
//! 1. A block's bytes behind its first are 0, but for the second one of a longer block.
//! 2. Blocks do not overlap.
//! 3. A longer block does not start at the last unit of a window.
//!
//! To hand a block out is to store one byte, and to free it is to read that byte and store 0. A byte that is 0 already
//! is a double free or an interior pointer.
//!
//! | byte | stands for |
//! |---|---|
//! | 0 | no block starts here |
//! | 1 to 127 | a block of that many units |
//! | 128 | a longer block, in eight steps an octave ([`whole_length`] rounds up to one); the byte behind says which |
//! | 129 to 255 | a *cached* block of 1 to 127 units: freed, and about to be handed out again |
//!
//! The second byte of a longer block is never one that could be freed: 129 to 223 for a live one, by steps, and 224 to
//! 255 for a cached one of the shortest 32 steps.
//!
//! The last block of a window may be a span, which goes on in the windows behind it. How many units a span takes at the
//! front of those, their *lead*, is not in their maps: walks start behind it.

use core::cell::Cell;
use core::ops::Range;

/// The longest block, in units, whose length may be any number.
pub(crate) const LONGEST_EXACT: u32 = FIRST_LONG - 1;
/// How many of the shortest longer lengths can be cached.
pub(crate) const LONG_CACHED: u32 = 32;
/// The bit of a cached block's byte that a live one's does not have.
const CACHED: u8 = 1 << 7;
/// The first byte of a longer block, be it live or cached.
const LONG: u8 = CACHED;
/// The second byte of the shortest longer block.
const LIVE_STEP: u8 = LONG + 1;
/// The second byte of the shortest longer block that is cached.
const CACHED_STEP: u8 = u8::MAX - (LONG_CACHED - 1) as u8;
/// The length in units of the shortest longer block. A block of several windows is at least that long, so that the hot
/// path, which serves shorter ones, finds them in one window.
pub(crate) const FIRST_LONG: u32 = 128;
/// Steps of an octave from there on.
const STEPS: u32 = 8;
/// Base-2 logarithm of the first step.
const FIRST_STEP: u32 = FIRST_LONG.ilog2() - STEPS.ilog2();
/// The longest block, in units, whose length a map can keep.
pub(crate) const LONGEST: u32 = step_length((CACHED_STEP - LIVE_STEP - 1) as u32);
/// Units that are looked at together when a hole is measured.
const WORD: usize = size_of::<u64>();
/// The same for holes that are longer.
const LINE: usize = 64;

/// The smallest length that a map can keep and that is at least `units`, which is not 0 and at most [`LONGEST`].
pub(crate) fn whole_length(units: u32) -> u32 {
    step_of(units).map_or(units, step_length)
}

/// The step to which the length of a longer block is rounded up; `None` for a block whose length is kept as it is.
pub(crate) fn step_of(units: u32) -> Option<u32> {
    debug_assert!(units <= LONGEST);
    if units <= LONGEST_EXACT {
        return None;
    }
    let step = units.ilog2() - STEPS.ilog2();
    // A length that rounds up to the next octave has 2 * STEPS steps, which is the next octave's first.
    let steps = units.div_ceil(1 << step);
    Some((step - FIRST_STEP) * STEPS + (steps - STEPS))
}

/// The length in units of longer blocks of a step.
pub(crate) const fn step_length(step: u32) -> u32 {
    (STEPS + step % STEPS) << (FIRST_STEP + step / STEPS)
}

/// What a map stores for a cached block of `units` units, at most `LONGEST_EXACT`.
#[inline(always)]
pub(crate) fn cached_code(units: u32) -> u8 {
    debug_assert!((1..=LONGEST_EXACT).contains(&units));
    units as u8 | CACHED
}

/// The length in units of the live block that a map's byte stands for, if it is at most `LONGEST_EXACT`.
#[inline(always)]
pub(crate) fn exact_length(code: u8) -> Option<u32> {
    // One comparison: 0 wraps around.
    (u32::from(code.wrapping_sub(1)) < LONGEST_EXACT).then_some(u32::from(code))
}

/// Whether a map's byte is the first one of a longer block.
#[inline(always)]
pub(crate) fn is_long(code: u8) -> bool {
    code == LONG
}

/// The step of the longer live block that has this second byte, if one has.
#[inline(always)]
pub(crate) fn live_step(second: u8) -> Option<u32> {
    (LIVE_STEP..CACHED_STEP).contains(&second).then(|| u32::from(second - LIVE_STEP))
}

/// What a map stores for a longer block of a step that is live.
#[inline(always)]
pub(crate) fn long_codes(step: u32) -> [u8; 2] {
    [LONG, LIVE_STEP + step as u8]
}

/// What a map stores for a longer block of a step, below `LONG_CACHED`, that is cached.
#[inline(always)]
pub(crate) fn cached_long_codes(step: u32) -> [u8; 2] {
    [LONG, CACHED_STEP + step as u8]
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
        self.release(start);
        let bytes = &self.0[start as usize..];
        match step_of(units).map(long_codes) {
            None => bytes[0].set(units as u8),
            Some(codes) => bytes[..2].iter().zip(codes).for_each(|(byte, code)| byte.set(code)),
        }
    }

    /// Takes the live block that starts at `start` out, if one does.
    pub(crate) fn release(self, start: u32) {
        if is_long(self.0[start as usize].replace(0)) {
            self.0[start as usize + 1].set(0);
        }
    }

    /// The length in units of the live or cached block that starts at `start`; `None` when neither does.
    #[inline]
    fn taken_at(self, start: u32) -> Option<u32> {
        match self.0[start as usize].get() {
            0 => None,
            LONG => {
                // Any byte stands for a length here, so that a walk over a damaged map ends.
                let cached = || u32::from(self.second(start).saturating_sub(CACHED_STEP));
                Some(step_length(live_step(self.second(start)).unwrap_or_else(cached)))
            }
            code => Some(u32::from(code & !CACHED)),
        }
    }

    /// The second byte of the longer block that starts at `start`.
    fn second(self, start: u32) -> u8 {
        self.0.get(start as usize + 1).map_or(0, Cell::get)
    }

    /// The length in units of the cached block that starts at `start`; `None` when none does.
    pub(crate) fn cached_at(self, start: u32) -> Option<u32> {
        if self.block_at(start).is_none() { self.taken_at(start) } else { None }
    }

    /// The first unit whose byte does not belong to what starts at `start`.
    pub(crate) fn behind_start(self, start: u32) -> u32 {
        start + if is_long(self.0[start as usize].get()) { 2 } else { 1 }
    }

    /// The length in units of the live block that starts at `start`; `None` when none does.
    #[inline]
    pub(crate) fn block_at(self, start: u32) -> Option<u32> {
        match self.0[start as usize].get() {
            LONG => live_step(self.second(start)).map(step_length),
            code => exact_length(code),
        }
    }

    /// The live or cached block that starts last at or before `unit`, and whether it is live; it may end before `unit`,
    /// and behind the map.
    pub(crate) fn last_start(self, unit: u32) -> Option<(Range<u32>, bool)> {
        let last = self.0[..=unit as usize].iter().rposition(|byte| byte.get() != 0)?;
        let is_second = last > 0 && is_long(self.0[last - 1].get());
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
        let exact = self.0.iter().filter(|byte| exact_length(byte.get()).is_some()).count();
        let is_live_long = |pair: &&[Cell<u8>]| is_long(pair[0].get()) && live_step(pair[1].get()).is_some();
        (exact + self.0.windows(2).filter(is_live_long).count()) as u64
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
        for units in 1..=LONGEST_EXACT {
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
            let units = step_length(step);
            map.set(10, units);
            assert_eq!((map.block_at(10), map.starts()), (Some(units), 1));
            let [first, second] = cached_long_codes(step);
            bytes[10].set(first);
            bytes[11].set(second);
            assert_eq!((is_long(first), live_step(second)), (true, None));
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
        assert_eq!(step_length(LONG_CACHED - 1), 1920);
    }

    #[test]
    fn the_bytes_of_longer_blocks_are_no_short_one_and_no_two_are_the_same() {
        assert_eq!((step_of(LONGEST_EXACT), step_of(FIRST_LONG), step_of(LONGEST)), (None, Some(0), Some(94)));
        let live = (0..=94).map(|step| (long_codes(step), Some(step)));
        let cached = (0..LONG_CACHED).map(|step| (cached_long_codes(step), None));
        let mut seconds: Vec<_> = live
            .chain(cached)
            .map(|([first, second], step)| {
                assert_eq!((is_long(first), live_step(second)), (true, step));
                // Neither is a block that could be freed, and the second one is not the first one of another.
                assert!(exact_length(first).or(exact_length(second)).is_none() && !is_long(second));
                second
            })
            .collect();
        seconds.sort_unstable();
        seconds.dedup();
        assert_eq!(seconds.len(), 95 + LONG_CACHED as usize);
    }

    #[test]
    fn a_longer_block_that_becomes_another_leaves_no_second_byte() {
        let bytes = bytes();
        let map = Map::over(&bytes);
        for units in [640, 3, 144, 127, 128, 1] {
            map.set(10, units);
            assert_eq!((map.block_at(10), map.blocks().count(), map.starts()), (Some(units), 1, 1));
            assert_eq!(map.next_start(map.behind_start(10)..UNITS), UNITS, "{units} units");
        }
        map.set(10, 640);
        map.release(10);
        assert_eq!((map.next_start(0..UNITS), map.starts()), (UNITS, 0));
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

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
//! 255 for a cached one of the shortest 32.
//!
//! The last block of a window may be a span, which goes on in the windows behind it. How many units a span takes at the
//! front of those, their *lead*, is not in their maps: walks start behind it.

use core::cell::Cell;
use core::ops::Range;

/// The longest block, in units, whose length may be any number.
pub(crate) const LONGEST_EXACT: u32 = FIRST_LONG - 1;
/// The bit of a cached block's byte that a live one's does not have.
const CACHED: u8 = 1 << 7;
/// The first byte of a longer block, be it live or cached.
const LONG: u8 = CACHED;
/// The second byte of the shortest longer block.
const LIVE_LONG: u8 = LONG + 1;
/// The second byte of the shortest longer block that is cached.
const CACHED_LONG: u8 = 224;
/// The length in units of the shortest longer block. A block of several windows is at least that long, so that the hot
/// path, which serves shorter ones, finds them in one window.
pub(crate) const FIRST_LONG: u32 = 128;
/// Steps of an octave from there on.
const STEPS: u32 = 8;
/// Base-2 logarithm of the first step.
const FIRST_STEP: u32 = FIRST_LONG.ilog2() - STEPS.ilog2();
/// The number of the longest length of which blocks can be cached.
pub(crate) const LAST_CACHED: u32 = FIRST_LONG + (u8::MAX - CACHED_LONG) as u32;
/// The longest block, in units, whose length a map can keep.
pub(crate) const LONGEST: u32 = length_of(FIRST_LONG + (CACHED_LONG - LIVE_LONG) as u32 - 1);
/// Units that are looked at together when a hole is measured.
const WORD: usize = size_of::<u64>();
/// The same for holes that are longer.
const LINE: usize = 64;

/// The smallest length that a map can keep and that is at least `units`, which is not 0 and at most [`LONGEST`].
pub(crate) fn whole_length(units: u32) -> u32 {
    length_of(length_number(units))
}

/// The number of the smallest length of at least `units` units: lengths up to 127 units are their own numbers, and the
/// longer ones follow by steps.
pub(crate) fn length_number(units: u32) -> u32 {
    debug_assert!(units <= LONGEST);
    if units <= LONGEST_EXACT {
        return units;
    }
    let step = units.ilog2() - STEPS.ilog2();
    // A length that rounds up to the next octave has 2 * STEPS steps, which is the next octave's first.
    let steps = units.div_ceil(1 << step);
    FIRST_LONG + (step - FIRST_STEP) * STEPS + (steps - STEPS)
}

/// The length in units that has this number.
pub(crate) const fn length_of(number: u32) -> u32 {
    if number <= LONGEST_EXACT {
        return number;
    }
    let above = number - FIRST_LONG;
    (STEPS + above % STEPS) << (FIRST_STEP + above / STEPS)
}

/// What a map stores for a live block with this number of length, in its first two bytes; the block has two units.
#[inline(always)]
pub(crate) fn live_codes(number: u32) -> [u8; 2] {
    match number.checked_sub(FIRST_LONG) {
        None => [number as u8, 0],
        Some(above) => [LONG, LIVE_LONG + above as u8],
    }
}

/// The same for a cached block of a longer length; the number is at most [`LAST_CACHED`].
#[inline(always)]
pub(crate) fn cached_long_codes(number: u32) -> [u8; 2] {
    [LONG, CACHED_LONG + (number - FIRST_LONG) as u8]
}

/// What a map stores for a cached block of `units` units, at most `LONGEST_EXACT`.
#[inline(always)]
pub(crate) fn cached_code(units: u32) -> u8 {
    debug_assert!((1..=LONGEST_EXACT).contains(&units));
    units as u8 | CACHED
}

/// The number of the length of the live block that has these two bytes; `None` if none has.
#[inline(always)]
pub(crate) fn live_number([first, second]: [u8; 2]) -> Option<u32> {
    if !is_long(first) {
        return exact_length(first);
    }
    (LIVE_LONG..CACHED_LONG).contains(&second).then(|| FIRST_LONG + u32::from(second - LIVE_LONG))
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
        let [first, second] = live_codes(length_number(units));
        self.0[start as usize].set(first);
        if is_long(first) {
            self.0[start as usize + 1].set(second);
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
                let codes @ [_, second] = self.codes(start);
                // Any byte stands for a length here, so that a walk over a damaged map ends.
                let cached = || FIRST_LONG + u32::from(second.saturating_sub(CACHED_LONG));
                Some(length_of(live_number(codes).unwrap_or_else(cached)))
            }
            code => Some(u32::from(code & !CACHED)),
        }
    }

    /// The bytes of the block that starts at `start`.
    fn codes(self, start: u32) -> [u8; 2] {
        let code = |unit: u32| self.0.get(unit as usize).map_or(0, Cell::get);
        [code(start), code(start + 1)]
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
        live_number(self.codes(start)).map(length_of)
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
        let pairs = self.0.iter().zip(&self.0[1..]).map(|(first, second)| [first.get(), second.get()]);
        (exact + pairs.filter(|&codes| is_long(codes[0]) && live_number(codes).is_some()).count()) as u64
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
        for number in FIRST_LONG..=LAST_CACHED {
            let bytes: Vec<_> = (0..2500).map(|_| Cell::new(0)).collect();
            let map = Map::over(&bytes);
            let units = length_of(number);
            map.set(10, units);
            assert_eq!((map.block_at(10), map.starts()), (Some(units), 1));
            let [first, second] = cached_long_codes(number);
            bytes[10].set(first);
            bytes[11].set(second);
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
        assert_eq!(length_of(LAST_CACHED), 1920);
    }

    #[test]
    fn every_number_has_bytes_of_its_own_and_none_but_the_first_of_a_live_block_can_be_freed() {
        let last = length_number(LONGEST);
        assert_eq!((length_number(LONGEST_EXACT), length_number(FIRST_LONG), last), (127, 128, 222));
        let live = (1..=last).map(|number| (live_codes(number), Some(number)));
        let cached = (1..=LONGEST_EXACT).map(|units| ([cached_code(units), 0], None));
        let cached_long = (FIRST_LONG..=LAST_CACHED).map(|number| (cached_long_codes(number), None));
        let mut all: Vec<_> = live
            .chain(cached)
            .chain(cached_long)
            .map(|(codes, number)| {
                assert_eq!(live_number(codes), number);
                assert_eq!(live_number([codes[1], 0]), None, "{codes:?}");
                codes
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len() as u32, last + LAST_CACHED);
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

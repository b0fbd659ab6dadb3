//! Units and holes: which units of a window are in use. Knows integers only, no pointers and no system.
//!
//! A window's map has a byte a unit: the length, in units, of the block that **starts** there, or 0.
//!
//! ```text
//! unit   0 1 2 3 4 5 6 7 8 9
//! block    [---A---]   [-B-]
//! map    0 4 0 0 0 0 0 3 0 0
//! ```
//!
//! Invariants:
//!
//! 1. A block's bytes behind its first are 0.
//! 2. Blocks do not overlap.
//!
//! To hand a block out is to store one byte, and to free it is to read that byte and store 0. A byte that is 0 already
//! is a double free or an interior pointer.
//!
//! | byte | stands for |
//! |---|---|
//! | 0 | no block starts here |
//! | 1 to 127 | a block of that many units |
//! | 128 to 191 | a longer block, in eight steps an octave ([`whole_length`] rounds up to one) |
//! | 192 to 223 | a *parked* block of 1 to 32 units: freed, and about to be handed out again |

use core::cell::Cell;
use core::ops::Range;

/// The longest block, in units, whose length may be any number.
pub(crate) const LONGEST_EXACT: u32 = FIRST_LONG - 1;
/// The longest block, in units, that can be parked.
pub(crate) const LONGEST_PARKED: u32 = 32;
/// The first byte of a longer block, and that block's length in units.
const FIRST_LONG: u32 = 128;
/// Steps of an octave from there on.
const STEPS: u32 = 8;
/// Base-2 logarithm of the first step.
const FIRST_STEP: u32 = FIRST_LONG.ilog2() - STEPS.ilog2();
/// What is added to a parked block's length, less 1.
const PARKED: u32 = 192;
/// Units that are looked at together when a hole is measured.
const CHUNK: usize = 64;

/// The smallest length that a map can keep and that is at least `units`, which is not 0.
pub(crate) fn whole_length(units: u32) -> u32 {
    length_of(code_of(units))
}

/// What a map stores for a block of `units` units, rounded up.
fn code_of(units: u32) -> u8 {
    if units <= LONGEST_EXACT {
        return units as u8;
    }
    let step = units.ilog2() - STEPS.ilog2();
    // A length that rounds up to the next octave has 2 * STEPS steps, which is the next octave's first code.
    let steps = units.div_ceil(1 << step);
    (FIRST_LONG + (step - FIRST_STEP) * STEPS + (steps - STEPS)) as u8
}

/// The length in units that a map's byte stands for.
fn length_of(code: u8) -> u32 {
    match u32::from(code) {
        exact @ ..FIRST_LONG => exact,
        long @ FIRST_LONG..PARKED => {
            let above = long - FIRST_LONG;
            (STEPS + above % STEPS) << (FIRST_STEP + above / STEPS)
        }
        parked => parked - PARKED + 1,
    }
}

/// The length in units of the live block that a map's byte stands for, if it is at most `LONGEST_EXACT`.
#[inline(always)]
pub(crate) fn exact_length(code: u8) -> Option<u32> {
    // Every other byte is 0 or, as a signed number, below it.
    (code.cast_signed() > 0).then_some(u32::from(code))
}

/// What a map stores for a parked block of `units` units, at most `LONGEST_PARKED`.
#[inline(always)]
pub(crate) fn parked_code(units: u32) -> u8 {
    debug_assert!((1..=LONGEST_PARKED).contains(&units));
    (PARKED - 1 + units) as u8
}

/// Whether a map's byte stands for a parked block.
fn is_parked(code: u8) -> bool {
    u32::from(code) >= PARKED
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

    /// Takes the block that starts at `start`, live or parked, out.
    pub(crate) fn release(self, start: u32) {
        self.0[start as usize].set(0);
    }

    /// The length in units of the live or parked block that starts at `start`; `None` when neither does.
    #[inline]
    fn taken_at(self, start: u32) -> Option<u32> {
        let code = self.0[start as usize].get();
        (code != 0).then(|| length_of(code))
    }

    /// The length in units of the parked block that starts at `start`; `None` when none does.
    pub(crate) fn parked_at(self, start: u32) -> Option<u32> {
        let code = self.0[start as usize].get();
        is_parked(code).then(|| length_of(code))
    }

    /// The length in units of the live block that starts at `start`; `None` when none does.
    #[inline]
    pub(crate) fn block_at(self, start: u32) -> Option<u32> {
        let code = self.0[start as usize].get();
        (code != 0 && !is_parked(code)).then(|| length_of(code))
    }

    /// The live block that `unit` belongs to.
    pub(crate) fn block_around(self, unit: u32) -> Option<Range<u32>> {
        let start = self.0[..=unit as usize].iter().rposition(|byte| byte.get() != 0)? as u32;
        let end = start + self.block_at(start)?;
        (unit < end).then_some(start..end)
    }

    /// The first unit in `units` that starts a live or parked block, or the end of `units`.
    pub(crate) fn next_taken(self, units: Range<u32>) -> u32 {
        let bytes = &self.0[units.start as usize..units.end as usize];
        let marked = |byte: &Cell<u8>| byte.get() != 0;
        let empty =
            bytes.chunks(CHUNK).take_while(|chunk| chunk.iter().fold(0, |all, byte| all | byte.get()) == 0).count();
        let from = (empty * CHUNK).min(bytes.len());
        let rest = bytes[from..].iter().position(marked).unwrap_or(bytes.len() - from);
        units.start + (from + rest) as u32
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
            let end = self.next_taken(start..units.end);
            if end - start >= need {
                return Some(start..end);
            }
            start = end;
        }
        None
    }

    /// The live blocks in order of address.
    pub(crate) fn blocks(self) -> impl Iterator<Item = Range<u32>> + use<'a> {
        let units = self.0.len() as u32;
        let mut from = 0;
        core::iter::from_fn(move || {
            loop {
                let start = self.next_taken(from..units);
                if start == units {
                    return None;
                }
                // A damaged length may reach beyond the window; whoever looks at the map then must not.
                from = (start + self.taken_at(start)?).min(units);
                if self.block_at(start).is_some() {
                    return Some(start..from);
                }
            }
        })
    }

    /// How many blocks are live.
    pub(crate) fn live_blocks(self) -> u64 {
        self.0.iter().filter(|byte| byte.get() != 0 && !is_parked(byte.get())).count() as u64
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
        for units in 1..=16_384 {
            let whole = whole_length(units);
            assert!(whole >= units && whole - units <= units / STEPS, "{units} becomes {whole}");
            assert!(units > LONGEST_EXACT || whole == units);
            assert_eq!(whole_length(whole), whole);
        }
        // The largest blocks of every window fit exactly.
        for shift in 0..=14 {
            assert_eq!(whole_length(1 << shift), 1 << shift);
        }
    }

    #[test]
    fn a_parked_block_keeps_its_units_and_is_not_live() {
        for units in 1..=LONGEST_PARKED {
            let bytes = bytes();
            let map = Map::over(&bytes);
            map.set(10, units);
            assert_eq!((exact_length(bytes[10].get()), map.block_at(10)), (Some(units), Some(units)));
            assert_eq!((map.block_around(9 + units), map.block_around(10 + units)), (Some(10..10 + units), None));
            bytes[10].set(parked_code(units));
            assert_eq!((exact_length(bytes[10].get()), map.block_at(10)), (None, None));
            assert_eq!((map.parked_at(10), map.block_around(10)), (Some(units), None));
            assert_eq!((map.live_blocks(), map.blocks().count()), (0, 0));
            assert_eq!(map.next_hole(0..UNITS, 11), Some(10 + units..UNITS));
            map.release(10);
            assert_eq!((exact_length(bytes[10].get()), map.parked_at(10)), (None, None));
            assert_eq!(map.next_hole(0..UNITS, 11), Some(0..UNITS));
        }
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
                        if map.next_taken(end..start + length) == start + length {
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
                prop_assert_eq!(map.live_blocks(), live.len() as u64);
                let unit = place % UNITS;
                let around = live.range(..=unit).next_back().filter(|&(_, &end)| unit < end);
                prop_assert_eq!(map.block_around(unit), around.map(|(&start, &end)| start..end));
            }
        }
    }
}

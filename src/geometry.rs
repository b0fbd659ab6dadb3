//! The shape of a window: how bytes become units, and what of a window its descriptor takes.
//!
//! Everything here is arithmetic on integers. A [`Geometry`] is either known at compile time ([`Fixed`], the Rust face)
//! or chosen at run time ([`Runtime`], the Python face); the allocator is written once over both.
//!
//! ```text
//! window (aligned to its own size)
//! ┌────────────┬─────────────────────────────────────────────────┐
//! │ descriptor │ units for blocks                                │
//! └────────────┴─────────────────────────────────────────────────┘
//! ```
//!
//! Unit 0 is never handed out: an address at the very start of a window is a large block's.

use core::ops::Range;

#[cfg(any(feature = "python", test))]
use crate::config::ConfigError;
use crate::prefetch::LINE_BYTES;
use crate::window::LONGEST_EXACT;

/// Smallest and largest unit in bytes.
pub(crate) const UNIT_BYTES: Range<usize> = 16..4097;
/// Smallest and largest number of units in a window.
pub(crate) const WINDOW_UNITS: Range<usize> = 64..65537;
/// Bytes within which windows begin at different distances, at most: behind a page's worth it starts over.
const STAGGER_BYTES: usize = 4096;
/// The part of a window that this may take.
const STAGGER_PART: usize = 128;
/// Bytes of a descriptor's fields, in front of its map: a cache line that does not change and one that does.
pub(crate) const FIELD_BYTES: usize = 2 * LINE_BYTES;

/// The shape of a window.
pub(crate) trait Geometry: Copy {
    /// Base-2 logarithm of the unit in bytes.
    fn unit_shift(self) -> u32;

    /// Base-2 logarithm of the window in bytes.
    fn window_shift(self) -> u32;

    /// Bytes of a unit: granule and alignment of every block.
    #[inline(always)]
    fn unit_bytes(self) -> usize {
        1 << self.unit_shift()
    }

    /// Bytes of a window: its size and its alignment.
    #[inline(always)]
    fn window_bytes(self) -> usize {
        1 << self.window_shift()
    }

    /// Units of a window, bookkeeping included.
    #[inline(always)]
    fn window_units(self) -> usize {
        1 << (self.window_shift() - self.unit_shift())
    }

    /// The largest size in bytes that a window serves; anything above is a large block.
    #[inline(always)]
    fn largest_in_window(self) -> usize {
        self.window_bytes() / 4
    }

    /// The largest size in bytes that the hot path serves: one whose length the map keeps exactly.
    #[inline(always)]
    fn largest_exact(self) -> usize {
        let exact = self.bytes(LONGEST_EXACT);
        if exact < self.largest_in_window() { exact } else { self.largest_in_window() }
    }

    /// Units that hold `size` bytes; `size` is at most a window's.
    #[inline(always)]
    fn units(self, size: usize) -> u32 {
        ((size + (self.unit_bytes() - 1)) >> self.unit_shift()) as u32
    }

    /// Bytes of a run of units.
    #[inline(always)]
    fn bytes(self, units: u32) -> usize {
        (units as usize) << self.unit_shift()
    }

    /// Bytes of a descriptor: its fields, and a map of a byte a unit.
    #[inline(always)]
    fn descriptor_bytes(self) -> usize {
        FIELD_BYTES + self.window_units()
    }

    /// The units of a window that no block can have: the descriptor's.
    fn bookkeeping_units(self) -> Range<usize> {
        0..self.units(self.descriptor_bytes()) as usize
    }

    /// The units of a window that blocks may use.
    fn block_units(self) -> Range<u32> {
        self.bookkeeping_units().end as u32..self.window_units() as u32
    }

    /// Those of the window at `address` that its first blocks get, where blocks of different windows had better not
    /// begin in the same sets of a cache: [`block_units`](Self::block_units) less a few cache lines in front, a
    /// different number in each of the windows side by side.
    fn staggered_units(self, address: usize) -> Range<u32> {
        let step = self.units(LINE_BYTES);
        let most = (self.window_bytes() / STAGGER_PART).min(STAGGER_BYTES);
        let steps = (most / self.bytes(step)).max(1);
        let number = address >> self.window_shift();
        let Range { start, end } = self.block_units();
        start + (number % steps) as u32 * step..end
    }
}

/// A geometry known at compile time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Fixed<const UNIT: usize, const UNITS: usize>;

impl<const UNIT: usize, const UNITS: usize> Fixed<UNIT, UNITS> {
    /// The geometry; a `UNIT` or `UNITS` outside the allowed values does not compile.
    pub(crate) const fn new() -> Self {
        const {
            assert!(
                UNIT.is_power_of_two() && UNIT >= UNIT_BYTES.start && UNIT < UNIT_BYTES.end,
                "UNIT must be a power of two from 16 to 4096"
            );
            assert!(
                UNITS.is_power_of_two() && UNITS >= WINDOW_UNITS.start && UNITS < WINDOW_UNITS.end,
                "WINDOW_UNITS must be a power of two from 64 to 65536"
            );
        }
        Self
    }
}

impl<const UNIT: usize, const UNITS: usize> Geometry for Fixed<UNIT, UNITS> {
    #[inline(always)]
    fn unit_shift(self) -> u32 {
        const { UNIT.trailing_zeros() }
    }

    #[inline(always)]
    fn window_shift(self) -> u32 {
        const { UNIT.trailing_zeros() + UNITS.trailing_zeros() }
    }
}

/// A geometry chosen at run time.
#[derive(Clone, Copy, Debug)]
#[cfg(any(feature = "python", test))]
pub(crate) struct Runtime {
    unit_shift: u32,
    window_shift: u32,
}

#[cfg(any(feature = "python", test))]
impl Runtime {
    /// The geometry with units of `unit_bytes` and windows of `window_bytes`.
    ///
    /// # Errors
    /// [`ConfigError`] when either is not an allowed power of two.
    pub(crate) fn new(unit_bytes: usize, window_bytes: usize) -> Result<Self, ConfigError> {
        if !unit_bytes.is_power_of_two() || !UNIT_BYTES.contains(&unit_bytes) {
            return Err(ConfigError::Alignment { bytes: unit_bytes });
        }
        if !window_bytes.is_power_of_two() || !WINDOW_UNITS.contains(&(window_bytes / unit_bytes)) {
            return Err(ConfigError::WindowBytes {
                bytes: window_bytes,
                least: unit_bytes * WINDOW_UNITS.start,
                most: unit_bytes * (WINDOW_UNITS.end - 1),
            });
        }
        Ok(Self { unit_shift: unit_bytes.trailing_zeros(), window_shift: window_bytes.trailing_zeros() })
    }
}

#[cfg(any(feature = "python", test))]
impl Geometry for Runtime {
    #[inline(always)]
    fn unit_shift(self) -> u32 {
        self.unit_shift
    }

    #[inline(always)]
    fn window_shift(self) -> u32 {
        self.window_shift
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Unit bytes, units of a window, and the geometry that they make: all there are.
    fn every_shape() -> impl Iterator<Item = (usize, usize, Runtime)> {
        let units = |unit| (6..=16).map(move |shift| (unit, 1 << shift));
        let shapes = (4..=12).flat_map(move |shift| units(1usize << shift));
        shapes.map(|(unit, units)| (unit, units, Runtime::new(unit, unit * units).unwrap()))
    }

    #[test]
    fn every_geometry_leaves_room_for_the_largest_block_beside_its_descriptor() {
        for (unit, units, geometry) in every_shape() {
            let blocks = geometry.block_units();
            assert!(blocks.start > 0 && blocks.end as usize == units);
            let largest = geometry.units(geometry.largest_in_window()) as usize;
            assert!(blocks.len() >= largest, "unit {unit}, {units} units");
            let behind = geometry.descriptor_bytes();
            assert!(behind <= geometry.bytes(blocks.start), "unit {unit}, {units} units");
            assert!(behind > geometry.bytes(blocks.start - 1), "unit {unit}, {units} units: a unit for nothing");
            for bytes in [1, unit - 1, unit, unit + 1, 5 * unit, 5 * unit + 1] {
                assert_eq!(geometry.units(bytes) as usize, bytes.div_ceil(unit));
            }
        }
    }

    #[test]
    fn windows_side_by_side_begin_in_different_cache_lines_and_lose_little() {
        for (unit, units, geometry) in every_shape() {
            let whole = geometry.block_units();
            let most = unit * units / STAGGER_PART;
            let starts: BTreeSet<_> = (0..1000)
                .map(|number| {
                    let staggered = geometry.staggered_units(number * unit * units);
                    assert_eq!(staggered.end, whole.end);
                    assert!(geometry.bytes(staggered.start - whole.start) < most.max(1));
                    assert!(staggered.len() >= geometry.units(geometry.largest_in_window()) as usize);
                    geometry.bytes(staggered.start - whole.start) / LINE_BYTES % (STAGGER_BYTES / LINE_BYTES)
                })
                .collect();
            let lines = most.min(STAGGER_BYTES) / unit.max(LINE_BYTES);
            assert_eq!(starts.len(), lines.max(1), "unit {unit}, {units} units");
        }
        // The default: 1024 bytes, as many as packets have that would be in the same sets otherwise.
        let geometry = Fixed::<64, 2048>::new();
        let distance = |number: usize| geometry.staggered_units(number << 17).start - geometry.block_units().start;
        assert_eq!([0, 1, 15, 16, 33].map(distance), [0, 1, 15, 0, 1]);
    }

    #[test]
    fn the_hot_path_serves_every_size_that_maps_keep_exactly() {
        for (unit, _, geometry) in every_shape() {
            let largest = geometry.largest_exact();
            assert!(largest <= geometry.largest_in_window() && geometry.units(largest) <= LONGEST_EXACT);
            let next = largest + unit;
            assert!(next > geometry.largest_in_window() || geometry.units(next) > LONGEST_EXACT);
        }
    }

    #[test]
    fn shapes_that_make_no_sense_are_refused_by_name() {
        assert!(matches!(Runtime::new(8, 131_072), Err(ConfigError::Alignment { bytes: 8 })));
        assert!(matches!(Runtime::new(96, 131_072), Err(ConfigError::Alignment { .. })));
        assert!(matches!(Runtime::new(8192, 1 << 20), Err(ConfigError::Alignment { .. })));
        assert!(matches!(Runtime::new(64, 131_073), Err(ConfigError::WindowBytes { .. })));
        assert!(matches!(Runtime::new(64, 2048), Err(ConfigError::WindowBytes { .. })));
        assert!(matches!(Runtime::new(64, 1 << 23), Err(ConfigError::WindowBytes { .. })));
        assert!(matches!(Runtime::new(64, 0), Err(ConfigError::WindowBytes { .. })));
    }
}

//! The three levels, region, window and unit: how bytes become units, and where the bookkeeping lies.
//!
//! Everything here is arithmetic on integers. A [`Geometry`] is either known at compile time ([`Fixed`], for Rust) or
//! chosen at run time ([`Runtime`], for Python); the allocator is written once over both.
//!
//! ```text
//! region, aligned to its own size (8 MiB)
//! ┌───────┬─────────────────────────────────────┬──────────┬──────────┬──────────┬───
//! │ guard │ header · credits · descriptors ·    │ window   │ window   │ window   │ …
//! │       │ holes · cache · map, a byte a unit  │ (units)  │ (units)  │ (units)  │
//! └───────┴─────────────────────────────────────┴──────────┴──────────┴──────────┴───
//!         header_start                          first_window
//! ```
//!
//! The bookkeeping of all windows lies in front of them, dense. What overflows a packet runs away from it, and meets
//! the guard in front of the next region's.
//!
//! A region has as many windows as the [system](crate::system::System::REGION_BYTES) says. Where that is one, its
//! bookkeeping takes the front of the window itself, and there is no guard:
//!
//! ```text
//! ┌───────────────────────────────────────────────────┬──────────────────────────┐
//! │ header · credit · descriptor · holes · map        │ units for blocks         │
//! └───────────────────────────────────────────────────┴──────────────────────────┘
//! ```
//!
//! No block starts at the start of a region: that is where large blocks start, which are mapped by themselves.

use core::marker::PhantomData;
use core::ops::Range;

#[cfg(any(feature = "python", test))]
use crate::config::ConfigError;
use crate::map::LONGEST_EXACT;
use crate::system::System;

/// Smallest and largest unit in bytes.
pub(crate) const UNIT_BYTES: Range<usize> = 16..4097;
/// Smallest and largest number of units in a window.
pub(crate) const WINDOW_UNITS: Range<usize> = 64..65537;
/// The most windows in a region: the bits of a word.
pub(crate) const MOST_REGION_WINDOWS: usize = u64::BITS as usize;
/// Bytes in front of the header that nobody uses, so that what overflows the region in front does not get there: a
/// page.
pub(crate) const GUARD_BYTES: usize = 4096;
/// Bytes of a region's header: a cache line that does not change and one that does.
pub(crate) const HEADER_BYTES: usize = 128;
/// Bytes of a window's credit.
pub(crate) const CREDIT_BYTES: usize = size_of::<u32>();
/// Bytes of a window's descriptor.
pub(crate) const DESCRIPTOR_BYTES: usize = 16 + 2 * size_of::<usize>();
/// Places of a stack of cached blocks, by rows of stacks: those of the shortest blocks, these again when they have
/// become deeper, three rows of the lengths between, and those of longer blocks. Each row lies apart, so that stacks in
/// use lie close together. Fuzzed programs are short.
pub(crate) const CACHE_ROWS: [usize; 6] = if cfg!(fuzzing) { [4, 8, 4, 4, 4, 4] } else { [256, 512, 16, 16, 16, 64] };
/// Bytes of the bits that say which stacks have memory: a word for each row, with a bit for each stack.
const STACKS_BYTES: usize = CACHE_ROWS.len() * size_of::<u32>();
/// Stacks of a row.
pub(crate) const ROW_STACKS: usize = 32;

/// Places from one stack to the next: a cache line more than a power of two, so that their tops do not fall into the
/// same sets of the processor's cache.
const fn cache_stride(row: usize) -> usize {
    CACHE_ROWS[row] + CACHE_LINE / size_of::<usize>()
}

/// Where the places of a stack lie, in bytes from those of all: the stack of a row with this index.
pub(crate) const fn cache_stack_start(row: usize, index: usize) -> usize {
    let mut places = index * cache_stride(row);
    let mut above = 0;
    while above < row {
        places += ROW_STACKS * cache_stride(above);
        above += 1;
    }
    places * size_of::<usize>()
}

/// Bytes of all rows.
const CACHE_BYTES: usize = cache_stack_start(CACHE_ROWS.len() - 1, ROW_STACKS);
/// Bytes of the smallest region that has room for them.
const CACHE_REGION_BYTES: usize = 1 << 20;
/// Bytes of a cache line.
const CACHE_LINE: usize = 64;
/// What the parts of the bookkeeping are aligned to.
const PART_ALIGN: usize = 8;

/// The shape of a window.
pub(crate) trait Geometry: Copy {
    /// Base-2 logarithm of the unit in bytes.
    fn unit_shift(self) -> u32;

    /// Base-2 logarithm of the window in bytes.
    fn window_shift(self) -> u32;

    /// Base-2 logarithm of the region in bytes.
    fn region_shift(self) -> u32;

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

    /// Bytes of a region: its size and its alignment.
    #[inline(always)]
    fn region_bytes(self) -> usize {
        1 << self.region_shift()
    }

    /// Units of a window.
    #[inline(always)]
    fn window_units(self) -> usize {
        1 << (self.window_shift() - self.unit_shift())
    }

    /// Units of a region.
    #[inline(always)]
    fn region_units(self) -> usize {
        1 << (self.region_shift() - self.unit_shift())
    }

    /// Windows of a region, those that its bookkeeping takes included.
    #[inline(always)]
    fn region_windows(self) -> usize {
        1 << (self.region_shift() - self.window_shift())
    }

    /// Whether a region is one window, with its bookkeeping inside.
    #[inline(always)]
    fn is_single(self) -> bool {
        self.region_shift() == self.window_shift()
    }

    /// The largest size in bytes that a window serves in any case; anything above is a large block.
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

    /// Units that hold `size` bytes; `size` is at most a region's.
    #[inline(always)]
    fn units(self, size: usize) -> u32 {
        ((size + (self.unit_bytes() - 1)) >> self.unit_shift()) as u32
    }

    /// Bytes of a run of units.
    #[inline(always)]
    fn bytes(self, units: u32) -> usize {
        (units as usize) << self.unit_shift()
    }

    /// Where the header starts, in bytes from the start of the region.
    #[inline(always)]
    fn header_start(self) -> usize {
        if self.is_single() { 0 } else { GUARD_BYTES }
    }

    /// Where the windows' credits start.
    #[inline(always)]
    fn credits_start(self) -> usize {
        self.header_start() + HEADER_BYTES
    }

    /// Where the windows' descriptors start.
    #[inline(always)]
    fn descriptors_start(self) -> usize {
        self.credits_start() + (self.region_windows() * CREDIT_BYTES).next_multiple_of(PART_ALIGN)
    }

    /// Where the bits start that say which units of the current window are holes.
    #[inline(always)]
    fn holes_start(self) -> usize {
        self.descriptors_start() + self.region_windows() * DESCRIPTOR_BYTES
    }

    /// Where the bits start that say which stacks of cached blocks have memory.
    #[inline(always)]
    fn stacks_start(self) -> usize {
        self.holes_start() + self.window_units() / 8
    }

    /// Where the stacks of cached blocks start.
    #[inline(always)]
    fn cache_start(self) -> usize {
        self.stacks_start() + if self.cache_bytes() > 0 { STACKS_BYTES } else { 0 }
    }

    /// Bytes of the stacks of cached blocks, of which one region of an allocator makes use; none where they would be a
    /// large part of it.
    #[inline(always)]
    fn cache_bytes(self) -> usize {
        if self.is_single() || self.region_bytes() < CACHE_REGION_BYTES { 0 } else { CACHE_BYTES }
    }

    /// Where the map starts.
    #[inline(always)]
    fn map_start(self) -> usize {
        self.cache_start() + self.cache_bytes()
    }

    /// Where the bookkeeping ends.
    #[inline(always)]
    fn bookkeeping_end(self) -> usize {
        self.map_start() + self.region_units()
    }

    /// The first window for blocks.
    #[inline(always)]
    fn first_window(self) -> usize {
        if self.is_single() { 0 } else { self.bookkeeping_end().div_ceil(self.window_bytes()) }
    }

    /// The first unit of each window that blocks may use.
    #[inline(always)]
    fn first_unit(self) -> u32 {
        if self.is_single() { self.units(self.bookkeeping_end()) } else { 0 }
    }

    /// The units of each window that blocks may use.
    #[inline(always)]
    fn block_units(self) -> Range<u32> {
        self.first_unit()..self.window_units() as u32
    }

    /// The first unit of a region that blocks may use.
    #[inline(always)]
    fn first_block_unit(self) -> usize {
        if self.is_single() {
            self.first_unit() as usize
        } else {
            self.first_window() << (self.window_shift() - self.unit_shift())
        }
    }

    /// The windows for blocks, a bit for each.
    fn windows_mask(self) -> u64 {
        let all = u64::MAX >> (MOST_REGION_WINDOWS - self.region_windows());
        all >> self.first_window() << self.first_window()
    }

    /// The windows of which `parts`, 64ths of a region, has a bit.
    fn windows_of(self, parts: u64) -> u64 {
        let each = MOST_REGION_WINDOWS / self.region_windows();
        let part = u64::MAX >> (MOST_REGION_WINDOWS - each);
        let has_part = |&window: &usize| parts >> (window * each) & part != 0;
        (0..self.region_windows()).filter(has_part).fold(0, |windows, window| windows | 1 << window)
    }

    /// The 64ths of a region that make up `windows`.
    fn parts_of(self, windows: u64) -> u64 {
        let each = MOST_REGION_WINDOWS / self.region_windows();
        let part = u64::MAX >> (MOST_REGION_WINDOWS - each);
        let is_set = |&window: &usize| windows >> window & 1 != 0;
        (0..self.region_windows()).filter(is_set).fold(0, |parts, window| parts | part << (window * each))
    }

    /// Bytes of the bookkeeping that is in use from the moment that there is a region: all but the cache and the map.
    fn fixed_bytes(self) -> usize {
        if self.is_single() { 0 } else { self.cache_start() - self.header_start() }
    }

    /// Bytes of the map of one window, where that does not lie in the window.
    fn map_bytes(self) -> usize {
        if self.is_single() { 0 } else { self.window_units() }
    }
}

/// Base-2 logarithm of the region for windows of `1 << window_shift` bytes, where the system asks for `hint` bytes: at
/// most [`MOST_REGION_WINDOWS`] windows, and one where two do not fit.
const fn region_shift(window_shift: u32, hint: usize) -> u32 {
    let most = window_shift + MOST_REGION_WINDOWS.trailing_zeros();
    if hint >> window_shift < 2 {
        window_shift
    } else if hint.ilog2() < most {
        hint.ilog2()
    } else {
        most
    }
}

/// A geometry known at compile time, with regions as `S` has them.
pub(crate) struct Fixed<const UNIT: usize, const UNITS: usize, S>(PhantomData<fn() -> S>);

impl<const UNIT: usize, const UNITS: usize, S> Clone for Fixed<UNIT, UNITS, S> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<const UNIT: usize, const UNITS: usize, S> Copy for Fixed<UNIT, UNITS, S> {}

impl<const UNIT: usize, const UNITS: usize, S> Fixed<UNIT, UNITS, S> {
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
        Self(PhantomData)
    }
}

impl<const UNIT: usize, const UNITS: usize, S: System> Geometry for Fixed<UNIT, UNITS, S> {
    #[inline(always)]
    fn unit_shift(self) -> u32 {
        const { UNIT.trailing_zeros() }
    }

    #[inline(always)]
    fn window_shift(self) -> u32 {
        const { UNIT.trailing_zeros() + UNITS.trailing_zeros() }
    }

    #[inline(always)]
    fn region_shift(self) -> u32 {
        const { region_shift(UNIT.trailing_zeros() + UNITS.trailing_zeros(), S::REGION_BYTES) }
    }
}

/// A geometry chosen at run time.
#[derive(Clone, Copy, Debug)]
#[cfg(any(feature = "python", test))]
pub(crate) struct Runtime {
    unit_shift: u32,
    window_shift: u32,
    region_shift: u32,
}

#[cfg(any(feature = "python", test))]
impl Runtime {
    /// The geometry with units of `unit_bytes`, windows of `window_bytes`, and regions as `S` has them.
    ///
    /// # Errors
    /// [`ConfigError`] when either is not an allowed power of two.
    pub(crate) fn new<S: System>(unit_bytes: usize, window_bytes: usize) -> Result<Self, ConfigError> {
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
        let window_shift = window_bytes.trailing_zeros();
        let region_shift = region_shift(window_shift, S::REGION_BYTES);
        Ok(Self { unit_shift: unit_bytes.trailing_zeros(), window_shift, region_shift })
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

    #[inline(always)]
    fn region_shift(self) -> u32 {
        self.region_shift
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::Os;

    /// Unit bytes, units of a window, and the geometry that they make with regions of up to `hint` bytes: all there
    /// are.
    fn every_shape() -> impl Iterator<Item = (usize, usize, Runtime)> {
        let units = |unit| (6..=16).map(move |shift| (unit, 1 << shift));
        let shapes = (4..=12).flat_map(move |shift| units(1usize << shift));
        shapes.flat_map(|(unit, units)| {
            let several = Runtime::new::<Os>(unit, unit * units).unwrap();
            [several, Runtime { region_shift: several.window_shift, ..several }].map(|shape| (unit, units, shape))
        })
    }

    #[test]
    fn every_geometry_leaves_room_for_the_largest_block_beside_its_bookkeeping() {
        for (unit, units, geometry) in every_shape() {
            let blocks = geometry.block_units();
            assert_eq!(blocks.end as usize, units);
            assert_eq!(geometry.largest_in_window(), unit * units / 4);
            let largest = geometry.units(geometry.largest_in_window()) as usize;
            assert!(blocks.len() >= largest, "unit {unit}, {units} units");
            for bytes in [1, unit - 1, unit, unit + 1, 5 * unit, 5 * unit + 1] {
                assert_eq!(geometry.units(bytes) as usize, bytes.div_ceil(unit));
            }
        }
    }

    #[test]
    fn the_bookkeeping_of_a_region_ends_before_its_blocks_start() {
        for (unit, units, geometry) in every_shape() {
            let shape = format!("unit {unit}, {units} units, {} windows", geometry.region_windows());
            let first = geometry.first_block_unit() * unit;
            assert!(geometry.bookkeeping_end() <= first && first < geometry.region_bytes(), "{shape}");
            assert!(geometry.region_windows() <= MOST_REGION_WINDOWS && first > 0, "{shape}");
            let parts = [
                geometry.header_start(),
                geometry.credits_start(),
                geometry.descriptors_start(),
                geometry.holes_start(),
                geometry.stacks_start(),
                geometry.cache_start(),
                geometry.map_start(),
                geometry.bookkeeping_end(),
            ];
            assert!(parts.is_sorted() && parts[..7].iter().all(|part| part.is_multiple_of(PART_ALIGN)), "{shape}");
            assert_eq!((geometry.stacks_start() - geometry.holes_start()) * 8, units, "{shape}: a bit for each unit");
            let windows = geometry.windows_mask();
            assert_eq!(windows.count_ones() as usize, geometry.region_windows() - geometry.first_window(), "{shape}");
            assert!(windows != 0 && windows.trailing_zeros() as usize == geometry.first_window(), "{shape}");
            let of_windows = geometry.region_windows() * (CREDIT_BYTES + DESCRIPTOR_BYTES);
            let stacks = if geometry.cache_bytes() > 0 { STACKS_BYTES } else { 0 };
            let several = (HEADER_BYTES + of_windows + units / 8 + stacks, units);
            let held = if geometry.is_single() { (0, 0) } else { several };
            assert_eq!((geometry.fixed_bytes(), geometry.map_bytes()), held, "{shape}");
            if geometry.is_single() {
                let behind = geometry.bookkeeping_end();
                assert!(behind > geometry.bytes(geometry.first_unit() - 1), "{shape}: a unit for nothing");
            } else {
                assert_eq!((geometry.header_start(), geometry.first_unit()), (GUARD_BYTES, 0), "{shape}");
            }
        }
    }

    #[test]
    fn every_stack_of_the_cache_has_its_places_to_itself_and_another_set_of_the_processors_cache() {
        let mut behind = 0;
        for (row, places) in CACHE_ROWS.into_iter().enumerate() {
            for index in 0..ROW_STACKS {
                let start = cache_stack_start(row, index);
                assert_eq!(start, behind, "stack {index} of row {row}");
                behind = start + places * size_of::<usize>() + CACHE_LINE;
            }
        }
        assert_eq!(behind, CACHE_BYTES);
    }

    // Elsewhere regions are shorter.
    #[cfg(target_pointer_width = "64")]
    #[test]
    fn parts_of_a_region_are_those_of_its_windows_whatever_their_size() {
        let shape = |window| Runtime::new::<Os>(64, window).unwrap();
        for (window, windows, parts) in
            [(256 << 10, 0b1010, 0b1100_1100), (64 << 10, 0b1010, 0b1010), (4 << 20, 0b10, u64::MAX << 32)]
        {
            assert_eq!((shape(window).parts_of(windows), shape(window).windows_of(parts)), (parts, windows));
        }
        assert_eq!(shape(256 << 10).windows_of(1 << 7), 1 << 3);
        assert_eq!(shape(2 << 20).windows_of(1 << 63 | 1), 0b1001);
    }

    #[cfg(target_pointer_width = "64")]
    #[test]
    fn regions_have_eight_mebibytes_and_at_most_as_many_windows_as_a_word_has_bits() {
        let windows = |unit, window| Runtime::new::<Os>(unit, window).unwrap().region_windows();
        assert_eq!(windows(64, 256 << 10), 32);
        assert_eq!(windows(64, 16 << 10), 64);
        assert_eq!(windows(64, 4 << 20), 2);
        assert_eq!(windows(64, 128 << 10), 64);
        assert_eq!(windows(4096, 256 << 20), 1);
        // A system that says nothing gives a window at a time.
        assert_eq!(region_shift(17, 0), 17);
        assert_eq!(Fixed::<64, 2048, Os>::new().region_shift(), 23);
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
        let new = Runtime::new::<Os>;
        assert!(matches!(new(8, 131_072), Err(ConfigError::Alignment { bytes: 8 })));
        assert!(matches!(new(96, 131_072), Err(ConfigError::Alignment { .. })));
        assert!(matches!(new(8192, 1 << 20), Err(ConfigError::Alignment { .. })));
        assert!(matches!(new(64, 131_073), Err(ConfigError::WindowBytes { .. })));
        assert!(matches!(new(64, 2048), Err(ConfigError::WindowBytes { .. })));
        assert!(matches!(new(64, 1 << 23), Err(ConfigError::WindowBytes { .. })));
        assert!(matches!(new(64, 0), Err(ConfigError::WindowBytes { .. })));
    }
}

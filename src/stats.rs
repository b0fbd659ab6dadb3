//! Figures and maps, derived from the bookkeeping when they are asked for.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::bitset::Bitset;
use crate::geometry::Geometry;
use crate::heap::Heap;
use crate::region::{Place, Window};
use crate::system::System;

/// The figures of an allocator at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes of live blocks, in whole units.
    pub used_bytes: u64,
    /// Bytes taken from the system.
    pub allocated_bytes: u64,
    /// The most that `allocated_bytes` has been.
    pub peak_allocated_bytes: u64,
    /// Live blocks, large ones included.
    pub live_blocks: u64,
    /// Live blocks that came straight from the system.
    pub large_blocks: u64,
    /// Bytes of large blocks that came straight from the system.
    pub large_bytes: u64,
    /// Regions: reservations of address space.
    pub regions: u64,
    /// Windows taken from the system.
    pub windows: u64,
    /// Windows without a live block.
    pub empty_windows: u64,
    /// Windows with live blocks that are worth another pass.
    pub reusable_windows: u64,
    /// Bytes of a unit.
    pub unit_bytes: usize,
    /// Bytes of a window.
    pub window_bytes: usize,
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} blocks use {} of {} bytes (peak {}); {} windows of {} bytes, {} empty, {} reusable; {} large blocks",
            self.live_blocks,
            self.used_bytes,
            self.allocated_bytes,
            self.peak_allocated_bytes,
            self.windows,
            self.window_bytes,
            self.empty_windows,
            self.reusable_windows,
            self.large_blocks,
        )
    }
}

/// Where a window stands between the system and the next allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WindowState {
    /// Blocks are being handed out of it.
    Current,
    /// Too little of it is free to be worth a pass.
    Full,
    /// Worth another pass.
    Reusable,
    /// Without a live block.
    Empty,
}

/// The occupancy of one window.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Occupancy {
    /// The address of the window.
    pub address: usize,
    /// Units of the window, those of its bookkeeping included.
    pub units: usize,
    /// Units of live blocks.
    pub live_units: usize,
    /// The units that bookkeeping takes, which no block can have. Empty where it lies in front of all windows of a
    /// region.
    pub bookkeeping: Range<usize>,
    /// The units of each live block, in order. Of a block that is longer than a window, those in this window.
    pub blocks: Vec<Range<usize>>,
    /// Where the window stands.
    pub state: WindowState,
}

impl Occupancy {
    /// The units in use, those of the bookkeeping included: what is clear is a hole.
    ///
    /// ```
    /// let allocator = pktalloc::Allocator::new();
    /// allocator.allocate(1400)?;
    /// let used = allocator.windows()[0].used();
    /// let hole = used.first_clear_from(1).unwrap();
    /// assert!(used.first_set_in(hole..used.len()).is_none() || hole < 2048);
    /// # Ok::<(), pktalloc::AllocError>(())
    /// ```
    #[must_use]
    pub fn used(&self) -> Bitset {
        let mut used = Bitset::new(self.units);
        for run in self.blocks.iter().chain([&self.bookkeeping]) {
            used.set_range(run.clone());
        }
        used
    }
}

impl<G: Geometry, S: System> Heap<G, S> {
    /// The figures of this moment. Takes time linear in the number of windows.
    pub(crate) fn stats(&self) -> Stats {
        self.settle();
        let cold = self.cold.borrow();
        let geometry = self.geometry();
        let held = cold.regions.iter().flat_map(|(_, region)| region.held(geometry));
        let in_windows: u64 = held.map(|window| window.map(geometry).starts()).sum();
        Stats {
            used_bytes: self.used_bytes(),
            allocated_bytes: cold.held_bytes,
            peak_allocated_bytes: cold.peak_held_bytes,
            live_blocks: in_windows + cold.large.len() as u64,
            large_blocks: cold.large.len() as u64,
            large_bytes: cold.large_bytes,
            regions: cold.regions.len() as u64,
            windows: cold.held_windows as u64,
            empty_windows: cold.empty.len() as u64,
            reusable_windows: cold.reusable.len() as u64,
            unit_bytes: geometry.unit_bytes(),
            window_bytes: geometry.window_bytes(),
        }
    }

    /// The occupancy of every window that is held, in order of address; an error when there is no memory for the
    /// answer.
    pub(crate) fn try_windows(&self) -> Result<Vec<Occupancy>, TryReserveError> {
        self.settle();
        let geometry = self.geometry();
        let cold = self.cold.borrow();
        let mut windows = Vec::new();
        windows.try_reserve_exact(cold.held_windows)?;
        for window in cold.regions.iter().flat_map(|(_, region)| region.held(geometry)) {
            windows.push(self.occupancy(window)?);
        }
        Ok(windows)
    }

    fn occupancy(&self, window: Window) -> Result<Occupancy, TryReserveError> {
        let geometry = self.geometry();
        let units = geometry.window_units();
        let lead = window.lead.get() as usize;
        let starting = window.map(geometry).blocks().map(|block| block.start as usize..(block.end as usize).min(units));
        let mut blocks = Vec::new();
        blocks.try_reserve_exact(starting.clone().count() + usize::from(lead > 0))?;
        blocks.extend((lead > 0).then_some(0..lead).into_iter().chain(starting));
        Ok(Occupancy {
            address: window.address(geometry),
            units,
            live_units: blocks.iter().map(Range::len).sum(),
            bookkeeping: 0..geometry.first_unit() as usize,
            blocks,
            state: match window.place.get() {
                Place::Current => WindowState::Current,
                Place::Full => WindowState::Full,
                Place::Reusable => WindowState::Reusable,
                Place::Empty => WindowState::Empty,
            },
        })
    }

    /// The occupancy of every window that is held, in order of address.
    ///
    /// # Panics
    /// When there is no memory for the answer.
    pub(crate) fn windows(&self) -> Vec<Occupancy> {
        self.try_windows().expect("memory for the answer")
    }
}

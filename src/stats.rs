//! Figures and maps, derived from the bookkeeping when they are asked for.

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use crate::bitset::Bitset;
use crate::descriptor::Place;
use crate::geometry::Geometry;
use crate::heap::Heap;
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
    /// Bytes of large blocks.
    pub large_bytes: u64,
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
    /// The units that the window's bookkeeping takes, those in front of it included, which no block can have.
    pub bookkeeping: Range<usize>,
    /// The units of each live block, in order.
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
        let in_windows: u64 = cold.windows.iter().map(|(_, window)| window.map(geometry).live_blocks()).sum();
        Stats {
            used_bytes: self.used_bytes(),
            allocated_bytes: cold.held_bytes,
            peak_allocated_bytes: cold.peak_held_bytes,
            live_blocks: in_windows + cold.large.len() as u64,
            large_blocks: cold.large.len() as u64,
            large_bytes: cold.large_bytes,
            windows: cold.windows.len() as u64,
            empty_windows: cold.empty.len() as u64,
            reusable_windows: cold.reusable.len() as u64,
            unit_bytes: geometry.unit_bytes(),
            window_bytes: geometry.window_bytes(),
        }
    }

    /// The occupancy of every window, in order of address; an error when there is no memory for the answer.
    pub(crate) fn try_windows(&self) -> Result<Vec<Occupancy>, TryReserveError> {
        self.settle();
        let geometry = self.geometry();
        let cold = self.cold.borrow();
        let mut windows = Vec::new();
        windows.try_reserve_exact(cold.windows.len())?;
        for (address, window) in cold.windows.iter() {
            let mut blocks = Vec::new();
            blocks.try_reserve_exact(window.map(geometry).blocks().count())?;
            blocks.extend(window.map(geometry).blocks().map(|block| block.start as usize..block.end as usize));
            windows.push(Occupancy {
                address,
                units: geometry.window_units(),
                live_units: blocks.iter().map(Range::len).sum(),
                bookkeeping: geometry.bookkeeping_units(),
                blocks,
                state: match window.place.get() {
                    Place::Current => WindowState::Current,
                    Place::Full => WindowState::Full,
                    Place::Reusable => WindowState::Reusable,
                    Place::Empty => WindowState::Empty,
                },
            });
        }
        Ok(windows)
    }

    /// The occupancy of every window, in order of address.
    ///
    /// # Panics
    /// When there is no memory for the answer.
    pub(crate) fn windows(&self) -> Vec<Occupancy> {
        self.try_windows().expect("memory for the answer")
    }
}

//! `Stats`: the figures of an allocator at one moment.

use pyo3::prelude::*;

/// The figures of an allocator at one moment.
#[pyclass(frozen, get_all, eq, module = "pktalloc")]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Stats {
    /// Bytes of live packets, each rounded up to a multiple of the alignment.
    used_bytes: u64,
    /// Bytes taken from the system.
    allocated_bytes: u64,
    /// The most that `allocated_bytes` has been.
    peak_allocated_bytes: u64,
    /// Packets that hold a block.
    live_packets: u64,
    /// Packets among them that were too large for a window.
    large_packets: u64,
    /// Bytes of large packets.
    large_bytes: u64,
    /// Windows taken from the system.
    windows: u64,
    /// Windows without a live packet.
    empty_windows: u64,
    /// Windows with live packets and enough holes to be used again.
    reusable_windows: u64,
    /// Bytes that every packet's address and room are a multiple of.
    alignment: usize,
    /// Bytes of a window.
    window_bytes: usize,
}

impl From<crate::Stats> for Stats {
    fn from(stats: crate::Stats) -> Self {
        Self {
            used_bytes: stats.used_bytes,
            allocated_bytes: stats.allocated_bytes,
            peak_allocated_bytes: stats.peak_allocated_bytes,
            live_packets: stats.live_blocks,
            large_packets: stats.large_blocks,
            large_bytes: stats.large_bytes,
            windows: stats.windows,
            empty_windows: stats.empty_windows,
            reusable_windows: stats.reusable_windows,
            alignment: stats.unit_bytes,
            window_bytes: stats.window_bytes,
        }
    }
}

#[pymethods]
impl Stats {
    fn __repr__(&self) -> String {
        format!(
            "Stats(used_bytes={}, allocated_bytes={}, peak_allocated_bytes={}, live_packets={}, large_packets={}, \
             large_bytes={}, windows={}, empty_windows={}, reusable_windows={}, alignment={}, window_bytes={})",
            self.used_bytes,
            self.allocated_bytes,
            self.peak_allocated_bytes,
            self.live_packets,
            self.large_packets,
            self.large_bytes,
            self.windows,
            self.empty_windows,
            self.reusable_windows,
            self.alignment,
            self.window_bytes,
        )
    }
}

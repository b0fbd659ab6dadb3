//! A windowed bitset allocator for packet queues.

#[cfg(feature = "std")]
pub mod workload;

//! A windowed allocator for packet queues: blocks of about 1000 bytes, freed in roughly the order in which they were
//! allocated.
//!
//! Programs that queue packets allocate and free a block for each of them, millions of times a second, and nearly in
//! order. A general allocator does not know that. This one does: it bumps a cursor through large *windows* of aligned
//! memory, and takes a window back when its blocks are gone.
//!
//! ```
//! use pktalloc::Allocator;
//!
//! let allocator = Allocator::new();
//! let block = allocator.allocate(1400)?;
//! assert!(block.len() >= 1400 && block.cast::<u8>().addr().get() % 64 == 0);
//! // SAFETY: `block` is live and not used afterwards.
//! unsafe { allocator.free(block.cast()) };
//! # Ok::<(), pktalloc::AllocError>(())
//! ```
//!
//! # Words
//!
//! - A **unit** is the granule and the alignment of every block: 64 bytes, unless `UNIT` says otherwise.
//! - A **window** is a region of `WINDOW_UNITS` units, aligned to its own size, with its bookkeeping inside: a
//!   descriptor, and a map with a byte for each unit.
//! - A **block** is an allocation: a run of units in one window. From 128 units on its length is rounded up by at most an
//!   eighth. A **large block**, one over a quarter of a window, comes straight from the system.
//! - An **extent** is a hole of the current window that is handed out from front to back.
//!
//! # Cost
//!
//! An allocation is an addition, a comparison and a stored byte; a free loads that byte, clears it and counts. Both
//! take constant time, until an extent is used up or a window drained, about once in ninety packets of 1400 bytes; that
//! takes time linear in the units of a window, or a call to the system. Memory beyond the packets: what sizes are
//! rounded up by, 1.7 % of bookkeeping, and up to three windows.
//!
//! # When not to use it
//!
//! Blocks that are freed in random order cost about twice as much as a queue's. Blocks much smaller than a unit waste
//! the rest of it. There are no locks: an [`Allocator`] is `Send` and not `Sync`.
//!
//! # Safety
//!
//! [`Allocator::free`] takes a pointer on trust, as `free` does, but panics on a double free or an interior pointer in
//! its own windows. [`Allocator::try_free`] takes any pointer value and names what is wrong with it.
//! [`Config::check`] verifies every call and puts canaries behind every block.
//!
//! # Features
//!
//! - `std` (default): the operating system as the source of memory, and [`workload`]. Without it the crate is `no_std`
//!   and takes memory from a [`system::System`] of yours; it needs `alloc` for its tables.
//! - `replay`: reading captures and traces, and replaying them.
//! - `python`: the Python module; built by maturin.
//!
//! The idea is that of Christopher A. Taylor's C++ PacketAllocator. Bumping through holes is in the style of Immix.

#![cfg_attr(not(any(feature = "std", test)), no_std)]

extern crate alloc;

mod address_map;
mod allocator;
pub mod bitset;
mod check;
mod config;
mod descriptor;
mod error;
mod geometry;
mod heap;
mod list;
mod poison;
#[cfg(feature = "python")]
mod python;
#[cfg(feature = "replay")]
pub mod replay;
mod stats;
pub mod system;
mod window;
#[cfg(feature = "std")]
pub mod workload;

pub use allocator::Allocator;
pub use check::{IntegrityError, Overflow, Total, WriteAfterFree};
pub use config::{Config, ConfigError};
pub use error::{AllocError, FreeError};
pub use heap::Realloc;
pub use stats::{Occupancy, Stats, WindowState};

/// The examples of the README are tests.
#[cfg(all(doctest, feature = "std"))]
#[doc = include_str!("../README.md")]
struct Readme;

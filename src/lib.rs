//! A windowed bitset allocator for packet queues: blocks of about 1000 bytes, freed in roughly the order in which they
//! were allocated.

#![cfg_attr(not(feature = "std"), no_std)]
#![forbid(unsafe_op_in_unsafe_fn)]

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
pub use check::{IntegrityError, Overflow, Total};
pub use config::{Config, ConfigError};
pub use error::{AllocError, FreeError};
pub use heap::Realloc;
pub use stats::{Occupancy, Stats, WindowState};

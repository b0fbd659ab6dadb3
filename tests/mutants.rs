//! The programs that `make mutants` runs, in one binary: that builds in a third of the time of one for each.
//!
//! Cargo leaves it out unless it is named, since each program is a test of its own, too.

#[cfg(all(feature = "allocator-api2", feature = "std"))]
mod collections;
mod defects;
mod faults;
#[cfg(feature = "bytes")]
mod frozen;
mod fuzz_corpus;
mod misuse;
mod model;
mod packet;
mod packet_room;
#[cfg(feature = "shared")]
mod pool;
mod reuse;
#[cfg(feature = "shared")]
#[path = "shared/main.rs"]
mod shared;
#[cfg(feature = "bytes")]
mod shared_bytes;
mod sizes;
mod user_memory;

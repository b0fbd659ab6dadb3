//! Most of the programs that `make mutants` runs, in one binary, which builds in a few seconds.
//!
//! Cargo leaves it out unless it is named, since each program is a test of its own, too. Not in here are those that
//! want the process for themselves: they measure it, or leave blocks allocated for ever.

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
#[cfg(feature = "bytes")]
mod shared_bytes;
mod sizes;
mod user_memory;

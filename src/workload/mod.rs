//! Workloads: streams of allocations and frees that benches, the replay and tests share.
//!
//! A [`Queue`] names a workload: packet [`Sizes`], the [`Pattern`] in which packets leave, the depth of the queue and a
//! seed. [`Queue::cycle`] turns it into a [`Cycle`]: operations that fill the queue, then operations that can be
//! repeated for ever. [`Pinned`] and [`drained_burst`] are the workloads that run once and ask what is left in memory.
//! [`Ring`] is the floor: the least that a strict queue can cost.
//!
//! # The exact streams
//!
//! Everything here is deterministic, so that a harness in any language can run the same operations. Compare
//! [`Cycle::checksum`] before you compare figures.
//!
//! - Numbers come from [`SplitMix64`]. `below(n)` is the high 64 bits of the 128-bit product of the next number and
//!   `n`.
//! - A queue uses two generators: sizes come from one with state `seed`, choices of the pattern from one with state
//!   `!seed` (all bits flipped).
//! - Packets are numbered in their order of arrival, from 0. Each arrival draws its size (see [`Sizes`]), in that order
//!   and whatever the pattern: the n-th packet has the same size in every pattern.
//! - Packets 0 to D - 1 fill a queue of depth D. From then on one leaves for each one that enters.
//! - The steady part has at least [`Queue::PAIRS`] pairs, in every depth, so that no branch predictor learns it by
//!   heart. It ends in the state in which it began: the same slots hold a packet, and they are as old relative to each
//!   other.
//!
//! Each variant of [`Pattern`] says what it draws and which slots it uses.

mod memory;
mod pattern;
mod random;
mod ring;
mod sizes;
mod stream;

pub use memory::{Pinned, drained_burst};
pub use pattern::{ParsePatternError, Pattern, Queue};
pub use random::SplitMix64;
pub use ring::Ring;
pub use sizes::{Draw, ParseSizesError, Sizes};
pub use stream::{Cycle, Op, Stream, StreamError};

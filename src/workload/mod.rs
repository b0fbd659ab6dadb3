//! Workloads: streams of allocations and frees that benches, the replay and tests share.

mod stream;

pub use stream::{Op, Stream};

//! What the fuzz targets run: any bytes are a program, and every program has a model that knows what must come of it.
//!
//! The targets in `fuzz/` run them on inputs that libFuzzer makes, and `tests/fuzz_corpus.rs` on the inputs in
//! `tests/corpus`. They are here rather than in `fuzz/`, which is a package of its own and not packed with the crate.

pub mod api;
pub mod config;
pub mod packets;
pub mod program;
pub mod room;
pub mod shadow;
#[cfg(feature = "replay")]
pub mod trace;

//! What the fuzz targets run: any bytes are a program, and every program has a model that knows what must come of it.
//!
//! The same programs run on a stable toolchain in `tests/fuzz_corpus.rs`, over the inputs in `corpus`.

pub mod api;
pub mod config;
pub mod packets;
pub mod program;
pub mod shadow;
#[cfg(feature = "replay")]
pub mod trace;

//! The Python face: conversions, errors and buffers, and nothing else.
//!
//! - `allocator`, `packet`: the two classes; `packet` says what their unsafe code leans on;
//! - `bytes`, `export`: a packet as a sequence and as a buffer;
//! - `stats`, `windows`: what an allocator tells about itself;
//! - `call`, `errors`: how calls come in and how they fail; `docs`: the texts of `help()`;
//! - `shape`, `retained`: the heap behind an allocator, and the memory behind the heap.

mod allocator;
mod bytes;
mod call;
mod docs;
mod errors;
mod export;
mod packet;
mod retained;
mod shape;
mod stats;
mod windows;

use pyo3::exceptions::PyImportError;
use pyo3::prelude::*;
use pyo3::types::PyModule;

/// Aligned, writable packet buffers from a windowed bitset allocator.
#[pymodule(gil_used = true)]
fn _pktalloc(module: &Bound<'_, PyModule>) -> PyResult<()> {
    expect_lock(module.py())?;
    allocator::register(module)?;
    packet::register(module)?;
    module.add_class::<stats::Stats>()?;
    module.add_class::<windows::Windows>()?;
    module.add_class::<windows::Window>()?;
    module.add("IntegrityError", module.py().get_type::<errors::IntegrityError>())
}

/// Refuses an interpreter whose lock was switched off by force: everything here is guarded by it.
fn expect_lock(py: Python<'_>) -> PyResult<()> {
    let sys = py.import("sys")?;
    match sys.getattr_opt("_is_gil_enabled")? {
        Some(enabled) if !enabled.call0()?.is_truthy()? => Err(PyImportError::new_err(
            "pktalloc needs the interpreter's lock; PYTHON_GIL=0 or -X gil=0 has switched it off",
        )),
        _ => Ok(()),
    }
}

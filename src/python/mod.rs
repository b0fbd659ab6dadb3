//! The Python face: conversions, errors and buffers, and nothing else.
//!
//! - `allocator`, `packet`: the two classes; `packet` says what their unsafe code leans on;
//! - `bytes`, `export`: a packet as a sequence and as a buffer;
//! - `stats`, `windows`: what an allocator tells about itself; `map`: how that is drawn;
//! - `datagrams`: batches of them, received and sent;
//! - `replay`: what the command line calls;
//! - `call`, `errors`: how calls come in and how they fail; `docs`: the texts of `help()`;
//! - `shape`, `retained`: the heap behind an allocator, and the memory behind the heap.

mod allocator;
mod bytes;
mod call;
#[cfg(target_os = "linux")]
mod datagrams;
mod docs;
mod errors;
mod export;
mod map;
mod packet;
mod replay;
mod retained;
mod shape;
mod stats;
mod windows;

use core::sync::atomic::{AtomicI64, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyModule;

/// Aligned, writable packet buffers from a windowed allocator.
#[pymodule(gil_used = true)]
fn _pktalloc(module: &Bound<'_, PyModule>) -> PyResult<()> {
    expect_one_lock(module.py())?;
    allocator::register(module)?;
    packet::register(module)?;
    #[cfg(target_os = "linux")]
    datagrams::register(module)?;
    replay::register(module)?;
    module.add_class::<stats::Stats>()?;
    module.add_class::<windows::Windows>()?;
    module.add_class::<windows::Window>()?;
    module.add("IntegrityError", module.py().get_type::<errors::IntegrityError>())
}

/// Refuses interpreters in which calls would not be serialised: everything here is guarded by the one lock of the one
/// interpreter that imports it first.
fn expect_one_lock(py: Python<'_>) -> PyResult<()> {
    static FIRST: AtomicI64 = AtomicI64::new(-1);
    // SAFETY: the thread is attached, hence there is a current interpreter.
    let this = unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) };
    if FIRST.compare_exchange(-1, this, Ordering::Relaxed, Ordering::Relaxed).is_err_and(|first| first != this) {
        return Err(PyImportError::new_err(
            "pktalloc serves one interpreter of a process, and another one has imported it already",
        ));
    }
    match py.import("sys")?.getattr_opt("_is_gil_enabled")? {
        Some(enabled) if !enabled.call0()?.is_truthy()? => Err(PyImportError::new_err(
            "pktalloc needs the interpreter's lock, which PYTHON_GIL=0 or -X gil=0 has switched off",
        )),
        _ => Ok(()),
    }
}

//! The Python face: conversions, errors and buffers, and nothing else.
//!
//! From top to bottom, each knows only what stands below it:
//!
//! - `replay`: what the command line calls;
//! - `allocator`, `packet_class`: the two classes as Python code sees them; `docs`: what `help()` shows of them;
//! - `datagrams`: batches of them, received and sent;
//! - `bytes`, `export`: a packet as a sequence and as a buffer;
//! - `packet`: the object of a packet, which says what the unsafe code leans on; `arena`: that of an allocator;
//! - `figures`: what an allocator tells about itself; `trace`: what `tracemalloc` is told;
//! - `class`, `call`, `sequences`, `errors`: how classes are made, how calls come in, what lists are made of, and how
//!   calls fail;
//! - `memory`: the heap behind an allocator, and all that is asked of it; `retained`: the memory behind the heap.

mod allocator;
mod arena;
mod bytes;
mod call;
mod class;
#[cfg(target_os = "linux")]
mod datagrams;
mod docs;
mod errors;
mod export;
mod figures;
mod memory;
mod packet;
mod packet_class;
mod replay;
mod retained;
mod sequences;
mod trace;

use core::sync::atomic::{AtomicI64, Ordering};

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyModule;

/// Aligned, writable packet buffers from a windowed allocator.
#[pymodule(gil_used = true)]
fn _pktalloc(module: &Bound<'_, PyModule>) -> PyResult<()> {
    errors::fill_module(module.py(), || fill(module))
}

fn fill(module: &Bound<'_, PyModule>) -> PyResult<()> {
    expect_one_lock(module.py())?;
    errors::register(module)?;
    class::add(module, c"__version__", &errors::text(module.py(), format_args!(env!("CARGO_PKG_VERSION")))?)?;
    allocator::register(module)?;
    packet_class::register(module)?;
    #[cfg(target_os = "linux")]
    datagrams::register(module)?;
    replay::register(module)?;
    trace::register(module)
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
    // SAFETY: the thread is attached; what is found is borrowed from the module `sys`, and null where there is no such
    // thing.
    match unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PySys_GetObject(c"_is_gil_enabled".as_ptr())) } {
        Some(enabled) if !enabled.call0()?.is_truthy()? => Err(PyImportError::new_err(
            "pktalloc needs the interpreter's lock, which PYTHON_GIL=0 or -X gil=0 has switched off",
        )),
        _ => Ok(()),
    }
}

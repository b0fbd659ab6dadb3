//! The heap's errors as Python exceptions.

use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

use super::memory::AnyHeap;
use crate::{AllocError, FreeError};

pyo3::create_exception!(
    pktalloc,
    IntegrityError,
    PyRuntimeError,
    "The self-check found damage: a write past the end of a packet, or overwritten bookkeeping. Says what, and where."
);

/// The exception of damage that a self-check found.
#[cold]
pub(super) fn damaged(error: &crate::IntegrityError) -> PyErr {
    IntegrityError::new_err(error.to_string())
}

/// The exception of a call that could not give a block `size` bytes.
#[cold]
pub(super) fn allocation_failed(heap: &AnyHeap, error: AllocError, size: usize) -> PyErr {
    match error {
        AllocError::Damaged => match heap.integrity_check() {
            Err(found) => damaged(&found),
            Ok(()) => IntegrityError::new_err(error.to_string()),
        },
        AllocError::ZeroSize | AllocError::NotSmaller | AllocError::Alignment => {
            PyValueError::new_err(error.to_string())
        }
        AllocError::TooLarge | AllocError::OutOfMemory | AllocError::MemoryLimit => {
            PyMemoryError::new_err(format!("cannot allocate {size} bytes: {error}"))
        }
    }
}

/// The exception of a verified free that was refused. The handle is always one of a live block, so that damage is the
/// only reason there can be.
#[cold]
pub(super) fn free_failed(error: &FreeError) -> PyErr {
    IntegrityError::new_err(error.to_string())
}

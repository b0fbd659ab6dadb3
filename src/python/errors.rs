//! Exceptions, made without memory of Rust's.
//!
//! PyO3 makes an exception when it is raised, of a boxed closure and a `String`; where memory has run out that ends the
//! process. Here it is made at once, its text is written on the stack, and where Python has no memory for it either it
//! is the `MemoryError` that the interpreter keeps for the purpose.

use core::ffi::CStr;
use core::fmt::{self, Write};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PySystemError};
use pyo3::ffi;
use pyo3::panic::PanicException;
use pyo3::prelude::*;
use pyo3::type_object::PyTypeInfo;
use pyo3::types::{PyStringMethods, PyTypeMethods};

use crate::{AllocError, FreeError};

/// The class of what self-checks report, once the module was executed.
static INTEGRITY_ERROR: AtomicPtr<ffi::PyObject> = AtomicPtr::new(ptr::null_mut());

const INTEGRITY_ERROR_DOC: &CStr =
    c"The self-check found damage: a write past the end of a packet, or overwritten bookkeeping. Says what, and where.";

/// Enters the exception into the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    if INTEGRITY_ERROR.load(Ordering::Relaxed).is_null() {
        let base = py.get_type::<PyRuntimeError>();
        let class = PyErr::new_type(py, c"pktalloc.IntegrityError", Some(INTEGRITY_ERROR_DOC), Some(&base), None)?;
        INTEGRITY_ERROR.store(class.into_ptr(), Ordering::Relaxed);
    }
    // SAFETY: the class was made, and is never freed.
    let class = unsafe { Bound::from_borrowed_ptr(py, INTEGRITY_ERROR.load(Ordering::Relaxed)) };
    super::class::add(module, c"IntegrityError", &class)
}

/// More than the interpreter and PyO3 take from the system to fill the module: arenas of a megabyte.
const IMPORT_BYTES: usize = 4 << 20;
/// What PyO3 says when the interpreter had no memory for an object.
const NULL_OBJECT: &str = "PyObject pointer is null";

/// Fills the module, with a `MemoryError` where there is no memory for it. PyO3 panics then where it enters a class,
/// and waits for itself where it makes its own exception class.
pub(super) fn fill_module(py: Python<'_>, fill: impl FnOnce() -> PyResult<()>) -> PyResult<()> {
    // So it begins only where there is memory. What is left is memory that others take while this runs.
    // SAFETY: a block of the interpreter's, which is given back at once.
    let is_scarce = unsafe {
        let block = ffi::PyMem_RawMalloc(IMPORT_BYTES);
        ffi::PyMem_RawFree(block);
        block.is_null()
    };
    if is_scarce {
        return Err(PyMemoryError::new_err(()));
    }
    let filled = catch_unwind(AssertUnwindSafe(|| {
        // PyO3 looks at this class whenever it takes an exception over, and makes it the first time; later there may be
        // no memory for it.
        PanicException::type_object(py);
        // What PyO3 makes of a class that cannot be made: an error of the run time with the reason behind it. The
        // interpreter itself gives none where it has no memory for the name of the class. All this is looked at here,
        // since that may fail.
        fill().map_err(|error| {
            let reason = error.cause(py);
            let reason = reason.as_ref().unwrap_or(&error);
            let is_memory = reason.is_instance_of::<PyMemoryError>(py) || reason.is_instance_of::<PySystemError>(py);
            if is_memory { PyMemoryError::new_err(()) } else { error }
        })
    }));
    filled.unwrap_or_else(|panic| {
        let of_exception = panic.downcast_ref::<String>().is_some_and(|message| message.contains("MemoryError"));
        if !of_exception && panic.downcast_ref() != Some(&NULL_OBJECT) {
            resume_unwind(panic);
        }
        Err(PyMemoryError::new_err(()))
    })
}

/// Bytes that a text may have; the longest, a report of damage, takes about half.
const LONGEST_TEXT: usize = 512;

/// A text on the stack. What is too long is cut.
struct Text {
    bytes: [u8; LONGEST_TEXT],
    length: usize,
}

impl Write for Text {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = part.len().min(LONGEST_TEXT - self.length);
        let fitting = (0..=room).rev().find(|&at| part.is_char_boundary(at)).unwrap_or(0);
        self.bytes[self.length..self.length + fitting].copy_from_slice(&part.as_bytes()[..fitting]);
        self.length += fitting;
        if fitting == part.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// A text of at most [`LONGEST_TEXT`] bytes as a string of Python's.
pub(super) fn text<'py>(py: Python<'py>, message: fmt::Arguments<'_>) -> PyResult<Bound<'py, PyAny>> {
    let mut text = Text { bytes: [0; LONGEST_TEXT], length: 0 };
    // It fails where the text is cut.
    let _ = text.write_fmt(message);
    // SAFETY: the bytes are there, and are UTF-8.
    unsafe {
        let string = ffi::PyUnicode_FromStringAndSize(text.bytes.as_ptr().cast(), text.length as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, string)
    }
}

/// An exception of the class `kind`.
///
/// # Safety
/// `kind` is an exception class.
#[cold]
unsafe fn exception(kind: *mut ffi::PyObject, message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: the Python face is entered by the interpreter, on a thread that is attached, and detaches nowhere that an
    // exception is made.
    let py = unsafe { Python::assume_attached() };
    match text(py, message) {
        Ok(message) => {
            // SAFETY: the caller's promise.
            unsafe { ffi::PyErr_SetObject(kind, message.as_ptr()) };
            PyErr::fetch(py)
        }
        Err(error) => error,
    }
}

/// A `ValueError`.
#[cold]
pub(super) fn value(message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: it is an exception class.
    unsafe { exception(ffi::PyExc_ValueError, message) }
}

/// A `TypeError`.
#[cold]
pub(super) fn kind(message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: it is an exception class.
    unsafe { exception(ffi::PyExc_TypeError, message) }
}

/// An `IndexError`.
#[cold]
pub(super) fn index(message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: it is an exception class.
    unsafe { exception(ffi::PyExc_IndexError, message) }
}

/// A `BufferError`.
#[cold]
pub(super) fn buffer(message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: it is an exception class.
    unsafe { exception(ffi::PyExc_BufferError, message) }
}

/// A `MemoryError` that says for what there was no memory.
#[cold]
pub(super) fn memory(message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: it is an exception class.
    unsafe { exception(ffi::PyExc_MemoryError, message) }
}

/// An `OSError` without a number.
#[cfg(target_os = "linux")]
#[cold]
pub(super) fn os(message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: it is an exception class.
    unsafe { exception(ffi::PyExc_OSError, message) }
}

/// An `OverflowError`.
#[cfg(target_os = "linux")]
#[cold]
pub(super) fn overflow(message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: it is an exception class.
    unsafe { exception(ffi::PyExc_OverflowError, message) }
}

/// A `TimeoutError`.
#[cfg(target_os = "linux")]
#[cold]
pub(super) fn timeout(message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: it is an exception class.
    unsafe { exception(ffi::PyExc_TimeoutError, message) }
}

/// A `RuntimeError`.
#[cfg(target_os = "linux")]
#[cold]
pub(super) fn runtime(message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: it is an exception class.
    unsafe { exception(ffi::PyExc_RuntimeError, message) }
}

/// A `MemoryError` of the interpreter's own.
#[cold]
pub(super) fn no_memory() -> PyErr {
    // SAFETY: as in `exception`.
    unsafe {
        ffi::PyErr_NoMemory();
        PyErr::fetch(Python::assume_attached())
    }
}

/// A `TypeError` that ends with the name of the object's class.
#[cold]
pub(super) fn unexpected(object: Borrowed<'_, '_, PyAny>, message: fmt::Arguments<'_>) -> PyErr {
    match object.get_type().name() {
        Ok(name) => match name.to_str() {
            Ok(name) => kind(format_args!("{message}{name}")),
            Err(error) => error,
        },
        Err(error) => error,
    }
}

/// Drops an exception. Every one that is not raised must come here: PyO3 does not know that this thread is attached
/// (see [`enter`](super::call::enter)), and where a [`PyErr`] is dropped it would keep the objects for later, in memory
/// of Rust's.
pub(super) fn discard(py: Python<'_>, error: PyErr) {
    error.restore(py);
    // SAFETY: the thread is attached.
    unsafe { ffi::PyErr_Clear() };
}

/// An `IntegrityError`.
#[cold]
fn integrity(message: fmt::Arguments<'_>) -> PyErr {
    // SAFETY: it is an exception class, made when the module was executed and never freed.
    unsafe { exception(INTEGRITY_ERROR.load(Ordering::Relaxed), message) }
}

/// The exception of damage that a self-check found.
#[cold]
pub(super) fn damaged(error: &crate::IntegrityError) -> PyErr {
    integrity(format_args!("{error}"))
}

/// The exception of a verified free that was refused. The handle is always one of a live block, so that damage is the
/// only reason there can be.
#[cold]
pub(super) fn free_failed(error: &FreeError) -> PyErr {
    integrity(format_args!("{error}"))
}

/// The exception of a call that could not give a block `size` bytes; `damage` is what a self-check found afterwards.
#[cold]
pub(super) fn allocation_failed(
    error: AllocError,
    size: usize,
    damage: impl FnOnce() -> Option<crate::IntegrityError>,
) -> PyErr {
    match error {
        AllocError::Damaged => match damage() {
            Some(found) => damaged(&found),
            None => integrity(format_args!("{error}")),
        },
        AllocError::ZeroSize
        | AllocError::NotSmaller
        | AllocError::Alignment
        | AllocError::NoHeadroom
        | AllocError::NoTailroom => value(format_args!("{error}")),
        AllocError::TooLarge | AllocError::OutOfMemory | AllocError::MemoryLimit => {
            memory(format_args!("cannot allocate {size} bytes: {error}"))
        }
    }
}

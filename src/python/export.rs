//! The buffer protocol: what `memoryview(p)`, `socket.recv_into(p)` and NumPy ask for.

use core::ffi::{c_char, c_int};

use core::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;

use super::call::enter;
use super::errors;
use super::packet::PacketRef;

/// `bf_getbuffer`: `size` writable bytes, in the form that `flags` ask for; the same answers as a `bytearray`'s.
pub(super) unsafe extern "C" fn get(packet: *mut ffi::PyObject, view: *mut ffi::Py_buffer, flags: c_int) -> c_int {
    // SAFETY: the interpreter calls this with a packet that is alive until it returns, and with a buffer to fill in or
    // null. The bytes stay where they are while exports are counted, since every call that would move or free them
    // looks at the count first.
    unsafe {
        enter(|py| {
            if view.is_null() {
                return Err(errors::buffer(format_args!("a buffer request without a view to fill in")));
            }
            // A refused request must not leave anything to release.
            (*view).obj = core::ptr::null_mut();
            let exporter = PacketRef::new(py, packet);
            let whole = exporter.bytes()?;
            let bytes = exporter.arena().take_part().unwrap_or(whole);
            let (start, size) = (bytes.cast().as_ptr(), bytes.len() as ffi::Py_ssize_t);
            if ffi::PyBuffer_FillInfo(view, packet, start, size, 0, flags) != 0 {
                return Err(PyErr::fetch(py));
            }
            if let Err(error) = exporter.export() {
                ffi::Py_CLEAR(&raw mut (*view).obj);
                return Err(error);
            }
            Ok(0)
        })
    }
}

/// A `memoryview` of a part of the packet's bytes.
///
/// To make a view of everything and slice that would take two objects, twice the time. Instead the packet is asked for
/// its buffer once, and told before that the request is about the part. Nothing can come in between: the garbage
/// collector, which could run any code when the view's object is made, is held off.
pub(super) fn view_of_part(packet: PacketRef<'_, '_>, part: NonNull<[u8]>) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the packet is an object, and the thread is attached.
    let view = unsafe {
        let collects = ffi::PyGC_Disable() != 0;
        packet.arena().set_part(Some(part));
        let view = ffi::PyMemoryView_FromObject(packet.as_any().as_ptr());
        packet.arena().set_part(None);
        if collects {
            ffi::PyGC_Enable();
        }
        view
    };
    if view.is_null() { Err(PyErr::fetch(packet.py())) } else { Ok(view) }
}

/// `bf_releasebuffer`: one export less.
pub(super) unsafe extern "C" fn release(packet: *mut ffi::PyObject, _view: *mut ffi::Py_buffer) {
    // SAFETY: the interpreter calls this once for each successful `get`, with a packet that is alive until it returns.
    unsafe {
        let py = Python::assume_attached();
        PacketRef::new(py, packet).unexport(py);
    }
}

/// A buffer request that was granted, or a null one.
struct Export(ffi::Py_buffer);

impl Drop for Export {
    fn drop(&mut self) {
        // SAFETY: the buffer is as `PyObject_GetBuffer` left it and where it was then; a null one is left alone.
        unsafe { ffi::PyBuffer_Release(&raw mut self.0) };
    }
}

/// Calls `body` with the bytes of a bytes-like object: start and length, in C's order. `flags` say which buffers are
/// acceptable; without strides only contiguous ones are.
///
/// Asking for the buffer may run Python code, and so may giving it back; `body` itself must not run any.
pub(super) fn with_bytes<R>(
    object: Borrowed<'_, '_, PyAny>,
    flags: c_int,
    body: impl FnOnce(*const u8, usize) -> PyResult<R>,
) -> PyResult<R> {
    let mut export = Export(ffi::Py_buffer::new());
    let view = &raw mut export.0;
    // SAFETY: `view` is a buffer to fill in that stays where it is until it is released, and the rest only reads it.
    unsafe {
        if ffi::PyObject_GetBuffer(object.as_ptr(), view, flags) != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        let length = (*view).len as usize;
        if ffi::PyBuffer_IsContiguous(view, b'C' as c_char) != 0 {
            return body((*view).buf.cast(), length);
        }
        let mut copied = Vec::<u8>::new();
        copied.try_reserve_exact(length).map_err(|_| errors::no_memory())?;
        if ffi::PyBuffer_ToContiguous(copied.as_mut_ptr().cast(), view, (*view).len, b'C' as c_char) != 0 {
            return Err(PyErr::fetch(object.py()));
        }
        body(copied.as_ptr(), length)
    }
}

//! A packet as a sequence of bytes: length, items, slices, comparison, containment, iteration.
//!
//! These are C's slots of the type. In each of them everything that may run Python code comes before the packet's
//! bytes are looked at.

use core::ffi::c_int;
use core::ptr::NonNull;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView, PySlice};

use super::call::{enter, index};
use super::errors;
use super::export::{view_of_part, with_bytes};
use super::packet::PacketRef;

/// A copy of the content.
pub(super) fn copied<'py>(packet: PacketRef<'_, 'py>) -> PyResult<Bound<'py, PyBytes>> {
    let bytes = packet.bytes()?;
    // SAFETY: the bytes are live and initialised (the system's pages come zeroed), and this thread holds the lock. To
    // allocate the copy runs no Python code, so they are still there when they are copied.
    unsafe {
        let copy = ffi::PyBytes_FromStringAndSize(bytes.cast().as_ptr(), bytes.len() as ffi::Py_ssize_t);
        Ok(Bound::from_owned_ptr_or_err(packet.py(), copy)?.cast_into_unchecked())
    }
}

/// `sq_length` and `mp_length`.
pub(super) unsafe extern "C" fn length(packet: *mut ffi::PyObject) -> ffi::Py_ssize_t {
    // SAFETY: the interpreter calls this with a packet that is alive until it returns.
    unsafe { enter(|py| Ok(PacketRef::new(py, packet).bytes()?.len() as ffi::Py_ssize_t)) }
}

/// `sq_item`: the interpreter has added the length to a negative index.
pub(super) unsafe extern "C" fn item(packet: *mut ffi::PyObject, index: ffi::Py_ssize_t) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with a packet that is alive until it returns.
    unsafe {
        enter(|py| {
            let byte = byte_at(PacketRef::new(py, packet).bytes()?, index)?;
            Ok(ffi::PyLong_FromLong(byte.read().into()))
        })
    }
}

/// The place of the byte at an index that is not negative.
#[inline]
fn byte_at(bytes: NonNull<[u8]>, index: isize) -> PyResult<NonNull<u8>> {
    match usize::try_from(index) {
        // SAFETY: inside of the block.
        Ok(index) if index < bytes.len() => Ok(unsafe { bytes.cast::<u8>().add(index) }),
        _ => Err(errors::index(format_args!("packet index out of range"))),
    }
}

/// The place of the byte at an index that may count from the end.
#[inline]
fn byte_from_either_end(bytes: NonNull<[u8]>, index: isize) -> PyResult<NonNull<u8>> {
    byte_at(bytes, if index < 0 { index + bytes.len() as isize } else { index })
}

#[cold]
fn not_an_index(key: Borrowed<'_, '_, PyAny>) -> PyErr {
    errors::unexpected(key, format_args!("packet indices must be integers or slices, not "))
}

/// `mp_subscript`: `p[i]` is a byte, `p[a:b]` a `memoryview` of this memory.
pub(super) unsafe extern "C" fn subscript(packet: *mut ffi::PyObject, key: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with a packet and a key that are alive until it returns.
    unsafe {
        enter(|py| {
            let (packet, key) = (PacketRef::new(py, packet), Borrowed::from_ptr(py, key));
            if let Some(index) = index(key)? {
                let byte = byte_from_either_end(packet.bytes()?, index)?;
                return Ok(ffi::PyLong_FromLong(byte.read().into()));
            }
            if !key.is_instance_of::<PySlice>() {
                return Err(not_an_index(key));
            }
            let slice = Slice::unpack(key)?;
            let bytes = packet.bytes()?;
            if slice.step == 1 {
                let (start, count) = slice.fit(bytes.len());
                // SAFETY: the part lies in the block.
                let part = NonNull::slice_from_raw_parts(bytes.cast::<u8>().offset(start), count);
                return view_of_part(packet, part);
            }
            let whole = PyMemoryView::from(&packet.as_any())?;
            // The numbers as they were read: to read the key again would run its code again.
            Ok(whole.get_item(slice.object(py)?)?.into_ptr())
        })
    }
}

/// `mp_ass_subscript`: `p[i] = byte`, `p[a:b] = bytes_like` of the same length; nothing can be deleted.
pub(super) unsafe extern "C" fn assign(
    packet: *mut ffi::PyObject,
    key: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
) -> c_int {
    // SAFETY: the interpreter calls this with a packet, a key and a value or null, alive until it returns.
    unsafe {
        enter(|py| {
            let (packet, key) = (PacketRef::new(py, packet), Borrowed::from_ptr(py, key));
            let Some(value) = Borrowed::from_ptr_or_opt(py, value) else {
                return Err(errors::kind(format_args!(
                    "a packet's bytes cannot be deleted; resize() and shrink() change its size"
                )));
            };
            if let Some(index) = index(key)? {
                let byte = byte_value(value)?;
                byte_from_either_end(packet.bytes()?, index)?.write(byte);
            } else if key.is_instance_of::<PySlice>() {
                assign_slice(packet, Slice::unpack(key)?, value)?;
            } else {
                return Err(not_an_index(key));
            }
            Ok(0)
        })
    }
}

/// A number from 0 to 255. May run Python code.
fn byte_value(value: Borrowed<'_, '_, PyAny>) -> PyResult<u8> {
    let mut overflow = 0;
    // SAFETY: `value` is an object, and the thread is attached.
    let number = unsafe { ffi::PyLong_AsLongAndOverflow(value.as_ptr(), &raw mut overflow) };
    if number == -1
        && overflow == 0
        && let Some(error) = PyErr::take(value.py())
    {
        return Err(error);
    }
    u8::try_from(number).map_err(|_| errors::value(format_args!("byte must be in range(0, 256)")))
}

/// A slice as it was written, not yet fitted to a length.
struct Slice {
    start: isize,
    stop: isize,
    step: isize,
}

impl Slice {
    /// Reads a slice object. May run Python code.
    fn unpack(slice: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let (mut start, mut stop, mut step) = (0, 0, 0);
        // SAFETY: the caller has seen that this is a slice object.
        if unsafe { ffi::PySlice_Unpack(slice.as_ptr(), &raw mut start, &raw mut stop, &raw mut step) } != 0 {
            return Err(PyErr::fetch(slice.py()));
        }
        Ok(Self { start, stop, step })
    }

    /// A slice object of these numbers. (PyO3's own loses a reference to each of them.)
    fn object<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        // SAFETY: the thread is attached.
        let int = |number| unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromSsize_t(number)) };
        let (start, stop, step) = (int(self.start)?, int(self.stop)?, int(self.step)?);
        // SAFETY: the thread is attached, and the three are objects.
        unsafe {
            let slice = ffi::PySlice_New(start.as_ptr(), stop.as_ptr(), step.as_ptr());
            Bound::from_owned_ptr_or_err(py, slice)
        }
    }

    /// Fits the slice to `length` bytes; returns where it starts and how many bytes it takes.
    fn fit(mut self, length: usize) -> (isize, usize) {
        // SAFETY: the pointers are to numbers; the step is not 0, which `unpack` has refused.
        let count =
            unsafe { ffi::PySlice_AdjustIndices(length as isize, &raw mut self.start, &raw mut self.stop, self.step) };
        (self.start, count as usize)
    }
}

/// Overwrites the bytes of a slice with as many others, which may be the packet's own.
fn assign_slice(packet: PacketRef<'_, '_>, slice: Slice, value: Borrowed<'_, '_, PyAny>) -> PyResult<()> {
    with_bytes(value, ffi::PyBUF_FULL_RO, |source, length| {
        let bytes = packet.bytes()?;
        let step = slice.step;
        let (start, count) = slice.fit(bytes.len());
        if length != count {
            return Err(errors::value(format_args!(
                "cannot assign {length} bytes to a slice of {count}; only resize() and shrink() change a packet's size"
            )));
        }
        if count == 0 {
            return Ok(());
        }
        // SAFETY: `start` and the `count - 1` places that follow it at distances of `step` lie in the block, and the
        // source has as many bytes. Either may overlap the other.
        unsafe {
            let target = bytes.cast::<u8>().as_ptr();
            if step == 1 {
                target.offset(start).copy_from(source, count);
                return Ok(());
            }
            let mut copied = Vec::<u8>::new();
            copied.try_reserve_exact(count).map_err(|_| errors::no_memory())?;
            copied.extend_from_slice(core::slice::from_raw_parts(source, count));
            for (place, byte) in copied.into_iter().enumerate() {
                target.offset(start + place as isize * step).write(byte);
            }
        }
        Ok(())
    })
}

/// `tp_richcompare`: `==` and `!=` with anything bytes-like, byte by byte.
pub(super) unsafe extern "C" fn compare(
    packet: *mut ffi::PyObject,
    other: *mut ffi::PyObject,
    operator: c_int,
) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with a packet and an object that are alive until it returns.
    unsafe {
        enter(|py| {
            let (packet, other) = (PacketRef::new(py, packet), Borrowed::from_ptr(py, other));
            packet.bytes()?;
            let equal = match operator {
                ffi::Py_EQ | ffi::Py_NE => equals(packet, other)?,
                _ => None,
            };
            let answer = match equal {
                None => ffi::Py_NotImplemented(),
                Some(equal) if equal == (operator == ffi::Py_EQ) => ffi::Py_True(),
                Some(_) => ffi::Py_False(),
            };
            ffi::Py_INCREF(answer);
            Ok(answer)
        })
    }
}

/// Whether the bytes of `other` are those of the packet; `None` when it does not offer its bytes in one piece.
fn equals(packet: PacketRef<'_, '_>, other: Borrowed<'_, '_, PyAny>) -> PyResult<Option<bool>> {
    if let Some(other) = PacketRef::of(other) {
        // SAFETY: both are live, and this thread holds the lock.
        return unsafe { Ok(Some(packet.bytes()?.as_ref() == other.bytes()?.as_ref())) };
    }
    // SAFETY: `other` is an object, and the thread is attached.
    if unsafe { ffi::PyObject_CheckBuffer(other.as_ptr()) } == 0 {
        return Ok(None);
    }
    let compared = with_bytes(other, ffi::PyBUF_SIMPLE, |start, length| {
        let bytes = packet.bytes()?;
        // SAFETY: both are live for the duration of this closure, which runs no Python code.
        Ok(bytes.len() == length && unsafe { bytes.as_ref() == core::slice::from_raw_parts(start, length) })
    });
    match compared {
        Ok(equal) => Ok(Some(equal)),
        // The other object's comparison may know what to do.
        Err(error) if error.is_instance_of::<PyBufferError>(packet.py()) => {
            errors::discard(packet.py(), error);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// `sq_contains`: a number from 0 to 255, or a run of bytes; answers and errors are those of `bytes`.
pub(super) unsafe extern "C" fn contains(packet: *mut ffi::PyObject, item: *mut ffi::PyObject) -> c_int {
    // SAFETY: the interpreter calls this with a packet and an object that are alive until it returns.
    unsafe {
        enter(|py| {
            let content = copied(PacketRef::new(py, packet))?;
            match ffi::PySequence_Contains(content.as_ptr(), item) {
                -1 => Err(PyErr::fetch(py)),
                found => Ok(found),
            }
        })
    }
}

/// `tp_iter`: the interpreter's own iterator over `sq_item`, which asks the packet anew for each byte.
pub(super) unsafe extern "C" fn iterate(packet: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the interpreter calls this with a packet that is alive until it returns.
    unsafe {
        enter(|py| {
            PacketRef::new(py, packet).bytes()?;
            match ffi::PySeqIter_New(packet) {
                iterator if iterator.is_null() => Err(PyErr::fetch(py)),
                iterator => Ok(iterator),
            }
        })
    }
}

//! Lists and tuples whose places are filled one after the other.
//!
//! The collector may run Python code whenever an object is made, exceptions included, and that code can ask it for
//! every object there is. So a list is hidden from it from the moment it is made until all its places are filled.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::class::Object;
use super::errors;

/// Hides a list, a tuple or an object that leads to one, whose places are still empty, from the collector.
pub(super) fn hide<T>(object: &Bound<'_, T>) {
    // SAFETY: the thread is attached, and the object is of a type that the collector knows.
    unsafe { ffi::PyObject_GC_UnTrack(object.as_ptr().cast()) };
}

/// Ends [`hide`].
pub(super) fn show<T>(object: &Bound<'_, T>) {
    // SAFETY: as above; it is whole, and was hidden.
    unsafe { ffi::PyObject_GC_Track(object.as_ptr().cast()) };
}

/// A list with `count` places for `what`, hidden until they are [filled](set) or cut off, and [shown](show). To make it
/// may run Python code.
pub(super) fn empty_list<'py>(py: Python<'py>, count: usize, what: &str) -> PyResult<Bound<'py, PyList>> {
    // SAFETY: the list is only seen by others when all its places are filled or cut off, or freed with some of them
    // empty.
    unsafe {
        let list = ffi::PyList_New(count as ffi::Py_ssize_t);
        if list.is_null() {
            ffi::PyErr_Clear();
            return Err(errors::memory(format_args!("there is no memory for a list of {count} {what}")));
        }
        let list = Bound::from_owned_ptr(py, list);
        hide(&list);
        Ok(list.cast_into_unchecked())
    }
}

/// Fills a place of a list, and drops what was there.
pub(super) fn set(list: &Bound<'_, PyList>, place: usize, object: Bound<'_, PyAny>) {
    // SAFETY: the callers pass places that exist, and the list takes the reference.
    unsafe { ffi::PyList_SetItem(list.as_ptr(), place as ffi::Py_ssize_t, object.into_ptr()) };
}

/// A list of what `item` makes for each place.
pub(super) fn listed<'py>(
    py: Python<'py>,
    count: usize,
    mut item: impl FnMut(usize) -> Object<'py>,
) -> PyResult<Bound<'py, PyList>> {
    let list = empty_list(py, count, "elements")?;
    for place in 0..count {
        set(&list, place, item(place)?);
    }
    show(&list);
    Ok(list)
}

/// A tuple of what `item` makes for each place.
pub(super) fn tuple<'py>(py: Python<'py>, length: usize, mut item: impl FnMut(usize) -> Object<'py>) -> Object<'py> {
    // SAFETY: as for a list. It takes each reference.
    unsafe {
        let tuple = Bound::from_owned_ptr_or_err(py, ffi::PyTuple_New(length as ffi::Py_ssize_t))?;
        hide(&tuple);
        for place in 0..length {
            ffi::PyTuple_SET_ITEM(tuple.as_ptr(), place as ffi::Py_ssize_t, item(place)?.into_ptr());
        }
        show(&tuple);
        Ok(tuple)
    }
}

/// A tuple of these elements. (PyO3's conversion panics when there is no memory.)
pub(super) fn tuple_of<'py, const N: usize>(py: Python<'py>, elements: [Bound<'py, PyAny>; N]) -> Object<'py> {
    // SAFETY: the thread is attached; every place is filled before anybody sees the tuple, which takes the references.
    unsafe {
        let tuple = Bound::from_owned_ptr_or_err(py, ffi::PyTuple_New(N as ffi::Py_ssize_t))?;
        for (place, element) in elements.into_iter().enumerate() {
            ffi::PyTuple_SET_ITEM(tuple.as_ptr(), place as ffi::Py_ssize_t, element.into_ptr());
        }
        Ok(tuple)
    }
}

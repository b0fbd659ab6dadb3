//! `Stats` and `Windows`: what an allocator tells about itself. The classes are Python's own (`_figures.py`); here are
//! the facts that they are made of.

use core::ffi::CStr;
use core::mem::size_of;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::call::{hide, int, show};
use super::class::Object;
use crate::{Occupancy, WindowState};

static STATS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
static WINDOWS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// A call of one of the classes, which are imported when they are needed first: programs that ask for no figures do
/// not wait for what their module imports.
fn call<'py>(
    py: Python<'py>,
    class: &PyOnceLock<Py<PyAny>>,
    name: &CStr,
    arguments: &Bound<'py, PyAny>,
) -> Object<'py> {
    // SAFETY: the thread is attached, the names are strings of C, and both objects that are called are there, the second
    // a tuple.
    unsafe {
        let class = class.get_or_try_init(py, || {
            let module = Bound::from_owned_ptr_or_err(py, ffi::PyImport_ImportModule(c"pktalloc._figures".as_ptr()))?;
            let class = ffi::PyObject_GetAttrString(module.as_ptr(), name.as_ptr());
            Bound::from_owned_ptr_or_err(py, class).map(Bound::unbind)
        })?;
        Bound::from_owned_ptr_or_err(py, ffi::PyObject_CallObject(class.as_ptr(), arguments.as_ptr()))
    }
}

/// A tuple of what `item` makes for each place.
fn tuple<'py>(py: Python<'py>, length: usize, mut item: impl FnMut(usize) -> Object<'py>) -> Object<'py> {
    // SAFETY: the tuple is seen by nobody else until all its places are filled, or freed with some of them empty. It
    // takes each reference.
    unsafe {
        let tuple = Bound::from_owned_ptr_or_err(py, ffi::PyTuple_New(length as ffi::Py_ssize_t))?;
        hide(&tuple);
        for place in 0..length {
            ffi::PyTuple_SetItem(tuple.as_ptr(), place as ffi::Py_ssize_t, item(place)?.into_ptr());
        }
        show(&tuple);
        Ok(tuple)
    }
}

/// The object of these figures.
pub(super) fn stats(py: Python<'_>, stats: crate::Stats) -> Object<'_> {
    let figures = [
        stats.used_bytes,
        stats.allocated_bytes,
        stats.peak_allocated_bytes,
        stats.live_blocks,
        stats.large_blocks,
        stats.large_bytes,
        stats.windows,
        stats.empty_windows,
        stats.reusable_windows,
        stats.unit_bytes as u64,
        stats.window_bytes as u64,
    ];
    call(py, &STATS, c"Stats", &tuple(py, figures.len(), |place| int(py, figures[place]))?)
}

/// The object of these windows.
pub(super) fn windows(py: Python<'_>, windows: Vec<Occupancy>) -> Object<'_> {
    // SAFETY: the list is only seen by others when all its places are filled, or freed with some of them empty. It
    // takes each reference.
    let list = unsafe {
        let list = Bound::from_owned_ptr_or_err(py, ffi::PyList_New(windows.len() as ffi::Py_ssize_t))?;
        hide(&list);
        for (place, window) in windows.into_iter().enumerate() {
            ffi::PyList_SetItem(list.as_ptr(), place as ffi::Py_ssize_t, facts(py, &window)?.into_ptr());
        }
        show(&list);
        list
    };
    call(py, &WINDOWS, c"Windows", &tuple(py, 1, |_| Ok(list.clone()))?)
}

/// What `Window` is made of.
fn facts<'py>(py: Python<'py>, window: &Occupancy) -> Object<'py> {
    let number = |number: usize| int(py, number as u64);
    tuple(py, 6, |place| match place {
        0 => number(window.address),
        1 => number(window.units),
        2 => number(window.live_units),
        3 => tuple(py, 2, |end| number([window.bookkeeping.start, window.bookkeeping.end][end])),
        4 => runs(py, window),
        _ => state(py, window.state),
    })
}

/// The bounds of each block, in four bytes of the machine's order each.
fn runs<'py>(py: Python<'py>, window: &Occupancy) -> Object<'py> {
    let bytes = window.blocks.len() * 2 * size_of::<u32>();
    // SAFETY: the bytes are made for as many as are written, and nobody else knows them yet.
    unsafe {
        let runs = ffi::PyBytes_FromStringAndSize(core::ptr::null(), bytes as ffi::Py_ssize_t);
        let runs = Bound::from_owned_ptr_or_err(py, runs)?;
        let mut place = ffi::PyBytes_AsString(runs.as_ptr()).cast::<u32>();
        for block in &window.blocks {
            for bound in [block.start, block.end] {
                place.write_unaligned(bound as u32);
                place = place.add(1);
            }
        }
        Ok(runs)
    }
}

fn state(py: Python<'_>, state: WindowState) -> Object<'_> {
    let name = match state {
        WindowState::Current => c"current",
        WindowState::Full => c"full",
        WindowState::Reusable => c"reusable",
        WindowState::Empty => c"empty",
    };
    // SAFETY: the thread is attached.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyUnicode_InternFromString(name.as_ptr())) }
}

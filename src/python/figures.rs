//! `Stats` and `Windows`: what an allocator tells about itself. The classes are Python's own (`_figures.py`); here are
//! the facts that they are made of.

use core::ffi::CStr;
use core::mem::size_of;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use super::call::int;
use super::class::Object;
use super::sequences::{listed, tuple, tuple_of};
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
    // SAFETY: the thread is attached, the names are strings of C, and both objects that are called are there, the
    // second a tuple.
    unsafe {
        let class = class.get_or_try_init(py, || {
            let module = Bound::from_owned_ptr_or_err(py, ffi::PyImport_ImportModule(c"pktalloc._figures".as_ptr()))?;
            let class = ffi::PyObject_GetAttrString(module.as_ptr(), name.as_ptr());
            Bound::from_owned_ptr_or_err(py, class).map(Bound::unbind)
        })?;
        Bound::from_owned_ptr_or_err(py, ffi::PyObject_CallObject(class.as_ptr(), arguments.as_ptr()))
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
    let list = listed(py, windows.len(), |place| facts(py, &windows[place]))?;
    call(py, &WINDOWS, c"Windows", &tuple_of(py, [list.into_any()])?)
}

/// What `Window` is made of.
fn facts<'py>(py: Python<'py>, window: &Occupancy) -> Object<'py> {
    let number = |number: usize| int(py, number as u64);
    let bookkeeping = [number(window.bookkeeping.start)?, number(window.bookkeeping.end)?];
    tuple_of(
        py,
        [
            number(window.address)?,
            number(window.units)?,
            number(window.live_units)?,
            tuple_of(py, bookkeeping)?,
            runs(py, window)?,
            state(py, window.state)?,
        ],
    )
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

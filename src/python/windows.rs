//! `Windows` and `Window`: which units of an allocator's windows are in use.

use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};

use crate::{Occupancy, WindowState};

/// The occupancy of one window at one moment.
#[pyclass(frozen, get_all, module = "pktalloc")]
pub(super) struct Window {
    /// The address of the window, a multiple of its size.
    address: usize,
    /// Units of the window, those of its bookkeeping included.
    units: usize,
    /// Units of live packets.
    live_units: usize,
    /// First unit of the bookkeeping, and the unit behind its last.
    bookkeeping: (usize, usize),
    /// First unit of each live packet, and the unit behind its last; in order.
    blocks: Vec<(usize, usize)>,
    /// Where the window stands: 'current', 'full', 'reusable' or 'empty'.
    state: &'static str,
}

impl From<Occupancy> for Window {
    fn from(occupancy: Occupancy) -> Self {
        Self {
            address: occupancy.address,
            units: occupancy.units,
            live_units: occupancy.live_units,
            bookkeeping: (occupancy.bookkeeping.start, occupancy.bookkeeping.end),
            blocks: occupancy.blocks.into_iter().map(|block| (block.start, block.end)).collect(),
            state: match occupancy.state {
                WindowState::Current => "current",
                WindowState::Full => "full",
                WindowState::Reusable => "reusable",
                WindowState::Empty => "empty",
            },
        }
    }
}

#[pymethods]
impl Window {
    fn __repr__(&self) -> String {
        format!(
            "<pktalloc.Window address={:#x} {}: {} of {} units live in {} packets>",
            self.address,
            self.state,
            self.live_units,
            self.units,
            self.blocks.len()
        )
    }
}

/// The windows of an allocator at one moment, a sequence of `Window`s in order of address.
#[pyclass(frozen, module = "pktalloc")]
pub(super) struct Windows(Py<PyTuple>);

impl Windows {
    pub(super) fn new(py: Python<'_>, occupancy: Vec<Occupancy>) -> PyResult<Self> {
        let windows: Vec<_> =
            occupancy.into_iter().map(|window| Bound::new(py, Window::from(window))).collect::<PyResult<_>>()?;
        Ok(Self(PyTuple::new(py, windows)?.unbind()))
    }
}

#[pymethods]
impl Windows {
    fn __len__(&self, py: Python<'_>) -> usize {
        self.0.bind(py).len()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.0.bind(py).as_any().get_item(key)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.0.bind(py).as_any().try_iter()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("<pktalloc.Windows: {} windows>", self.__len__(py))
    }
}

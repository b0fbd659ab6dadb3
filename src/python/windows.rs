//! `Windows` and `Window`: which units of an allocator's windows are in use.

use pyo3::prelude::*;
use pyo3::types::{PyIterator, PyTuple};

use super::map::{state_name, svg, text};
use crate::Occupancy;

/// The occupancy of one window at one moment.
#[pyclass(frozen, module = "pktalloc")]
pub(super) struct Window(Occupancy);

#[pymethods]
impl Window {
    /// The address of the window, a multiple of its size.
    #[getter]
    fn address(&self) -> usize {
        self.0.address
    }

    /// Units of the window, those of its bookkeeping included; a unit is as many bytes as the alignment.
    #[getter]
    fn units(&self) -> usize {
        self.0.units
    }

    /// Units of live packets.
    #[getter]
    fn live_units(&self) -> usize {
        self.0.live_units
    }

    /// First unit of the bookkeeping, and the unit behind its last.
    #[getter]
    fn bookkeeping(&self) -> (usize, usize) {
        (self.0.bookkeeping.start, self.0.bookkeeping.end)
    }

    /// First unit of each live packet, and the unit behind its last; in order.
    #[getter]
    fn blocks(&self) -> Vec<(usize, usize)> {
        self.0.blocks.iter().map(|block| (block.start, block.end)).collect()
    }

    /// Where the window stands: 'current', 'full', 'reusable' or 'empty'.
    #[getter]
    fn state(&self) -> &'static str {
        state_name(self.0.state)
    }

    fn __repr__(&self) -> String {
        format!(
            "<pktalloc.Window address={:#x} {}: {} of {} units live in {} packets>",
            self.0.address,
            self.state(),
            self.0.live_units,
            self.0.units,
            self.0.blocks.len()
        )
    }
}

/// The windows of an allocator at one moment, a sequence of `Window`s in order of address.
///
/// It draws itself: as lines of text with `print`, as a picture in a notebook, and as a file with `to_svg`.
///
/// >>> from pktalloc import Allocator
/// >>> a = Allocator(preallocated_windows=1)
/// >>> packets = a.allocate_many(1400, 46)
/// >>> a.windows()
/// <pktalloc.Windows: 1 window, 1012 of 2048 units live>
#[pyclass(frozen, module = "pktalloc")]
pub(super) struct Windows {
    /// Of `Window`s only.
    windows: Py<PyTuple>,
}

impl Windows {
    pub(super) fn new(py: Python<'_>, occupancy: Vec<Occupancy>) -> PyResult<Self> {
        let windows = occupancy.into_iter().map(|window| Bound::new(py, Window(window)));
        Ok(Self { windows: PyTuple::new(py, windows.collect::<PyResult<Vec<_>>>()?)?.unbind() })
    }

    /// What the windows tell, in order.
    fn occupancy<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, Window>>> {
        self.windows.bind(py).iter().map(|window| Ok(window.cast_into::<Window>()?)).collect()
    }
}

#[pymethods]
impl Windows {
    fn __len__(&self, py: Python<'_>) -> usize {
        self.windows.bind(py).len()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        self.windows.bind(py).as_any().get_item(key)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyIterator>> {
        self.windows.bind(py).as_any().try_iter()
    }

    /// Return a drawing in the SVG format: windows as rows, packets as runs of two alternating colours, holes light.
    ///
    /// >>> from pktalloc import Allocator
    /// >>> a = Allocator()
    /// >>> packets = a.allocate_many(1400, 100)
    /// >>> a.windows().to_svg()[:4]
    /// '<svg'
    fn to_svg(&self, py: Python<'_>) -> PyResult<String> {
        let windows = self.occupancy(py)?;
        Ok(svg(windows.iter().map(|window| &window.get().0)))
    }

    fn _repr_html_(&self, py: Python<'_>) -> PyResult<String> {
        self.to_svg(py)
    }

    fn __str__(&self, py: Python<'_>) -> PyResult<String> {
        let windows = self.occupancy(py)?;
        Ok(text(windows.iter().map(|window| &window.get().0)))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let windows = self.occupancy(py)?;
        let sum = |of: fn(&Occupancy) -> usize| windows.iter().map(|window| of(&window.get().0)).sum::<usize>();
        Ok(format!(
            "<pktalloc.Windows: {} window{}, {} of {} units live>",
            windows.len(),
            if windows.len() == 1 { "" } else { "s" },
            sum(|window| window.live_units),
            sum(|window| window.units)
        ))
    }
}

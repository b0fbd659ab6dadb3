//! `DatagramBatch`: what a receive call returns.

use core::cell::{Cell, RefCell};
use std::net::IpAddr;

use pyo3::basic::CompareOp;
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PySlice, PyType};
use pyo3::{PyTraverseError, PyVisit};

use super::address::Version6;
use crate::python::call::{index, int, none, truth};
use crate::python::class::Object;
use crate::python::errors;
use crate::python::sequences::{hide, listed, show, tuple_of};
use crate::udp::Info;

/// The bit of a size that says that the datagram was longer.
const TRUNCATED: u32 = 1 << 31;

/// Datagrams that one call has received, a sequence of pairs of a packet and the address that it came from.
///
/// `packets`, `addresses`, `sizes` and `truncated` have an element for each datagram, and so have `timestamps_ns`,
/// `local_addresses`, `interfaces` and `ecn`, each element of which is `None` where the socket was not asked for them.
/// Addresses are as `socket.recvfrom()` gives them. What `pktalloc.recv_many_into()` returns has no packets, and can be
/// used as the number of rows that were filled: `array[:batch]`.
#[pyclass(frozen, module = "pktalloc")]
pub(super) struct DatagramBatch {
    packets: Py<PyList>,
    addresses: Py<PyList>,
    /// Bytes of each, with [`TRUNCATED`].
    sizes: RefCell<Vec<u32>>,
    /// What was said about each, or nothing when nothing was.
    infos: RefCell<Vec<Info>>,
    joined: Cell<usize>,
    waiting: Cell<usize>,
}

// SAFETY: the module declares that it needs the interpreter's lock, so that one thread at a time reaches a batch.
unsafe impl Sync for DatagramBatch {}

/// A view to be filled in by the owner of a buffer. It stays where it is: views may point into themselves.
pub(super) fn empty_view() -> PyResult<Vec<ffi::Py_buffer>> {
    let mut view = Vec::new();
    view.try_reserve_exact(1).map_err(|_| errors::no_memory())?;
    view.push(ffi::Py_buffer::new());
    Ok(view)
}

/// Whether the socket was asked for anything about this datagram. (That it was joined is said without.)
fn says_something(info: &Info) -> bool {
    info.time_ns.is_some() || info.destination.is_some() || info.traffic_class.is_some() || info.dropped.is_some()
}

impl DatagramBatch {
    /// A batch that has room for `count` datagrams, hidden like its lists.
    pub(super) fn new<'py>(
        packets: &Bound<'py, PyList>,
        addresses: &Bound<'py, PyList>,
        count: usize,
    ) -> PyResult<Bound<'py, Self>> {
        let mut sizes = Vec::new();
        sizes.try_reserve_exact(count).map_err(|_| errors::no_memory())?;
        let batch = Self {
            packets: packets.clone().unbind(),
            addresses: addresses.clone().unbind(),
            sizes: RefCell::new(sizes),
            infos: RefCell::new(Vec::new()),
            joined: Cell::new(0),
            waiting: Cell::new(0),
        };
        let batch = Bound::new(packets.py(), batch)?;
        hide(&batch);
        Ok(batch)
    }

    /// Lets others see a batch, now that its lists have no empty places.
    pub(super) fn show(this: &Bound<'_, Self>) {
        let (packets, addresses) = this.get().lists(this.py());
        show(packets);
        show(addresses);
        show(this);
    }

    /// Adds what is known about the next datagram; room was made for it.
    pub(super) fn push(&self, size: usize, truncated: bool, info: &Info) -> PyResult<()> {
        let mut sizes = self.sizes.borrow_mut();
        let mut infos = self.infos.borrow_mut();
        if !infos.is_empty() || says_something(info) {
            let missing = sizes.len() - infos.len() + 1;
            let capacity = sizes.capacity();
            infos.try_reserve(missing.max(capacity)).map_err(|_| errors::no_memory())?;
            while infos.len() < sizes.len() {
                infos.push(Info::default());
            }
            infos.push(*info);
        }
        if info.segment_size.is_some_and(|segment| segment > 0) {
            self.joined.set(self.joined.get() + 1);
        }
        sizes.push(size as u32 | if truncated { TRUNCATED } else { 0 });
        Ok(())
    }

    /// Cuts off what was not received, and says how much is kept for the next call.
    pub(super) fn cut(&self, count: usize, waiting: usize) {
        for list in [&self.packets, &self.addresses] {
            // SAFETY: the list only becomes shorter, by places that are empty, so that nothing is to be given back; it
            // keeps room for them. (To cut it as Python does may fail for want of memory.)
            unsafe {
                let length = &mut (*list.as_ptr().cast::<ffi::PyVarObject>()).ob_size;
                *length = (*length).min(count as ffi::Py_ssize_t);
            }
        }
        self.waiting.set(waiting);
    }

    pub(super) fn lists<'a, 'py>(&'a self, py: Python<'py>) -> (&'a Bound<'py, PyList>, &'a Bound<'py, PyList>) {
        (self.packets.bind(py), self.addresses.bind(py))
    }

    fn count(&self) -> usize {
        self.sizes.borrow().len()
    }

    /// A list of what `of` makes of each datagram's size.
    fn each_size<'py>(&self, py: Python<'py>, of: impl Fn(u32) -> Object<'py>) -> PyResult<Bound<'py, PyList>> {
        let count = self.count();
        listed(py, count, |index| {
            let size = self.sizes.borrow()[index];
            of(size)
        })
    }

    /// A list of what `of` makes of each datagram's [`Info`].
    fn each<'py>(
        &self,
        py: Python<'py>,
        of: impl Fn(&Info) -> PyResult<Option<Bound<'py, PyAny>>>,
    ) -> PyResult<Bound<'py, PyList>> {
        listed(py, self.count(), |index| {
            let info = self.infos.borrow().get(index).copied();
            let element = info.as_ref().map_or(Ok(None), &of)?;
            Ok(element.unwrap_or_else(|| none(py)))
        })
    }

    fn pair<'py>(&self, py: Python<'py>, index: usize) -> Object<'py> {
        let (packets, addresses) = self.lists(py);
        tuple_of(py, [packets.get_item(index)?, addresses.get_item(index)?])
    }
}

#[pymethods]
impl DatagramBatch {
    /// The packets, in the order in which they arrived.
    #[getter]
    fn packets(&self, py: Python<'_>) -> Py<PyList> {
        self.packets.clone_ref(py)
    }

    /// Who sent each of them.
    #[getter]
    fn addresses(&self, py: Python<'_>) -> Py<PyList> {
        self.addresses.clone_ref(py)
    }

    /// Bytes of each.
    #[getter]
    fn sizes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.each_size(py, |size| int(py, u64::from(size & !TRUNCATED)))
    }

    /// Whether each was longer than the room that it was received into, so that its end is missing.
    #[getter]
    fn truncated<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.each_size(py, |size| Ok(truth(py, size & TRUNCATED != 0)))
    }

    /// When the kernel received each, in nanoseconds since 1970.
    #[getter]
    fn timestamps_ns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        // SAFETY: the thread is attached.
        let object = |time| unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyLong_FromLongLong(time)) };
        self.each(py, |info| info.time_ns.map(object).transpose())
    }

    /// The address that each was sent to, that of a multicast group included.
    #[getter]
    fn local_addresses<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.each(py, |info| {
            let text = info.destination.map(|destination| match destination {
                IpAddr::V4(address) => errors::text(py, format_args!("{address}")),
                IpAddr::V6(address) => errors::text(py, format_args!("{}", Version6(address))),
            });
            text.transpose()
        })
    }

    /// The number of the interface that each came in by: with `local_addresses`.
    #[getter]
    fn interfaces<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.each(py, |info| info.interface.map(|interface| int(py, interface.into())).transpose())
    }

    /// The congestion bits of each: 0 not capable, 1 and 2 capable, 3 congestion experienced.
    #[getter]
    fn ecn<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        self.each(py, |info| info.ecn().map(|ecn| int(py, ecn.into())).transpose())
    }

    /// How many datagrams the socket had dropped when the last of these arrived, since it was made; `None` where it was
    /// not asked. The kernel says it with the first datagram that follows a loss, and from then on.
    #[getter]
    fn dropped<'py>(&self, py: Python<'py>) -> Object<'py> {
        let dropped = self.infos.borrow().iter().rev().find_map(|info| info.dropped);
        dropped.map_or_else(|| Ok(none(py)), |dropped| int(py, dropped.into()))
    }

    /// How many of these the kernel had joined.
    #[getter]
    fn joined<'py>(&self, py: Python<'py>) -> Object<'py> {
        int(py, self.joined.get() as u64)
    }

    /// How many datagrams were received and are kept for the next call, because the allocator had no memory for them.
    #[getter]
    fn waiting<'py>(&self, py: Python<'py>) -> Object<'py> {
        int(py, self.waiting.get() as u64)
    }

    fn __len__(&self) -> usize {
        self.count()
    }

    fn __index__<'py>(&self, py: Python<'py>) -> Object<'py> {
        int(py, self.count() as u64)
    }

    fn __int__<'py>(&self, py: Python<'py>) -> Object<'py> {
        int(py, self.count() as u64)
    }

    fn __iter__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static ZIP: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let (packets, addresses) = self.lists(py);
        ZIP.import(py, "builtins", "zip")?.call1((packets, addresses))
    }

    fn __getitem__<'py>(&self, py: Python<'py>, key: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let count = self.packets.bind(py).len();
        if let Ok(slice) = key.cast::<PySlice>() {
            let indices = slice.indices(count as isize)?;
            let list = listed(py, indices.slicelength, |place| {
                self.pair(py, (indices.start + place as isize * indices.step) as usize)
            })?;
            return Ok(list.into_any());
        }
        let Some(index) = index(key.as_borrowed())? else {
            let message = format_args!("batch indices must be integers or slices, not ");
            return Err(errors::unexpected(key.as_borrowed(), message));
        };
        let index = if index < 0 { index + count as isize } else { index };
        match usize::try_from(index) {
            Ok(index) if index < count => self.pair(py, index),
            _ => Err(errors::index(format_args!("batch index out of range"))),
        }
    }

    /// Compares as the number of its datagrams, with everything that is an integer.
    fn __richcmp__<'py>(
        slf: &Bound<'py, Self>,
        other: &Bound<'py, PyAny>,
        operator: CompareOp,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        // Two batches are not the same because they are of the same length.
        // SAFETY: `other` is an object, and the thread is attached.
        if other.is_instance_of::<Self>() || unsafe { ffi::PyIndex_Check(other.as_ptr()) } == 0 {
            return Ok(py.NotImplemented().into_bound(py));
        }
        // SAFETY: as above.
        match unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyNumber_Index(other.as_ptr())) } {
            Ok(number) => int(py, slf.get().count() as u64)?.rich_compare(number, operator),
            // An array is a number only when it has no dimensions; what it makes of a comparison is its own.
            Err(error) if error.is_instance_of::<PyTypeError>(py) => {
                errors::discard(py, error);
                Ok(py.NotImplemented().into_bound(py))
            }
            Err(error) => Err(error),
        }
    }

    fn __repr__<'py>(&self, py: Python<'py>) -> Object<'py> {
        let count = self.count();
        let bytes: u64 = self.sizes.borrow().iter().map(|size| u64::from(size & !TRUNCATED)).sum();
        let plural = if count == 1 { "" } else { "s" };
        errors::text(py, format_args!("<pktalloc.DatagramBatch: {count} datagram{plural}, {bytes} bytes>"))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.packets)?;
        visit.call(&self.addresses)
    }
}

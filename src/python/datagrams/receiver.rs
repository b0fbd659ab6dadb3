//! `Receiver`: what event loops receive with.

use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use super::batch::DatagramBatch;
use super::pool::{RECEIVED, new_incoming};
use super::receive::{Into, Maker, deliver, layout};
use super::seam;
use super::socket::{Socket, os_error};
use crate::python::errors;
use crate::udp::Options;
use crate::udp::linux::{Incoming, Kernel, enable};

/// Receives datagrams from one socket without ever waiting: what `pktalloc.aio` is built on.
///
/// `receive(allocator)` returns a batch, or `None` when nothing is there; without an allocator the packets are `bytes`.
/// Nobody else may receive from the socket. It takes the socket's number once, so whoever closes the socket must stop first.
#[pyclass(frozen, name = "Receiver", module = "pktalloc")]
pub(super) struct Receiver {
    socket: i32,
    /// `None` while a call uses it.
    incoming: Mutex<Option<Incoming<Kernel>>>,
    /// `deliver` is to stop.
    stopped: AtomicBool,
    /// The callback of `deliver` runs, or was the last thing that ran.
    in_callback: AtomicBool,
}

#[pymethods]
impl Receiver {
    #[new]
    #[pyo3(signature = (sock, count = 64, size = 65536, *, gro = false))]
    fn new(sock: &Bound<'_, PyAny>, count: usize, size: usize, gro: bool) -> PyResult<Self> {
        let socket = Socket::of(sock)?;
        let mut layout = layout(count.max(1), size, false)?;
        if gro {
            let wanted = Options { gro, ..Options::default() };
            layout.joined = enable(&Kernel, socket.number, wanted).map_err(|error| os_error(sock.py(), &error))?.gro;
        }
        if socket.kind == libc::SOCK_SEQPACKET {
            layout.most = 1;
        }
        Ok(Self {
            socket: socket.number,
            incoming: Mutex::new(Some(new_incoming(layout)?)),
            stopped: AtomicBool::new(false),
            in_callback: AtomicBool::new(false),
        })
    }

    /// Return what is there as a batch, or `None`; raise what the system says.
    #[pyo3(signature = (allocator = None))]
    fn receive<'py>(
        &self,
        py: Python<'py>,
        allocator: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, DatagramBatch>>> {
        let source = seam::source(allocator)?;
        let mut lease = self.lease()?;
        if !lease.fill(py)? {
            return Ok(None);
        }
        let into = source.map_or(Into::Bytes, Into::Packets);
        deliver(py, lease.incoming(), into).map(Some)
    }

    /// Call `callback(data, address)` with one datagram after the other; return how many are left.
    ///
    /// Those of the last call come first; when there are none, what is there is received. What the callback raises is raised
    /// here, with `in_callback` set; the datagram counts as delivered. So it does when the callback calls `stop()`.
    #[pyo3(signature = (callback, allocator = None))]
    fn deliver<'py>(
        &self,
        py: Python<'py>,
        callback: &Bound<'py, PyAny>,
        allocator: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<usize> {
        let source = seam::source(allocator)?;
        self.in_callback.store(false, Ordering::Relaxed);
        self.stopped.store(false, Ordering::Relaxed);
        let mut lease = self.lease()?;
        if !lease.fill(py)? {
            return Ok(0);
        }
        let incoming = lease.incoming();
        let mut maker = Maker::new(source.map_or(Into::Bytes, Into::Packets));
        while let Some(next) = incoming.peek() {
            let made = maker.next(py, incoming, &next)?;
            incoming.consume();
            self.in_callback.store(true, Ordering::Relaxed);
            callback.call1(made)?;
            self.in_callback.store(false, Ordering::Relaxed);
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(incoming.remaining());
            }
        }
        Ok(0)
    }

    /// End `deliver()` after the datagram that it delivers now.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// Whether it was the callback that raised what `deliver()` raised.
    #[getter]
    fn in_callback(&self) -> bool {
        self.in_callback.load(Ordering::Relaxed)
    }

    /// How many datagrams were received and are kept for the next call, because there was no memory for them.
    #[getter]
    fn waiting(&self) -> usize {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        incoming.as_ref().map_or(0, |incoming| incoming.remaining())
    }
}

impl Receiver {
    fn lease(&self) -> PyResult<InUse<'_>> {
        let taken = self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take();
        match taken {
            Some(incoming) => Ok(InUse { of: self, incoming: Some(incoming) }),
            None => Err(errors::runtime(format_args!("somebody else is receiving with this receiver"))),
        }
    }
}

/// Gives the scratch area back at the end of a call.
struct InUse<'a> {
    of: &'a Receiver,
    incoming: Option<Incoming<Kernel>>,
}

impl InUse<'_> {
    fn incoming(&mut self) -> &mut Incoming<Kernel> {
        self.incoming.as_mut().expect("it is there until the lease ends")
    }

    /// Receives what is there, unless something is left; false when there is nothing.
    fn fill(&mut self, py: Python<'_>) -> PyResult<bool> {
        let socket = self.of.socket;
        let incoming = self.incoming();
        match py.detach(|| incoming.fill(socket, false)) {
            Ok(()) => Ok(incoming.peek().is_some()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(os_error(py, &error)),
        }
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if let Some(incoming) = &mut self.incoming {
            RECEIVED.add(incoming.take_counters());
        }
        *self.of.incoming.lock().unwrap_or_else(PoisonError::into_inner) = self.incoming.take();
    }
}

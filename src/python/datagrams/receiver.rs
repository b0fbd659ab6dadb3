//! `Receiver`: what event loops receive with.

use std::io;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::batch::DatagramBatch;
use super::pool::{RECEIVED, new_incoming};
use super::receive::{Into, deliver, layout};
use super::seam::Source;
use super::socket::{Socket, os_error};
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
        Ok(Self { socket: socket.number, incoming: Mutex::new(Some(new_incoming(layout)?)) })
    }

    /// Return what is there as a batch, or `None`; raise what the system says.
    #[pyo3(signature = (allocator = None))]
    fn receive<'py>(
        &self,
        py: Python<'py>,
        allocator: Option<&Source<'py>>,
    ) -> PyResult<Option<Bound<'py, DatagramBatch>>> {
        let taken = self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(incoming) = taken else {
            return Err(PyRuntimeError::new_err("another thread is receiving with this receiver"));
        };
        let mut lease = InUse { of: self, incoming: Some(incoming) };
        let incoming = lease.incoming.as_mut().expect("it is there until the lease ends");
        let socket = self.socket;
        match py.detach(|| incoming.fill(socket, false)) {
            Ok(()) if incoming.peek().is_none() => Ok(None),
            Ok(()) => {
                let into = allocator.map_or(Into::Bytes, Into::Packets);
                deliver(py, incoming, into).map(Some)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(os_error(py, &error)),
        }
    }

    /// How many datagrams were received and are kept for the next call, because there was no memory for them.
    #[getter]
    fn waiting(&self) -> usize {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        incoming.as_ref().map_or(0, |incoming| incoming.remaining())
    }
}

/// Gives the scratch area back at the end of a call.
struct InUse<'a> {
    of: &'a Receiver,
    incoming: Option<Incoming<Kernel>>,
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        if let Some(incoming) = &mut self.incoming {
            RECEIVED.add(incoming.take_counters());
        }
        *self.of.incoming.lock().unwrap_or_else(PoisonError::into_inner) = self.incoming.take();
    }
}

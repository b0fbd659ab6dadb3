//! `Receiver`: what event loops receive with.

use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::io;
use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::batch::DatagramBatch;
use super::packets;
use super::pool::{RECEIVED, Scratch, ask, new_scratch};
use super::receive::{Maker, Output, deliver, fill_once, layout};
use super::socket::{Socket, os_error};
use crate::python::call::{Switch, int, none, switch, truth};
use crate::python::errors;
use crate::python::sequences::tuple_of;
use crate::udp::Options;
use crate::udp::linux::{Calls, Incoming, Kernel};

/// Calls of `deliver` that ask for a single datagram after one that found no more.
const SINGLE: u8 = 2;

/// Receives datagrams from one socket without ever waiting: what `pktalloc.aio` is built on.
///
/// `receive(allocator)` returns a batch, or `None` when no datagram has arrived; without an allocator the packets are
/// `bytes`. Nothing else may receive from the socket. It reads the socket's descriptor once, so stop receiving before
/// you close it.
#[pyclass(frozen, name = "Receiver", module = "pktalloc")]
pub(super) struct Receiver {
    socket: i32,
    /// The socket's.
    tells_length: bool,
    /// `None` while a call uses it.
    incoming: Mutex<Option<Scratch>>,
    /// `deliver` is to stop.
    stopped: AtomicBool,
    /// `deliver` calls the protocol.
    delivering: AtomicBool,
    /// How many calls of `deliver` from now on ask for a single datagram, since the last one that asked for all got no
    /// more.
    single: AtomicU8,
}

#[pymethods]
impl Receiver {
    #[new]
    #[pyo3(signature = (sock, count = 64, size = 65536, *, gro = Switch(None)), text_signature = "(sock, count=64, size=65536, *, gro=False)")]
    fn new(sock: &Bound<'_, PyAny>, count: usize, size: usize, gro: Switch<'_, '_>) -> PyResult<Self> {
        let gro = switch(gro.0, "gro", false)?;
        let socket = Socket::of(sock.as_borrowed())?;
        let mut layout = layout(count.max(1), size, false)?;
        if gro {
            let wanted = Options { gro, ..Options::default() };
            layout.joined = ask(socket.number, wanted).map_err(|error| os_error(sock.py(), &error))?.gro;
        }
        // Or the socket was asked before it came here.
        layout.joined |= Kernel.option(socket.number, libc::SOL_UDP, libc::UDP_GRO).is_ok_and(|value| value != 0);
        if socket.kind == libc::SOCK_SEQPACKET {
            layout.most = 1;
        }
        Ok(Self {
            socket: socket.number,
            tells_length: socket.tells_length,
            incoming: Mutex::new(Some(new_scratch(layout)?)),
            stopped: AtomicBool::new(false),
            delivering: AtomicBool::new(false),
            single: AtomicU8::new(0),
        })
    }

    /// Return the datagrams that have arrived as a batch, or `None`; raise the system's errors.
    #[pyo3(signature = (allocator = None))]
    fn receive<'py>(
        &self,
        py: Python<'py>,
        allocator: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, DatagramBatch>>> {
        let source = packets::source(allocator)?;
        let mut lease = self.lease()?;
        if !lease.fill(py, false)? {
            return Ok(None);
        }
        let output = source.map_or(Output::Bytes, Output::Packets);
        deliver(py, lease.incoming(), output).map(Some)
    }

    /// Give the protocol of a transport, `transport._protocol`, one datagram after the other.
    ///
    /// Those of the last call come first; when there are none, what is there is received. Where more is to be done than
    /// that, `transport._delivered(left, error, in_callback)` is called: when there is something in `buffer`, which the
    /// protocol has sent, when it has called `stop()` and some are left, and when it (`in_callback`) or the system has
    /// raised something. A datagram whose callback has raised counts as delivered.
    #[pyo3(signature = (transport, buffer, allocator = None))]
    fn deliver<'py>(
        &self,
        py: Python<'py>,
        transport: &Bound<'py, PyAny>,
        buffer: &Bound<'py, PyAny>,
        allocator: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let mut in_callback = false;
        let outcome = packets::source(allocator).and_then(|source| {
            self.deliver_each(transport, source.map_or(Output::Bytes, Output::Packets), &mut in_callback)
        });
        let (left, error) = match outcome {
            Ok(0) if !buffer.is_truthy()? => return Ok(()),
            Ok(left) => (left, None),
            // There may be more where it came from.
            Err(error) => (1, Some(error)),
        };
        let ends = error.as_ref().is_some_and(|error| {
            error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
        });
        let told = match &error {
            Some(error) if !ends => error.value(py).clone().into_any(),
            _ => none(py),
        };
        let arguments = [int(py, left as u64)?, told, truth(py, in_callback)];
        transport.call_method1(intern!(py, "_delivered"), tuple_of(py, arguments)?.cast_into::<PyTuple>()?)?;
        match error {
            Some(error) if ends => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether datagrams are being delivered: what is sent meanwhile can leave together.
    #[getter]
    fn delivering(&self) -> bool {
        self.delivering.load(Ordering::Relaxed)
    }

    /// End `deliver()` after the datagram that it delivers now.
    fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// How many datagrams were received and are kept for the next call, because there was no memory for them.
    #[getter]
    fn waiting(&self) -> usize {
        let incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        incoming.as_ref().map_or(0, |incoming| incoming.remaining())
    }
}

impl Receiver {
    /// Calls `datagram_received` for each, and returns how many are left. Says whether that runs when it ends.
    fn deliver_each<'py>(
        &self,
        transport: &Bound<'py, PyAny>,
        output: Output<'_, 'py>,
        in_callback: &mut bool,
    ) -> PyResult<usize> {
        let py = transport.py();
        let callback = transport.getattr(intern!(py, "_protocol"))?.getattr(intern!(py, "datagram_received"))?;
        let mut lease = self.lease()?;
        self.stopped.store(false, Ordering::Relaxed);
        // To find that there is no second datagram costs half as much as to receive the first. Where there was none,
        // that is asked the next time but two: the loop calls again at once if there is one.
        let single = self.single.load(Ordering::Relaxed);
        if !lease.fill(py, single > 0)? {
            return Ok(0);
        }
        let _delivering = Delivering::new(self);
        let incoming = lease.incoming();
        let next = match single {
            0 if incoming.remaining() == 1 => SINGLE,
            single => single.saturating_sub(1),
        };
        self.single.store(next, Ordering::Relaxed);
        let mut maker = Maker::new(output);
        while let Some(next) = incoming.peek() {
            let made = maker.next(py, incoming, &next)?;
            incoming.consume();
            *in_callback = true;
            callback.call1(made)?;
            *in_callback = false;
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(incoming.remaining());
            }
        }
        Ok(0)
    }

    fn lease(&self) -> PyResult<InUse<'_>> {
        let taken = self.incoming.lock().unwrap_or_else(PoisonError::into_inner).take();
        match taken {
            Some(incoming) => Ok(InUse { of: self, incoming: Some(incoming) }),
            None => Err(errors::runtime(format_args!("another call is using this receiver"))),
        }
    }
}

/// Says that a protocol is given datagrams, as long as it lives.
struct Delivering<'a>(&'a AtomicBool);

impl<'a> Delivering<'a> {
    fn new(of: &'a Receiver) -> Self {
        of.delivering.store(true, Ordering::Relaxed);
        Self(&of.delivering)
    }
}

impl Drop for Delivering<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Gives the scratch area back at the end of a call.
struct InUse<'a> {
    of: &'a Receiver,
    incoming: Option<Scratch>,
}

impl InUse<'_> {
    fn incoming(&mut self) -> &mut Incoming<Kernel> {
        self.incoming.as_mut().expect("it is there until the lease ends")
    }

    /// Receives what is there, or a single datagram of it, unless something is left; false when there is nothing.
    fn fill(&mut self, py: Python<'_>, single: bool) -> PyResult<bool> {
        let (socket, tells_length) = (self.of.socket, self.of.tells_length);
        let incoming = self.incoming();
        let fill = || match single {
            true if incoming.layout().joined || !tells_length => incoming.fill_up_to(1, socket, false),
            true => incoming.fill_plainly(1, socket, false),
            false => fill_once(incoming, socket, tells_length, false),
        };
        match py.detach(fill) {
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

//! `send_many`.

use std::io;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyTuple};

use super::address;
use super::batch::{DatagramBatch, empty_view};
use super::packets::PinnedPacket;
use super::pool;
use super::socket::{For, Socket, Waited, os_error, timed_out};
use crate::python::call::{Switch, switch};
use crate::python::errors;
use crate::udp::item::{Item, NO_ADDRESS};
use crate::udp::linux::{Calls, Kernel, Outgoing, RawAddress};

/// Send many datagrams in few system calls; return how many went.
///
/// `packets` are packets or any other bytes-like objects; `address` is one address for all of them, a list with one for
/// each, or nothing on a connected socket. Without an address, `packets` may be pairs of a packet and its address: a
/// `DatagramBatch` is, so that `send_many(sock, batch)` sends everything back.
///
/// Waits for room as `sock.sendto()` does. When a datagram fails, those before it have gone, and their number is
/// returned; the next call, with the rest, raises the error if it lasts. An error of the first one is raised at once,
/// and so is everything that is wrong with the arguments, before anything is sent.
///
/// Datagrams of equal size to one address, one after the other, leave as one that the kernel or the network card cuts,
/// where they can; `gso=False` keeps them apart.
///
/// >>> import socket
/// >>> import pktalloc
/// >>> receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
/// >>> receiver.bind(('127.0.0.1', 0))
/// >>> sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
/// >>> pktalloc.send_many(sender, [b'one', b'two'], receiver.getsockname())
/// 2
/// >>> receiver.recv(100), receiver.recv(100)
/// (b'one', b'two')
/// >>> receiver.close(), sender.close()
/// (None, None)
#[pyfunction]
#[pyo3(
    signature = (sock, packets, address = None, *, gso = Switch(None)),
    text_signature = "(sock, packets, address=None, *, gso=True)"
)]
pub(super) fn send_many<'py>(
    py: Python<'py>,
    sock: &Bound<'py, PyAny>,
    packets: &Bound<'py, PyAny>,
    address: Option<&Bound<'py, PyAny>>,
    gso: Switch<'_, 'py>,
) -> PyResult<usize> {
    let gso = switch(gso.0, "gso", true)?;
    let mut socket = Socket::of(sock.as_borrowed())?;
    let mut datagrams = Datagrams::new(py, socket.number);
    datagrams.collect(packets, address)?;
    let join = gso && datagrams.items.len() > 1 && !pool::has_refused(socket.number);
    let mut sender = pool::take_sender();
    let mut sent = 0;
    let outcome = send(&mut socket, &mut sender, &datagrams, join, &mut sent);
    pool::give_sender(sender, socket.number);
    match outcome {
        // What went before is told; the error comes back with the next call, if it lasts.
        Err(Stopped::AtDatagram(_)) if sent > 0 => Ok(sent),
        Err(Stopped::AtDatagram(error) | Stopped::BySignal(error)) => Err(error),
        Ok(()) => Ok(sent),
    }
}

/// Why not everything went.
enum Stopped {
    AtDatagram(PyErr),
    /// A signal handler has raised this.
    BySignal(PyErr),
}

/// Sends until everything has gone, and counts.
fn send(
    socket: &mut Socket<'_, '_>,
    sender: &mut Outgoing<Kernel>,
    datagrams: &Datagrams<'_>,
    join: bool,
    sent: &mut usize,
) -> Result<(), Stopped> {
    let (py, number) = (socket.py(), socket.number);
    let addresses = &datagrams.addresses[..];
    let mut stalled = false;
    while let Some(items) = datagrams.items.get(*sent..)
        && let Some(next) = items.first()
    {
        // SAFETY: every datagram is pinned; that other code may write to it meanwhile is as with `sendto`.
        let (went, error) = py.detach(|| unsafe { sender.send(number, items, addresses, join) });
        *sent += went;
        stalled &= went == 0;
        let Some(error) = error else { return Ok(()) };
        let error = match error.kind() {
            io::ErrorKind::WouldBlock if went == 0 && socket.waits_for_ever().map_err(Stopped::AtDatagram)? => {
                // SAFETY: as above.
                match py.detach(|| unsafe { sender.send_waiting(number, next, addresses) }) {
                    Ok(()) => {
                        *sent += 1;
                        continue;
                    }
                    Err(error) => error,
                }
            }
            _ => error,
        };
        match error.kind() {
            io::ErrorKind::WouldBlock => match socket.wait(For::Room { stalled }).map_err(Stopped::BySignal)? {
                Waited::Ready => stalled = true,
                Waited::Interrupted => {}
                Waited::TimedOut => return Err(Stopped::AtDatagram(timed_out())),
                Waited::NonBlocking => return Err(Stopped::AtDatagram(os_error(py, &error))),
            },
            io::ErrorKind::Interrupted => py.check_signals().map_err(Stopped::BySignal)?,
            _ => return Err(Stopped::AtDatagram(os_error(py, &error))),
        }
    }
    Ok(())
}

/// Keeps the bytes of a datagram where they are.
enum Pin<'py> {
    /// Only held: its destructor is what counts.
    Packet(#[expect(dead_code, reason = "it is unpinned when it goes")] PinnedPacket<'py>),
    /// `bytes` never move as long as they live.
    Bytes(#[expect(dead_code, reason = "it is held")] Bound<'py, PyAny>),
    Export(Vec<ffi::Py_buffer>),
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        if let Self::Export(view) = self {
            // SAFETY: the buffer is as `PyObject_GetBuffer` left it; one that was refused has no object, and is left
            // alone.
            unsafe { ffi::PyBuffer_Release(view.as_mut_ptr()) };
        }
    }
}

/// What is to be sent, pinned.
struct Datagrams<'py> {
    py: Python<'py>,
    socket: i32,
    /// The socket's family, once it was asked for.
    family: Option<i32>,
    items: Vec<Item>,
    pins: Vec<Pin<'py>>,
    addresses: Vec<RawAddress>,
    /// The last address, and where it is in `addresses`.
    last: Option<(Bound<'py, PyAny>, u32)>,
}

impl<'py> Datagrams<'py> {
    fn new(py: Python<'py>, socket: i32) -> Self {
        let (items, pins, addresses) = (Vec::new(), Vec::new(), Vec::new());
        Self { py, socket, family: None, items, pins, addresses, last: None }
    }

    fn collect(&mut self, packets: &Bound<'py, PyAny>, address: Option<&Bound<'py, PyAny>>) -> PyResult<()> {
        let batch = packets.cast::<DatagramBatch>().ok().map(|batch| batch.get().lists(self.py));
        let address = address.filter(|address| !address.is_none());
        match (batch, address) {
            (Some((packets, addresses)), None) => self.each(packets, addresses),
            (batch, Some(address)) => {
                let listed;
                let packets = match batch {
                    Some((packets, _)) => packets,
                    None => {
                        listed = list(packets)?;
                        &listed
                    }
                };
                match address.cast::<PyList>() {
                    Ok(addresses) => self.each(packets, addresses),
                    Err(_) => {
                        refuse_tuple_of_addresses(address)?;
                        let to = self.address(address)?;
                        self.all(packets, to)
                    }
                }
            }
            (None, None) => {
                let listed = list(packets)?;
                self.reserve(listed.len())?;
                for index in 0.. {
                    let Ok(element) = listed.get_item(index) else { break };
                    match element.cast::<PyTuple>() {
                        Ok(pair) if pair.len() == 2 => {
                            let to = self.address(&pair.get_item(1)?)?;
                            self.push(pair.get_item(0)?, to)?;
                        }
                        _ => self.push(element, NO_ADDRESS)?,
                    }
                }
                Ok(())
            }
        }
    }

    fn each(&mut self, packets: &Bound<'py, PyList>, addresses: &Bound<'py, PyList>) -> PyResult<()> {
        let (count, others) = (packets.len(), addresses.len());
        if count != others {
            return Err(errors::value(format_args!("send_many() got {count} packets and {others} addresses")));
        }
        self.reserve(count)?;
        // What an address is made of may run code that changes the lists.
        for index in 0..count {
            let (packet, address) = (packets.get_item(index)?, addresses.get_item(index)?);
            let to = self.address(&address)?;
            self.push(packet, to)?;
        }
        Ok(())
    }

    fn all(&mut self, packets: &Bound<'py, PyList>, to: u32) -> PyResult<()> {
        self.reserve(packets.len())?;
        for index in 0.. {
            let Ok(packet) = packets.get_item(index) else { break };
            self.push(packet, to)?;
        }
        Ok(())
    }

    fn reserve(&mut self, count: usize) -> PyResult<()> {
        let no_memory = |_| errors::no_memory();
        self.items.try_reserve(count).map_err(no_memory)?;
        self.pins.try_reserve(count).map_err(no_memory)
    }

    /// Where an address is in the list of them; `None` stands for the one that the socket is connected to.
    fn address(&mut self, address: &Bound<'py, PyAny>) -> PyResult<u32> {
        if let Some((last, to)) = &self.last
            && last.is(address)
        {
            return Ok(*to);
        }
        let to = if address.is_none() {
            NO_ADDRESS
        } else {
            let family = match self.family {
                Some(family) => family,
                None => Kernel
                    .option(self.socket, libc::SOL_SOCKET, libc::SO_DOMAIN)
                    .map_err(|error| os_error(self.py, &error))?,
            };
            self.family = Some(family);
            let raw = address::raw(address, family)?;
            // Equal tuples need not be the same one; datagrams to one address can go out as one.
            match self.addresses.last() {
                Some(last) if last.bytes() == raw.bytes() => {}
                _ => {
                    self.addresses.try_reserve(1).map_err(|_| errors::no_memory())?;
                    self.addresses.push(raw);
                }
            }
            (self.addresses.len() - 1) as u32
        };
        self.last = Some((address.clone(), to));
        Ok(to)
    }

    /// Pins a datagram.
    fn push(&mut self, packet: Bound<'py, PyAny>, to: u32) -> PyResult<()> {
        let (pin, base, length) = if let Some((pin, bytes)) = PinnedPacket::of(&packet)? {
            (Pin::Packet(pin), bytes.cast::<u8>().as_ptr().cast_const(), bytes.len())
        } else if let Ok(bytes) = packet.cast_exact::<PyBytes>() {
            let (base, length) = (bytes.as_bytes().as_ptr(), bytes.as_bytes().len());
            (Pin::Bytes(packet), base, length)
        } else {
            let mut pin = Pin::Export(empty_view()?);
            let Pin::Export(view) = &mut pin else { unreachable!("it was made so") };
            // SAFETY: the view is a buffer to fill in, which stays where it is until it is released.
            if unsafe { ffi::PyObject_GetBuffer(packet.as_ptr(), view.as_mut_ptr(), ffi::PyBUF_SIMPLE) } != 0 {
                let error = PyErr::fetch(self.py);
                view[0].obj = core::ptr::null_mut();
                if !error.is_instance_of::<PyTypeError>(self.py) {
                    return Err(error);
                }
                let name = packet.get_type().name()?;
                let hint = if packet.is_instance_of::<PyTuple>() {
                    ": a pair of a packet and its address is taken where no address is given"
                } else {
                    ""
                };
                return Err(errors::kind(format_args!(
                    "send_many() needs packets or other bytes-like objects, not {name}{hint}"
                )));
            }
            let (base, length) = (view[0].buf.cast::<u8>().cast_const(), view[0].len as usize);
            (pin, base, length)
        };
        // Room for those that a list had at first is there; one that grows meanwhile has more.
        self.reserve(1)?;
        self.pins.push(pin);
        self.items.push(Item { base, length, to });
        Ok(())
    }
}

/// No address begins with another one.
fn refuse_tuple_of_addresses(address: &Bound<'_, PyAny>) -> PyResult<()> {
    match address.cast::<PyTuple>() {
        Ok(tuple) if tuple.len() > 0 && tuple.get_item(0)?.is_instance_of::<PyTuple>() => Err(errors::kind(
            format_args!("send_many(): address must be one address, or a list of them, not a tuple of them"),
        )),
        _ => Ok(()),
    }
}

/// The elements of an iterable. Runs Python code.
fn list<'py>(iterable: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyList>> {
    match iterable.cast_exact::<PyList>() {
        Ok(list) => Ok(list.clone()),
        // SAFETY: the thread is attached, and the object is a list or the call has failed.
        Err(_) => unsafe {
            let list = ffi::PySequence_List(iterable.as_ptr());
            Ok(Bound::from_owned_ptr_or_err(iterable.py(), list)?.cast_into_unchecked())
        },
    }
}

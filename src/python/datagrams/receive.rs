//! `Allocator.recv_many` and `recv_many_into`.

use std::io;

use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

use super::address;
use super::batch::{DatagramBatch, empty_view};
use super::packets::{self, Source};
use super::pool::{Lease, ask};
use super::socket::{For, Socket, Waited, os_error, timed_out};
use crate::python::call::{Arguments, Switch, none, not_an_integer, switch};
use crate::python::class::Object;
use crate::python::errors;
use crate::python::sequences::{empty_list, set};
use crate::udp::layout::{Layout, Received};
use crate::udp::linux::{Incoming, Kernel, MOST, plain_calls_tell_all};
use crate::udp::{Info, Options};

/// The largest size of a datagram that may be asked for. No system's are as long.
const MOST_BYTES: usize = 1 << 24;
/// Bytes of a scratch area, at most, unless one datagram needs more.
const AREA: usize = 64 << 20;

/// What becomes of datagrams.
#[derive(Clone, Copy)]
pub(super) enum Output<'a, 'py> {
    Packets(Source<'a, 'py>),
    /// Those that were joined into parts of one packet.
    Slices(Source<'a, 'py>),
    Bytes,
}

/// How many slots of which size: what was asked for, within what is possible.
pub(super) fn layout(count: usize, size: usize, joined: bool) -> PyResult<Layout> {
    if !(1..=MOST_BYTES).contains(&size) {
        return Err(errors::value(format_args!("size must be from 1 to {MOST_BYTES}, got {size}")));
    }
    Ok(Layout { most: count.min(MOST).min((AREA / size).max(1)), size, joined })
}

/// A number of datagrams or bytes; what no number can hold is as many as there can be. `__index__` is enough.
fn number(value: &Bound<'_, PyAny>, name: &str) -> PyResult<usize> {
    let mut overflow = 0;
    // SAFETY: the thread is attached.
    let number = unsafe { ffi::PyLong_AsLongLongAndOverflow(value.as_ptr(), &raw mut overflow) };
    match usize::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ if overflow > 0 => Ok(usize::MAX),
        _ if overflow < 0 => Err(errors::value(format_args!("{name} must be at least 1, got a number far below"))),
        _ => match PyErr::take(value.py()) {
            Some(error) => Err(not_an_integer(value.as_borrowed(), name, error)),
            None => Err(errors::value(format_args!("{name} must be at least 1, got {number}"))),
        },
    }
}

pub(super) fn recv_many<'py>(source: Source<'_, 'py>, arguments: Arguments<'_, 'py>) -> Object<'py> {
    if arguments.positional() > 3 {
        return Err(errors::kind(format_args!("recv_many() takes 3 positional arguments: sock, count and size")));
    }
    let ([sock], [count, size, gro, slices, time, destination, ecn, dropped]) = arguments.sort(
        "recv_many",
        ["sock"],
        ["count", "size", "gro", "slices", "timestamps", "local_addresses", "ecn", "dropped"],
    )?;
    let count = count.map_or(Ok(64), |count| number(&count, "count"))?;
    let size = size.map_or(Ok(2048), |size| number(&size, "size"))?;
    let options = Options {
        gro: switch(gro, "gro", false)?,
        time: switch(time, "timestamps", false)?,
        destination: switch(destination, "local_addresses", false)?,
        traffic_class: switch(ecn, "ecn", false)?,
        dropped: switch(dropped, "dropped", false)?,
    };
    let slices = switch(slices, "slices", false)?;
    // Where the kernel does not join datagrams, there is no reason to ask for them one by one.
    let mut layout = layout(count, size, options.gro)?;
    let mut socket = Socket::of(sock)?;
    drop(source.heap()?);
    if options != Options::default() {
        let told = ask(socket.number, options).map_err(|error| os_error(source.py(), &error))?;
        layout.joined = told.gro;
    }
    if socket.kind == libc::SOCK_SEQPACKET {
        // One that is closed has empty messages without end.
        layout.most = 1;
    }
    let mut lease = Lease::new(socket.number, layout)?;
    fill(&mut socket, lease.incoming())?;
    let output = if slices { Output::Slices(source) } else { Output::Packets(source) };
    Ok(deliver(source.py(), lease.incoming(), output)?.into_any())
}

/// Whether the next call is to be a plain one: for a single datagram, or where the last calls brought no more than
/// that.
fn plainly(incoming: &Incoming<Kernel>, tells_length: bool) -> bool {
    let Layout { most, joined, .. } = incoming.layout();
    (most == 1 || incoming.expects_single()) && !joined && tells_length && plain_calls_tell_all()
}

/// Receives what is there, without waiting unless `block` says so. `tells_length` is the
/// [socket's](Socket::tells_length).
#[inline]
pub(super) fn fill_once(
    incoming: &mut Incoming<Kernel>,
    socket: i32,
    tells_length: bool,
    block: bool,
) -> io::Result<()> {
    if plainly(incoming, tells_length) {
        incoming.fill_plainly(incoming.layout().most, socket, block)
    } else {
        incoming.fill(socket, block)
    }
}

/// Receives what is there, at least one datagram; waits as the socket says.
fn fill(socket: &mut Socket<'_, '_>, incoming: &mut Incoming<Kernel>) -> PyResult<()> {
    let (py, number, tells_length) = (socket.py(), socket.number, socket.tells_length);
    // Of calls that block, only those for one datagram can be interrupted without harm to the next.
    let may_block = incoming.layout().most == 1;
    let mut block = false;
    loop {
        match py.detach(|| fill_once(incoming, number, tells_length, block)) {
            Ok(()) if incoming.peek().is_some() => return Ok(()),
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if may_block && !block && socket.waits_for_ever()? {
                    block = true;
                    continue;
                }
                match socket.wait(For::Datagrams)? {
                    Waited::Ready | Waited::Interrupted => {}
                    Waited::TimedOut => return Err(timed_out()),
                    Waited::NonBlocking => return Err(os_error(py, &error)),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => py.check_signals()?,
            Err(error) => return Err(os_error(py, &error)),
        }
    }
}

/// Makes objects of the datagrams in the scratch area. Those for which there is no memory stay there; that is an error
/// when the first one does.
pub(super) fn deliver<'py>(
    py: Python<'py>,
    incoming: &mut Incoming<Kernel>,
    output: Output<'_, 'py>,
) -> PyResult<Bound<'py, DatagramBatch>> {
    let count = incoming.remaining();
    let (packets, addresses) = (empty_list(py, count, "packets")?, empty_list(py, count, "addresses")?);
    let batch = DatagramBatch::new(&packets, &addresses, count)?;
    let mut maker = Maker::new(output);
    for index in 0..count {
        let next = incoming.peek().expect("as many as were counted");
        let outcome = maker.next(py, incoming, &next).and_then(|made| {
            batch.get().push(next.bytes.len(), next.truncated, next.info)?;
            Ok(made)
        });
        match outcome {
            Ok((packet, address)) => {
                set(&packets, index, packet);
                set(&addresses, index, address);
                incoming.consume();
            }
            Err(error) if index == 0 => {
                batch.get().cut(0, count);
                return Err(error);
            }
            Err(_) => {
                batch.get().cut(index, count - index);
                break;
            }
        }
    }
    DatagramBatch::show(&batch);
    Ok(batch)
}

/// Makes one object after the other.
pub(super) struct Maker<'a, 'py> {
    output: Output<'a, 'py>,
    /// The packet that the current run of joined datagrams lies in, how many of its bytes are handed out, and how many
    /// it has.
    run: Option<(Bound<'py, PyAny>, usize, usize)>,
    /// The message that was asked last who sent it, and what stands for that peer.
    last: Option<(usize, Bound<'py, PyAny>)>,
}

/// A packet and the address that it came from.
type Made<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

impl<'a, 'py> Maker<'a, 'py> {
    pub(super) fn new(output: Output<'a, 'py>) -> Self {
        Self { output, run: None, last: None }
    }

    /// Makes objects of the next datagram.
    #[inline]
    pub(super) fn next(
        &mut self,
        py: Python<'py>,
        incoming: &Incoming<Kernel>,
        next: &Received<'_>,
    ) -> PyResult<Made<'py>> {
        let address = self.address(py, incoming)?;
        let packet = match self.output {
            Output::Packets(source) => packets::packet_of(source, next.bytes)?,
            Output::Bytes => bytes_of(py, next.bytes)?,
            Output::Slices(source) => {
                let (packet, start, length) = match self.run.take() {
                    Some(run) => run,
                    None => {
                        let run = incoming.peek_joined().expect("there is a next one").bytes;
                        (packets::packet_of(source, run)?, 0, run.len())
                    }
                };
                let part = part_of(&packet, start, next.bytes.len())?;
                let end = start + next.whole;
                self.run = (end < length).then_some((packet, end, length));
                part
            }
        };
        Ok((packet, address))
    }

    /// Who sent the next datagram, as an object: that of the last one, where the peer is the same.
    #[inline]
    fn address(&mut self, py: Python<'py>, incoming: &Incoming<Kernel>) -> PyResult<Bound<'py, PyAny>> {
        let raw = incoming.address();
        if let Some((message, object)) = &self.last
            && incoming.address_of(*message) == raw
        {
            return Ok(object.clone());
        }
        let object = address::object(py, raw)?;
        self.last = Some((incoming.message_number(), object.clone()));
        Ok(object)
    }
}

fn bytes_of<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the thread is attached, and there are that many bytes.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, object)
    }
}

/// A `memoryview` of a part of a packet.
fn part_of<'py>(packet: &Bound<'py, PyAny>, start: usize, length: usize) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the thread is attached; the objects are there or the call fails. (PyO3's slices leak their numbers.)
    unsafe {
        let number = |number: usize| Bound::from_owned_ptr_or_err(packet.py(), ffi::PyLong_FromSize_t(number));
        let (start, stop) = (number(start)?, number(start + length)?);
        let slice = ffi::PySlice_New(start.as_ptr(), stop.as_ptr(), core::ptr::null_mut());
        packet.get_item(Bound::from_owned_ptr_or_err(packet.py(), slice)?)
    }
}

/// Receive datagrams into the rows of a writable buffer with two dimensions, such as a NumPy array, in one system call.
///
/// Receives at least one datagram and at most one for each row, and waits as `sock.recv_into()` does. Returns a
/// `DatagramBatch` without packets, which can be used as the number of rows that were filled: `array[:batch]`. Its
/// `sizes` are the bytes received into each row. A datagram longer than its row is cut off, and `truncated` says so.
///
/// >>> import socket
/// >>> import pktalloc
/// >>> receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
/// >>> receiver.bind(('127.0.0.1', 0))
/// >>> sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
/// >>> sender.sendto(b'hello', receiver.getsockname())
/// 5
/// >>> rows = memoryview(bytearray(64 * 1500)).cast('B', (64, 1500))
/// >>> batch = pktalloc.recv_many_into(receiver, rows)
/// >>> len(batch), batch.sizes
/// (1, [5])
/// >>> receiver.close(), sender.close()
/// (None, None)
#[pyfunction]
#[pyo3(
    signature = (sock, rows, *, timestamps = Switch(None), local_addresses = Switch(None), ecn = Switch(None), dropped = Switch(None)),
    text_signature = "(sock, rows, *, timestamps=False, local_addresses=False, ecn=False, dropped=False)"
)]
pub(super) fn recv_many_into<'py>(
    py: Python<'py>,
    sock: &Bound<'py, PyAny>,
    rows: &Bound<'py, PyAny>,
    timestamps: Switch<'_, 'py>,
    local_addresses: Switch<'_, 'py>,
    ecn: Switch<'_, 'py>,
    dropped: Switch<'_, 'py>,
) -> PyResult<Bound<'py, DatagramBatch>> {
    let mut socket = Socket::of(sock.as_borrowed())?;
    let rows = Rows::of(rows)?;
    let options = Options {
        gro: false,
        time: switch(timestamps.0, "timestamps", false)?,
        destination: switch(local_addresses.0, "local_addresses", false)?,
        traffic_class: switch(ecn.0, "ecn", false)?,
        dropped: switch(dropped.0, "dropped", false)?,
    };
    if options != Options::default() {
        ask(socket.number, options).map_err(|error| os_error(py, &error))?;
    }
    let most = if socket.kind == libc::SOCK_SEQPACKET { 1 } else { rows.count.min(MOST) };
    // Before anything arrives: what is in a row when there is no memory to say so would be lost.
    let (no_packets, addresses) = (empty_list(py, 0, "packets")?, empty_list(py, most, "addresses")?);
    let batch = DatagramBatch::new(&no_packets, &addresses, most)?;
    let (filled, waiting) = receive_into(&mut socket, &rows, most, batch.get(), &addresses)?;
    batch.get().cut(filled, waiting);
    DatagramBatch::show(&batch);
    Ok(batch)
}

/// Fills rows and tells a batch; returns how many, and how many datagrams wait for the next call.
fn receive_into(
    socket: &mut Socket<'_, '_>,
    rows: &Rows,
    most: usize,
    batch: &DatagramBatch,
    addresses: &Bound<'_, PyList>,
) -> PyResult<(usize, usize)> {
    let py = socket.py();
    // What an earlier call has left lies in a scratch area.
    let (mut lease, in_rows) = Lease::borrowing(socket.number, most)?;
    let incoming = lease.incoming();
    if in_rows {
        // SAFETY: the buffer is exported until `rows` goes, which is after the lease; that other code may write to it
        // meanwhile is as with `recv_into`.
        unsafe { incoming.arrive_at(rows.start, rows.stride, rows.length, most) };
    }
    fill(socket, incoming)?;
    let count = incoming.remaining().min(most);
    let mut maker = Maker::new(Output::Bytes);
    let mut filled = 0;
    while filled < count {
        // A row has all that the kernel has joined: only `recv_many(gro=True)` takes that apart.
        let next = if in_rows { incoming.peek_joined() } else { incoming.peek() };
        let Some(next) = next else { break };
        let address = match maker.address(py, incoming) {
            Ok(address) => address,
            // There is no memory for it, and the datagram is in its row already.
            Err(_) if in_rows => none(py),
            Err(error) if filled == 0 => return Err(error),
            Err(_) => break,
        };
        let next_size = next.bytes.len().min(rows.length);
        let truncated = next.truncated || next_size < next.bytes.len();
        if !in_rows {
            // SAFETY: the row has that many bytes, and the scratch area lies elsewhere.
            unsafe {
                rows.start.wrapping_offset(rows.stride * filled as isize).copy_from(next.bytes.as_ptr(), next_size);
            }
        }
        match batch.push(next_size, truncated, next.info) {
            Ok(()) => {}
            // Nor is there for what was said about it.
            Err(_) if in_rows => {
                let joined = Info { segment_size: next.info.segment_size, ..Info::default() };
                batch.push(next_size, truncated, &joined)?;
            }
            Err(error) if filled == 0 => return Err(error),
            Err(_) => break,
        }
        set(addresses, filled, address);
        if in_rows {
            incoming.consume_joined();
        } else {
            incoming.consume();
        }
        filled += 1;
    }
    Ok((filled, incoming.remaining()))
}

/// The rows of an exported buffer.
struct Rows {
    view: Vec<ffi::Py_buffer>,
    start: *mut u8,
    stride: isize,
    length: usize,
    count: usize,
}

impl Rows {
    fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let mut rows = Self { view: empty_view()?, start: core::ptr::null_mut(), stride: 0, length: 0, count: 0 };
        let flags = ffi::PyBUF_WRITABLE | ffi::PyBUF_STRIDES;
        // SAFETY: the view is a buffer to fill in, which stays where it is until it is released. A view with strides
        // has as many numbers in shape and strides as it has dimensions.
        unsafe {
            if ffi::PyObject_GetBuffer(object.as_ptr(), rows.view.as_mut_ptr(), flags) != 0 {
                let error = PyErr::fetch(py);
                rows.view[0].obj = core::ptr::null_mut();
                let name = object.get_type().name()?;
                let refused = |kind: fn(core::fmt::Arguments<'_>) -> PyErr| {
                    kind(format_args!(
                        "recv_many_into() needs a writable buffer with two dimensions, not {name}: {error}"
                    ))
                };
                return Err(if error.is_instance_of::<PyBufferError>(py) || error.is_instance_of::<PyTypeError>(py) {
                    refused(errors::kind)
                } else if error.is_instance_of::<PyValueError>(py) {
                    refused(errors::value)
                } else {
                    error
                });
            }
            let view = &rows.view[0];
            if view.ndim != 2 {
                let dimensions = view.ndim;
                return Err(errors::value(format_args!(
                    "recv_many_into() needs a buffer with two dimensions, this one has {dimensions}"
                )));
            }
            let (count, columns) = (*view.shape, *view.shape.add(1));
            let (stride, step) = (*view.strides, *view.strides.add(1));
            if step != view.itemsize && columns > 1 {
                return Err(errors::buffer(format_args!("recv_many_into() needs rows that are contiguous")));
            }
            if count < 1 || columns < 1 {
                return Err(errors::value(format_args!("recv_many_into() has no room in {count} rows of {columns}")));
            }
            let length = (columns * view.itemsize) as usize;
            if count > 1 && stride.unsigned_abs() < length {
                return Err(errors::buffer(format_args!("recv_many_into() needs rows that do not overlap")));
            }
            (rows.start, rows.stride, rows.length, rows.count) = (view.buf.cast(), stride, length, count as usize);
        }
        Ok(rows)
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        // SAFETY: the buffer is as `PyObject_GetBuffer` left it; one that was refused has no object, and is left alone.
        unsafe { ffi::PyBuffer_Release(self.view.as_mut_ptr()) };
    }
}

//! What outlives a call: scratch areas that the next one uses again, and datagrams that were received and not
//! delivered.

use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::shelf::Shelf;
use crate::python::call::int;
use crate::python::errors;
use crate::udp::layout::Layout;
use crate::udp::linux::{Incoming, Kernel, Outgoing, cookie, enable};
use crate::udp::{Counters, Options};

/// Scratch areas that are kept, and the most bytes of one that is.
const KEPT: usize = 4;
const KEPT_BYTES: usize = 8 << 20;
/// Sockets whose datagrams are kept until somebody asks for them. One that was closed meanwhile never does.
const LEFTOVER_SOCKETS: usize = 64;
/// Sockets that are remembered for having refused joined datagrams.
const REMEMBERED: usize = 256;

/// What the next call can use again.
type Idle<T> = Mutex<Shelf<T, KEPT>>;

static IDLE: Idle<Scratch> = Mutex::new(Shelf::new());
/// Those without an area, for calls that bring a place for datagrams to arrive at.
static IDLE_HEADERS: Idle<Scratch> = Mutex::new(Shelf::new());
static IDLE_SENDERS: Idle<Outgoing<Kernel>> = Mutex::new(Shelf::new());
/// What calls have left for the next one on their socket, by its cookie.
static LEFTOVERS: Mutex<Shelf<(u64, Left), LEFTOVER_SOCKETS>> = Mutex::new(Shelf::new());
/// Whether there are any: only then does a call ask its socket for the cookie.
static ANY_LEFTOVERS: AtomicBool = AtomicBool::new(false);
/// The cookies of sockets that have refused joined datagrams.
static REFUSED: Mutex<Shelf<u64, REMEMBERED>> = Mutex::new(Shelf::new());
static ANY_REFUSED: AtomicBool = AtomicBool::new(false);

/// Asks a socket for what is wanted; returns what of that it will tell.
pub(super) fn ask(socket: RawFd, wanted: Options) -> io::Result<Options> {
    enable(&Kernel, socket, wanted)
}

/// Nothing is done under a lock that could panic half-way, or run Python code.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A scratch area and what is in it, at a place of its own: it goes from hand to hand.
pub(super) struct Scratch(Box<[Incoming<Kernel>; 1]>);

impl Scratch {
    /// `None` when there is no memory for it.
    fn new(layout: Layout) -> Option<Self> {
        let mut place = Vec::new();
        place.try_reserve_exact(1).ok()?;
        place.push(Incoming::try_new(Kernel, layout)?);
        place.try_into().ok().map(Self)
    }
}

impl Deref for Scratch {
    type Target = Incoming<Kernel>;

    fn deref(&self) -> &Incoming<Kernel> {
        &self.0[0]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut Incoming<Kernel> {
        &mut self.0[0]
    }
}

/// What a call has left.
enum Left {
    /// Datagrams that no packet could be made for, and the error that came behind them, if one did.
    Area(Scratch),
    /// The number of an error that came behind datagrams whose area is gone.
    Error(i32),
}

/// A scratch area for the duration of a call on a socket.
pub(super) struct Lease {
    /// `None` only while it is dropped.
    incoming: Option<Scratch>,
    socket: RawFd,
    kind: Kind,
}

/// Where a scratch area goes when the call is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It has an area of its own, and the next call can have what is left in it.
    Area,
    /// Datagrams arrive in memory that is only there during the call.
    Borrowing,
}

impl Lease {
    /// The area with what an earlier call on this socket has left, one that nobody uses, or a new one.
    pub(super) fn new(socket: RawFd, layout: Layout) -> PyResult<Self> {
        let idle = || take_idle(&IDLE, |incoming| incoming.layout() == layout);
        Self::with_leftovers(socket, Kind::Area, || idle().map_or_else(|| new_scratch(layout), Ok))
    }

    /// The area with what an earlier call on this socket has left, or headers for `slots` datagrams without an area:
    /// what arrives is gone when the lease ends. Says whether it is those.
    pub(super) fn borrowing(socket: RawFd, slots: usize) -> PyResult<(Self, bool)> {
        let idle = || take_idle(&IDLE_HEADERS, |incoming| incoming.slots() == slots);
        let layout = Layout { most: slots, size: 0, joined: false };
        let lease = Self::with_leftovers(socket, Kind::Borrowing, || idle().map_or_else(|| new_scratch(layout), Ok))?;
        let borrows = lease.kind == Kind::Borrowing;
        Ok((lease, borrows))
    }

    /// The area that an earlier call on this socket has left, or another one, which begins with the error that was
    /// left.
    fn with_leftovers(socket: RawFd, kind: Kind, other: impl FnOnce() -> PyResult<Scratch>) -> PyResult<Self> {
        let error = match take_leftovers(socket) {
            Some(Left::Area(left)) => return Ok(Self { incoming: Some(left), socket, kind: Kind::Area }),
            Some(Left::Error(error)) => Some(error),
            None => None,
        };
        match (other(), error) {
            (Ok(mut incoming), error) => {
                if let Some(error) = error {
                    incoming.defer(io::Error::from_raw_os_error(error));
                }
                Ok(Self { incoming: Some(incoming), socket, kind })
            }
            (Err(no_memory), error) => {
                if let Some(error) = error {
                    put_leftovers(socket, Left::Error(error));
                }
                Err(no_memory)
            }
        }
    }

    pub(super) fn incoming(&mut self) -> &mut Incoming<Kernel> {
        self.incoming.as_mut().expect("it is there until the lease ends")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(mut incoming) = self.incoming.take() else { return };
        RECEIVED.add(incoming.take_counters());
        match self.kind {
            Kind::Borrowing => {
                if let Some(error) = incoming.take_deferred().and_then(|error| error.raw_os_error()) {
                    put_leftovers(self.socket, Left::Error(error));
                }
                if !incoming.has_leftovers() {
                    keep(&IDLE_HEADERS, incoming);
                }
            }
            Kind::Area if incoming.has_leftovers() => put_leftovers(self.socket, Left::Area(incoming)),
            Kind::Area if incoming.bytes() <= KEPT_BYTES => keep(&IDLE, incoming),
            Kind::Area => {}
        }
    }
}

fn take_idle(idle: &Idle<Scratch>, fits: impl Fn(&Incoming<Kernel>) -> bool) -> Option<Scratch> {
    lock(idle).take(|scratch| fits(scratch))
}

/// Keeps a scratch area for the next call, instead of the one kept longest.
fn keep(idle: &Idle<Scratch>, incoming: Scratch) {
    let oldest = lock(idle).put(incoming);
    drop(oldest);
}

/// A new scratch area.
pub(super) fn new_scratch(layout: Layout) -> PyResult<Scratch> {
    Scratch::new(layout).ok_or_else(|| {
        errors::memory(format_args!("no memory to receive {} datagrams of {} bytes", layout.most, layout.size))
    })
}

/// Keeps something for the next call on a socket. One that was closed meanwhile has nobody to deliver to.
fn put_leftovers(socket: RawFd, left: Left) {
    if let Ok(cookie) = cookie(socket) {
        let mut leftovers = lock(&LEFTOVERS);
        let oldest = leftovers.put((cookie, left));
        ANY_LEFTOVERS.store(true, Ordering::Relaxed);
        drop(leftovers);
        drop(oldest);
    }
}

#[inline]
fn take_leftovers(socket: RawFd) -> Option<Left> {
    if !ANY_LEFTOVERS.load(Ordering::Relaxed) {
        return None;
    }
    let cookie = cookie(socket).ok()?;
    let mut leftovers = lock(&LEFTOVERS);
    let (_, left) = leftovers.take(|(of, _)| *of == cookie)?;
    ANY_LEFTOVERS.store(!leftovers.is_empty(), Ordering::Relaxed);
    Some(left)
}

/// A sender for the duration of a call.
pub(super) fn take_sender() -> Outgoing<Kernel> {
    let idle = lock(&IDLE_SENDERS).take(|_| true);
    idle.unwrap_or_else(|| Outgoing::new(Kernel))
}

/// Gives a sender back. What it learned about the socket is remembered.
pub(super) fn give_sender(mut sender: Outgoing<Kernel>, socket: RawFd) {
    SENT.add(sender.take_counters());
    if sender.take_refusal()
        && let Ok(cookie) = cookie(socket)
    {
        lock(&REFUSED).put(cookie);
        ANY_REFUSED.store(true, Ordering::Relaxed);
    }
    let oldest = lock(&IDLE_SENDERS).put(sender);
    drop(oldest);
}

/// Whether this socket has refused joined datagrams before.
#[inline]
pub(super) fn has_refused(socket: RawFd) -> bool {
    ANY_REFUSED.load(Ordering::Relaxed) && cookie(socket).is_ok_and(|cookie| lock(&REFUSED).holds(|of| *of == cookie))
}

/// Sums over all calls of the process.
pub(super) struct Sums {
    calls: AtomicU64,
    datagrams: AtomicU64,
    joined: AtomicU64,
    refused: AtomicU64,
}

pub(super) static RECEIVED: Sums = Sums::new();
static SENT: Sums = Sums::new();

impl Sums {
    const fn new() -> Self {
        Self {
            calls: AtomicU64::new(0),
            datagrams: AtomicU64::new(0),
            joined: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// For threads that hold the interpreter's lock, one of which at a time is here.
    pub(super) fn add(&self, counters: Counters) {
        let add = |sum: &AtomicU64, more| sum.store(sum.load(Ordering::Relaxed) + more, Ordering::Relaxed);
        add(&self.calls, counters.calls);
        add(&self.datagrams, counters.datagrams);
        add(&self.joined, counters.joined);
        add(&self.refused, counters.refused);
    }
}

/// Return what all calls of this process have done so far, as a dictionary of numbers.
///
/// 'receive_calls' and 'send_calls' are system calls, 'received' and 'sent' datagrams; 'received_joined' and
/// 'sent_joined' say how many of them the kernel has joined or cut (gro, gso), and 'send_refused' how many calls with
/// joined datagrams a kernel or a network card has refused, so that they went one by one.
///
/// >>> import pktalloc
/// >>> counters = pktalloc.datagram_counters()
/// >>> counters['received'] >= counters['received_joined']
/// True
#[pyfunction]
pub(super) fn datagram_counters(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    // SAFETY: the thread is attached, and what is made is a dictionary. (PyO3's constructor panics when there is no
    // memory.)
    let counters = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyDict_New())?.cast_into_unchecked::<PyDict>() };
    for (name, sum) in [
        ("receive_calls", &RECEIVED.calls),
        ("received", &RECEIVED.datagrams),
        ("received_joined", &RECEIVED.joined),
        ("send_calls", &SENT.calls),
        ("sent", &SENT.datagrams),
        ("sent_joined", &SENT.joined),
        ("send_refused", &SENT.refused),
    ] {
        counters.set_item(errors::text(py, format_args!("{name}"))?, int(py, sum.load(Ordering::Relaxed))?)?;
    }
    Ok(counters)
}

//! Sockets that Python code made: waiting, signals and errors as the `socket` module has them.

use core::time::Duration;
use std::io;
use std::os::fd::RawFd;
use std::time::Instant;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;

use crate::python::errors;
use crate::udp::linux::{Calls, Kernel, family_tells_length};

/// A socket during a call.
pub(super) struct Socket<'a, 'py> {
    object: Borrowed<'a, 'py, PyAny>,
    pub(super) number: RawFd,
    /// `SOCK_DGRAM`, `SOCK_RAW`, …
    pub(super) kind: i32,
    /// Whether a plain receive call says how long a datagram was that did not fit.
    pub(super) tells_length: bool,
    /// When waiting ends, once it has begun.
    deadline: Option<Instant>,
}

/// What to wait for.
#[derive(Clone, Copy)]
pub(super) enum For {
    Datagrams,
    /// `stalled` says that there was none although the socket had said so: a full Unix peer cannot be waited for, so
    /// that it is asked again in a while.
    Room {
        stalled: bool,
    },
}

/// How long a full Unix peer is left alone.
const RETRY_AFTER: Duration = Duration::from_millis(1);

/// How a wait ended without an exception.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// Something can be done.
    Ready,
    /// Signal handlers have run, or there may be something to do: try again.
    Interrupted,
    /// The time is over; or it never began.
    TimedOut,
    NonBlocking,
}

/// The class of the `socket` module's C part, and what it has to say about a socket. `socket.socket` is made of it.
struct Class {
    class: Py<PyAny>,
    fileno: Py<PyAny>,
    kind: Py<PyAny>,
    family: Py<PyAny>,
    timeout: Py<PyAny>,
}

impl Class {
    fn get(py: Python<'_>) -> PyResult<&'static Self> {
        static CLASS: PyOnceLock<Class> = PyOnceLock::new();
        CLASS.get_or_try_init(py, || {
            let class = py.import(intern!(py, "_socket"))?.getattr(intern!(py, "socket"))?;
            let attribute = |name: &Bound<'_, PyString>| Ok::<_, PyErr>(class.getattr(name)?.unbind());
            let (fileno, kind) = (attribute(intern!(py, "fileno"))?, attribute(intern!(py, "type"))?);
            let (family, timeout) = (attribute(intern!(py, "family"))?, attribute(intern!(py, "timeout"))?);
            Ok(Self { class: class.unbind(), fileno, kind, family, timeout })
        })
    }
}

/// What a descriptor of a class says about one of its objects, whatever subclasses have under the same name.
fn attribute<'py>(descriptor: &Bound<'py, PyAny>, object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the thread is attached; the function is the descriptor's own, and is called as attribute look-up calls
    // it.
    unsafe {
        match (*ffi::Py_TYPE(descriptor.as_ptr())).tp_descr_get {
            Some(get) => {
                let found = get(descriptor.as_ptr(), object.as_ptr(), ffi::Py_TYPE(object.as_ptr()).cast());
                Bound::from_owned_ptr_or_err(descriptor.py(), found)
            }
            None => Ok(descriptor.clone()),
        }
    }
}

/// A number that C has as an `int`.
fn small(number: &Bound<'_, PyAny>) -> PyResult<i32> {
    // SAFETY: the thread is attached.
    let value = unsafe { ffi::PyLong_AsLong(number.as_ptr()) };
    match value {
        -1 => PyErr::take(number.py()).map_or(Ok(-1), Err),
        value => Ok(value as i32),
    }
}

impl<'a, 'py> Socket<'a, 'py> {
    /// Reads the descriptor and the kind of a `socket.socket`, as its own calls know them: without a system call.
    pub(super) fn of(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let py = object.py();
        let class = Class::get(py)?;
        if !object.is_instance(class.class.bind(py))? {
            let name = object.get_type().name()?;
            return Err(errors::kind(format_args!("expected a socket.socket, got {name}")));
        }
        // SAFETY: the thread is attached, and the object is a socket.
        let number = unsafe { ffi::PyObject_CallOneArg(class.fileno.as_ptr(), object.as_ptr()) };
        // SAFETY: it is a new object, or the call has failed.
        let number: RawFd = small(&unsafe { Bound::from_owned_ptr_or_err(py, number) }?)?;
        if number < 0 {
            return Err(os_error(py, &io::Error::from_raw_os_error(libc::EBADF)));
        }
        let kind = small(&attribute(class.kind.bind(py), &object)?)?;
        if kind == libc::SOCK_STREAM {
            let text = object.repr()?;
            return Err(errors::value(format_args!("a datagram socket was expected, got {text}")));
        }
        let family = small(&attribute(class.family.bind(py), &object)?)?;
        Ok(Self { object, number, kind, tells_length: family_tells_length(family), deadline: None })
    }

    pub(super) fn py(&self) -> Python<'py> {
        self.object.py()
    }

    /// How long its calls wait; `None` is for ever. Asked only when there is something to wait for.
    fn timeout(&self) -> PyResult<Option<Duration>> {
        let py = self.object.py();
        let timeout = attribute(Class::get(py)?.timeout.bind(py), &self.object)?;
        // The `socket` module refuses negative ones; what is too long to count is for ever.
        Ok(if timeout.is_none() { None } else { Duration::try_from_secs_f64(timeout.extract()?).ok() })
    }

    /// Whether a call may block for as long as it takes.
    pub(super) fn waits_for_ever(&self) -> PyResult<bool> {
        Ok(self.timeout()?.is_none())
    }

    /// Waits as the socket says. What signal handlers raise is an error.
    pub(super) fn wait(&mut self, what: For) -> PyResult<Waited> {
        let py = self.object.py();
        let left = match self.timeout()? {
            None => None,
            Some(Duration::ZERO) => return Ok(Waited::NonBlocking),
            Some(timeout) => {
                let now = Instant::now();
                let deadline = match self.deadline {
                    Some(deadline) => deadline,
                    None => now + timeout.min(Duration::from_secs(u32::MAX.into())),
                };
                self.deadline = Some(deadline);
                Some(deadline.saturating_duration_since(now))
            }
        };
        if left == Some(Duration::ZERO) {
            return Ok(Waited::TimedOut);
        }
        let number = self.number;
        let events = match what {
            For::Datagrams => libc::POLLIN,
            For::Room { stalled } => {
                if stalled {
                    py.detach(|| std::thread::sleep(RETRY_AFTER));
                }
                libc::POLLOUT
            }
        };
        match py.detach(|| Kernel.poll(number, events, left)) {
            Ok(true) => Ok(Waited::Ready),
            Ok(false) => Ok(Waited::TimedOut),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                py.check_signals()?;
                Ok(Waited::Interrupted)
            }
            Err(error) => Err(os_error(py, &error)),
        }
    }
}

/// The exception of a socket whose time is over.
#[cold]
pub(super) fn timed_out() -> PyErr {
    errors::timeout(format_args!("timed out"))
}

/// The exception of a system call's error, with its number: `BlockingIOError`, `ConnectionRefusedError`, …
#[cold]
pub(super) fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    let number = match error.raw_os_error() {
        Some(number) => number,
        None if error.kind() == io::ErrorKind::WouldBlock => libc::EAGAIN,
        None if error.kind() == io::ErrorKind::OutOfMemory => return errors::no_memory(),
        None => return io::Error::new(error.kind(), error.to_string()).into(),
    };
    // SAFETY: errno is this thread's, and the thread is attached.
    unsafe {
        *libc::__errno_location() = number;
        ffi::PyErr_SetFromErrno(ffi::PyExc_OSError);
    }
    PyErr::fetch(py)
}

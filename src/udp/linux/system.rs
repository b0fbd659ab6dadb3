//! The system calls, and the interface behind which tests put failures.

use core::ptr;
use core::time::Duration;
use std::io;
use std::os::fd::RawFd;

/// What the datagrams' code asks of the system.
pub(crate) trait Calls {
    /// `recvmmsg`, or `recvmsg` for one: fills in as many of `headers` as datagrams are there; returns how many.
    ///
    /// # Safety
    /// Every pointer in `headers` is to memory of the length beside it, that nobody else uses.
    unsafe fn receive(&self, socket: RawFd, headers: *mut [libc::mmsghdr], flags: libc::c_int) -> io::Result<usize>;

    /// `recvfrom`: fills in one header, without what the system has to say about the datagram.
    ///
    /// # Safety
    /// As for [`receive`](Self::receive).
    unsafe fn receive_plainly(&self, socket: RawFd, header: *mut libc::mmsghdr, flags: libc::c_int) -> io::Result<()>;

    /// `sendmmsg`, or `sendmsg` for one: returns how many went.
    ///
    /// # Safety
    /// Every pointer in `headers` is to initialised memory of the length beside it.
    unsafe fn send(&self, socket: RawFd, headers: *mut [libc::mmsghdr], flags: libc::c_int) -> io::Result<usize>;

    /// Waits until the socket has one of `events`, or an error; false when `timeout` has passed.
    fn poll(&self, socket: RawFd, events: libc::c_short, timeout: Option<Duration>) -> io::Result<bool>;

    /// Whether the socket is in non-blocking mode.
    fn is_nonblocking(&self, socket: RawFd) -> io::Result<bool>;

    /// The socket's own timeout, such as `SO_RCVTIMEO`.
    fn timeout(&self, socket: RawFd, option: libc::c_int) -> io::Result<Option<Duration>>;

    /// Sets an option that is a number.
    fn set_option(&self, socket: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()>;

    /// An option that is a number.
    fn option(&self, socket: RawFd, level: libc::c_int, option: libc::c_int) -> io::Result<libc::c_int>;
}

/// The system itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kernel;

/// What a call that says -1 on failure returned.
fn checked(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// How many bytes a call has moved that says -1 on failure.
fn transferred(returned: libc::ssize_t) -> io::Result<libc::c_uint> {
    // No datagram is as long as that.
    libc::c_uint::try_from(returned).map_err(|_| io::Error::last_os_error())
}

/// The only one of the headers.
fn single(headers: *mut [libc::mmsghdr]) -> Option<*mut libc::mmsghdr> {
    (headers.len() == 1).then_some(headers.cast())
}

impl Calls for Kernel {
    #[inline]
    unsafe fn receive(&self, socket: RawFd, headers: *mut [libc::mmsghdr], flags: libc::c_int) -> io::Result<usize> {
        if let Some(single) = single(headers) {
            // For one datagram this costs less.
            // SAFETY: the caller's promise; the header is one of its.
            return unsafe {
                let length = transferred(libc::recvmsg(socket, &raw mut (*single).msg_hdr, flags))?;
                (*single).msg_len = length;
                Ok(1)
            };
        }
        // The libraries do not agree on the type of flags.
        #[allow(clippy::unnecessary_cast, reason = "unsigned in musl")]
        // SAFETY: the caller's promise.
        let received = unsafe {
            libc::recvmmsg(socket, headers.cast(), headers.len() as libc::c_uint, flags as _, ptr::null_mut())
        };
        checked(received).map(|received| received as usize)
    }

    #[inline]
    unsafe fn receive_plainly(&self, socket: RawFd, header: *mut libc::mmsghdr, flags: libc::c_int) -> io::Result<()> {
        // With this flag the kernel says how long the datagram was, not how much of it there was room for.
        let flags = flags | libc::MSG_TRUNC;
        // SAFETY: the caller's promise.
        unsafe {
            let message = &mut (*header).msg_hdr;
            let room = *message.msg_iov;
            let (name, length) = (message.msg_name.cast(), &raw mut message.msg_namelen);
            let whole = transferred(libc::recvfrom(socket, room.iov_base, room.iov_len, flags, name, length))?;
            let fits = whole as usize <= room.iov_len;
            message.msg_flags = if fits { 0 } else { libc::MSG_TRUNC };
            message.msg_controllen = 0;
            (*header).msg_len = if fits { whole } else { room.iov_len as libc::c_uint };
        }
        Ok(())
    }

    #[inline]
    unsafe fn send(&self, socket: RawFd, headers: *mut [libc::mmsghdr], flags: libc::c_int) -> io::Result<usize> {
        if let Some(single) = single(headers) {
            // SAFETY: as in `receive`.
            return unsafe {
                let length = transferred(libc::sendmsg(socket, &raw const (*single).msg_hdr, flags))?;
                (*single).msg_len = length;
                Ok(1)
            };
        }
        #[allow(clippy::unnecessary_cast, reason = "unsigned in musl")]
        // SAFETY: the caller's promise.
        let sent = unsafe { libc::sendmmsg(socket, headers.cast(), headers.len() as libc::c_uint, flags as _) };
        checked(sent).map(|sent| sent as usize)
    }

    fn poll(&self, socket: RawFd, events: libc::c_short, timeout: Option<Duration>) -> io::Result<bool> {
        let mut entry = libc::pollfd { fd: socket, events, revents: 0 };
        let milliseconds = match timeout {
            None => -1,
            // Rounded up, so that a wait never ends early.
            Some(timeout) => timeout.as_nanos().div_ceil(1_000_000).try_into().unwrap_or(libc::c_int::MAX),
        };
        // SAFETY: one entry, which outlives the call.
        let ready = checked(unsafe { libc::poll(&raw mut entry, 1, milliseconds) })?;
        if entry.revents & libc::POLLNVAL != 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        Ok(ready > 0)
    }

    fn is_nonblocking(&self, socket: RawFd) -> io::Result<bool> {
        // SAFETY: asks only.
        checked(unsafe { libc::fcntl(socket, libc::F_GETFL) }).map(|flags| flags & libc::O_NONBLOCK != 0)
    }

    fn timeout(&self, socket: RawFd, option: libc::c_int) -> io::Result<Option<Duration>> {
        let mut time = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let mut length = size_of::<libc::timeval>() as libc::socklen_t;
        // SAFETY: the pointers are to variables of these types.
        checked(unsafe {
            libc::getsockopt(socket, libc::SOL_SOCKET, option, (&raw mut time).cast(), &raw mut length)
        })?;
        let timeout = Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64);
        Ok((!timeout.is_zero()).then_some(timeout))
    }

    fn set_option(&self, socket: RawFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the pointer is to a number of that length.
        checked(unsafe { libc::setsockopt(socket, level, option, (&raw const value).cast(), length) }).map(drop)
    }

    fn option(&self, socket: RawFd, level: libc::c_int, option: libc::c_int) -> io::Result<libc::c_int> {
        let mut value = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the pointers are to variables of these types.
        checked(unsafe { libc::getsockopt(socket, level, option, (&raw mut value).cast(), &raw mut length) })?;
        Ok(value)
    }
}

/// The number that the kernel gave this socket and will not give another one, whatever becomes of its descriptor.
#[cfg(feature = "python")]
pub(crate) fn cookie(socket: RawFd) -> io::Result<u64> {
    let mut value = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to variables of these types.
    checked(unsafe {
        libc::getsockopt(socket, libc::SOL_SOCKET, libc::SO_COOKIE, (&raw mut value).cast(), &raw mut length)
    })?;
    Ok(value)
}

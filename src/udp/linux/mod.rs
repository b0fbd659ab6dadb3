//! Datagrams on Linux: many for each system call.
//!
//! - `control`, `sockaddr`: the system's bytes, as arithmetic;
//! - `system`: the system calls;
//! - `receive`, `send`: what they are called with.

mod control;
mod options;
mod receive;
mod send;
mod sockaddr;
mod system;
#[cfg(test)]
mod tests;

pub(crate) use options::enable;
pub(crate) use receive::{Incoming, Layout};
pub(crate) use send::{Item, NOBODY, Outgoing};
pub(crate) use sockaddr::{RawAddress, encode};
pub(crate) use system::{Calls, Kernel};

use core::time::Duration;
use std::io;
use std::os::fd::RawFd;

/// Waits until there is something to receive, as long as the socket's own settings say: not at all in non-blocking mode, up
/// to its timeout, or for ever. Fails with `WouldBlock` when there is nothing.
pub(crate) fn wait_to_receive(calls: &impl Calls, socket: RawFd) -> io::Result<()> {
    wait(calls, socket, libc::POLLIN, libc::SO_RCVTIMEO)
}

/// The same for room to send.
pub(crate) fn wait_to_send(calls: &impl Calls, socket: RawFd) -> io::Result<()> {
    wait(calls, socket, libc::POLLOUT, libc::SO_SNDTIMEO)
}

fn wait(calls: &impl Calls, socket: RawFd, events: libc::c_short, timeout: libc::c_int) -> io::Result<()> {
    if calls.is_nonblocking(socket)? {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let timeout: Option<Duration> = calls.timeout(socket, timeout)?;
    if calls.poll(socket, events, timeout)? { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

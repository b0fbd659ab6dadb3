//! Datagrams on Linux: many for each system call.
//!
//! - `control`, `sockaddr`: the system's bytes, as arithmetic;
//! - `system`: the system calls;
//! - `receive`, `send`: what they are called with.

#[cfg(any(test, fuzzing))]
mod arrival;
mod control;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod options;
mod receive;
mod send;
mod sockaddr;
mod system;
#[cfg(test)]
mod tests;

#[cfg(feature = "python")]
pub(crate) use options::family_tells_length;
pub(crate) use options::{enable, plain_calls_tell_all, tells_length};
pub(crate) use receive::Incoming;
#[cfg(feature = "python")]
pub(crate) use receive::MOST;
pub(crate) use send::Outgoing;
#[cfg(any(test, fuzzing, feature = "python"))]
pub(crate) use sockaddr::decode;
pub(crate) use sockaddr::{RawAddress, encode};
#[cfg(feature = "python")]
pub(crate) use system::cookie;
pub(crate) use system::{Calls, Kernel};

use core::time::Duration;
use std::io;
use std::os::fd::RawFd;

/// Waits until there is something to receive, as long as the socket's own settings say: not at all in non-blocking
/// mode, up to its timeout, or for ever. Fails with `WouldBlock` when there is nothing.
pub(crate) fn wait_to_receive(calls: &impl Calls, socket: RawFd) -> io::Result<()> {
    if calls.is_nonblocking(socket)? {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    let timeout: Option<Duration> = calls.timeout(socket, libc::SO_RCVTIMEO)?;
    if calls.poll(socket, libc::POLLIN, timeout)? { Ok(()) } else { Err(io::ErrorKind::WouldBlock.into()) }
}

//! What a socket is asked to tell about each datagram.

use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::os::fd::RawFd;

use super::control::TIMESTAMPNS_NEW;
use super::system::Calls;
use crate::udp::Options;

/// Whether any socket of this process was asked to tell more about its datagrams than who sent them. A plain call would
/// not pass that on.
static ANY_TOLD: AtomicBool = AtomicBool::new(false);

/// Whether plain calls bring all there is to know about a datagram.
#[inline]
pub(crate) fn plain_calls_tell_all() -> bool {
    !ANY_TOLD.load(Ordering::Relaxed)
}

/// Whether a plain call on a socket of this family says how long a datagram was that did not fit. Others, such as those
/// of CAN, return what there was room for, or refuse the flag that asks for more.
#[inline]
pub(crate) fn family_tells_length(family: libc::c_int) -> bool {
    matches!(family, libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX | libc::AF_PACKET | libc::AF_NETLINK)
}

/// The same for a socket; false where it is none.
pub(crate) fn tells_length(calls: &impl Calls, socket: RawFd) -> bool {
    calls.option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN).is_ok_and(family_tells_length)
}

/// Asks `socket` for `wanted`; returns what it will tell.
pub(crate) fn enable(calls: &impl Calls, socket: RawFd, wanted: Options) -> io::Result<Options> {
    ANY_TOLD.store(true, Ordering::Relaxed);
    let set = |level, option| set(calls, socket, level, option);
    let (mut v4, mut v6) = (false, false);
    if wanted.gro || wanted.destination || wanted.traffic_class {
        let family = calls.option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)?;
        (v4, v6) = (family == libc::AF_INET, family == libc::AF_INET6);
    }
    let mut enabled = Options::default();
    if wanted.time {
        enabled.time = set(libc::SOL_SOCKET, TIMESTAMPNS_NEW)? || set(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?;
    }
    if wanted.dropped {
        enabled.dropped = set(libc::SOL_SOCKET, libc::SO_RXQ_OVFL)?;
    }
    if wanted.gro {
        enabled.gro = (v4 || v6) && set(libc::SOL_UDP, libc::UDP_GRO)?;
    }
    if wanted.destination {
        enabled.destination =
            v4 && set(libc::IPPROTO_IP, libc::IP_PKTINFO)? || v6 && set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)?;
    }
    if wanted.traffic_class {
        enabled.traffic_class =
            v4 && set(libc::IPPROTO_IP, libc::IP_RECVTOS)? || v6 && set(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS)?;
        if v6 {
            // What comes to it over IPv4.
            set(libc::IPPROTO_IP, libc::IP_RECVTOS)?;
        }
    }
    Ok(enabled)
}

/// Switches an option on; false where the socket or the kernel does not have it.
fn set(calls: &impl Calls, socket: RawFd, level: libc::c_int, option: libc::c_int) -> io::Result<bool> {
    match calls.set_option(socket, level, option, 1) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP | libc::EINVAL) => Ok(false),
            _ => Err(error),
        },
    }
}

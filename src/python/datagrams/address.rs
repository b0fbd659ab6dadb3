//! Addresses as the `socket` module has them, from and to the system's bytes.
//!
//! Programs talk to few peers at a time: the tuples of the last ones are kept, so that the next datagram from the same
//! peer costs no new one, and a reply to it is not parsed.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyOverflowError;
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::python::call::int;
use crate::python::errors;
use crate::python::sequences::tuple_of;
use crate::udp::linux::{RawAddress, decode, encode};
use crate::udp::{Address, LinkAddress};

/// Sets of peers that are kept, each of the two last ones that belong there.
const SETS: usize = 512;
/// Places for objects, each of which says in which set its peer is.
const OBJECTS: usize = 1024;
/// Longer addresses than those of IPv6 are not kept.
const KEPT_BYTES: usize = 28;

/// An address, and what stands for it in Python.
struct Peer {
    length: u8,
    bytes: [u8; KEPT_BYTES],
    object: Py<PyAny>,
}

impl Peer {
    /// `None` when the address is too long to be kept.
    fn new(raw: &[u8], object: Py<PyAny>) -> Option<Self> {
        let mut bytes = [0; KEPT_BYTES];
        bytes.get_mut(..raw.len())?.copy_from_slice(raw);
        Some(Self { length: raw.len() as u8, bytes, object })
    }

    fn raw(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// Where peers are kept: by the system's bytes, and by the tuple that stands for them.
struct Kept {
    peers: [[Option<Peer>; 2]; SETS],
    by_object: [u16; OBJECTS],
}

static KEPT_PEERS: Mutex<Kept> =
    Mutex::new(Kept { peers: [const { [const { None }; 2] }; SETS], by_object: [0; OBJECTS] });

/// No Python code runs under the lock.
fn kept() -> MutexGuard<'static, Kept> {
    KEPT_PEERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number of 16 bits that depends on all bits.
fn mix(mut hash: u64) -> usize {
    hash = (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 48) as usize
}

fn set_of_bytes(raw: &[u8]) -> usize {
    let words = raw.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_ne_bytes(word)
    });
    mix(words.fold(0, |hash: u64, word| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95))) % SETS
}

fn place_of_object(object: &Bound<'_, PyAny>) -> usize {
    mix(object.as_ptr().addr() as u64) % OBJECTS
}

/// What `recvfrom` would return as the address for these bytes of the system's.
pub(super) fn object<'py>(py: Python<'py>, raw: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    if raw.is_empty() {
        return Ok(py.None().into_bound(py));
    }
    let set = set_of_bytes(raw);
    if let Some(peer) = kept().peers[set].iter().flatten().find(|peer| peer.raw() == raw) {
        return Ok(peer.object.bind(py).clone());
    }
    let object = make(py, decode(raw))?;
    if let Some(peer) = Peer::new(raw, object.clone().unbind()) {
        let mut kept = kept();
        kept.by_object[place_of_object(&object)] = set as u16;
        let [newest, other] = &mut kept.peers[set];
        let oldest = core::mem::replace(other, newest.replace(peer));
        drop(kept);
        drop(oldest);
    }
    Ok(object)
}

fn bytes<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: as above.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, object)
    }
}

fn make(py: Python<'_>, address: Address) -> PyResult<Bound<'_, PyAny>> {
    let number = |number: u32| int(py, number.into());
    match address {
        Address::Inet(SocketAddr::V4(address)) => {
            tuple_of(py, [errors::text(py, format_args!("{}", address.ip()))?, number(address.port().into())?])
        }
        Address::Inet(SocketAddr::V6(address)) => {
            let (flow, scope) = (u32::from_be(address.flowinfo()), address.scope_id());
            let host = errors::text(py, format_args!("{}", Version6(*address.ip())))?;
            tuple_of(py, [host, number(address.port().into())?, number(flow)?, number(scope)?])
        }
        Address::Unix(name) if name.first() == Some(&0) => bytes(py, &name),
        // SAFETY: the thread is attached, and the name has that many bytes.
        Address::Unix(name) => unsafe {
            let object = ffi::PyUnicode_DecodeFSDefaultAndSize(name.as_ptr().cast(), name.len() as ffi::Py_ssize_t);
            Bound::from_owned_ptr_or_err(py, object)
        },
        Address::Link(link) => tuple_of(
            py,
            [
                interface_name(py, link.interface)?,
                number(link.protocol.into())?,
                number(link.kind.into())?,
                number(link.hardware.into())?,
                bytes(py, &link.bytes[..usize::from(link.length)])?,
            ],
        ),
        Address::Unnamed => Ok(py.None().into_bound(py)),
        Address::Other(raw) => {
            let family = raw.first_chunk().map_or(0, |family| u16::from_ne_bytes(*family));
            tuple_of(py, [number(family.into())?, bytes(py, raw.get(2..).unwrap_or_default())?])
        }
    }
}

/// Written as the system's own `inet_ntop` writes it: an address that has nothing but a last quarter has that in dots.
pub(super) struct Version6(pub(super) Ipv6Addr);

impl core::fmt::Display for Version6 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.0.segments() {
            [0, 0, 0, 0, 0, 0, high, _] if high != 0 => {
                let [.., a, b, c, d] = self.0.octets();
                write!(f, "::{}", Ipv4Addr::new(a, b, c, d))
            }
            _ => self.0.fmt(f),
        }
    }
}

/// The name of an interface; empty when it has none any more.
fn interface_name(py: Python<'_>, index: u32) -> PyResult<Bound<'_, PyAny>> {
    let mut name = [0 as libc::c_char; libc::IF_NAMESIZE];
    // SAFETY: the room is what the function asks for, and what it writes ends with a zero byte, as the room does
    // before.
    unsafe {
        libc::if_indextoname(index, name.as_mut_ptr());
        Bound::from_owned_ptr_or_err(py, ffi::PyUnicode_DecodeFSDefault(name.as_ptr()))
    }
}

/// The system's bytes for an address as `sendto` takes it, on a socket of this family. May run Python code, and ask a
/// name server.
pub(super) fn raw(address: &Bound<'_, PyAny>, family: i32) -> PyResult<RawAddress> {
    {
        let kept = kept();
        let set = usize::from(kept.by_object[place_of_object(address)]);
        if let Some(peer) = kept.peers[set].iter().flatten().find(|peer| peer.object.as_ptr() == address.as_ptr())
            && peer.raw().first_chunk().is_some_and(|of| i32::from(u16::from_ne_bytes(*of)) == family)
            && let Some(raw) = RawAddress::new(peer.raw())
        {
            return Ok(raw);
        }
    }
    let address = match family {
        libc::AF_INET => inet(address)?,
        libc::AF_INET6 => inet6(address)?,
        libc::AF_UNIX => unix(address)?,
        libc::AF_PACKET => link(address)?,
        _ => return Err(errors::os(format_args!("send_many(): no addresses of family {family} are known"))),
    };
    encode(&address).ok_or_else(|| errors::os(format_args!("AF_UNIX path too long")))
}

fn tuple<'a, 'py>(
    address: &'a Bound<'py, PyAny>,
    family: &str,
    lengths: core::ops::RangeInclusive<usize>,
    form: &str,
) -> PyResult<&'a Bound<'py, PyTuple>> {
    let tuple = address.cast::<PyTuple>().map_err(|_| match address.get_type().name() {
        Ok(name) => errors::kind(format_args!("send_many(): {family} address must be tuple, not {name}")),
        Err(error) => error,
    })?;
    if lengths.contains(&tuple.len()) {
        Ok(tuple)
    } else {
        Err(errors::kind(format_args!("send_many(): {family} address must be {form}")))
    }
}

/// A number in a tuple, from 0 to `most`.
fn number(value: &Bound<'_, PyAny>, name: &str, most: u32) -> PyResult<u32> {
    let range = || errors::overflow(format_args!("send_many(): {name} must be 0-{most}."));
    match value.extract::<i64>() {
        Ok(number) => u32::try_from(number).ok().filter(|&number| number <= most).ok_or_else(range),
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => Err(range()),
        Err(error) => Err(error),
    }
}

fn port(value: &Bound<'_, PyAny>) -> PyResult<u16> {
    // At most 65535.
    number(value, "port", u16::MAX.into()).map(|port| port as u16)
}

/// What the name server says: the first address for a name.
fn resolve<'py>(host: &Bound<'py, PyAny>, family: i32) -> PyResult<Bound<'py, PyAny>> {
    let py = host.py();
    if host.is_none() {
        // That would be this host.
        return Err(errors::kind(format_args!("send_many(): str, bytes or bytearray expected, not NoneType")));
    }
    let arguments = (host, py.None(), family, libc::SOCK_DGRAM);
    py.import(intern!(py, "socket"))?.call_method1(intern!(py, "getaddrinfo"), arguments)?.get_item(0)?.get_item(4)
}

fn text<'a>(host: &'a Bound<'_, PyAny>) -> PyResult<Option<&'a str>> {
    match host.cast::<PyString>() {
        Ok(host) => host.to_str().map(Some),
        Err(_) => Ok(None),
    }
}

fn inet(address: &Bound<'_, PyAny>) -> PyResult<Address> {
    let tuple = tuple(address, "AF_INET", 2..=2, "a pair (host, port)")?;
    let (host, port) = (tuple.get_item(0)?, port(&tuple.get_item(1)?)?);
    let ip = match text(&host)? {
        Some("") => Ipv4Addr::UNSPECIFIED,
        Some("<broadcast>") => Ipv4Addr::BROADCAST,
        written => match written.and_then(|text| text.parse().ok()) {
            Some(ip) => ip,
            None => {
                let found = resolve(&host, libc::AF_INET)?.get_item(0)?;
                text(&found)?.and_then(|text| text.parse().ok()).ok_or_else(unresolved)?
            }
        },
    };
    Ok(Address::Inet(SocketAddr::V4(SocketAddrV4::new(ip, port))))
}

fn inet6(address: &Bound<'_, PyAny>) -> PyResult<Address> {
    let tuple = tuple(address, "AF_INET6", 2..=4, "a tuple (host, port[, flowinfo[, scopeid]])")?;
    let (host, port) = (tuple.get_item(0)?, port(&tuple.get_item(1)?)?);
    let flow = if tuple.len() > 2 { number(&tuple.get_item(2)?, "flowinfo", 0xf_ffff)? } else { 0 };
    let mut scope = if tuple.len() > 3 { number(&tuple.get_item(3)?, "scopeid", u32::MAX)? } else { 0 };
    let ip = match text(&host)? {
        Some("") => Ipv6Addr::UNSPECIFIED,
        written => match written.and_then(|text| text.parse().ok()) {
            Some(ip) => ip,
            None => {
                // A name, or an address with the name of its scope behind it.
                let found = resolve(&host, libc::AF_INET6)?;
                if scope == 0 {
                    scope = found.get_item(3)?.extract()?;
                }
                let ip = found.get_item(0)?;
                let text = text(&ip)?.and_then(|text| text.split('%').next());
                text.and_then(|text| text.parse().ok()).ok_or_else(unresolved)?
            }
        },
    };
    Ok(Address::Inet(SocketAddr::V6(SocketAddrV6::new(ip, port, flow.to_be(), scope))))
}

#[cold]
fn unresolved() -> PyErr {
    errors::os(format_args!("send_many(): the name has no address of this family"))
}

fn unix(address: &Bound<'_, PyAny>) -> PyResult<Address> {
    let py = address.py();
    let name = if address.is_instance_of::<PyString>() {
        py.import(intern!(py, "os"))?.call_method1(intern!(py, "fsencode"), (address,))?
    // SAFETY: the thread is attached.
    } else if unsafe { ffi::PyObject_CheckBuffer(address.as_ptr()) } == 0 {
        // `bytes` would make something of numbers and of what has elements as well.
        let name = address.get_type().name()?;
        return Err(errors::kind(format_args!("send_many(): AF_UNIX address must be str or bytes-like, not {name}")));
    } else {
        py.get_type::<PyBytes>().call1((address,))?
    };
    Ok(Address::Unix(name.cast::<PyBytes>()?.as_bytes().into()))
}

fn link(address: &Bound<'_, PyAny>) -> PyResult<Address> {
    let tuple = tuple(
        address,
        "AF_PACKET",
        2..=5,
        "a tuple of two to five elements (ifname, proto[, pkttype[, hatype[, addr]]])",
    )?;
    let py = address.py();
    let socket = py.import(intern!(py, "socket"))?;
    let mut link = LinkAddress {
        interface: socket.call_method1(intern!(py, "if_nametoindex"), (tuple.get_item(0)?,))?.extract()?,
        protocol: number(&tuple.get_item(1)?, "proto", u16::MAX.into())? as u16,
        ..LinkAddress::default()
    };
    if tuple.len() > 2 {
        link.kind = number(&tuple.get_item(2)?, "pkttype", u8::MAX.into())? as u8;
    }
    if tuple.len() > 3 {
        link.hardware = number(&tuple.get_item(3)?, "hatype", u16::MAX.into())? as u16;
    }
    if tuple.len() > 4 {
        let hardware = py.get_type::<PyBytes>().call1((tuple.get_item(4)?,))?;
        let bytes = hardware.cast::<PyBytes>()?.as_bytes();
        let room = link.bytes.get_mut(..bytes.len());
        let room = room.ok_or_else(|| errors::value(format_args!("hardware address must be 8 bytes or less")))?;
        room.copy_from_slice(bytes);
        link.length = bytes.len() as u8;
    }
    Ok(Address::Link(link))
}

#[cfg(test)]
mod tests {
    use super::Version6;

    #[test]
    fn addresses_are_written_as_the_system_writes_them() {
        for text in ["::", "::1", "fe80::1", "::ffff:1.2.3.4", "::1.2.3.4", "2001:db8::1:0:0:1", "::ffff:0:1.2.3.4"] {
            let written = Version6(text.parse().unwrap()).to_string();
            assert!(written == text || text.starts_with("::ffff:0"), "{written}");
        }
    }
}

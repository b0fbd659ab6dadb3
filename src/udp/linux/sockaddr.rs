//! Addresses as the bytes that the system has for them. No system calls.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::udp::{Address, LinkAddress};

/// Bytes of the longest address.
pub(crate) const ROOM: usize = size_of::<libc::sockaddr_storage>();

/// Bytes in front of the name of a Unix socket.
const UNIX_HEAD: usize = core::mem::offset_of!(libc::sockaddr_un, sun_path);
/// Bytes of the longest name of a Unix socket.
pub(crate) const UNIX_NAME: usize = size_of::<libc::sockaddr_un>() - UNIX_HEAD;

/// An address as the system takes it.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct RawAddress {
    bytes: [u8; ROOM],
    len: u8,
}

impl RawAddress {
    /// The system's bytes; `None` when there are more than it takes.
    pub(crate) fn new(bytes: &[u8]) -> Option<Self> {
        let mut raw = Self { bytes: [0; ROOM], len: u8::try_from(bytes.len()).ok()? };
        raw.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(raw)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// Reads numbers and bytes one after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }
}

/// The address that the system's bytes say. Bytes of another family, or too few, are kept as they are.
pub(crate) fn decode(bytes: &[u8]) -> Address {
    if bytes.is_empty() {
        return Address::Unnamed;
    }
    let mut fields = Fields(bytes);
    let family = fields.take().map_or(0, |family| libc::c_int::from(u16::from_ne_bytes(family)));
    let found = match family {
        libc::AF_INET => inet(&mut fields).map(|address| Address::Inet(SocketAddr::V4(address))),
        libc::AF_INET6 => inet6(&mut fields).map(|address| Address::Inet(SocketAddr::V6(address))),
        libc::AF_UNIX => Some(unix(fields.0)),
        libc::AF_PACKET => link(&mut fields).map(Address::Link),
        _ => None,
    };
    found.unwrap_or_else(|| Address::Other(bytes.into()))
}

fn inet(fields: &mut Fields<'_>) -> Option<SocketAddrV4> {
    let port = u16::from_be_bytes(fields.take()?);
    Some(SocketAddrV4::new(Ipv4Addr::from(fields.take::<4>()?), port))
}

fn inet6(fields: &mut Fields<'_>) -> Option<SocketAddrV6> {
    let port = u16::from_be_bytes(fields.take()?);
    // As the standard library has it: the bytes of the label as one number.
    let flow = u32::from_ne_bytes(fields.take()?);
    let host = Ipv6Addr::from(fields.take::<16>()?);
    Some(SocketAddrV6::new(host, port, flow, u32::from_ne_bytes(fields.take()?)))
}

/// A path ends at its zero byte; an abstract name starts with one.
fn unix(name: &[u8]) -> Address {
    match name {
        [] => Address::Unnamed,
        [0, ..] => Address::Unix(name.into()),
        path => Address::Unix(path.split(|&byte| byte == 0).next().unwrap_or(path).into()),
    }
}

fn link(fields: &mut Fields<'_>) -> Option<LinkAddress> {
    Some(LinkAddress {
        protocol: u16::from_be_bytes(fields.take()?),
        interface: u32::from_ne_bytes(fields.take()?),
        hardware: u16::from_ne_bytes(fields.take()?),
        kind: u8::from_ne_bytes(fields.take()?),
        length: u8::from_ne_bytes(fields.take()?).min(8),
        bytes: fields.take()?,
    })
}

/// The system's bytes of an address; `None` for a Unix name that is too long, or more bytes than an address has.
pub(crate) fn encode(address: &Address) -> Option<RawAddress> {
    let family = |family: libc::c_int| (family as u16).to_ne_bytes();
    match address {
        Address::Inet(SocketAddr::V4(address)) => {
            let port = address.port().to_be_bytes();
            RawAddress::new(&[&family(libc::AF_INET)[..], &port, &address.ip().octets(), &[0; 8]].concat())
        }
        Address::Inet(SocketAddr::V6(address)) => {
            let (port, flow) = (address.port().to_be_bytes(), address.flowinfo().to_ne_bytes());
            let (host, scope) = (address.ip().octets(), address.scope_id().to_ne_bytes());
            RawAddress::new(&[&family(libc::AF_INET6)[..], &port, &flow, &host, &scope].concat())
        }
        // A path that fills the field to its end needs no zero behind it.
        Address::Unix(name) if name.len() > UNIX_NAME => None,
        Address::Unix(name) => {
            let is_path = name.first().is_some_and(|&byte| byte != 0);
            let end: &[u8] = if is_path && name.len() < UNIX_NAME { &[0] } else { &[] };
            RawAddress::new(&[&family(libc::AF_UNIX)[..], name, end].concat())
        }
        Address::Link(link) => RawAddress::new(
            &[
                &family(libc::AF_PACKET)[..],
                &link.protocol.to_be_bytes(),
                &link.interface.to_ne_bytes(),
                &link.hardware.to_ne_bytes(),
                &[link.kind, link.length.min(8)],
                &link.bytes,
            ]
            .concat(),
        ),
        Address::Unnamed => RawAddress::new(&[]),
        Address::Other(bytes) => RawAddress::new(bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back(address: &Address) -> Address {
        decode(encode(address).expect("it fits").bytes())
    }

    #[test]
    fn lengths_are_those_of_the_system() {
        let length = |address: Address| encode(&address).unwrap().bytes().len();
        assert_eq!(length(Address::Inet("1.2.3.4:5".parse().unwrap())), size_of::<libc::sockaddr_in>());
        assert_eq!(length(Address::Inet("[::1]:5".parse().unwrap())), size_of::<libc::sockaddr_in6>());
        assert_eq!(length(Address::Link(LinkAddress::default())), size_of::<libc::sockaddr_ll>());
        assert_eq!(length(Address::Unnamed), 0);
    }

    #[test]
    fn the_scope_of_an_address_stays() {
        let scoped = Address::Inet(SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 7, 9, 3)));
        assert_eq!(there_and_back(&scoped), scoped);
    }

    #[test]
    fn names_of_unix_sockets() {
        for name in [&b"/tmp/socket"[..], b"\0abstract", b"\0", &[b'x'; UNIX_NAME]] {
            assert_eq!(there_and_back(&Address::Unix(name.into())), Address::Unix(name.into()));
        }
        assert!(encode(&Address::Unix(vec![b'x'; UNIX_NAME + 1].into())).is_none());
        // A path of nothing is none, and not the abstract name of nothing.
        assert_eq!(encode(&Address::Unix([].into())).unwrap().bytes(), (libc::AF_UNIX as u16).to_ne_bytes());
        assert_eq!(decode(&(libc::AF_UNIX as u16).to_ne_bytes()), Address::Unnamed);
        assert_eq!(decode(&[]), Address::Unnamed);
    }

    #[test]
    fn what_is_cut_short_or_foreign_is_kept_as_it_is() {
        let raw = encode(&Address::Inet("1.2.3.4:5".parse().unwrap())).unwrap();
        for bytes in [&raw.bytes()[..7], &[200, 0, 1, 2], &[9]] {
            assert_eq!(decode(bytes), Address::Other(bytes.into()));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), family in 0_u8..20) {
            decode(&bytes);
            let mut known = vec![family, 0];
            known.extend(bytes);
            decode(&known);
        }

        #[test]
        fn addresses_come_back_as_they_were(v4: [u8; 4], v6: [u8; 16], port: u16, flow: u32, scope: u32, link: [u8; 8]) {
            let link = LinkAddress {
                protocol: port, interface: scope, hardware: port, kind: link[0], bytes: link, length: link[1] % 9,
            };
            for address in [
                Address::Inet(SocketAddr::from((v4, port))),
                Address::Inet(SocketAddr::V6(SocketAddrV6::new(v6.into(), port, flow, scope))),
                Address::Link(link),
            ] {
                prop_assert_eq!(there_and_back(&address), address);
            }
        }
    }
}

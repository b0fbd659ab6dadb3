//! Who sent a datagram, and who is to get one.

use core::fmt;
use std::net::{IpAddr, SocketAddr};

/// The address of a datagram's other end.
///
/// ```
/// use std::net::SocketAddr;
/// use pktalloc::udp::Address;
///
/// let peer: SocketAddr = "127.0.0.1:4433".parse()?;
/// assert_eq!(Address::from(peer).inet(), Some(peer));
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// IPv4 or IPv6, with port and, for IPv6, scope.
    Inet(SocketAddr),
    /// A Unix socket: the bytes of its path, or, behind a zero byte, its abstract name.
    Unix(Box<[u8]>),
    /// A network card, as packet sockets have it.
    Link(LinkAddress),
    /// None: the other end has no name, or the socket is connected and the system did not say.
    #[default]
    Unnamed,
    /// The system's bytes of an address of another family.
    Other(Box<[u8]>),
}

/// What a packet socket says about a frame, and wants to know to send one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LinkAddress {
    /// The protocol of the frame, an `EtherType`.
    pub protocol: u16,
    /// The number of the interface.
    pub interface: u32,
    /// The kind of hardware, an ARP type. The system sets it.
    pub hardware: u16,
    /// Whether the frame is for this host, for all, or outgoing. The system sets it.
    pub kind: u8,
    /// The hardware address, of which `length` bytes count.
    pub bytes: [u8; 8],
    /// How many bytes of the hardware address count, 8 at most.
    pub length: u8,
}

impl Address {
    /// The address of an IPv4 or IPv6 peer.
    #[must_use]
    pub const fn inet(&self) -> Option<SocketAddr> {
        match self {
            Self::Inet(address) => Some(*address),
            _ => None,
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Inet(address)
    }
}

/// For people: `127.0.0.1:4433`, a path, `@` and an abstract name, `interface 2`.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(name) => match name.split_first() {
                Some((0, name)) => write!(f, "@{}", name.escape_ascii()),
                _ => name.escape_ascii().fmt(f),
            },
            Self::Link(link) => write!(f, "interface {}", link.interface),
            Self::Unnamed => f.write_str("unnamed"),
            Self::Other(bytes) => write!(f, "{} bytes of another family", bytes.len()),
        }
    }
}

/// What the system said about a datagram, besides who sent it. Everything but [`segment_size`](Self::segment_size) has
/// to be asked for: see [`Options`](super::Options).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// When the kernel received the datagram: nanoseconds since 1970.
    pub time_ns: Option<i64>,
    /// The address that the datagram was sent to, a multicast group's included.
    pub destination: Option<IpAddr>,
    /// The number of the interface that it came in by.
    pub interface: Option<u32>,
    /// The whole traffic class byte; its lowest two bits are [`ecn`](Self::ecn).
    pub traffic_class: Option<u8>,
    /// How many datagrams this socket has dropped since it was made, for want of room in its receive buffer.
    pub dropped: Option<u32>,
    /// Where the kernel joined datagrams: how long each but the last is.
    pub segment_size: Option<usize>,
}

impl Info {
    /// The two bits of explicit congestion notification: 0 not capable, 1 and 2 capable, 3 congestion experienced.
    #[must_use]
    pub fn ecn(&self) -> Option<u8> {
        self.traffic_class.map(|class| class & 0b11)
    }
}

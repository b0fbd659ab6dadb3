//! What a socket can be asked to tell, and what is counted.

use std::io;

use super::backend;
use super::handle::{AsHandle, handle};

/// What a socket tells about each datagram, in its [`Info`](super::Info).
///
/// ```
/// use std::net::UdpSocket;
/// use pktalloc::udp::Options;
///
/// let socket = UdpSocket::bind("127.0.0.1:0")?;
/// let told = Options { time: true, dropped: true, ..Options::default() }.enable(&socket)?;
/// if !told.time {
///     println!("no timestamps on this system");
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The kernel may join datagrams: only for [receivers that cut them](super::Receiver::with_gro). Others get the
    /// joined ones cut off at their size.
    pub gro: bool,
    /// [`Info::time_ns`](super::Info::time_ns).
    pub time: bool,
    /// [`Info::destination`](super::Info::destination) and [`Info::interface`](super::Info::interface).
    pub destination: bool,
    /// [`Info::traffic_class`](super::Info::traffic_class) and [`Info::ecn`](super::Info::ecn).
    pub traffic_class: bool,
    /// [`Info::dropped`](super::Info::dropped).
    pub dropped: bool,
}

impl Options {
    /// Asks the socket for what is wanted, and returns what of that it will tell: not every kernel and kind of socket
    /// has everything. What is not wanted stays as it is.
    ///
    /// # Errors
    /// What the system says about the socket.
    pub fn enable(self, socket: &impl AsHandle) -> io::Result<Self> {
        backend::enable(&backend::Kernel, handle(socket), self)
    }
}

/// What a [`Receiver`](super::Receiver) or a [`Sender`](super::Sender) has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// System calls that receive or send.
    pub calls: u64,
    /// Datagrams that were received or sent.
    pub datagrams: u64,
    /// Of these, the ones that the kernel joined, or cut.
    pub joined: u64,
    /// Calls with joined datagrams that were refused; those datagrams went one by one.
    pub refused: u64,
}

//! [`Receiver`]: datagrams into packets.

use core::fmt;
use std::io;

use super::backend::{self, Incoming, Kernel};
use super::handle::{AsHandle, Handle, handle};
use super::layout::Layout;
use super::{Address, Counters, Info};
use crate::{Packet, Source, Space};

/// Datagrams longer than this are received straight into their packets, which costs less than a copy from here on.
const IN_PLACE_FROM: usize = 9 << 10;
/// The largest size for which that is done: a quarter of a window. Beyond it a block would keep all that it was made
/// for.
const IN_PLACE_MOST: usize = 32 << 10;

/// A datagram that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Datagram<P> {
    /// What arrived.
    pub packet: P,
    /// Who sent it.
    pub source: Address,
    /// Whether it was longer than the receiver's size, so that its end is missing.
    pub truncated: bool,
    /// What the system said about it.
    pub info: Info,
}

/// Receives datagrams in batches, into packets of their size.
///
/// One receiver can serve many sockets, one call at a time. It holds a scratch area for one batch, which is used again
/// by the next.
///
/// ```
/// use std::net::UdpSocket;
/// use pktalloc::{RcAllocator, udp::Receiver};
/// # let client = UdpSocket::bind("127.0.0.1:0")?;
///
/// let socket = UdpSocket::bind("127.0.0.1:0")?;
/// # client.send_to(b"hello", socket.local_addr()?)?;
/// let allocator = RcAllocator::new(); // or any other `Source` of packets
/// let mut receiver = Receiver::new(64, 2048);
/// let mut batch = Vec::new();
/// receiver.receive(&socket, &allocator, &mut batch)?;
/// for datagram in batch.drain(..) {
///     socket.send_to(&datagram.packet, datagram.source.inet().expect("UDP has such addresses"))?;
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Receiver {
    incoming: Incoming<Kernel>,
    /// Bytes of the last datagram.
    last: usize,
    /// The last socket of which a single datagram was wanted, and whether plain calls on it
    /// [say how long one was](backend::tells_length).
    single: Option<(Handle, bool)>,
}

impl Receiver {
    /// A receiver of batches of up to `most` datagrams, of up to `size` bytes each. What of a datagram is beyond that
    /// is cut off, and the datagram marked as [truncated](Datagram::truncated).
    ///
    /// The kernel takes at most 1024 at a time. The scratch area takes their product in memory, as far as it is written
    /// to.
    ///
    /// One that takes 1 at a time costs what a plain receive call does, and tells no more than that about a datagram,
    /// until [`Options`](super::Options) are enabled in this process.
    #[must_use]
    pub fn new(most: usize, size: usize) -> Self {
        Self { incoming: Incoming::new(Kernel, Layout { most, size, joined: false }), last: 0, single: None }
    }

    /// Makes it a receiver for sockets on which the kernel joins datagrams ([`Options::gro`](super::Options::gro)).
    /// They come out one by one, as they were sent.
    ///
    /// A call may return more than `most` datagrams: as many as were joined with the last one. One receive call of the
    /// system then brings one run of datagrams that belong together, or a single one.
    ///
    /// ```
    /// use std::net::UdpSocket;
    /// use pktalloc::udp::{Options, Receiver};
    ///
    /// let socket = UdpSocket::bind("127.0.0.1:0")?;
    /// Options { gro: true, ..Options::default() }.enable(&socket)?; // false on a kernel without it: nothing else changes
    /// let receiver = Receiver::new(64, 2048).with_gro();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn with_gro(self) -> Self {
        Self { incoming: Incoming::new(Kernel, Layout { joined: true, ..self.incoming.layout() }), ..self }
    }

    /// Receives what is there, at least one datagram, at the end of `into`; returns how many. Waits as the socket's
    /// settings say while there is none.
    ///
    /// # Errors
    /// As for [`UdpSocket::recv_from`](std::net::UdpSocket::recv_from), with nothing received. The allocator's refusal
    /// is an error when it comes with the first packet. Datagrams that were received already then stay in the receiver
    /// for the [next call](Self::waiting), and so do those that follow one that was refused later.
    pub fn receive<S: Source>(
        &mut self,
        socket: &impl AsHandle,
        source: S,
        into: &mut Vec<Datagram<Packet<S::Owner>>>,
    ) -> io::Result<usize> {
        let socket = handle(socket);
        loop {
            match self.receive_now(socket, source, into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    backend::wait_to_receive(self.incoming.calls(), socket)?;
                }
                outcome => return outcome,
            }
        }
    }

    /// Receives what is there, without waiting: for sockets that a runtime watches.
    ///
    /// # Errors
    /// As for [`receive`](Self::receive); [`WouldBlock`](io::ErrorKind::WouldBlock) when nothing is there.
    pub fn try_receive<S: Source>(
        &mut self,
        socket: &impl AsHandle,
        source: S,
        into: &mut Vec<Datagram<Packet<S::Owner>>>,
    ) -> io::Result<usize> {
        self.receive_now(handle(socket), source, into)
    }

    fn receive_now<S: Source>(
        &mut self,
        socket: Handle,
        source: S,
        into: &mut Vec<Datagram<Packet<S::Owner>>>,
    ) -> io::Result<usize> {
        let layout = self.incoming.layout();
        let in_place = layout.size <= IN_PLACE_MOST && self.last > IN_PLACE_FROM && !layout.joined;
        if in_place && self.incoming.peek().is_none() {
            return self.receive_in_place(socket, source, into);
        }
        if layout.most == 1 && !layout.joined && backend::plain_calls_tell_all() && self.tells_length(socket) {
            self.incoming.fill_plainly(1, socket, false)?;
        } else {
            self.incoming.fill(socket, false)?;
        }
        let mut count = 0;
        while let Some(next) = self.incoming.peek() {
            let packet = match Packet::copied(source, next.bytes) {
                Ok(packet) => packet,
                Err(refusal) if count == 0 => return Err(refusal.into()),
                Err(_) => break,
            };
            self.last = next.bytes.len();
            into.push(Datagram { packet, source: self.incoming.source(), truncated: next.truncated, info: *next.info });
            self.incoming.consume();
            count += 1;
        }
        Ok(count)
    }

    /// Whether a plain call on this socket says how long a datagram was.
    fn tells_length(&mut self, socket: Handle) -> bool {
        match self.single {
            Some((known, tells)) if known == socket => tells,
            _ => {
                let tells = backend::tells_length(self.incoming.calls(), socket);
                self.single = Some((socket, tells));
                tells
            }
        }
    }

    /// Receives one datagram after the other into its packet: where copying each would take longer than the calls.
    fn receive_in_place<S: Source>(
        &mut self,
        socket: Handle,
        source: S,
        into: &mut Vec<Datagram<Packet<S::Owner>>>,
    ) -> io::Result<usize> {
        let Layout { most, size, .. } = self.incoming.layout();
        let mut count = 0;
        while count < most {
            let received = Packet::filled(source, Space::new(size), |room| {
                let bytes = &raw mut *room.uninit();
                // SAFETY: the bytes are the room's.
                let (length, truncated) = unsafe { self.incoming.fill_room(socket, bytes as *mut [u8], false) }?;
                // SAFETY: the system has written that many.
                unsafe { room.assume_init(length) };
                Ok::<_, io::Error>((length, truncated))
            });
            let (packet, (length, truncated)) = match received {
                Ok(received) => received,
                Err(error) if count == 0 => return Err(error),
                Err(error) => {
                    self.incoming.defer(error);
                    break;
                }
            };
            self.last = length;
            let (source, info) = (self.incoming.source(), self.incoming.info_of_room());
            into.push(Datagram { packet, source, truncated, info });
            count += 1;
            if length <= IN_PLACE_FROM {
                break;
            }
        }
        Ok(count)
    }

    /// Datagrams that were received and are still here, because the allocator had no packet for them. The next call
    /// returns them, and receives nothing.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.incoming.remaining()
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.incoming.counters()
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("layout", &self.incoming.layout())
            .field("waiting", &self.waiting())
            .field("counters", &self.counters())
            .finish()
    }
}

//! [`Sender`]: many datagrams for each system call.

use core::fmt;
use std::io;

use super::backend::{Kernel, Outgoing, RawAddress, encode};
use super::handle::{AsHandle, Handle, handle};
use super::item::{Item, NO_ADDRESS};
use super::{Address, Counters};

/// Sends datagrams in batches.
///
/// One sender can serve many sockets. Datagrams of equal length to one address, one after the other, go out as one that
/// the kernel or the network card cuts, where they can ([`joining`](Self::joining)); the receiver sees no difference.
///
/// ```
/// use std::net::UdpSocket;
/// use pktalloc::{Allocator, udp::Sender};
///
/// let allocator = Allocator::new();
/// let packets = [allocator.packet_from(b"left")?, allocator.packet_from(b"right")?];
/// let receiver = UdpSocket::bind("127.0.0.1:0")?;
/// let socket = UdpSocket::bind("127.0.0.1:0")?;
/// socket.connect(receiver.local_addr()?)?;
/// let mut sender = Sender::new();
/// assert_eq!(sender.send_connected(&socket, &packets)?, 2);
/// # let mut bytes = [0; 9];
/// # assert_eq!((receiver.recv(&mut bytes)?, receiver.recv(&mut bytes)?), (4, 5));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Sender {
    outgoing: Outgoing<Kernel>,
    joining: bool,
    items: Vec<Item>,
    addresses: Vec<RawAddress>,
}

impl Sender {
    /// A sender that joins datagrams where it can.
    #[must_use]
    pub fn new() -> Self {
        Self { outgoing: Outgoing::new(Kernel), joining: true, items: Vec::new(), addresses: Vec::new() }
    }

    /// Whether datagrams that are alike go out as one, to be cut by the kernel or the card. On at first. Where that is
    /// refused they go one by one, and nobody notices.
    #[must_use]
    pub fn joining(self, joining: bool) -> Self {
        Self { joining, ..self }
    }

    /// Sends each datagram to its address, in order; returns how many went.
    ///
    /// A socket in blocking mode waits for room, up to its write timeout; one in non-blocking mode sends what there is
    /// room for. When a datagram fails that is not the first, those before it have gone, and their number is returned;
    /// the next call, with the rest, meets the error again if it lasts.
    ///
    /// # Errors
    /// As for [`UdpSocket::send_to`](std::net::UdpSocket::send_to) of the first datagram, with nothing sent;
    /// [`InvalidInput`](io::ErrorKind::InvalidInput), also with nothing sent, for an address that no system could take.
    pub fn send<'a, B: AsRef<[u8]> + ?Sized + 'a>(
        &mut self,
        socket: &impl AsHandle,
        datagrams: impl IntoIterator<Item = (&'a B, &'a Address)>,
    ) -> io::Result<usize> {
        self.collect(datagrams)?;
        // SAFETY: the caller's references outlive this call.
        unsafe { self.send_items(handle(socket), true) }
    }

    /// Sends each datagram to where the socket is connected to; returns how many went.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn send_connected<'a, B: AsRef<[u8]> + ?Sized + 'a>(
        &mut self,
        socket: &impl AsHandle,
        datagrams: impl IntoIterator<Item = &'a B>,
    ) -> io::Result<usize> {
        self.collect(datagrams.into_iter().map(|datagram| (datagram, &Address::Unnamed)))?;
        // SAFETY: the caller's references outlive this call.
        unsafe { self.send_items(handle(socket), true) }
    }

    /// Sends without waiting: as [`send`](Self::send) on a socket in non-blocking mode.
    ///
    /// # Errors
    /// As for [`send`](Self::send); [`WouldBlock`](io::ErrorKind::WouldBlock) when there is no room for the first one.
    pub fn try_send<'a, B: AsRef<[u8]> + ?Sized + 'a>(
        &mut self,
        socket: &impl AsHandle,
        datagrams: impl IntoIterator<Item = (&'a B, &'a Address)>,
    ) -> io::Result<usize> {
        self.collect(datagrams)?;
        // SAFETY: the caller's references outlive this call.
        unsafe { self.send_items(handle(socket), false) }
    }

    /// Lists the datagrams, and each address once where it follows itself.
    fn collect<'a, B: AsRef<[u8]> + ?Sized + 'a>(
        &mut self,
        datagrams: impl IntoIterator<Item = (&'a B, &'a Address)>,
    ) -> io::Result<()> {
        self.items.clear();
        self.addresses.clear();
        let mut last: Option<(&Address, u32)> = None;
        for (datagram, address) in datagrams {
            let to = match last {
                Some((same, to)) if same == address => to,
                _ if *address == Address::Unnamed => NO_ADDRESS,
                _ => {
                    let raw = encode(address).ok_or_else(|| {
                        io::Error::new(io::ErrorKind::InvalidInput, format!("no socket can have the address {address}"))
                    })?;
                    self.addresses.push(raw);
                    (self.addresses.len() - 1) as u32
                }
            };
            last = Some((address, to));
            let bytes = datagram.as_ref();
            self.items.push(Item { base: bytes.as_ptr(), length: bytes.len(), to });
        }
        Ok(())
    }

    /// # Safety
    /// The listed datagrams are still borrowed.
    unsafe fn send_items(&mut self, socket: Handle, wait: bool) -> io::Result<usize> {
        let mut sent = 0;
        while sent < self.items.len() {
            // SAFETY: the caller's promise.
            let (went, error) =
                unsafe { self.outgoing.send(socket, &self.items[sent..], &self.addresses, self.joining) };
            sent += went;
            let Some(mut error) = error else { continue };
            if wait && error.kind() == io::ErrorKind::WouldBlock {
                // SAFETY: the caller's promise.
                match unsafe { self.outgoing.send_waiting(socket, &self.items[sent], &self.addresses) } {
                    Ok(()) => {
                        sent += 1;
                        continue;
                    }
                    Err(other) => error = other,
                }
            }
            return if sent > 0 { Ok(sent) } else { Err(error) };
        }
        Ok(sent)
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.outgoing.counters()
    }
}

impl Default for Sender {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("joining", &(self.joining && !self.outgoing.has_refused()))
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

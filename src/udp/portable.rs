//! Datagrams where only the standard library helps: one for each call, UDP only.

#![cfg_attr(any(target_os = "linux", target_os = "android"), allow(dead_code, reason = "only its tests use it here"))]

use core::mem::ManuallyDrop;
use std::io;
use std::net::{SocketAddr, UdpSocket};

use super::handle::Handle;
use super::item::Item;
use super::layout::{Layout, Received};
use super::{Address, Counters, Info, Options};

/// No system's datagrams are longer.
const LONGEST: usize = 1 << 16;

/// The system itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kernel;

/// Borrows a socket as the standard library's, for a call.
fn udp(socket: Handle) -> ManuallyDrop<UdpSocket> {
    #[cfg(unix)]
    use std::os::fd::FromRawFd;
    #[cfg(windows)]
    use std::os::windows::io::FromRawSocket;
    // SAFETY: the caller of the public function has borrowed the socket, and this one is never closed.
    unsafe {
        #[cfg(unix)]
        let socket = UdpSocket::from_raw_fd(socket);
        #[cfg(windows)]
        let socket = UdpSocket::from_raw_socket(socket);
        ManuallyDrop::new(socket)
    }
}

/// Nothing can be asked for.
pub(crate) fn enable(_: &Kernel, _: Handle, _: Options) -> io::Result<Options> {
    Ok(Options::default())
}

/// There is nothing to know but who sent a datagram.
pub(crate) fn plain_calls_tell_all() -> bool {
    true
}

/// One way to receive is all there is.
pub(crate) fn tells_length(_: &Kernel, _: Handle) -> bool {
    true
}

/// The calls wait by themselves, as the socket says: there is nothing more to wait for.
pub(crate) fn wait_to_receive(_: &Kernel, _: Handle) -> io::Result<()> {
    Err(io::ErrorKind::WouldBlock.into())
}

/// The scratch area, and the datagram in it that was not handed out yet.
pub(crate) struct Incoming<C> {
    calls: C,
    layout: Layout,
    area: Vec<u8>,
    /// How long the datagram is, and who sent it.
    next: Option<(usize, SocketAddr)>,
    last: Option<SocketAddr>,
    deferred: Option<io::Error>,
    /// Nothing is ever said.
    info: Info,
    counters: Counters,
}

impl Incoming<Kernel> {
    pub(crate) fn new(calls: Kernel, layout: Layout) -> Self {
        // Room for the longest: some systems fail where others cut off.
        let area = vec![0; LONGEST.max(layout.size)];
        Self {
            calls,
            layout,
            area,
            next: None,
            last: None,
            deferred: None,
            info: Info::default(),
            counters: Counters::default(),
        }
    }

    pub(crate) fn calls(&self) -> &Kernel {
        &self.calls
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// All calls are plain ones.
    pub(crate) fn fill_plainly(&mut self, _most: usize, socket: Handle, wait: bool) -> io::Result<()> {
        self.fill(socket, wait)
    }

    pub(crate) fn fill(&mut self, socket: Handle, _wait: bool) -> io::Result<()> {
        if self.next.is_some() {
            return Ok(());
        }
        if let Some(error) = self.deferred.take() {
            return Err(error);
        }
        self.counters.calls += 1;
        let (length, from) = udp(socket).recv_from(&mut self.area)?;
        self.counters.datagrams += 1;
        (self.next, self.last) = (Some((length, from)), Some(from));
        Ok(())
    }

    /// Receives to `room` by way of the scratch area.
    ///
    /// # Safety
    /// `room` is valid for writes.
    pub(crate) unsafe fn fill_room(
        &mut self,
        socket: Handle,
        room: *mut [u8],
        wait: bool,
    ) -> io::Result<(usize, bool)> {
        self.fill(socket, wait)?;
        let (length, _) = self.next.take().expect("it was filled");
        let fitting = length.min(room.len());
        // SAFETY: the caller's promise.
        unsafe { room.cast::<u8>().copy_from_nonoverlapping(self.area.as_ptr(), fitting) };
        Ok((fitting, fitting < length))
    }

    pub(crate) fn info_of_room(&self) -> Info {
        Info::default()
    }

    pub(crate) fn defer(&mut self, error: io::Error) {
        if error.kind() != io::ErrorKind::WouldBlock {
            self.deferred = Some(error);
        }
    }

    pub(crate) fn remaining(&self) -> usize {
        usize::from(self.next.is_some())
    }

    pub(crate) fn peek(&self) -> Option<Received<'_>> {
        let (length, _) = self.next?;
        let fitting = length.min(self.layout.size);
        Some(Received {
            bytes: &self.area[..fitting],
            truncated: fitting < length,
            #[cfg(all(feature = "python", target_os = "linux"))]
            whole: length,
            info: &self.info,
        })
    }

    pub(crate) fn source(&self) -> Address {
        self.last.map_or(Address::Unnamed, Address::Inet)
    }

    pub(crate) fn consume(&mut self) {
        self.next = None;
    }
}

/// An address that UDP can have.
#[derive(Clone, Copy)]
pub(crate) struct RawAddress(SocketAddr);

pub(crate) fn encode(address: &Address) -> Option<RawAddress> {
    address.inet().map(RawAddress)
}

/// Sends one datagram after the other.
pub(crate) struct Outgoing<C> {
    #[expect(dead_code, reason = "there is nothing to ask it")]
    calls: C,
    counters: Counters,
}

impl Outgoing<Kernel> {
    pub(crate) fn new(calls: Kernel) -> Self {
        Self { calls, counters: Counters::default() }
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Nothing is ever joined.
    pub(crate) fn has_refused(&self) -> bool {
        true
    }

    /// The plain call has waited already, if the socket waits at all.
    ///
    /// # Safety
    /// None is needed here.
    pub(crate) unsafe fn send_waiting(&mut self, _: Handle, _: &Item, _: &[RawAddress]) -> io::Result<()> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// # Safety
    /// Every item is initialised memory of its length that nobody writes meanwhile.
    pub(crate) unsafe fn send(
        &mut self,
        socket: Handle,
        items: &[Item],
        addresses: &[RawAddress],
        _join: bool,
    ) -> (usize, Option<io::Error>) {
        let socket = udp(socket);
        for (sent, item) in items.iter().enumerate() {
            // SAFETY: the caller's promise.
            let bytes = unsafe { core::slice::from_raw_parts(item.base, item.length) };
            self.counters.calls += 1;
            let outcome = match addresses.get(item.to as usize) {
                Some(address) => socket.send_to(bytes, address.0),
                None => socket.send(bytes),
            };
            match outcome {
                Ok(_) => self.counters.datagrams += 1,
                Err(error) => return (sent, Some(error)),
            }
        }
        (items.len(), None)
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::udp::item::NO_ADDRESS;

    fn pair() -> (UdpSocket, UdpSocket) {
        let (receiver, sender) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        receiver.set_nonblocking(true).unwrap();
        (receiver, sender)
    }

    #[test]
    fn one_datagram_a_call() {
        let (receiver, sender) = pair();
        let items = [&b"one"[..], b"", b"three"].map(|bytes| Item {
            base: bytes.as_ptr(),
            length: bytes.len(),
            to: NO_ADDRESS,
        });
        let mut outgoing = Outgoing::new(Kernel);
        // SAFETY: the datagrams are constants.
        let (sent, error) = unsafe { outgoing.send(sender.as_raw_fd(), &items, &[], true) };
        assert!(sent == 3 && error.is_none());
        assert_eq!((outgoing.counters().datagrams, outgoing.has_refused()), (3, true));

        let mut incoming = Incoming::new(Kernel, Layout { most: 64, size: 4, joined: false });
        let mut received = Vec::new();
        for _ in 0..3 {
            incoming.fill(receiver.as_raw_fd(), false).unwrap();
            incoming.fill(receiver.as_raw_fd(), false).unwrap();
            assert_eq!(incoming.remaining(), 1);
            let next = incoming.peek().unwrap();
            received.push((next.bytes.to_vec(), next.truncated));
            assert_eq!(incoming.source().inet(), Some(sender.local_addr().unwrap()));
            incoming.consume();
        }
        assert_eq!(received, [(b"one".to_vec(), false), (vec![], false), (b"thre".to_vec(), true)]);
        assert_eq!(incoming.fill(receiver.as_raw_fd(), false).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn to_an_address_and_into_a_room() {
        let (receiver, sender) = pair();
        let address = encode(&receiver.local_addr().unwrap().into()).unwrap();
        let unconnected = UdpSocket::bind("127.0.0.1:0").unwrap();
        let item = Item { base: b"hello".as_ptr(), length: 5, to: 0 };
        // SAFETY: the datagram is a constant.
        let (sent, _) = unsafe { Outgoing::new(Kernel).send(unconnected.as_raw_fd(), &[item], &[address], false) };
        assert_eq!(sent, 1);
        let mut incoming = Incoming::new(Kernel, Layout { most: 1, size: 9, joined: false });
        let mut room = [0; 3];
        // SAFETY: the room is this test's.
        let filled = unsafe { incoming.fill_room(receiver.as_raw_fd(), &raw mut room[..], false) }.unwrap();
        assert_eq!((filled, &room[..]), ((3, true), &b"hel"[..]));
        assert_eq!(incoming.source().inet(), Some(unconnected.local_addr().unwrap()));
        incoming.defer(io::ErrorKind::WouldBlock.into());
        incoming.defer(io::ErrorKind::ConnectionRefused.into());
        assert_eq!(incoming.fill(receiver.as_raw_fd(), false).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        assert!(encode(&Address::Unix(b"/x"[..].into())).is_none());
        drop(sender);
        assert!(sent == 1 && receiver.local_addr().is_ok(), "the socket was only borrowed");
    }
}

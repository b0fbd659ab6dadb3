//! A UDP echo server with a queue: datagrams are received in bursts, queued, and sent back in order.
//!
//! Each datagram is received into room for the largest, and keeps only the units that it needs: a queue of small
//! datagrams is small. `cargo run --example udp_echo`

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use pktalloc::{Packet, RcAllocator};

/// The largest datagram that is echoed.
const MOST_BYTES: usize = 2048;
/// Datagrams that are queued before any is sent back.
const BURST: usize = 32;
/// Datagrams that the client sends.
const DATAGRAMS: usize = 4000;

fn main() -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let server = socket.local_addr()?;
    let client = thread::spawn(move || run_client(server));

    let mut echo = Echo::new(socket);
    while echo.receive_burst()? {
        echo.send_all()?;
    }

    client.join().expect("the client does not panic")?;
    assert_eq!((echo.datagrams, echo.allocator.used_bytes()), (DATAGRAMS, 0));
    let (bytes, deepest) = (echo.bytes, echo.deepest);
    println!("udp_echo: {DATAGRAMS} datagrams of {bytes} bytes came back; the queue was {deepest} deep at most");
    Ok(())
}

/// The server: its queue lies beside the allocator that the queue's packets come from.
struct Echo {
    socket: UdpSocket,
    allocator: RcAllocator,
    queue: VecDeque<(Packet<RcAllocator>, SocketAddr)>,
    datagrams: usize,
    bytes: usize,
    deepest: usize,
}

impl Echo {
    fn new(socket: UdpSocket) -> Self {
        let allocator = RcAllocator::new();
        Self { socket, allocator, queue: VecDeque::new(), datagrams: 0, bytes: 0, deepest: 0 }
    }

    /// Waits for a datagram, then queues what else has arrived. False once the client is done.
    fn receive_burst(&mut self) -> io::Result<bool> {
        let mut more = self.receive()?;
        self.socket.set_nonblocking(true)?;
        while more && self.queue.len() < BURST {
            more = match self.receive() {
                // Nothing is waiting; the room that was reserved is free again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                received => received?,
            };
        }
        self.socket.set_nonblocking(false)?;
        self.deepest = self.deepest.max(self.queue.len());
        Ok(more || !self.queue.is_empty())
    }

    /// Receives a datagram into a packet of its size. An empty one says that the client is done.
    fn receive(&mut self) -> io::Result<bool> {
        let (packet, from) = self.allocator.packet_with(MOST_BYTES, |room| {
            let (received, from) = self.socket.recv_from(room.zeroed())?;
            room.advance(received);
            Ok::<_, io::Error>(from)
        })?;
        if packet.is_empty() {
            return Ok(false);
        }
        self.datagrams += 1;
        self.bytes += packet.len();
        self.queue.push_back((packet, from));
        Ok(true)
    }

    /// Sends everything back; each packet is freed when it was sent.
    fn send_all(&mut self) -> io::Result<()> {
        for (packet, to) in self.queue.drain(..) {
            self.socket.send_to(&packet, to)?;
        }
        Ok(())
    }
}

/// Sends datagrams of 1 to 1400 bytes, a few at a time, and expects each of them back.
fn run_client(server: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let datagram = |number: usize| vec![number as u8; 1 + number * 97 % 1400];
    let mut received = [0; MOST_BYTES];
    for first in (0..DATAGRAMS).step_by(16) {
        for number in first..first + 16 {
            socket.send(&datagram(number))?;
        }
        for number in first..first + 16 {
            let length = socket.recv(&mut received)?;
            assert_eq!(received[..length], datagram(number), "datagram {number} came back changed");
        }
    }
    socket.send(&[]).map(drop)
}

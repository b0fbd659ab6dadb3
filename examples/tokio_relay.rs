//! A UDP relay on tokio's readiness: tokio says when a socket can be read, the batch calls do the rest.
//!
//! A client sends to the relay, the relay forwards to a server, which counts. Datagrams are received into packets, up
//! to 64 in a system call, and leave in batches, joined where the kernel can cut them. The same relay with one call a
//! datagram runs beside it. `cargo run --release --features udp --example tokio_relay`

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use pktalloc::RcAllocator;
use pktalloc::udp::{Address, Datagram, Options, Receiver, Sender};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Datagrams that go through each relay.
const DATAGRAMS: usize = 19_968;
/// Datagrams that are on their way at a time, so that no receive buffer overflows.
const WINDOW: usize = 64;
const BYTES: usize = 1200;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let started = Instant::now();
    run(Relay::InBatches).await?;
    let in_batches = started.elapsed();
    let started = Instant::now();
    run(Relay::OneByOne).await?;
    let one_by_one = started.elapsed();
    println!(
        "tokio_relay: {DATAGRAMS} datagrams of {BYTES} bytes, {} ms in batches, {} ms one by one",
        in_batches.as_millis(),
        one_by_one.as_millis()
    );
    Ok(())
}

#[derive(Clone, Copy)]
enum Relay {
    InBatches,
    OneByOne,
}

/// Sends everything through a relay and counts what arrives.
async fn run(relay: Relay) -> io::Result<()> {
    let (client, middle, server) = (bind().await?, bind().await?, bind().await?);
    let (enter, leave) = (middle.local_addr()?, server.local_addr()?);
    let task = async {
        match relay {
            Relay::InBatches => relay_in_batches(&middle, leave).await,
            Relay::OneByOne => relay_one_by_one(&middle, leave).await,
        }
    };
    let work = async {
        let (mut sender, address, payload) = (Sender::new(), Address::from(enter), [7; BYTES]);
        let mut buffer = [0; BYTES + 1];
        for _ in 0..DATAGRAMS / WINDOW {
            let mut left = WINDOW;
            while left > 0 {
                client.writable().await?;
                let window = (0..left).map(|_| (&payload, &address));
                match client.try_io(Interest::WRITABLE, || sender.try_send(&client, window)) {
                    Ok(went) => left -= went,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error),
                }
            }
            for _ in 0..WINDOW {
                let received = tokio::time::timeout(Duration::from_secs(10), server.recv(&mut buffer)).await??;
                assert_eq!(buffer[..received], payload);
            }
        }
        io::Result::Ok(())
    };
    tokio::select! {
        outcome = work => outcome,
        outcome = task => outcome,
    }
}

async fn bind() -> io::Result<UdpSocket> {
    UdpSocket::bind("127.0.0.1:0").await
}

async fn relay_in_batches(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    // Where the kernel joins datagrams of one flow, a call brings up to 64 of them at the price of one.
    Options { gro: true, ..Options::default() }.enable(socket)?;
    let allocator = RcAllocator::new();
    let mut receiver = Receiver::new(64, 2048).with_gro();
    let (mut sender, to, mut queue) = (Sender::new(), Address::from(to), Vec::<Datagram<_>>::new());
    loop {
        socket.readable().await?;
        match socket.try_io(Interest::READABLE, || receiver.try_receive(socket, &allocator, &mut queue)) {
            Ok(_) => {}
            // Readiness is a hint: somebody else may have been faster.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        }
        let mut sent = 0;
        while sent < queue.len() {
            socket.writable().await?;
            let rest = queue[sent..].iter().map(|datagram| (&datagram.packet, &to));
            match socket.try_io(Interest::WRITABLE, || sender.try_send(socket, rest)) {
                Ok(went) => sent += went,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        queue.clear();
    }
}

/// What a relay does without batches.
async fn relay_one_by_one(socket: &UdpSocket, to: SocketAddr) -> io::Result<()> {
    let mut buffer = vec![0; 2048];
    loop {
        let received = socket.recv(&mut buffer).await?;
        socket.send_to(&buffer[..received], to).await?;
    }
}

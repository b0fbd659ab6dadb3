//! An echo server on the multi-threaded runtime of tokio: tasks receive into packets of one pool, other tasks answer,
//! on whatever worker they happen to run.
//!
//! `cargo run --example tokio_pool --features bytes`

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use pktalloc::{Config, FrozenPacket, Pool, SharedPacket, Space, flush_freed};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

/// The longest datagram, and in front of it what the answer says.
const ROOM: Space = Space::new(2048).headroom(ANSWER.len());
const ANSWER: &[u8] = b"heard: ";
const DATAGRAMS: u32 = 2000;

/// Receives one datagram. The packet is asked for once there is something to receive, so that a task that waits holds
/// no memory.
async fn receive(socket: &UdpSocket, pool: &Pool) -> io::Result<(SharedPacket, SocketAddr)> {
    loop {
        socket.readable().await?;
        let mut packet = pool.packet_for(ROOM)?;
        // A packet is a `BufMut`: tokio writes into its tailroom, and nobody has to clear that first.
        match socket.try_recv_buf_from(&mut packet) {
            Ok((_, from)) => {
                packet.shrink_to_fit();
                return Ok((packet, from));
            }
            // Readiness is a hint: another task may have been faster.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Receives and hands on. The queue is bounded: while the workers are busy, the datagrams wait in the socket.
async fn listen(socket: Arc<UdpSocket>, pool: Pool, queue: mpsc::Sender<(SharedPacket, SocketAddr)>) -> io::Result<()> {
    while queue.send(receive(&socket, &pool).await?).await.is_ok() {}
    Ok(())
}

/// Answers, and keeps what was said for the log, which shares the packet.
async fn answer(
    socket: Arc<UdpSocket>,
    mut queue: mpsc::Receiver<(SharedPacket, SocketAddr)>,
    log: mpsc::UnboundedSender<FrozenPacket>,
) -> io::Result<()> {
    while let Some((mut packet, from)) = queue.recv().await {
        packet.prepend(ANSWER)?;
        let packet = packet.freeze();
        let _ = log.send(packet.slice(ANSWER.len()..));
        socket.send_to(&packet, from).await?;
    }
    Ok(())
}

async fn run(pool: Pool) -> io::Result<usize> {
    let server = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
    let (log, mut logged) = mpsc::unbounded_channel();
    let mut tasks = Vec::new();
    for _ in 0..2 {
        let (send, queue) = mpsc::channel(64);
        tasks.push(tokio::spawn(listen(Arc::clone(&server), pool.clone(), send)));
        tasks.push(tokio::spawn(answer(Arc::clone(&server), queue, log.clone())));
    }
    let client = UdpSocket::bind("127.0.0.1:0").await?;
    client.connect(server.local_addr()?).await?;
    let mut bytes = 0;
    let mut buffer = [0; 2048];
    for number in 0..DATAGRAMS {
        let datagram = [number as u8; 300];
        client.send(&datagram).await?;
        let len = client.recv(&mut buffer).await?;
        assert!(buffer[..len].strip_prefix(ANSWER) == Some(&datagram[..]), "datagram {number}");
        bytes += logged.recv().await.map_or(0, |packet| packet.len());
    }
    tasks.iter().for_each(|task| task.abort());
    Ok(bytes)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The limit is one for all workers. A packet is refused when it is reached, which is an error of `receive` here.
    let pool = Pool::with_config(Config::new().memory_limit(8 << 20))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        // A worker that has nothing to do hands in the packets of others that it dropped, which it collects otherwise.
        .on_thread_park(flush_freed)
        .build()?;
    let bytes = runtime.block_on(run(pool))?;
    println!("{DATAGRAMS} datagrams were answered by tasks on any worker, {bytes} bytes of them kept for the log");
    Ok(())
}

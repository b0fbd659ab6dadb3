//! A QUIC connection in memory: 16 streams of messages to a server that reads and sums them up.
//!
//! Messages live in packet memory from when they are written until they are acknowledged.

use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event, ReadError,
    ServerConfig, StreamId, TransportConfig, VarInt, WriteError,
};
use rustls::pki_types::PrivateKeyDer;

use crate::link::{Link, checksum, fill};
use crate::memory::Memory;

const STREAMS: usize = 16;
const MESSAGES: u64 = 48_000;
const MESSAGE: usize = 1200;
/// Datagrams of one transmission.
const BURST: usize = 10;
/// Microseconds that a datagram takes.
const DELAY: (u64, u64) = (500, 1500);

/// One end: an endpoint with its connection.
struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    address: SocketAddr,
    sent: Vec<u8>,
    timeout: Option<Instant>,
}

impl End {
    fn new(server: Option<Arc<ServerConfig>>, port: u16) -> Self {
        let mut config = EndpointConfig::default();
        // The same connection identifiers in every run, and so the same datagrams but for their keys.
        config.rng_seed(Some([7; 32]));
        let endpoint = Endpoint::new(Arc::new(config), server, true, None);
        let address = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port);
        Self { endpoint, connection: None, address, sent: Vec::new(), timeout: None }
    }

    /// Sends what there is to send.
    fn transmit(&mut self, now: Instant, micros: u64, link: &mut Link<BytesMut>) {
        let Some((handle, connection)) = &mut self.connection else { return };
        if self.timeout.is_some_and(|timeout| timeout <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(*handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(transmit) = connection.poll_transmit(now, BURST, &mut self.sent) {
            let segment = transmit.segment_size.unwrap_or(transmit.size);
            for datagram in self.sent[..transmit.size].chunks(segment) {
                link.send(micros, BytesMut::from(datagram));
            }
            self.sent.clear();
        }
        self.timeout = connection.poll_timeout();
    }

    fn receive(
        &mut self,
        now: Instant,
        micros: u64,
        from: SocketAddr,
        link: &mut Link<BytesMut>,
        back: &mut Link<BytesMut>,
    ) {
        while let Some(datagram) = link.receive(micros) {
            match self.endpoint.handle(now, from, None, None, datagram, &mut self.sent) {
                Some(DatagramEvent::NewConnection(incoming)) => {
                    let accepted = self.endpoint.accept(incoming, now, &mut self.sent, None);
                    self.connection = Some(accepted.map_err(|error| error.cause).expect("the server accepts"));
                }
                Some(DatagramEvent::ConnectionEvent(_, event)) => {
                    if let Some((_, connection)) = &mut self.connection {
                        connection.handle_event(event);
                    }
                }
                Some(DatagramEvent::Response(transmit)) => {
                    back.send(micros, BytesMut::from(&self.sent[..transmit.size]));
                }
                None => {}
            }
            self.sent.clear();
        }
    }
}

fn configurations() -> (ClientConfig, ServerConfig) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a name can be certified");
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = [&rustls::version::TLS13];
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .expect("the provider has TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("the key fits the certificate");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).expect("the certificate is well formed");
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .expect("the provider has TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let mut transport = TransportConfig::default();
    transport
        .send_window(4 << 20)
        .receive_window(VarInt::from_u32(4 << 20))
        .stream_receive_window(VarInt::from_u32(1 << 20));
    transport.mtu_discovery_config(None);
    let transport = Arc::new(transport);
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).expect("TLS 1.3 is there")));
    client.transport_config(transport.clone());
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).expect("TLS 1.3 is there")));
    server.transport_config(transport);
    (client, server)
}

pub(crate) fn run<M: Memory>(memory: &M) -> u64 {
    let (client_config, server_config) = configurations();
    let mut client = End::new(None, 4433);
    let mut server = End::new(Some(Arc::new(server_config)), 443);
    let begin = Instant::now();
    client.connection = Some(
        client
            .endpoint
            .connect(begin, client_config, server.address, "localhost")
            .expect("the configuration is complete"),
    );
    let mut to_server = Link::new(11, 5, DELAY);
    let mut to_client = Link::new(12, 5, DELAY);
    let (mut sender, mut receiver) = (Sender::default(), Receiver::default());
    let mut micros = 0;
    while receiver.finished < STREAMS {
        let now = begin + Duration::from_micros(micros);
        server.receive(now, micros, client.address, &mut to_server, &mut to_client);
        client.receive(now, micros, server.address, &mut to_client, &mut to_server);
        if let Some((_, connection)) = &mut client.connection {
            sender.drive(memory, connection);
        }
        if let Some((_, connection)) = &mut server.connection {
            receiver.drive(connection);
        }
        client.transmit(now, micros, &mut to_server);
        server.transmit(now, micros, &mut to_client);
        // The next thing that happens: a datagram arrives, or a timer runs out.
        let timer =
            |end: &End| end.timeout.map(|timeout| timeout.saturating_duration_since(begin).as_micros() as u64 + 1);
        let next = [to_server.next_arrival(), to_client.next_arrival(), timer(&client), timer(&server)];
        micros = next.into_iter().flatten().min().expect("the transfer goes on").max(micros + 1);
    }
    assert_eq!(receiver.received, MESSAGES * MESSAGE as u64, "all bytes arrive");
    receiver.streams.iter().fold(0, |result, stream| result.rotate_left(7) ^ stream.sum.sum)
}

/// Writes messages to all streams in turn.
#[derive(Default)]
struct Sender {
    streams: Vec<StreamId>,
    connected: bool,
    written: u64,
    /// What is left of the message that was not written whole.
    rest: Option<Bytes>,
    finished: bool,
}

impl Sender {
    fn drive<M: Memory>(&mut self, memory: &M, connection: &mut Connection) {
        while let Some(event) = connection.poll() {
            match event {
                Event::Connected => self.connected = true,
                Event::ConnectionLost { reason } => panic!("the client lost its connection: {reason}"),
                _ => {}
            }
        }
        if !self.connected || self.finished {
            return;
        }
        while self.streams.len() < STREAMS {
            self.streams.push(connection.streams().open(Dir::Uni).expect("so many streams are allowed"));
        }
        let mut payload = [0; MESSAGE];
        while self.written < MESSAGES {
            let stream = self.streams[(self.written % STREAMS as u64) as usize];
            let message = self.rest.take().unwrap_or_else(|| {
                fill(&mut payload, self.written);
                memory.bytes(&payload)
            });
            let mut message = [message];
            match connection.send_stream(stream).write_chunks(&mut message) {
                Ok(written) if written.chunks == 1 => self.written += 1,
                Ok(_) | Err(WriteError::Blocked) => {
                    let [message] = message;
                    self.rest = Some(message);
                    return;
                }
                Err(error) => panic!("the client cannot write: {error}"),
            }
        }
        for &stream in &self.streams {
            connection.send_stream(stream).finish().expect("the stream is open");
        }
        self.finished = true;
    }
}

/// What the server reads.
#[derive(Default)]
struct Receiver {
    streams: Vec<Incoming>,
    received: u64,
    finished: usize,
}

struct Incoming {
    id: StreamId,
    sum: Sum,
    done: bool,
}

impl Receiver {
    fn drive(&mut self, connection: &mut Connection) {
        while let Some(event) = connection.poll() {
            if let Event::ConnectionLost { reason } = event {
                panic!("the server lost its connection: {reason}");
            }
        }
        while let Some(id) = connection.streams().accept(Dir::Uni) {
            self.streams.push(Incoming { id, sum: Sum::default(), done: false });
        }
        for stream in self.streams.iter_mut().filter(|stream| !stream.done) {
            let mut receive = connection.recv_stream(stream.id);
            let mut chunks = receive.read(true).expect("the stream is open, and read in order");
            loop {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => {
                        stream.sum.add(&chunk.bytes);
                        self.received += chunk.bytes.len() as u64;
                    }
                    Ok(None) => {
                        stream.done = true;
                        self.finished += 1;
                        break;
                    }
                    Err(ReadError::Blocked) => break,
                    Err(error) => panic!("the server cannot read: {error}"),
                }
            }
            // The connection is asked for what to send anyway.
            let _ = chunks.finalize();
        }
    }
}

/// A checksum of a stream that does not depend on how it is cut: that of each whole message, one after the other.
struct Sum {
    message: [u8; MESSAGE],
    filled: usize,
    sum: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self { message: [0; MESSAGE], filled: 0, sum: 0 }
    }
}

impl Sum {
    fn add(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(MESSAGE - self.filled));
            self.message[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            if self.filled == MESSAGE {
                self.sum = self.sum.rotate_left(7) ^ checksum(&self.message);
                self.filled = 0;
            }
            bytes = later;
        }
    }
}

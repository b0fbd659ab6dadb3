//! Datagrams in batches, on real sockets of this host.

#![cfg(any(target_os = "linux", target_os = "android"))]

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use pktalloc::udp::{Address, Datagram, Options, Receiver, Sender};
use pktalloc::{Allocator, Config, Packet, RcAllocator};

/// Two sockets on `host`; each waits at most 10 seconds.
fn sockets(host: &str) -> (UdpSocket, UdpSocket) {
    let socket = || {
        let socket = UdpSocket::bind((host, 0)).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    };
    (socket(), socket())
}

fn to(socket: &UdpSocket) -> Address {
    socket.local_addr().unwrap().into()
}

/// Receives `count` datagrams, however many calls that takes.
fn receive<'a>(
    receiver: &mut Receiver,
    socket: &UdpSocket,
    allocator: &'a Allocator,
    count: usize,
) -> Vec<Datagram<Packet<&'a Allocator>>> {
    let mut all = Vec::new();
    while all.len() < count {
        receiver.receive(socket, allocator, &mut all).expect("datagrams");
    }
    assert_eq!(all.len(), count);
    all
}

fn numbered(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|place| (number * 31 + place) as u8).collect()
}

#[test]
fn both_versions_and_their_addresses() {
    for host in ["127.0.0.1", "::1"] {
        let (here, there) = sockets(host);
        let allocator = Allocator::new();
        let datagrams: Vec<_> = (0..100).map(|number| numbered(number, number * 14)).collect();
        let address = to(&here);
        let sent = Sender::new().send(&there, datagrams.iter().map(|bytes| (bytes, &address))).unwrap();
        assert_eq!(sent, 100);
        let received = receive(&mut Receiver::new(64, 2048), &here, &allocator, 100);
        for (datagram, sent) in received.iter().zip(&datagrams) {
            assert_eq!((&datagram.packet[..], datagram.truncated), (&sent[..], false));
            assert_eq!(datagram.source.inet(), Some(there.local_addr().unwrap()));
        }
        let units: u64 = datagrams.iter().map(|bytes| bytes.len().div_ceil(64) as u64 * 64).sum();
        assert_eq!(allocator.used_bytes(), units, "a packet holds what arrived, not the slot");
    }
}

#[test]
fn small_datagrams_in_large_slots_hold_little() {
    let (here, there) = sockets("127.0.0.1");
    let allocator = Allocator::new();
    let (mut receiver, mut sender, address) = (Receiver::new(64, 2048), Sender::new(), to(&here));
    let mut held = Vec::new();
    while held.len() < 10_000 {
        sender.send(&there, [[7_u8; 60]; 50].iter().map(|bytes| (bytes, &address))).unwrap();
        held.extend(receive(&mut receiver, &here, &allocator, 50));
    }
    assert!(allocator.allocated_bytes() < 10_000 * 130, "{} bytes are held", allocator.allocated_bytes());
}

#[test]
fn joined_on_the_way_out_and_in() {
    for (gro, joining) in [(true, true), (true, false), (false, true), (false, false)] {
        let (here, there) = sockets("127.0.0.1");
        let told = Options { gro, ..Options::default() }.enable(&here).unwrap();
        let allocator = Allocator::new();
        let mut receiver = if gro { Receiver::new(64, 2048).with_gro() } else { Receiver::new(64, 2048) };
        let mut sender = Sender::new().joining(joining);
        let address = to(&here);
        let lengths = [1200; 40].into_iter().chain([300, 0, 60, 60, 60]);
        let datagrams: Vec<_> = lengths.enumerate().map(|(number, length)| numbered(number, length)).collect();
        assert_eq!(sender.send(&there, datagrams.iter().map(|bytes| (bytes, &address))).unwrap(), datagrams.len());
        let received = receive(&mut receiver, &here, &allocator, datagrams.len());
        for (datagram, sent) in received.iter().zip(&datagrams) {
            assert_eq!(datagram.packet, sent, "gro {gro}, joining {joining}");
        }
        assert_eq!(receiver.counters().datagrams, datagrams.len() as u64);
        assert_eq!(receiver.counters().joined > 0, told.gro && joining && sender.counters().joined > 0);
        assert!(joining || sender.counters().joined == 0);
    }
}

#[test]
fn what_the_system_says_about_a_datagram() {
    for host in ["127.0.0.1", "::1"] {
        let (here, there) = sockets(host);
        let wanted = Options { time: true, destination: true, traffic_class: true, dropped: true, gro: false };
        assert_eq!(wanted.enable(&here).unwrap(), wanted);
        let allocator = Allocator::new();
        // A receiver of one does not make plain calls any more, which say nothing.
        for most in [4, 1] {
            there.send_to(b"x", here.local_addr().unwrap()).unwrap();
            let info = receive(&mut Receiver::new(most, 100), &here, &allocator, 1)[0].info;
            assert_eq!(info.destination, Some(here.local_addr().unwrap().ip()));
            assert!(info.interface.is_some_and(|interface| interface > 0));
            assert_eq!(info.ecn(), Some(0));
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
            assert!(info.time_ns.is_some_and(|time| (since - 10_000_000_000..=since).contains(&time)), "{info:?}");
        }
    }
}

#[test]
fn a_receiver_of_one_brings_one_datagram_a_call_as_it_was_sent() {
    let (here, there) = sockets("127.0.0.1");
    let (allocator, mut receiver) = (Allocator::new(), Receiver::new(1, 100));
    let lengths = [7, 0, 100, 101, 3000, 1];
    for length in lengths {
        there.send_to(&numbered(length, length), here.local_addr().unwrap()).unwrap();
    }
    for (calls, length) in (1..).zip(lengths) {
        let mut batch = Vec::new();
        assert_eq!(receiver.receive(&here, &allocator, &mut batch).unwrap(), 1);
        assert_eq!(
            (&batch[0].packet[..], batch[0].truncated),
            (&numbered(length, length)[..length.min(100)], length > 100)
        );
        assert_eq!(batch[0].source.inet(), Some(there.local_addr().unwrap()));
        assert_eq!((receiver.counters().calls, receiver.counters().datagrams), (calls, calls));
    }
    assert_eq!(receiver.try_receive(&here, &allocator, &mut Vec::new()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn datagrams_that_the_receive_buffer_had_no_room_for_are_counted() {
    let (here, there) = sockets("127.0.0.1");
    assert!(Options { dropped: true, ..Options::default() }.enable(&here).unwrap().dropped);
    let address = to(&here);
    let mut sender = Sender::new().joining(false);
    for _ in 0..20 {
        sender.send(&there, [[1_u8; 1000]; 100].iter().map(|bytes| (bytes, &address))).unwrap();
    }
    here.set_nonblocking(true).unwrap();
    let (allocator, mut receiver, mut all) = (Allocator::new(), Receiver::new(64, 2048), Vec::new());
    while receiver.receive(&here, &allocator, &mut all).is_ok() {}
    let lost = 2000 - all.len();
    assert!(lost > 0, "the buffer holds everything");
    // A datagram brings the count of the time when it was queued.
    sender.send(&there, [(b"last", &address)]).unwrap();
    receiver.receive(&here, &allocator, &mut all).unwrap();
    assert_eq!(all.last().unwrap().info.dropped, Some(lost as u32));
}

#[test]
fn waiting_is_as_the_socket_says() {
    let (here, there) = sockets("127.0.0.1");
    let (allocator, mut receiver, mut batch) = (Allocator::new(), Receiver::new(64, 2048), Vec::new());
    here.set_read_timeout(Some(Duration::from_millis(30))).unwrap();
    let start = Instant::now();
    let error = receiver.receive(&here, &allocator, &mut batch).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(start.elapsed() >= Duration::from_millis(30));
    here.set_nonblocking(true).unwrap();
    assert_eq!(receiver.receive(&here, &allocator, &mut batch).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(receiver.try_receive(&here, &allocator, &mut batch).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    here.set_nonblocking(false).unwrap();
    here.set_read_timeout(None).unwrap();
    let address = here.local_addr().unwrap();
    let sending = std::thread::spawn(move || there.send_to(b"late", address).unwrap());
    assert_eq!(receiver.receive(&here, &allocator, &mut batch).unwrap(), 1);
    assert_eq!(batch[0].packet, b"late");
    sending.join().unwrap();
}

#[test]
fn an_unreachable_peer_is_reported_and_loses_nothing() {
    let (here, there) = sockets("127.0.0.1");
    let (gone, _) = sockets("127.0.0.1");
    let (allocator, mut receiver, mut sender, mut batch) =
        (Allocator::new(), Receiver::new(64, 2048), Sender::new(), Vec::new());
    let unreachable = gone.local_addr().unwrap();
    // Queued first, from the peer that goes away afterwards.
    gone.send_to(b"queued", here.local_addr().unwrap()).unwrap();
    here.connect(unreachable).unwrap();
    drop(gone);
    assert_eq!(sender.send_connected(&here, [b"bounces"]).unwrap(), 1);
    let error = receiver.receive(&here, &allocator, &mut batch).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(receiver.receive(&here, &allocator, &mut batch).unwrap(), 1);
    assert_eq!(batch[0].packet, b"queued");
    // An error that waits is the first datagram's, and then those behind it go.
    assert_eq!(sender.send_connected(&here, [b"bounces"]).unwrap(), 1);
    let error = sender.send_connected(&here, [b"a", b"b"]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    drop(there);
}

#[test]
fn a_bad_datagram_among_good_ones_stops_there() {
    let (here, there) = sockets("127.0.0.1");
    let (good, bad) = (to(&here), Address::from(SocketAddr::from(([127, 0, 0, 1], 0))));
    let datagrams = [(b"1", &good), (b"2", &good), (b"3", &bad), (b"4", &good)];
    let mut sender = Sender::new();
    assert_eq!(sender.send(&there, datagrams).unwrap(), 2);
    let error = sender.send(&there, datagrams[2..].iter().copied()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert_eq!(sender.send(&there, datagrams[3..].iter().copied()).unwrap(), 1);
    let long = Address::Unix(vec![b'x'; 200].into());
    let error = sender.send(&there, [(b"1", &good), (b"2", &long)]).unwrap_err();
    assert!(error.to_string().contains("no socket can have the address"), "{error}");
    let allocator = Allocator::new();
    let received = receive(&mut Receiver::new(64, 100), &here, &allocator, 3);
    assert_eq!(received.iter().map(|datagram| datagram.packet[0]).collect::<Vec<_>>(), b"124");
}

#[test]
fn an_allocator_at_its_limit_keeps_the_rest_in_the_receiver() {
    let (here, there) = sockets("127.0.0.1");
    let config = Config::<64, 2048>::default().memory_limit(160 << 10).preallocated_windows(1).keep_empty_windows(1);
    let allocator = Allocator::with_config(config).unwrap();
    let filler: Vec<_> = std::iter::from_fn(|| allocator.packet(1400).ok()).collect();
    let address = to(&here);
    let datagrams: Vec<_> = (0..40).map(|number| numbered(number, 1400)).collect();
    Sender::new().send(&there, datagrams.iter().map(|bytes| (bytes, &address))).unwrap();
    let (mut receiver, mut batch) = (Receiver::new(64, 2048), Vec::new());
    let error = receiver.receive(&here, &allocator, &mut batch).unwrap_err();
    assert_eq!((error.kind(), receiver.waiting(), batch.len()), (io::ErrorKind::OutOfMemory, 40, 0));
    drop(filler);
    while batch.len() < 40 {
        receiver.receive(&here, &allocator, &mut batch).unwrap();
    }
    assert_eq!(receiver.waiting(), 0);
    assert!(batch.iter().zip(&datagrams).all(|(datagram, sent)| datagram.packet == *sent));
}

#[test]
fn long_datagrams_go_straight_into_their_packets() {
    let (here, there) = sockets("127.0.0.1");
    let allocator = RcAllocator::new();
    let (mut receiver, mut batch, address) = (Receiver::new(16, 20_000), Vec::new(), to(&here));
    let lengths = [12_000, 12_001, 12_002, 20_000, 21_000, 12_003, 60, 100, 13_000];
    for round in 0..20 {
        let datagrams: Vec<_> = lengths.iter().map(|&length| numbered(round, length)).collect();
        let sent = Sender::new().send(&there, datagrams.iter().map(|bytes| (bytes, &address))).unwrap();
        assert_eq!(sent, lengths.len());
        while batch.len() < lengths.len() {
            receiver.receive(&here, &allocator, &mut batch).unwrap();
        }
        for (datagram, sent) in batch.drain(..).zip(&datagrams) {
            assert_eq!(
                (&datagram.packet[..], datagram.truncated),
                (&sent[..sent.len().min(20_000)], sent.len() > 20_000)
            );
            assert_eq!(datagram.source, to(&there));
        }
    }
    assert_eq!(allocator.used_bytes(), 0);
}

#[test]
fn long_datagrams_in_larger_slots_hold_what_arrived() {
    let (here, there) = sockets("127.0.0.1");
    let allocator = Allocator::new();
    let (mut receiver, mut sender, address, mut held) =
        (Receiver::new(4, 65_536), Sender::new(), to(&here), Vec::new());
    for _ in 0..50 {
        sender.send(&there, [[7_u8; 12_000]; 4].iter().map(|bytes| (bytes, &address))).unwrap();
        held.extend(receive(&mut receiver, &here, &allocator, 4));
    }
    assert!(allocator.used_bytes() < 200 * 12_400, "{} bytes are used", allocator.used_bytes());
    assert!(allocator.allocated_bytes() < 200 * 15_000, "{} bytes are held", allocator.allocated_bytes());
}

#[test]
fn unix_datagrams_with_and_without_a_name() {
    let folder = std::env::temp_dir().join(format!("pktalloc-udp-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let (name, other) = (folder.join("here"), folder.join("there"));
    let (here, there) = (UnixDatagram::bind(&name).unwrap(), UnixDatagram::bind(&other).unwrap());
    let unnamed = UnixDatagram::unbound().unwrap();
    let address = Address::Unix(name.as_os_str().as_encoded_bytes().into());
    let mut sender = Sender::new();
    assert_eq!(sender.send(&there, [(&b"from there"[..], &address), (b"", &address)]).unwrap(), 2);
    assert_eq!(sender.send(&unnamed, [(b"unnamed", &address)]).unwrap(), 1);
    let (allocator, mut batch) = (Allocator::new(), Vec::new());
    assert_eq!(Receiver::new(64, 100).receive(&here, &allocator, &mut batch).unwrap(), 3);
    assert_eq!(batch[0].source, Address::Unix(other.as_os_str().as_encoded_bytes().into()));
    assert_eq!((batch[1].packet.len(), &batch[1].source), (0, &batch[0].source));
    assert_eq!(batch[2].source, Address::Unnamed, "the address of the datagram before would be taken for this one's");
    // A full queue takes a part, and does not block for the rest.
    there.set_nonblocking(true).unwrap();
    let sent = sender.send(&there, [[0_u8; 10]; 600].iter().map(|bytes| (bytes, &address))).unwrap();
    assert!((1..600).contains(&sent), "{sent} fit");
    // In blocking mode it waits until the peer has taken some.
    there.set_nonblocking(false).unwrap();
    there.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    assert_eq!(sender.send(&there, [(b"full", &address)]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    there.set_write_timeout(None).unwrap();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| sender.send(&there, [(b"one", &address), (b"two", &address)]).unwrap());
        let mut bytes = [0; 10];
        for _ in 0..sent + 2 {
            here.recv(&mut bytes).unwrap();
        }
        assert_eq!((sending.join().unwrap(), &bytes[..3]), (2, &b"two"[..]));
    });
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn a_group_is_the_destination_of_what_was_sent_to_it() {
    let group = Ipv4Addr::new(239, 255, 77, 7);
    let (here, there) = (UdpSocket::bind("0.0.0.0:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    here.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    if let Err(error) = here.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST) {
        println!("skipped: this host has no multicast on its loopback interface: {error}");
        return;
    }
    Options { destination: true, ..Options::default() }.enable(&here).unwrap();
    let address = SocketAddr::from((group, here.local_addr().unwrap().port())).into();
    if let Err(error) = Sender::new().send(&there, [(b"to all", &address)]) {
        println!("skipped: this host sends no multicast: {error}");
        return;
    }
    let allocator = Allocator::new();
    let received = receive(&mut Receiver::new(4, 100), &here, &allocator, 1);
    assert_eq!(received[0].info.destination, Some(group.into()));
}

#[test]
fn the_scope_of_a_link_local_peer_is_kept() {
    let Some((host, scope)) = link_local() else {
        println!("skipped: this host has no link-local address");
        return;
    };
    let bind = || UdpSocket::bind(SocketAddrV6::new(host, 0, 0, scope)).unwrap();
    let (here, there) = (bind(), bind());
    here.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    Sender::new().send(&there, [(b"x", &to(&here))]).unwrap();
    let allocator = Allocator::new();
    let received = receive(&mut Receiver::new(4, 100), &here, &allocator, 1);
    assert_eq!(received[0].source, to(&there));
    let Some(SocketAddr::V6(source)) = received[0].source.inet() else { panic!("{:?}", received[0].source) };
    assert_eq!(source.scope_id(), scope);
}

/// A link-local address of this host, and the number of its interface.
fn link_local() -> Option<(std::net::Ipv6Addr, u32)> {
    let table = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    table.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let address = u128::from_str_radix(words.next()?, 16).ok()?;
        let interface = u32::from_str_radix(words.next()?, 16).ok()?;
        (address >> 118 == 0xfe80 >> 6).then_some((address.into(), interface))
    })
}

#[cfg(feature = "shared")]
#[test]
fn into_packets_that_other_threads_free() {
    let (here, there) = sockets("127.0.0.1");
    let allocator = pktalloc::SharedAllocator::new();
    let (mut receiver, mut sender, address) = (Receiver::new(64, 2048).with_gro(), Sender::new(), to(&here));
    Options { gro: true, ..Options::default() }.enable(&here).unwrap();
    let (queue, packets) = std::sync::mpsc::channel::<Vec<Datagram<pktalloc::SharedPacket>>>();
    let worker = std::thread::spawn(move || {
        packets
            .into_iter()
            .flatten()
            .map(|datagram| datagram.packet.iter().map(|&byte| u64::from(byte)).sum::<u64>())
            .sum()
    });
    let mut expected = 0;
    for round in 0..200 {
        let datagrams: Vec<_> = (0..32).map(|number| numbered(round + number, 1200)).collect();
        expected += datagrams.iter().flatten().map(|&byte| u64::from(byte)).sum::<u64>();
        sender.send(&there, datagrams.iter().map(|bytes| (bytes, &address))).unwrap();
        let mut batch = Vec::new();
        while batch.len() < 32 {
            receiver.receive(&here, &allocator, &mut batch).unwrap();
        }
        queue.send(batch).unwrap();
    }
    drop(queue);
    let sum: u64 = worker.join().unwrap();
    assert_eq!(sum, expected);
    allocator.collect();
    assert_eq!(allocator.used_bytes(), 0);
}

#[test]
fn receivers_and_senders_can_change_threads() {
    fn sent<T: Send + Sync>() {}
    sent::<Receiver>();
    sent::<Sender>();
}

//! Reliable messages over a lossy datagram link: one server, 32 connections, every message echoed.
//!
//! Messages live in packet memory until they are acknowledged, datagrams from their receipt until they are processed.

use std::time::Duration;

use renet::{ConnectionConfig, DefaultChannel, RenetClient, RenetServer};

use crate::link::{Link, Random, checksum, fill};
use crate::memory::Memory;

const CONNECTIONS: u64 = 32;
const TICKS: u64 = 1500;
const TICK: Duration = Duration::from_millis(10);
/// Ticks without new messages at the end, so that all arrive.
const SILENCE: u64 = 200;
const LONGEST_MESSAGE: u64 = 1100;

pub(crate) fn run<M: Memory>(memory: &M) -> u64 {
    let mut server = RenetServer::new(ConnectionConfig::default());
    let mut clients: Vec<RenetClient> = (0..CONNECTIONS)
        .map(|id| {
            server.add_connection(id);
            let mut client = RenetClient::new(ConnectionConfig::default());
            client.set_connected();
            client
        })
        .collect();
    let mut to_server: Link<(u64, M::Packet)> = Link::new(1, 20, (2, 6));
    let mut to_clients: Link<(u64, M::Packet)> = Link::new(2, 20, (2, 6));
    let mut random = Random::new(9);
    let mut message = [0; LONGEST_MESSAGE as usize];
    let (mut result, mut sent, mut echoed) = (0_u64, 0_u64, 0_u64);
    for now in 0..TICKS + SILENCE {
        for (id, client) in (0..).zip(&mut clients) {
            if now < TICKS {
                for _ in 0..1 + random.below(4) {
                    let len = 40 + random.below(LONGEST_MESSAGE - 40) as usize;
                    fill(&mut message[..len], sent);
                    client.send_message(DefaultChannel::ReliableOrdered, memory.bytes(&message[..len]));
                    sent += 1;
                }
            }
            for datagram in client.get_packets_to_send() {
                to_server.send(now, (id, memory.packet(&datagram)));
            }
        }
        while let Some((id, datagram)) = to_server.receive(now) {
            server.process_packet_from(&datagram, id).expect("the connection is there");
        }
        for id in 0..CONNECTIONS {
            while let Some(message) = server.receive_message(id, DefaultChannel::ReliableOrdered) {
                server.send_message(id, DefaultChannel::ReliableOrdered, memory.bytes(&message));
            }
            for datagram in server.get_packets_to_send(id).expect("the connection is there") {
                to_clients.send(now, (id, memory.packet(&datagram)));
            }
        }
        while let Some((id, datagram)) = to_clients.receive(now) {
            clients[id as usize].process_packet(&datagram);
        }
        server.update(TICK);
        for (id, client) in (0_u64..).zip(&mut clients) {
            client.update(TICK);
            while let Some(message) = client.receive_message(DefaultChannel::ReliableOrdered) {
                result = result.wrapping_add(checksum(&message).rotate_left(id as u32));
                echoed += 1;
            }
        }
    }
    assert_eq!(echoed, sent, "every message comes back");
    result
}

//! A jitter buffer: RTP packets of several video streams arrive late, reordered or not at all, and become frames.
//!
//! Datagrams are received into packet memory, parsed without a copy, held by the sample builder until their frame is
//! complete, and released by it.

use rtp::codecs::vp8::Vp8Packet;
use rtp::packet::Packet;
use webrtc_media::io::sample_builder::SampleBuilder;
use webrtc_util::marshal::Unmarshal;

use crate::link::{Link, Random, checksum, fill};
use crate::memory::Memory;

const STREAMS: usize = 4;
const FRAMES: u32 = 20_000;
/// RTP's header, and a payload descriptor of one byte.
const HEADER: usize = 12;
const LONGEST: usize = 1200;

pub(crate) fn run<M: Memory>(memory: &M) -> u64 {
    let mut builders: Vec<SampleBuilder<Vp8Packet>> =
        (0..STREAMS).map(|_| SampleBuilder::new(128, Vp8Packet::default(), 90_000)).collect();
    let mut link = Link::new(5, 10, (1, 24));
    let mut random = Random::new(6);
    let mut sequence = [0_u16; STREAMS];
    let mut datagram = [0; LONGEST];
    let (mut result, mut now, mut delivered) = (0_u64, 0, 0);
    for frame in 0..FRAMES {
        for (stream, sequence) in sequence.iter_mut().enumerate() {
            let packets = 1 + random.below(8);
            for packet in 0..packets {
                let last = packet + 1 == packets;
                let len = if last { 200 + random.below(LONGEST as u64 - 200) as usize } else { LONGEST };
                fill(&mut datagram[HEADER..len], now);
                datagram[0] = 0x80;
                datagram[1] = 96 | if last { 0x80 } else { 0 };
                datagram[2..4].copy_from_slice(&sequence.to_be_bytes());
                datagram[4..8].copy_from_slice(&(frame * 3000).to_be_bytes());
                datagram[8..12].copy_from_slice(&(stream as u32).to_be_bytes());
                datagram[HEADER] = if packet == 0 { 0x10 } else { 0 };
                *sequence = sequence.wrapping_add(1);
                // What is received.
                link.send(now, (stream, memory.bytes(&datagram[..len])));
                now += 1;
                while let Some((stream, mut bytes)) = link.receive(now) {
                    let packet = Packet::unmarshal(&mut bytes).expect("the datagram is RTP");
                    builders[stream].push(packet);
                    while let Some(sample) = builders[stream].pop() {
                        result = result.rotate_left(7) ^ checksum(&sample.data) ^ u64::from(sample.packet_timestamp);
                        delivered += 1;
                    }
                }
            }
        }
    }
    // Of a hundred packets one is lost, and a frame has one to eight.
    assert!(delivered > STREAMS as u32 * FRAMES * 9 / 10, "{delivered} frames were delivered");
    result
}

//! What packets cost beside what programs use today. Each row times its subjects in turns, many short rounds of each, and shows the
//! median of every subject, in nanoseconds of this thread's processor time: what disturbs the machine meets all of them, and few of
//! the rounds.
//!
//! `cargo bench --bench packets --features bytes [-- ROW...]`

use std::collections::VecDeque;
use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::mpsc;
use std::thread;

use bytes::{Bytes, BytesMut};
use pktalloc::{Allocator, Config, FrozenPacket, Packet, Pool, SharedAllocator, SharedPacket};

const PACKET: usize = 1400;
const ROUNDS: usize = 301;

/// Nanoseconds that this thread has run for.
#[cfg(unix)]
fn processor_time() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock is there, and the structure is written to.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) }, 0);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds that have passed, where a thread has no clock of its own.
#[cfg(not(unix))]
fn processor_time() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as f64
}

/// Something that is timed: does its work so many times.
struct Subject<'a>(&'static str, Box<dyn FnMut(usize) + 'a>);

/// Times the subjects in turns and prints the median of each, in nanoseconds for one time, and by the first one's.
fn row(name: &str, times: usize, mut subjects: Vec<Subject<'_>>) {
    let only: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if !only.is_empty() && !only.iter().any(|only| name.contains(only.as_str())) {
        return;
    }
    let mut taken = vec![Vec::new(); subjects.len()];
    for round in 0..=ROUNDS {
        for (Subject(_, work), taken) in subjects.iter_mut().zip(&mut taken) {
            let start = processor_time();
            work(times);
            // The first round warms up.
            if round > 0 {
                taken.push((processor_time() - start) / times as f64);
            }
        }
    }
    let medians: Vec<f64> = taken
        .iter_mut()
        .map(|taken| {
            taken.sort_by(f64::total_cmp);
            taken[taken.len() / 2]
        })
        .collect();
    print!("{name:<34}");
    for (Subject(name, _), median) in subjects.iter().zip(&medians) {
        print!("  {name} {median:.1} ({:.2})", median / medians[0]);
    }
    println!();
}

/// A frozen packet, two clones, two parts, and the end of all.
fn freeze() {
    let allocator = SharedAllocator::new();
    let payload = [7; PACKET];
    for (name, written) in [("freeze, 2 clones, 2 slices", 0), ("the same, written", PACKET)] {
        row(
            name,
            2000,
            vec![
                Subject(
                    "BytesMut",
                    Box::new(|times| {
                        for _ in 0..times {
                            let mut packet = BytesMut::with_capacity(PACKET);
                            packet.extend_from_slice(&payload[..written.max(20)]);
                            let frozen = black_box(packet.freeze());
                            let clones = black_box([frozen.clone(), frozen.clone()]);
                            let parts = black_box([frozen.slice(..12), frozen.slice(12..)]);
                            drop((frozen, clones, parts));
                        }
                    }),
                ),
                Subject(
                    "SharedPacket",
                    Box::new(|times| {
                        for _ in 0..times {
                            let mut packet = allocator.packet_for(PACKET).unwrap();
                            packet.extend_from_slice(&payload[..written.max(20)]).unwrap();
                            let frozen = black_box(packet.freeze());
                            let clones = black_box([frozen.clone(), frozen.clone()]);
                            let parts = black_box([frozen.slice(..12), frozen.slice(12..)]);
                            drop((frozen, clones, parts));
                        }
                    }),
                ),
                Subject(
                    "Bytes::from(SharedPacket)",
                    Box::new(|times| {
                        for _ in 0..times {
                            let mut packet = allocator.packet_for(PACKET).unwrap();
                            packet.extend_from_slice(&payload[..written.max(20)]).unwrap();
                            let frozen = black_box(Bytes::from(packet));
                            let clones = black_box([frozen.clone(), frozen.clone()]);
                            let parts = black_box([frozen.slice(..12), frozen.slice(12..)]);
                            drop((frozen, clones, parts));
                        }
                    }),
                ),
            ],
        );
    }
    row(
        "made and dropped, nothing else",
        2000,
        vec![
            Subject(
                "BytesMut",
                Box::new(|times| {
                    for _ in 0..times {
                        let mut packet = BytesMut::with_capacity(PACKET);
                        packet.extend_from_slice(&payload[..20]);
                        black_box(packet);
                    }
                }),
            ),
            Subject(
                "SharedPacket",
                Box::new(|times| {
                    for _ in 0..times {
                        let mut packet = allocator.packet_for(PACKET).unwrap();
                        packet.extend_from_slice(&payload[..20]).unwrap();
                        black_box(packet);
                    }
                }),
            ),
        ],
    );
}

/// A queue of packets, safe, beside one of blocks by hand.
fn queue() {
    let payload = [7; PACKET];
    for (name, written, depth) in [
        ("queue of 64, header written", 64, 64),
        ("queue of 1024, header written", 64, 1024),
        ("queue of 1024, written", PACKET, 1024),
        ("queue of 16384, header written", 64, 16_384),
    ] {
        let (by_hand, safe) = (Allocator::new(), Allocator::new());
        let payload = &payload[..written];
        let mut blocks: VecDeque<(NonNull<u8>, usize)> = VecDeque::with_capacity(depth + 1);
        let mut packets: VecDeque<Packet<&Allocator>> = VecDeque::with_capacity(depth + 1);
        let mut vectors: VecDeque<Vec<u8>> = VecDeque::with_capacity(depth + 1);
        row(
            name,
            3000,
            vec![
                Subject(
                    "raw blocks",
                    Box::new(|times| {
                        for _ in 0..times {
                            let block = by_hand.allocate(PACKET).unwrap().cast::<u8>();
                            // SAFETY: the block has room for more, and is freed once.
                            unsafe {
                                block.copy_from_nonoverlapping(NonNull::from(payload).cast(), payload.len());
                                blocks.push_back((block, payload.len()));
                                if blocks.len() > depth {
                                    let (block, len) = blocks.pop_front().unwrap();
                                    black_box(NonNull::slice_from_raw_parts(block, len).as_ref());
                                    by_hand.free(block);
                                }
                            }
                        }
                    }),
                ),
                Subject(
                    "Packet",
                    Box::new(|times| {
                        for _ in 0..times {
                            let mut packet = safe.packet_for(PACKET).unwrap();
                            packet.extend_from_slice(payload).unwrap();
                            packets.push_back(packet);
                            if packets.len() > depth {
                                let packet = packets.pop_front().unwrap();
                                black_box(&packet[..]);
                            }
                        }
                    }),
                ),
                Subject(
                    "Vec",
                    Box::new(|times| {
                        for _ in 0..times {
                            let mut packet = Vec::with_capacity(PACKET);
                            packet.extend_from_slice(payload);
                            vectors.push_back(packet);
                            if vectors.len() > depth {
                                let packet = vectors.pop_front().unwrap();
                                black_box(&packet[..]);
                            }
                        }
                    }),
                ),
            ],
        );
    }
}

/// An RTP jitter buffer: datagrams are taken out of a receive buffer, lose their header, wait by sequence number, and leave.
fn jitter() {
    const HEADER: usize = 12;
    let datagram = [7; 1200];
    for (name, depth) in [("jitter buffer of 16", 16), ("jitter buffer of 512", 512), ("jitter buffer of 8192", 8192)] {
        let mut buffer = BytesMut::new();
        let mut split: Vec<Option<Bytes>> = vec![None; depth];
        let allocator = SharedAllocator::new();
        let mut frozen: Vec<Option<FrozenPacket>> = vec![None; depth];
        let local = Allocator::new();
        let mut packets: Vec<Option<Packet<&Allocator>>> = (0..depth).map(|_| None).collect();
        let (mut first, mut second, mut third) = (0, 0, 0);
        // Every eighth packet is late by one.
        let place = |sequence: &mut usize| {
            *sequence += 1;
            (*sequence ^ usize::from(*sequence % 8 < 2)) % depth
        };
        row(
            name,
            2000,
            vec![
                Subject(
                    "BytesMut, split",
                    Box::new(|times| {
                        for _ in 0..times {
                            if buffer.capacity() < 2048 {
                                buffer.reserve(64 << 10);
                            }
                            buffer.extend_from_slice(&datagram);
                            let mut packet = buffer.split().freeze();
                            bytes::Buf::advance(&mut packet, HEADER);
                            black_box(split[place(&mut first)].replace(packet));
                        }
                    }),
                ),
                Subject(
                    "FrozenPacket",
                    Box::new(|times| {
                        for _ in 0..times {
                            let mut packet = allocator.packet_from(&datagram).unwrap().freeze();
                            packet.advance(HEADER);
                            black_box(frozen[place(&mut second)].replace(packet));
                        }
                    }),
                ),
                Subject(
                    "Packet",
                    Box::new(|times| {
                        for _ in 0..times {
                            let mut packet = local.packet_from(&datagram).unwrap();
                            packet.advance(HEADER);
                            black_box(packets[place(&mut third)].replace(packet));
                        }
                    }),
                ),
            ],
        );
    }
}

/// A packet that is made and dropped on one thread.
fn pool() {
    let allocator = SharedAllocator::new();
    let (open, limited) = (Pool::new(), Pool::with_config(Config::new().memory_limit(64 << 20)).unwrap());
    let of_its_own = SharedAllocator::with_config(Config::new().memory_limit(64 << 20)).unwrap();
    let payload = [7; 64];
    for depth in [1, 256] {
        let name = if depth == 1 { "pool, one at a time" } else { "pool, queue of 256" };
        let mut queues: [VecDeque<SharedPacket>; 4] = Default::default();
        let [one, two, three, four] = &mut queues;
        let turn = move |queue: &mut VecDeque<SharedPacket>, mut packet: SharedPacket| {
            packet.extend_from_slice(&payload).unwrap();
            queue.push_back(packet);
            if queue.len() >= depth {
                black_box(queue.pop_front());
            }
        };
        row(
            name,
            3000,
            vec![
                Subject(
                    "SharedAllocator",
                    Box::new(|times| (0..times).for_each(|_| turn(one, allocator.packet_for(PACKET).unwrap()))),
                ),
                Subject("Pool", Box::new(|times| (0..times).for_each(|_| turn(two, open.packet_for(PACKET).unwrap())))),
                Subject(
                    "limited SharedAllocator",
                    Box::new(|times| (0..times).for_each(|_| turn(three, of_its_own.packet_for(PACKET).unwrap()))),
                ),
                Subject(
                    "limited Pool",
                    Box::new(|times| (0..times).for_each(|_| turn(four, limited.packet_for(PACKET).unwrap()))),
                ),
            ],
        );
    }
}

/// Packets that one thread makes and another drops, in batches of 32: what it costs the thread that makes them.
fn hand_over() {
    /// A thread that drops what it gets.
    fn consumer<T: Send + 'static>() -> mpsc::SyncSender<Vec<T>> {
        let (sender, receiver) = mpsc::sync_channel::<Vec<T>>(16);
        thread::spawn(move || receiver.into_iter().for_each(drop));
        sender
    }
    let allocator = SharedAllocator::new();
    let pool = Pool::new();
    let (shared, pooled, vectors) = (consumer(), consumer(), consumer());
    row(
        "from one thread to another",
        3200,
        vec![
            Subject(
                "Vec",
                Box::new(|times| {
                    for _ in 0..times / 32 {
                        vectors.send((0..32).map(|_| vec![0u8; PACKET]).collect()).unwrap();
                    }
                }),
            ),
            Subject(
                "SharedAllocator",
                Box::new(|times| {
                    for _ in 0..times / 32 {
                        shared.send((0..32).map(|_| allocator.packet(PACKET).unwrap()).collect()).unwrap();
                    }
                }),
            ),
            Subject(
                "Pool",
                Box::new(|times| {
                    for _ in 0..times / 32 {
                        pooled.send((0..32).map(|_| pool.packet(PACKET).unwrap()).collect()).unwrap();
                    }
                }),
            ),
        ],
    );
}

fn main() {
    // Cargo's own test run only wants to know that it starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    freeze();
    queue();
    jitter();
    pool();
    hand_over();
}

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

/// Nanoseconds of a clock.
#[cfg(unix)]
fn time_of(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock is there, and the structure is written to.
    assert_eq!(unsafe { libc::clock_gettime(clock, &mut time) }, 0);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Nanoseconds that this thread has run for.
#[cfg(unix)]
fn processor_time() -> f64 {
    time_of(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// Nanoseconds that all threads have run for.
#[cfg(unix)]
fn processor_time_of_all() -> f64 {
    time_of(libc::CLOCK_PROCESS_CPUTIME_ID)
}

#[cfg(not(unix))]
use processor_time as processor_time_of_all;

/// Nanoseconds that have passed, where a thread has no clock of its own.
#[cfg(not(unix))]
fn processor_time() -> f64 {
    static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as f64
}

/// Something that is timed: does its work so many times.
struct Subject<'a>(&'static str, Box<dyn FnMut(usize) + 'a>);

/// Times the subjects in turns and prints the median of each, in nanoseconds for one time, and by the first one's.
fn row(name: &str, times: usize, subjects: Vec<Subject<'_>>) {
    row_by(processor_time, name, times, subjects);
}

/// The same by another clock.
fn row_by(clock: fn() -> f64, name: &str, times: usize, mut subjects: Vec<Subject<'_>>) {
    let only: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if !only.is_empty() && !only.iter().any(|only| name.contains(only.as_str())) {
        return;
    }
    let mut taken = vec![Vec::new(); subjects.len()];
    for round in 0..=ROUNDS {
        for (Subject(_, work), taken) in subjects.iter_mut().zip(&mut taken) {
            let start = clock();
            work(times);
            // The first round warms up.
            if round > 0 {
                taken.push((clock() - start) / times as f64);
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

/// The way to a thread that drops what it gets.
struct Consumer<T> {
    batches: mpsc::SyncSender<Vec<T>>,
    done: mpsc::Receiver<()>,
}

impl<T: Send + 'static> Consumer<T> {
    fn new() -> Self {
        let (batches, receiver) = mpsc::sync_channel::<Vec<T>>(16);
        let (is_done, done) = mpsc::channel();
        thread::spawn(move || {
            for batch in receiver {
                let is_last = batch.is_empty();
                drop(batch);
                if is_last && is_done.send(()).is_err() {
                    break;
                }
            }
        });
        Self { batches, done }
    }

    /// Sends so many of what `make` makes, in batches, and waits until all of it is dropped.
    fn feed(&self, times: usize, mut make: impl FnMut() -> T) {
        const BATCH: usize = 64;
        for _ in 0..times / BATCH {
            self.batches.send((0..BATCH).map(|_| make()).collect()).unwrap();
        }
        self.batches.send(Vec::new()).unwrap();
        self.done.recv().unwrap();
    }
}

/// Packets that one thread makes and another drops: what it costs the thread that makes them, and both.
fn hand_over() {
    let (allocator, pool) = (SharedAllocator::new(), Pool::new());
    let (shared, pooled, vectors) = (Consumer::new(), Consumer::new(), Consumer::new());
    let one = |mut packet: SharedPacket| {
        packet.extend_from_slice(&[7]).unwrap();
        packet
    };
    let vector = || {
        let mut vector = Vec::with_capacity(PACKET);
        vector.push(7u8);
        vector
    };
    for (name, clock) in [
        ("from one thread to another", processor_time as fn() -> f64),
        ("the same, both threads", processor_time_of_all),
    ] {
        row_by(
            clock,
            name,
            6400,
            vec![
                Subject("Vec", Box::new(|times| vectors.feed(times, vector))),
                Subject(
                    "SharedAllocator",
                    Box::new(|times| shared.feed(times, || one(allocator.packet_for(PACKET).unwrap()))),
                ),
                Subject("Pool", Box::new(|times| pooled.feed(times, || one(pool.packet_for(PACKET).unwrap())))),
            ],
        );
    }
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

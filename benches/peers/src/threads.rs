//! Producers and consumers: one thread allocates packets, others free them.
//!
//! Packets of 1024 bytes go through bounded queues with one writer and one reader each, the same for every subject.
//! Every slice is a process of its own, the slices of all subjects in turn, and the first packets of a slice are not
//! timed.
//!
//! Time is taken in two ways. On all cores it is the clock's, since it is the slower end that counts, and the traffic
//! of cache lines between cores is in it; that wants idle cores. On one core, where the threads take turns, it is the
//! processor time of them all: the work that a packet costs, on a machine that has other things to do as well.
//!
//! Beside that, on one thread: what a pair of a packet and its drop costs the owner of shared packets, over the same
//! with packets of the plain allocator, and with its bare blocks.

use std::cell::UnsafeCell;
use std::collections::VecDeque;
use std::ffi::c_int;
use std::fmt;
use std::hint::{black_box, spin_loop};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use pktalloc::{Allocator, Packet, SharedAllocator, SharedPacket};

use crate::clock::{processor_time, processor_time_of_all_threads, stay_on_one_core};
use crate::foreign::{Functions, Jemalloc, Malloc, Mimalloc, Rpmalloc, Snmalloc};
use crate::matrix::Figure;
use crate::names::Name;
use crate::process::ask;

const PACKET_BYTES: usize = 1024;
/// Packets that a queue holds.
const QUEUE_DEPTH: usize = 512;
/// Packets of a slice that are not timed.
const LEAD_IN: usize = 100_000;
/// Packets of a slice that are.
const PACKETS: usize = 600_000;
/// Consumers of one producer, and threads of a ring.
const MANY: usize = 4;
/// Packets that live at once while the owner's pair is measured.
const PAIR_DEPTH: usize = 1024;
/// Slices of such pairs, of each kind in turn, and how often a slice goes through all packets.
const PAIR_SLICES: usize = 40;
const PAIR_ROUNDS: usize = 64;
/// Looks at a queue before the processor is left to others.
const SPINS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scene {
    /// One producer, one consumer
    OneToOne,
    /// One producer, four consumers
    OneToMany,
    /// Four threads in a circle: each sends packets of its own to the next and frees those of the one before
    Ring,
    /// The owner alone: a pair of a packet and its drop
    Owner,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Content {
    /// The first 8 bytes are written and read
    Header,
    /// All bytes are written, the first 8 read
    Whole,
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("no scene is hidden").get_name())
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("no content is hidden").get_name())
    }
}

/// The general allocators that free on any thread, in the order of the table.
const PEERS: [Name; 6] =
    [Name::Mimalloc, Name::Snmalloc, Name::Rpmalloc, Name::Jemalloc, Name::JemallocBest, Name::Malloc];

/// An allocator whose packets are freed by being dropped, anywhere.
trait Sharing {
    type Owner;
    type Packet: Send + 'static;

    /// On the thread that allocates.
    fn owner() -> Self::Owner;

    /// A packet of `PACKET_BYTES`.
    fn packet(owner: &Self::Owner) -> Self::Packet;

    fn bytes(packet: &mut Self::Packet) -> *mut u8;

    /// On every thread, before anything else and after everything else.
    fn enter() {}
    fn leave() {}
}

struct Shared;

impl Sharing for Shared {
    type Owner = SharedAllocator;
    type Packet = SharedPacket;

    fn owner() -> SharedAllocator {
        SharedAllocator::new()
    }

    #[inline(always)]
    fn packet(owner: &SharedAllocator) -> SharedPacket {
        let mut packet = owner.packet_for(PACKET_BYTES).expect("there is memory for packets");
        // SAFETY: there is room for as many bytes, and nothing is read that `exchange` has not written.
        unsafe { packet.set_len(PACKET_BYTES) };
        packet
    }

    #[inline(always)]
    fn bytes(packet: &mut SharedPacket) -> *mut u8 {
        packet.as_mut_ptr()
    }
}

/// A general allocator's global functions, without a state of its own.
trait Global: Functions + Default + 'static {
    fn enter() {}
    fn leave() {}
}

impl Global for Malloc {}
impl Global for Jemalloc {}
impl Global for Mimalloc {}
impl Global for Snmalloc {}

unsafe extern "C" {
    // The crate's declaration lacks the argument: whether to empty the thread's caches.
    fn rpmalloc_thread_finalize(release_caches: c_int);
}

impl Global for Rpmalloc {
    fn enter() {
        // SAFETY: any thread may do it at any time.
        unsafe {
            rpmalloc_sys::rpmalloc_initialize();
            rpmalloc_sys::rpmalloc_thread_initialize();
        }
    }

    fn leave() {
        // SAFETY: the thread's last call.
        unsafe { rpmalloc_thread_finalize(1) };
    }
}

/// A block of a general allocator, and its length, as `Box<[u8]>` has it.
struct Freed<G: Global> {
    block: NonNull<u8>,
    len: usize,
    functions: PhantomData<G>,
}

// SAFETY: the block is this handle's alone, and any thread may free it.
unsafe impl<G: Global> Send for Freed<G> {}

impl<G: Global> Drop for Freed<G> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: allocated below with this size, and freed once.
        unsafe { G::default().free(self.block.as_ptr().cast(), self.len) };
    }
}

struct General<G>(PhantomData<G>);

impl<G: Global> Sharing for General<G> {
    type Owner = ();
    type Packet = Freed<G>;

    fn owner() {}

    #[inline(always)]
    fn packet((): &()) -> Freed<G> {
        let block = NonNull::new(G::default().allocate(PACKET_BYTES).cast()).expect("there is memory for packets");
        Freed { block, len: PACKET_BYTES, functions: PhantomData }
    }

    #[inline(always)]
    fn bytes(packet: &mut Freed<G>) -> *mut u8 {
        packet.block.as_ptr()
    }

    fn enter() {
        G::enter();
    }

    fn leave() {
        G::leave();
    }
}

/// Cache lines that another thread does not write.
#[repr(align(128))]
struct Apart<T>(T);

/// A bounded queue with one writer and one reader.
struct Queue<T> {
    places: Box<[UnsafeCell<MaybeUninit<T>>]>,
    written: Apart<AtomicUsize>,
    read: Apart<AtomicUsize>,
}

// SAFETY: a place belongs to the writer or to the reader, as the two counts say.
unsafe impl<T: Send> Sync for Queue<T> {}

struct Writer<T> {
    queue: Arc<Queue<T>>,
    written: usize,
    /// What the reader had read when it was last asked.
    read: usize,
}

struct Reader<T> {
    queue: Arc<Queue<T>>,
    read: usize,
    /// What the writer had written when it was last asked.
    written: usize,
}

fn queue<T>() -> (Writer<T>, Reader<T>) {
    let places = (0..QUEUE_DEPTH).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect();
    let counts = || Apart(AtomicUsize::new(0));
    let queue = Arc::new(Queue { places, written: counts(), read: counts() });
    (Writer { queue: queue.clone(), written: 0, read: 0 }, Reader { queue, read: 0, written: 0 })
}

impl<T> Writer<T> {
    /// Whether there is room for one more.
    #[inline(always)]
    fn has_room(&mut self) -> bool {
        if self.written - self.read == QUEUE_DEPTH {
            self.read = self.queue.read.0.load(Ordering::Acquire);
        }
        self.written - self.read < QUEUE_DEPTH
    }

    /// Sends a value for which there is room.
    #[inline(always)]
    fn send(&mut self, value: T) {
        debug_assert!(self.written - self.read < QUEUE_DEPTH);
        // SAFETY: the reader is done with this place, and it is one of `QUEUE_DEPTH`. (A check of the index could
        // unwind, and would have the value kept in memory for that case.)
        unsafe { (*self.queue.places.get_unchecked(self.written % QUEUE_DEPTH).get()).write(value) };
        self.written += 1;
        self.queue.written.0.store(self.written, Ordering::Release);
    }
}

impl<T> Reader<T> {
    #[inline(always)]
    fn receive(&mut self) -> Option<T> {
        if self.read == self.written {
            self.written = self.queue.written.0.load(Ordering::Acquire);
            if self.read == self.written {
                return None;
            }
        }
        // SAFETY: the writer has written this place, and it is one of `QUEUE_DEPTH`.
        let value = unsafe { (*self.queue.places.get_unchecked(self.read % QUEUE_DEPTH).get()).assume_init_read() };
        self.read += 1;
        self.queue.read.0.store(self.read, Ordering::Release);
        Some(value)
    }
}

/// Waits a moment, longer from time to time.
struct Patience(u32);

impl Patience {
    fn wait(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(SPINS) { thread::yield_now() } else { spin_loop() }
    }
}

/// A new packet with its sequence number, and all bytes written if they are to be.
#[inline(always)]
fn filled<S: Sharing>(owner: &S::Owner, sequence: usize, content: Content) -> S::Packet {
    let mut packet = S::packet(owner);
    let bytes = S::bytes(&mut packet);
    // SAFETY: the block has `PACKET_BYTES` and is aligned for a number.
    unsafe {
        if content == Content::Whole {
            bytes.write_bytes(sequence as u8, PACKET_BYTES);
        }
        bytes.cast::<usize>().write(sequence);
    }
    packet
}

/// Reads the sequence number and frees the packet.
#[inline(always)]
fn freed<S: Sharing>(mut packet: S::Packet, sequence: usize) {
    // SAFETY: the producer wrote it.
    let found = unsafe { S::bytes(&mut packet).cast::<usize>().read() };
    assert_eq!(found, sequence, "a packet changed on its way");
}

#[inline(always)]
fn wait_for_room<T>(writer: &mut Writer<T>) {
    let mut patience = Patience(0);
    while !writer.has_room() {
        patience.wait();
    }
}

#[inline(always)]
fn receive<T>(reader: &mut Reader<T>) -> T {
    let mut patience = Patience(0);
    loop {
        match reader.receive() {
            Some(value) => return value,
            None => patience.wait(),
        }
    }
}

/// A moment: by the clock, and by the processor time of this process.
struct Moment(Instant, Duration);

impl Moment {
    fn now() -> Self {
        Self(Instant::now(), processor_time_of_all_threads())
    }

    /// Nanoseconds for each of `packets` since then, in both ways.
    fn elapsed(&self, packets: usize) -> [f64; 2] {
        let now = Self::now();
        [now.0 - self.0, now.1 - self.1].map(|time| time.as_nanos() as f64 / packets as f64)
    }
}

/// One producer, packets to each consumer in turn: nanoseconds a packet.
fn produce<S: Sharing>(consumers: usize, content: Content) -> [f64; 2] {
    let barrier = Barrier::new(consumers + 1);
    thread::scope(|scope| {
        let mut writers = VecDeque::new();
        for _ in 0..consumers {
            let (writer, mut reader) = queue();
            writers.push_back(writer);
            let barrier = &barrier;
            scope.spawn(move || {
                S::enter();
                for packets in [LEAD_IN, PACKETS] {
                    barrier.wait();
                    (0..packets / consumers).for_each(|sequence| freed::<S>(receive(&mut reader), sequence));
                    barrier.wait();
                }
                S::leave();
            });
        }
        S::enter();
        let owner = S::owner();
        let mut time = [0.0; 2];
        for packets in [LEAD_IN, PACKETS] {
            barrier.wait();
            let start = Moment::now();
            for sequence in 0..packets / consumers {
                for writer in &mut writers {
                    wait_for_room(writer);
                    writer.send(filled::<S>(&owner, sequence, content));
                }
            }
            barrier.wait();
            time = start.elapsed(packets);
        }
        time
    })
}

/// Threads in a circle: nanoseconds a packet.
fn circle<S: Sharing>(threads: usize, content: Content) -> [f64; 2] {
    let barrier = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let (writers, mut readers): (Vec<_>, VecDeque<_>) = (0..threads).map(|_| queue()).unzip();
        readers.rotate_right(1);
        for (mut writer, mut reader) in writers.into_iter().zip(readers) {
            let barrier = &barrier;
            scope.spawn(move || {
                S::enter();
                let owner = S::owner();
                for packets in [LEAD_IN, PACKETS] {
                    let packets = packets / threads;
                    barrier.wait();
                    let (mut sent, mut received) = (0, 0);
                    let mut patience = Patience(0);
                    while sent < packets || received < packets {
                        let before = sent + received;
                        if sent < packets && writer.has_room() {
                            writer.send(filled::<S>(&owner, sent, content));
                            sent += 1;
                        }
                        if let Some(packet) = reader.receive() {
                            freed::<S>(packet, received);
                            received += 1;
                        }
                        if sent + received == before {
                            patience.wait();
                        }
                    }
                    barrier.wait();
                }
                S::leave();
            });
        }
        let mut time = [0.0; 2];
        for packets in [LEAD_IN, PACKETS] {
            barrier.wait();
            let start = Moment::now();
            barrier.wait();
            time = start.elapsed(packets);
        }
        time
    })
}

/// Packets of one thread, in order: each round frees all of them, the oldest first, and allocates one for each.
struct Pairs<T, A: FnMut() -> T, F: FnMut(T)> {
    places: Vec<T>,
    allocate: A,
    free: F,
    /// Nanoseconds that a pair took, in each slice.
    figure: Figure,
}

impl<T, A: FnMut() -> T, F: FnMut(T)> Pairs<T, A, F> {
    fn new(mut allocate: A, free: F) -> Self {
        Self { places: (0..PAIR_DEPTH).map(|_| allocate()).collect(), allocate, free, figure: Figure::default() }
    }

    #[inline(never)]
    fn slice(&mut self) {
        let start = processor_time();
        for _ in 0..PAIR_ROUNDS {
            for place in &mut self.places {
                // SAFETY: the place is written before anybody looks at it again.
                (self.free)(unsafe { std::ptr::read(place) });
                // SAFETY: as above.
                unsafe { std::ptr::write(place, (self.allocate)()) };
            }
        }
        self.figure.push((processor_time() - start).as_nanos() as f64 / (PAIR_ROUNDS * PAIR_DEPTH) as f64);
    }

    fn end(self) -> Figure {
        self.places.into_iter().for_each(self.free);
        self.figure
    }
}

/// What a pair takes the owner of shared packets: nanoseconds, times a packet of the plain allocator, times a bare
/// block of it.
fn pairs() -> [f64; 3] {
    let shared_owner = black_box(SharedAllocator::new());
    let plain = black_box(Allocator::new());
    let block = || plain.allocate(PACKET_BYTES).expect("there is memory for packets");
    let mut shared = Pairs::new(|| Shared::packet(&shared_owner), drop);
    // SAFETY: the block is new, and nobody reads what it contains.
    let mut packets = Pairs::new(|| unsafe { Packet::from_raw(&plain, Some(block())) }, drop);
    // SAFETY: each block is freed once.
    let mut bare = Pairs::new(|| block().cast::<u8>(), |block| unsafe { plain.free(block) });
    for _ in 0..PAIR_SLICES {
        shared.slice();
        packets.slice();
        bare.slice();
    }
    let figure = shared.end();
    [figure.median(), figure.ratio(&packets.end()), figure.ratio(&bare.end())]
}

/// A slice, in a process of its own.
pub(crate) fn serve(name: Name, scene: Scene, content: Content) -> Result<(), String> {
    if scene == Scene::Owner {
        stay_on_one_core()?;
        let times = pairs();
        println!("{} {} {}", times[0], times[1], times[2]);
        return Ok(());
    }
    let time = match name {
        Name::Pktalloc => play::<Shared>(scene, content),
        Name::Malloc => play::<General<Malloc>>(scene, content),
        Name::Jemalloc | Name::JemallocBest => play::<General<Jemalloc>>(scene, content),
        Name::Mimalloc => play::<General<Mimalloc>>(scene, content),
        Name::Snmalloc => play::<General<Snmalloc>>(scene, content),
        Name::Rpmalloc => play::<General<Rpmalloc>>(scene, content),
        other => return Err(format!("{other} has no packets that any thread may free")),
    };
    println!("{} {}", time[0], time[1]);
    Ok(())
}

fn play<S: Sharing>(scene: Scene, content: Content) -> [f64; 2] {
    match scene {
        Scene::OneToOne => produce::<S>(1, content),
        Scene::OneToMany => produce::<S>(MANY, content),
        Scene::Ring | Scene::Owner => circle::<S>(MANY, content),
    }
}

/// Measures every scene and prints the table: on one core by processor time, or on all by the clock.
pub(crate) fn compare(rounds: usize, one_core: bool) -> Result<(), String> {
    if one_core {
        // The slices' processes inherit it.
        stay_on_one_core()?;
    }
    let subjects: Vec<Name> = [Name::Pktalloc].into_iter().chain(PEERS).collect();
    print!("{:<22}", "ns per packet (median)");
    subjects.iter().for_each(|name| print!(" {name:>13}"));
    println!("  fastest peer / pktalloc");
    for scene in [Scene::OneToOne, Scene::OneToMany, Scene::Ring] {
        for content in [Content::Header, Content::Whole] {
            let mut figures = vec![Figure::default(); subjects.len()];
            for _ in 0..rounds {
                for (figure, &name) in figures.iter_mut().zip(&subjects) {
                    figure.push(slice(name, scene, content)?[usize::from(one_core)]);
                }
            }
            print!("{:<22}", format!("{scene}, {content}"));
            figures.iter().for_each(|figure| print!(" {:>13.1}", figure.median()));
            let over = |peer: &Figure| peer.ratio(&figures[0]);
            println!("  {:.2}", figures[1..].iter().map(over).fold(f64::INFINITY, f64::min));
        }
    }
    let mut figures = <[Figure; 3]>::default();
    for _ in 0..rounds {
        let slice = slice(Name::Pktalloc, Scene::Owner, Content::Header)?;
        figures.iter_mut().zip(slice).for_each(|(figure, value)| figure.push(value));
    }
    let [pair, of_packets, of_blocks] = figures.map(|figure| figure.median());
    println!(
        "owner alone: {pair:.1} ns a pair, {of_packets:.3} times packets of the plain allocator, {of_blocks:.3} times its bare blocks"
    );
    Ok(())
}

/// One slice of one subject.
fn slice(name: Name, scene: Scene, content: Content) -> Result<Vec<f64>, String> {
    let text = ask(name, &["threads-slice", &name.to_string(), &scene.to_string(), &content.to_string()])?;
    let times: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
    match times {
        Ok(times) if !times.is_empty() => Ok(times),
        _ => Err(format!("{name} in {scene} answered {text:?}")),
    }
}

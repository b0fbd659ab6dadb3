//! Small programs in two ways, one against the other: growth, large reserves, short-lived allocators, the safe face.
//!
//! Each side of a duel runs in a process of its own, and the sides take turns.

use std::collections::VecDeque;
use std::hint::black_box;
use std::ptr::NonNull;
use std::time::Duration;
use std::{fmt, ptr};

use clap::ValueEnum;
use pktalloc::{AllocError, Allocator, Realloc};

use crate::clock::{processor_time, stay_on_one_core};
use crate::matrix::Figure;
use crate::names::Name;
use crate::process::ask;
use crate::targets::{Case, Target};

/// How often a side does its work in a process; the figure is the median.
const REPEATS: usize = 15;
const PACKET: usize = 1400;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Duel {
    /// One block grows by 1400 bytes to 64 KiB, against the system's realloc
    #[value(name = "grow-64k")]
    GrowTo64K,
    /// To 256 KiB
    #[value(name = "grow-256k")]
    GrowTo256K,
    /// To 1 MiB
    #[value(name = "grow-1m")]
    GrowTo1M,
    /// To 4 MiB
    #[value(name = "grow-4m")]
    GrowTo4M,
    /// A packet with 65,535 bytes reserved and 1200 kept, against one with 2048 reserved
    Reserve,
    /// 4 MB of packets in a new allocator that is dropped, against one that stays
    ShortLived,
    /// A queue of 1024 packets copied in, against raw blocks
    Packet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Side {
    Ours,
    Theirs,
}

impl fmt::Display for Duel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("no duel is hidden").get_name())
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("no side is hidden").get_name())
    }
}

impl Duel {
    /// What the promise is called, and how many times as long as the other side it may take.
    fn promise(self) -> (&'static str, f64) {
        match self {
            Self::GrowTo64K | Self::GrowTo256K | Self::GrowTo1M | Self::GrowTo4M => {
                ("growth by 1400 bytes: of the system's realloc", 2.0)
            }
            Self::Reserve => ("reserve 65,535, keep 1200: of reserve 2048", 2.0),
            Self::ShortLived => ("4 MB made, used, dropped: of one that stays", 1.2),
            Self::Packet => ("Packet in a loop: of raw blocks", 1.1),
        }
    }

    fn work(self, side: Side) -> Box<dyn FnMut()> {
        match self {
            Self::GrowTo64K => growth(side, 64 << 10),
            Self::GrowTo256K => growth(side, 256 << 10),
            Self::GrowTo1M => growth(side, 1 << 20),
            Self::GrowTo4M => growth(side, 4 << 20),
            Self::Reserve => reserve(if side == Side::Ours { 65_535 } else { 2048 }),
            Self::ShortLived => codec(side),
            Self::Packet => queue(side),
        }
    }
}

/// A block that grows, from 1400 bytes to `end`. Nothing is written, so that the memory moves or does not.
fn growth(side: Side, end: usize) -> Box<dyn FnMut()> {
    let sizes = (2 * PACKET..end + PACKET).step_by(PACKET);
    let allocator: Allocator = Allocator::new();
    match side {
        Side::Ours => Box::new(move || {
            let mut block = allocator.allocate(PACKET).expect("there is memory").cast();
            for size in sizes.clone() {
                // SAFETY: the block is live, and only the returned one is afterwards.
                block = unsafe { allocator.reallocate(block, size, Realloc::CopyExisting) }
                    .expect("there is memory")
                    .cast();
                black_box(block);
            }
            // SAFETY: the block is live.
            unsafe { allocator.free(block) };
        }),
        Side::Theirs => Box::new(move || {
            // SAFETY: any size may be asked for.
            let mut block = unsafe { libc::malloc(PACKET) };
            for size in sizes.clone() {
                // SAFETY: the block is live, and only the returned one is afterwards.
                block = unsafe { libc::realloc(block, size) };
                assert!(!block.is_null(), "there is memory");
                black_box(block);
            }
            // SAFETY: the block is live.
            unsafe { libc::free(block) };
        }),
    }
}

/// 10,000 packets with so many bytes reserved, each dropped at once.
fn reserve(most: usize) -> Box<dyn FnMut()> {
    let allocator: Allocator = Allocator::new();
    Box::new(move || {
        for _ in 0..10_000 {
            let (packet, ()) = allocator
                .packet_with(most, |room| {
                    room.append(black_box(&[1; 1200]));
                    Ok::<_, AllocError>(())
                })
                .expect("there is memory");
            black_box(&packet);
        }
    })
}

/// 3000 packets, written and freed, in an allocator of their own or in one that stays.
fn codec(side: Side) -> Box<dyn FnMut()> {
    let use_once = |allocator: &Allocator| {
        let blocks: Vec<_> = (0..3000)
            .map(|_| {
                let block = allocator.allocate(PACKET).expect("there is memory").cast::<u8>();
                // SAFETY: the block has at least as many bytes.
                unsafe { black_box(block).as_ptr().write_bytes(1, PACKET) };
                block
            })
            .collect();
        // SAFETY: allocated above, each freed once.
        blocks.into_iter().for_each(|block| unsafe { allocator.free(block) });
    };
    let stays: Allocator = Allocator::new();
    match side {
        Side::Ours => Box::new(move || use_once(&Allocator::new())),
        Side::Theirs => Box::new(move || use_once(&stays)),
    }
}

/// 64 turns of a queue of 1024 packets whose length shows only when they come. Both sides know it when they leave.
fn queue(side: Side) -> Box<dyn FnMut()> {
    const DEPTH: usize = 1024;
    // At the same address on both sides: how long a copy takes depends on it.
    static PAYLOAD: [u8; PACKET] = [7; PACKET];
    let allocator: &'static Allocator = Box::leak(Box::new(Allocator::new()));
    match side {
        Side::Ours => {
            let packet = move || allocator.packet_from(black_box(&PAYLOAD[..])).expect("there is memory");
            let mut packets: VecDeque<_> = (0..DEPTH).map(|_| packet()).collect();
            Box::new(move || {
                for _ in 0..64 * DEPTH {
                    drop(packets.pop_front());
                    packets.push_back(packet());
                }
            })
        }
        Side::Theirs => {
            let packet = move || {
                let payload = black_box(&PAYLOAD[..]);
                let block = allocator.allocate(payload.len()).expect("there is memory").cast::<u8>();
                // SAFETY: the block has room for the payload.
                unsafe { ptr::copy_nonoverlapping(payload.as_ptr(), block.as_ptr(), payload.len()) };
                NonNull::slice_from_raw_parts(block, payload.len())
            };
            let mut packets: VecDeque<_> = (0..DEPTH).map(|_| packet()).collect();
            Box::new(move || {
                for _ in 0..64 * DEPTH {
                    if let Some(oldest) = packets.pop_front() {
                        // SAFETY: the block is live, and left the queue.
                        unsafe { allocator.free_sized(oldest.cast(), oldest.len()) };
                    }
                    packets.push_back(packet());
                }
            })
        }
    }
}

/// The far side: microseconds that the work takes, the median of a few times.
pub(crate) fn serve(duel: Duel, side: Side) -> Result<(), String> {
    stay_on_one_core()?;
    let mut work = duel.work(side);
    work();
    let mut figure = Figure::default();
    for _ in 0..REPEATS {
        let start = processor_time();
        work();
        let took: Duration = processor_time() - start;
        figure.push(took.as_nanos() as f64 / 1000.0);
    }
    println!("{}", figure.median());
    Ok(())
}

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Duels; all unless named
    duels: Vec<Duel>,
    /// Rounds; each side has a new process in each
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Five rounds
    #[arg(long)]
    quick: bool,
}

/// Measures and prints.
pub(crate) fn compare(options: &Options) -> Result<(), String> {
    let duels = if options.duels.is_empty() { Duel::value_variants() } else { &options.duels };
    let rounds = if options.quick { options.rounds.min(5) } else { options.rounds };
    println!("{}", crate::targets::table(&measure(duels, rounds as usize)?));
    Ok(())
}

/// The promises, one case a duel.
pub(crate) fn measure_all(rounds: usize) -> Result<Vec<Target>, String> {
    measure(Duel::value_variants(), rounds)
}

fn measure(duels: &[Duel], rounds: usize) -> Result<Vec<Target>, String> {
    let mut targets: Vec<Target> = Vec::new();
    for &duel in duels {
        let mut figures = <[Figure; 2]>::default();
        for _ in 0..rounds {
            for (figure, side) in figures.iter_mut().zip([Side::Ours, Side::Theirs]) {
                let answer = ask(Name::Pktalloc, &["duel-side", &duel.to_string(), &side.to_string()])?;
                figure.push(answer.trim().parse().map_err(|_| format!("{duel} answered {answer:?}"))?);
            }
        }
        let [ours, theirs] = figures;
        let of = format!("{:.1} us of {:.1} us", ours.median(), theirs.median());
        let case = Case { name: duel.to_string(), ratio: ours.ratio(&theirs), of };
        let (name, limit) = duel.promise();
        match targets.iter_mut().find(|target| target.name == name) {
            Some(target) => target.cases.push(case),
            None => targets.push(Target::at_most(name, limit, vec![case])),
        }
    }
    Ok(targets)
}

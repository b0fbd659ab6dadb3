//! One subject in a process of its own, on the far side of a pipe.
//!
//! Every subject has a process to itself: its settings come in its environment, its memory can be weighed, it meets no
//! heap that another workload left behind, and no allocator shares an address space or thread-local storage with
//! another. The processes live side by side and are asked in turn for one slice at a time, all on the same core, so
//! that the machine's moods hit all alike. A slice begins with some operations that are not timed: they bring the
//! subject's lines back into the caches that the others used meanwhile.
//!
//! The far side says `ready` (or why the subject is absent), then answers each line with the nanoseconds that one pair
//! took.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::{io, ptr};

use pktalloc::Allocator;
use pktalloc::workload::{Pattern, Queue};

use crate::cell::Cell;
use crate::clock::{processor_time, stay_on_one_core};
use crate::driver::{Driver, Endless};
use crate::memory::WINDOW_BYTES;
use crate::names::{Name, Visitor};
use crate::process::program;
use crate::subject::{Plan, Subject};

/// Operations at the start of a slice that are not timed.
const LEAD_IN: usize = 1 << 17;
/// A slice has at least so many operations, and is made of whole rounds of the workload.
const LEAST_SLICE: usize = 2 * Queue::PAIRS as usize;
/// Of a longer round, a slice has only
const LONGEST_ROUND: usize = 1 << 22;
/// so many operations.
const LONGEST_SLICE: usize = 1 << 20;
/// Times that an allocator is made and dropped in a slice.
const LIVES: usize = 4096;

/// The near side: a process that measures a subject when it is asked to.
pub(crate) struct Lane {
    pub(crate) name: Name,
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Lane {
    /// Starts the process; it gets ready while others do.
    pub(crate) fn start(name: Name, cell: &Cell) -> Result<Self, String> {
        let mut process = Command::new(program()?)
            .args(["lane", &name.to_string(), &cell.to_string()])
            .envs(name.environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("cannot start a process for {name}: {error}"))?;
        let requests = process.stdin.take().expect("the input is a pipe");
        let answers = BufReader::new(process.stdout.take().expect("the output is a pipe"));
        Ok(Self { name, process, requests, answers })
    }

    /// Waits until the subject is ready. The inner error says why it is absent.
    pub(crate) fn ready(&mut self) -> Result<Result<(), String>, String> {
        let answer = self.answer()?;
        Ok(if answer == "ready" { Ok(()) } else { Err(answer) })
    }

    /// Measures a slice: nanoseconds per pair.
    pub(crate) fn slice(&mut self) -> Result<f64, String> {
        self.requests.write_all(b"slice\n").map_err(|error| format!("{}: {error}", self.name))?;
        let answer = self.answer()?;
        answer.parse().map_err(|_| format!("{} answered {answer:?}", self.name))
    }

    fn answer(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(0) => Err(format!("{} ended early", self.name)),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) => Err(format!("{}: {error}", self.name)),
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // At once: the memory of a deep queue need not be freed block by block. Neither can fail on a child of ours
        // that was not waited for.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The far side.
pub(crate) fn serve(name: Name, cell: &Cell) -> Result<(), String> {
    if *cell != Cell::NewAndDrop {
        return name.visit(Serve(cell));
    }
    let live = if name == Name::Pktalloc { live_as_allocator } else { live_as_block };
    live();
    answer_slices(|| {
        let start = processor_time();
        (0..LIVES).for_each(|_| live());
        (processor_time() - start).as_nanos() as f64 / LIVES as f64
    })
}

/// Answers each line of the standard input with a measurement.
fn answer_slices(mut slice: impl FnMut() -> f64) -> Result<(), String> {
    stay_on_one_core()?;
    println!("ready");
    for line in io::stdin().lock().lines() {
        line.map_err(|error| format!("cannot read requests: {error}"))?;
        println!("{}", slice());
    }
    Ok(())
}

struct Serve<'a>(&'a Cell);

impl Visitor for Serve<'_> {
    type Output = Result<(), String>;

    fn visit<S: Subject>(self) -> Result<(), String> {
        let mut endless = match begin::<S>(self.0)? {
            Ok(endless) => endless,
            Err(reason) => {
                println!("{reason}");
                return Ok(());
            }
        };
        let round = endless.round();
        endless.advance(if self.0.pattern() == Some(Pattern::Straggler) {
            // Stragglers are where they belong only after one of their lives.
            round
        } else {
            LEAST_SLICE
        });
        let ops = if round > LONGEST_ROUND { LONGEST_SLICE } else { LEAST_SLICE.next_multiple_of(round) };
        answer_slices(|| {
            endless.next_place();
            endless.advance(LEAD_IN.min(round));
            let start = processor_time();
            endless.advance(ops);
            (processor_time() - start).as_nanos() as f64 / (ops / 2) as f64
        })
    }
}

/// A subject at the beginning of the steady part. The inner error says why it is absent.
pub(crate) fn begin<S: Subject>(cell: &Cell) -> Result<Result<Endless<S>, String>, String> {
    let cycle = cell.cycle()?;
    let subject = S::new(&Plan::of(&cycle));
    Ok(subject.map(|subject| Endless::start(Driver::new(subject, cycle.slots, cell.touch()), cycle)))
}

const PACKETS: usize = 10;
const PACKET_BYTES: usize = 1400;

/// A new allocator, ten packets written, the allocator dropped.
fn live_as_allocator() {
    let allocator: Allocator = Allocator::new();
    for _ in 0..PACKETS {
        let packet = allocator.allocate(PACKET_BYTES).expect("there is memory for ten packets");
        // SAFETY: the block has at least as many bytes.
        unsafe { ptr::write_bytes(black_box(packet.as_ptr().cast::<u8>()), 1, PACKET_BYTES) };
    }
}

/// One window from calloc, the same bytes written, freed.
fn live_as_block() {
    let layout = Layout::array::<u8>(WINDOW_BYTES).expect("a window is small");
    // SAFETY: a window is not empty.
    let block = unsafe { alloc_zeroed(layout) };
    assert!(!block.is_null(), "there is memory for a window");
    for packet in 0..PACKETS {
        // SAFETY: ten packets fit into a window.
        unsafe { ptr::write_bytes(black_box(block.add(packet * PACKET_BYTES.next_multiple_of(64))), 1, PACKET_BYTES) };
    }
    // SAFETY: allocated above with this layout.
    unsafe { dealloc(block, layout) };
}

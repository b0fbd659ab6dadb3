//! One subject in a process of its own, on the far side of a pipe.
//!
//! Every subject has a process to itself: its settings come in its environment, its memory can be weighed, it meets no
//! heap that another workload left behind, and no allocator shares an address space or thread-local storage with another.
//! The processes live side by side and are asked in turn for one slice at a time, all on the same core, so that the
//! machine's moods hit all alike. A slice begins with some operations that are not timed: they bring the subject's lines
//! back into the caches that the others used meanwhile.
//!
//! The lane says `ready` (or `absent` and why), then answers each line with the nanoseconds that one pair took. Time is
//! the thread's processor time, system calls and page faults included: others on the machine do not count.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use std::{env, io};

use pktalloc::workload::{Pattern, Queue};

use crate::cell::Cell;
use crate::driver::Driver;
use crate::names::{Name, Visitor};
use crate::subject::{Plan, Subject};

/// Operations at the start of a slice that are not timed.
const LEAD_IN: usize = 1 << 17;
/// Operations of a slice of a workload whose round is longer than this.
const LONGEST_SLICE: usize = 1 << 20;

/// The near side: a process that measures a subject when it is asked to.
pub(crate) struct Lane {
    pub(crate) name: Name,
    process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Lane {
    /// Starts the process; it gets ready while others do.
    pub(crate) fn start(name: Name, cell: &Cell) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["lane", &name.to_string(), &cell.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.envs(name.environment());
        let mut process = command.spawn()?;
        let requests = process.stdin.take().expect("the input is a pipe");
        let answers = BufReader::new(process.stdout.take().expect("the output is a pipe"));
        Ok(Self { name, process, requests, answers })
    }

    /// Waits until the subject is ready. `Err` says why it is absent.
    pub(crate) fn ready(&mut self) -> Result<(), String> {
        match self.answer()?.as_str() {
            "ready" => Ok(()),
            reason => Err(reason.to_owned()),
        }
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
        // The memory of a deep queue need not be freed block by block.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The far side.
pub(crate) fn serve(name: Name, cell: Cell) -> Result<(), String> {
    name.visit(Serve(cell))
}

struct Serve(Cell);

impl Visitor for Serve {
    type Output = Result<(), String>;

    fn visit<S: Subject>(self) -> Result<(), String> {
        let cycle = self.0.cycle();
        let subject = match S::new(&Plan::of(&cycle)) {
            Ok(subject) => subject,
            Err(reason) => {
                println!("{reason}");
                return Ok(());
            }
        };
        let mut driver = Driver::new(subject, cycle, self.0.written);
        driver.advance(if self.0.pattern == Pattern::Straggler {
            // Stragglers are where they belong only after one of their lives.
            driver.round()
        } else {
            2 * Queue::PAIRS as usize
        });
        let ops = driver.round().min(LONGEST_SLICE);
        pin_to_one_core()?;
        println!("ready");
        for _ in io::stdin().lock().lines() {
            driver.advance(LEAD_IN.min(ops));
            let start = processor_time();
            driver.advance(ops);
            let time = processor_time() - start;
            println!("{}", time.as_nanos() as f64 / (ops / 2) as f64);
        }
        std::process::exit(0)
    }
}

/// The processor time of this thread.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours to write.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "the thread has a clock");
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("nanoseconds are below a second"))
}

/// Keeps this process on the last of the cores that it may use.
fn pin_to_one_core() -> Result<(), String> {
    // SAFETY: an all-zero set is an empty set; the calls read or write the set they are given, of the size they are told.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &mut allowed) != 0 {
            return Err(format!("cannot read the processor affinity: {}", io::Error::last_os_error()));
        }
        let cores = 0..usize::try_from(libc::CPU_SETSIZE).expect("the size of a set is positive");
        let last = cores.rev().find(|&core| libc::CPU_ISSET(core, &allowed)).ok_or("no core is allowed")?;
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(last, &mut one);
        if libc::sched_setaffinity(0, size, &one) != 0 {
            return Err(format!("cannot stay on core {last}: {}", io::Error::last_os_error()));
        }
    }
    Ok(())
}

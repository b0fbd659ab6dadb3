//! Replaying real traffic: a packet capture, a trace or the calls of a program become a program of allocations and
//! frees, which runs against this allocator and against others.
//!
//! ```text
//! file ── Recording::load ──> Trace ── Plan::new ──> Plan ──> Program ── Runner ──> times,
//!         (what came,                 (what to allocate          (one allocator,      memory,
//!          how big, when)              and free, in order)        one process)        longest call
//!                        └──> CallTrace ──────────────────────────┘
//! ```
//!
//! A [`Trace`] knows packets and times, a [`Plan`] knows slots and sizes, and only a [`Runner`] knows allocators. The
//! command `pktalloc replay` gives each allocator a process of its own, so that memory can be told apart.
//!
//! ```
//! use core::ops::ControlFlow;
//! use pktalloc::replay::{Competitor, Options, Plan, Program, ReadOptions, Rule, Runner, Setup, Trace};
//!
//! # let file = std::env::temp_dir().join(format!("pktalloc-doc-{}.csv", std::process::id()));
//! # std::fs::write(&file, "# dt_us,size\n0,1400\n12,1400\n15,60\n")?;
//! let mut progress = |_phase, _done, _total| ControlFlow::Continue(());
//! let trace = Trace::load(&file, ReadOptions::default(), &mut progress)?;
//! # std::fs::remove_file(&file)?;
//! let options = Options { rule: Some(Rule::Depth(2)), copies: 10 };
//! let plan = Plan::new(&trace, &options, &mut progress)?;
//! assert_eq!((plan.packets, plan.peak_packets), (30, 2));
//!
//! let program = Program::from(plan);
//! for competitor in [Competitor::Pktalloc(Setup::default()), Competitor::Malloc] {
//!     let mut runner = Runner::new(&program, &competitor)?;
//!     let found = runner.first_pass(&mut progress)?;
//!     runner.begin()?;
//!     let passes = runner.passes_per_round(&mut || Ok(()))?;
//!     let time = runner.round(passes, &mut || Ok(()))?;
//!     println!("{}: {:?} for {passes} passes, longest call {:?}", competitor.name(), time, found.longest);
//! }
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```

mod calls;
mod capture;
mod clock;
mod error;
mod lines;
mod link;
mod memory;
mod note;
mod packet;
mod pattern;
mod plan;
mod program;
mod progress;
mod record;
mod rows;
mod runner;
mod source;
mod subject;
mod table;
mod trace;

pub use calls::{Call, CallCounts, CallKind, CallTrace, MAX_CALL_BYTES, MAX_CALLS};
pub use error::{Error, Fault, Place};
pub use link::Link;
pub use note::{Format, Note};
pub use packet::{Lifetime, MAX_LIVE_BYTES, MAX_PACKET_BYTES, MAX_PACKETS, Packet};
pub use plan::{Counts, DEFAULT_DEPTH, Options, Plan, Rule};
pub use program::{Profile, Program};
pub use progress::{Phase, Progress};
pub use record::{Recorded, convert_recording, recording_bytes, recording_header};
pub use runner::{FirstPass, Moment, Runner, Tick};
pub use subject::{Competitor, Setup};
pub use trace::{ReadOptions, Recording, Trace};

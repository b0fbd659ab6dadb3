//! Replaying real traffic: a packet capture or a trace becomes a program of allocations and frees, which runs against
//! this allocator and against the system's malloc.
//!
//! ```text
//! file ── Trace::load ──> Trace ── Plan::new ──> Plan ── replay ──> Report
//!         (what came,             (what to allocate      (nanoseconds,
//!          how big, when)          and free, in order)    bytes, verdict)
//! ```
//!
//! A [`Trace`] knows packets and times, a [`Plan`] knows slots and sizes, and only [`replay`] knows allocators.
//!
//! ```
//! use core::ops::ControlFlow;
//! use pktalloc::replay::{Options, Plan, ReadOptions, Rule, Trace, replay};
//!
//! # let file = std::env::temp_dir().join(format!("pktalloc-doc-{}.csv", std::process::id()));
//! # std::fs::write(&file, "# dt_us,size\n0,1400\n12,1400\n15,60\n")?;
//! let mut progress = |_phase, _done, _total| ControlFlow::Continue(());
//! let trace = Trace::load(&file, ReadOptions::default(), &mut progress)?;
//! # std::fs::remove_file(&file)?;
//! let options = Options { rule: Some(Rule::Depth(2)), copies: 10 };
//! let plan = Plan::new(&trace, &options, &mut progress)?;
//! assert_eq!((plan.packets, plan.peak_packets), (30, 2));
//! let report = replay(&plan, Some(5), &mut progress)?;
//! println!("{report}");
//! # Ok::<(), Box<dyn core::error::Error>>(())
//! ```

mod capture;
mod error;
mod lines;
mod link;
mod memory;
mod packet;
mod peak;
mod plan;
mod progress;
mod report;
mod rows;
mod run;
mod source;
mod subject;
mod table;
mod trace;
mod verify;

pub use error::{Error, Fault, Place};
pub use link::Link;
pub use packet::{Lifetime, MAX_PACKET_BYTES, MAX_PACKETS, Packet};
pub use peak::windows_at_peak;
pub use plan::{Counts, DEFAULT_DEPTH, MAX_LIVE_BYTES, Options, Plan, Rule};
pub use progress::{Phase, Progress};
pub use report::{Report, Spread, Winner};
pub use run::{DEFAULT_ROUNDS, LEAST_ROUNDS, replay};
pub use trace::{Format, Note, ReadOptions, Trace};

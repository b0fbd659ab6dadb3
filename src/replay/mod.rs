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
//! use pktalloc::replay::{Options, Plan, Rule, Trace, replay};
//!
//! # let file = std::env::temp_dir().join(format!("pktalloc-doc-{}.csv", std::process::id()));
//! # std::fs::write(&file, "# dt_us,size\n0,1400\n12,1400\n15,60\n")?;
//! let mut progress = |_phase, _done, _total| ControlFlow::Continue(());
//! let trace = Trace::load(&file, &mut progress)?;
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
mod link;
mod peak;
mod plan;
mod report;
mod run;
mod source;
mod subject;
mod table;
mod trace;
mod verify;

use core::ops::ControlFlow;

pub use error::{Error, Fault, Place};
pub use link::Link;
pub use peak::windows_at_peak;
pub use plan::{Counts, DEFAULT_DEPTH, MAX_LIVE_BYTES, Options, Plan, Rule};
pub use report::{Report, Spread, Winner};
pub use run::{DEFAULT_ROUNDS, LEAST_ROUNDS, replay};
pub use trace::{Format, Lifetime, MAX_PACKET_BYTES, MAX_PACKETS, Packet, Trace};

/// What a replay is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the file; done counts packets, and the total is not known (0).
    Reading,
    /// Laying out allocations and frees; done counts packets.
    Planning,
    /// Filling and checking every byte; done counts operations.
    Verifying,
    /// Timing; done counts rounds.
    Timing,
}

impl Phase {
    /// One lower-case word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Planning => "planning",
            Self::Verifying => "verifying",
            Self::Timing => "timing",
        }
    }
}

/// Is told how far a replay is (phase, done, total) and may end it by returning [`ControlFlow::Break`], which becomes
/// [`Error::Interrupted`].
pub type Progress<'a> = dyn FnMut(Phase, u64, u64) -> ControlFlow<()> + 'a;

/// How many packets or operations pass between two reports of progress: a few milliseconds of work.
const PROGRESS_STRIDE: usize = 1 << 16;

/// Reports progress, and turns a request to stop into an error.
fn report_progress(progress: &mut Progress<'_>, phase: Phase, done: usize, total: usize) -> Result<(), Error> {
    match progress(phase, done as u64, total as u64) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Interrupted),
    }
}

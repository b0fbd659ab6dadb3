//! One cell of the matrix: a workload, and whether its packets are written.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::str::FromStr;
use std::{env, fmt};

use pktalloc::replay::{Link, Options, Plan, ReadOptions, Rule, Trace};
use pktalloc::workload::{Cycle, Pattern, Queue, Sizes, Stream};

/// Something to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// A queue. Written `fifo/1400/1024/untouched`.
    Queue(QueueCell),
    /// Real traffic. Written `trace/quic_server_sent_acked/64/untouched`.
    Trace(TraceCell),
    /// A new allocator, ten packets written, and the allocator dropped; against one block from `calloc`, the same bytes
    /// written, and freed. Written `new-and-drop`.
    NewAndDrop,
}

/// A queue to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueCell {
    pub(crate) pattern: Pattern,
    pub(crate) sizes: Sizes,
    pub(crate) depth: u32,
    pub(crate) touch: Touch,
}

/// Recorded traffic to replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TraceCell {
    /// The file, without `.csv.gz`; or two of them, with a `+` between: packets arrive as in the first, and leave
    /// through the link of the second.
    pub(crate) name: String,
    /// How many copies run at once, shifted against each other.
    pub(crate) copies: u32,
    pub(crate) touch: Touch,
}

/// What is done with a packet when it enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Untouched,
    /// Every byte is written.
    Written,
}

const NEW_AND_DROP: &str = "new-and-drop";
const TRACE: &str = "trace";

impl QueueCell {
    /// The seed of all queues.
    const SEED: u64 = 1;

    fn cycle(&self) -> Cycle {
        let Self { ref sizes, pattern, depth, .. } = *self;
        Queue { sizes: sizes.clone(), pattern, depth, seed: Self::SEED }.cycle()
    }
}

impl TraceCell {
    /// Where the traces are.
    pub(crate) fn directory() -> PathBuf {
        const BESIDE_THE_PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/traces");
        env::var_os("PKTALLOC_TRACES").unwrap_or_else(|| BESIDE_THE_PROJECT.into()).into()
    }

    /// The whole replay, which begins and ends with nothing live.
    fn cycle(&self) -> Result<Cycle, String> {
        let mut progress = |_, _, _| ControlFlow::Continue(());
        let path = |name: &str| Self::directory().join(format!("{name}.csv.gz"));
        let (packets, link) = match self.name.split_once('+') {
            Some((packets, link)) => (packets, Some(link)),
            None => (self.name.as_str(), None),
        };
        let mut plan = || {
            let trace = Trace::load(&path(packets), ReadOptions::default(), &mut progress)?;
            let rule = link.map(|link| Link::load(&path(link), &mut progress)).transpose()?.map(Rule::Link);
            Plan::new(&trace, &Options { rule, copies: self.copies }, &mut progress)
        };
        let Stream { ops, slots } = plan().map_err(|error| format!("{}: {error}", self.name))?.stream;
        Ok(Cycle { fill: Vec::new(), steady: ops, slots })
    }
}

impl Cell {
    /// The operations, unless it is not made of such.
    pub(crate) fn cycle(&self) -> Result<Cycle, String> {
        match self {
            Self::Queue(queue) => Ok(queue.cycle()),
            Self::Trace(trace) => trace.cycle(),
            Self::NewAndDrop => Err(format!("{NEW_AND_DROP} is no stream of operations")),
        }
    }

    pub(crate) fn touch(&self) -> Touch {
        match self {
            Self::Queue(queue) => queue.touch,
            Self::Trace(trace) => trace.touch,
            Self::NewAndDrop => Touch::Written,
        }
    }

    /// In which order packets leave a queue.
    pub(crate) fn pattern(&self) -> Option<Pattern> {
        match self {
            Self::Queue(queue) => Some(queue.pattern),
            Self::Trace(_) | Self::NewAndDrop => None,
        }
    }
}

impl fmt::Display for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "untouched",
            Self::Written => "written",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Queue(QueueCell { pattern, sizes, depth, touch }) => {
                f.pad(&format!("{pattern}/{sizes}/{depth}/{touch}"))
            }
            Self::Trace(TraceCell { name, copies, touch }) => f.pad(&format!("{TRACE}/{name}/{copies}/{touch}")),
            Self::NewAndDrop => f.pad(NEW_AND_DROP),
        }
    }
}

impl FromStr for Touch {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "untouched" => Ok(Self::Untouched),
            "written" => Ok(Self::Written),
            _ => Err(format!("touch {name:?}: use untouched or written")),
        }
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == NEW_AND_DROP {
            return Ok(Self::NewAndDrop);
        }
        let parts: Vec<&str> = name.split('/').collect();
        let [pattern, sizes, depth, touch] = parts[..] else {
            return Err(format!("cell {name:?}: write it as fifo/1400/1024/untouched, or {NEW_AND_DROP}"));
        };
        if pattern == TRACE {
            let copies = depth.parse().map_err(|error| format!("copies {depth:?}: {error}"))?;
            return Ok(Self::Trace(TraceCell { name: sizes.to_owned(), copies, touch: touch.parse()? }));
        }
        Ok(Self::Queue(QueueCell {
            pattern: pattern.parse().map_err(|error| format!("{error}"))?,
            sizes: sizes.parse().map_err(|error| format!("{error}"))?,
            depth: depth.parse().map_err(|error| format!("depth {depth:?}: {error}"))?,
            touch: touch.parse()?,
        }))
    }
}

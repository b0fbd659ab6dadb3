//! One cell of the matrix: a workload, and whether its packets are written.

use std::fmt;
use std::str::FromStr;

use pktalloc::workload::{Cycle, Pattern, Queue, Sizes};

/// Something to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// A queue. Written `fifo/1400/1024/untouched`.
    Queue(QueueCell),
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

/// What is done with a packet when it enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Untouched,
    /// Every byte is written.
    Written,
}

const NEW_AND_DROP: &str = "new-and-drop";

impl QueueCell {
    /// The seed of all queues.
    const SEED: u64 = 1;

    pub(crate) fn cycle(&self) -> Cycle {
        let Self { ref sizes, pattern, depth, .. } = *self;
        Queue { sizes: sizes.clone(), pattern, depth, seed: Self::SEED }.cycle()
    }
}

impl Cell {
    /// The queue, if it is one.
    pub(crate) fn queue(&self) -> Option<&QueueCell> {
        match self {
            Self::Queue(queue) => Some(queue),
            Self::NewAndDrop => None,
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
        Ok(Self::Queue(QueueCell {
            pattern: pattern.parse().map_err(|error| format!("{error}"))?,
            sizes: sizes.parse().map_err(|error| format!("{error}"))?,
            depth: depth.parse().map_err(|error| format!("depth {depth:?}: {error}"))?,
            touch: touch.parse()?,
        }))
    }
}

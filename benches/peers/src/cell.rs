//! One cell of the matrix: a workload, and whether its packets are written.

use std::fmt;
use std::str::FromStr;

use pktalloc::workload::{Cycle, Pattern, Queue, Sizes};

/// A workload to measure: pattern, sizes, depth, touch. Written `fifo/1400/1024/untouched`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) pattern: Pattern,
    pub(crate) sizes: Sizes,
    pub(crate) depth: u32,
    /// Whether every byte of a packet is written when it enters.
    pub(crate) written: bool,
}

impl Cell {
    /// The seed of all cells.
    const SEED: u64 = 1;

    pub(crate) fn cycle(&self) -> Cycle {
        let Self { ref sizes, pattern, depth, .. } = *self;
        Queue { sizes: sizes.clone(), pattern, depth, seed: Self::SEED }.cycle()
    }

    pub(crate) fn touch(&self) -> &'static str {
        if self.written { "written" } else { "untouched" }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, sizes, depth, .. } = self;
        f.pad(&format!("{pattern}/{sizes}/{depth}/{}", self.touch()))
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let parts: Vec<&str> = name.split('/').collect();
        let [pattern, sizes, depth, touch] = parts[..] else {
            return Err(format!("cell {name:?}: write it as fifo/1400/1024/untouched"));
        };
        Ok(Self {
            pattern: pattern.parse().map_err(|error| format!("{error}"))?,
            sizes: sizes.parse().map_err(|error| format!("{error}"))?,
            depth: depth.parse().map_err(|error| format!("depth {depth:?}: {error}"))?,
            written: match touch {
                "untouched" => false,
                "written" => true,
                _ => return Err(format!("touch {touch:?}: use untouched or written")),
            },
        })
    }
}

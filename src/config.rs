//! What can be set, and what each setting may be.

use core::fmt;

/// How an [`Allocator`](crate::Allocator) behaves. Every setting has a default that suits packet queues.
///
/// `UNIT` and `WINDOW_UNITS` are the allocator's: `Config::new()` is the default shape, and
/// `Config::<32, 1024>::default()` another.
///
/// ```
/// use pktalloc::{Allocator, Config};
///
/// let allocator = Allocator::with_config(Config::new().memory_limit(64 << 20).zero(true))?;
/// # Ok::<(), pktalloc::ConfigError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config<const UNIT: usize = 64, const WINDOW_UNITS: usize = 2048> {
    pub(crate) settings: Settings,
}

/// The settings without the shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) preallocated_windows: usize,
    pub(crate) keep_empty_windows: usize,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) zero: bool,
    pub(crate) check: bool,
    pub(crate) passthrough: bool,
    pub(crate) huge_pages: bool,
}

/// The most windows that may be preallocated or kept empty.
const MOST_WINDOWS: usize = 1 << 20;

impl Settings {
    /// The defaults.
    pub(crate) const fn new() -> Self {
        Self {
            preallocated_windows: 2,
            keep_empty_windows: 32,
            memory_limit: None,
            zero: false,
            check: false,
            passthrough: false,
            huge_pages: false,
        }
    }

    /// Whether a block that comes back is looked for in its window at once, rather than in the tables.
    pub(crate) const fn trusts_pointers(&self) -> bool {
        !(self.check || self.passthrough)
    }

    /// Refuses values that make no sense.
    pub(crate) fn validate(&self, window_bytes: usize) -> Result<(), ConfigError> {
        if self.preallocated_windows > MOST_WINDOWS {
            return Err(ConfigError::PreallocatedWindows { windows: self.preallocated_windows, most: MOST_WINDOWS });
        }
        if self.keep_empty_windows > MOST_WINDOWS {
            return Err(ConfigError::KeepEmptyWindows { windows: self.keep_empty_windows, most: MOST_WINDOWS });
        }
        match self.memory_limit {
            Some(bytes) if bytes < window_bytes as u64 => {
                Err(ConfigError::MemoryLimit { bytes, least: window_bytes as u64 })
            }
            _ => Ok(()),
        }
    }
}

impl Config {
    /// The defaults, for the default shape: 64-byte units, 128 KiB windows.
    #[must_use]
    pub const fn new() -> Self {
        Self { settings: Settings::new() }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize> Default for Config<UNIT, WINDOW_UNITS> {
    fn default() -> Self {
        Self { settings: Settings::new() }
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize> Config<UNIT, WINDOW_UNITS> {
    /// How many windows the first allocation takes from the system, and the fewest that
    /// [`trim`](crate::Allocator::trim) leaves. Default 2; at most 1,048,576.
    #[must_use]
    pub const fn preallocated_windows(mut self, windows: usize) -> Self {
        self.settings.preallocated_windows = windows;
        self
    }

    /// How many empty windows are kept in any case, the current window and one for bookkeeping included. More are kept
    /// as long as bursts need them. An empty window that no burst of the last 294,912 frees (3 × 98,304) needed goes
    /// back to the system, at most one every 64 frees; with `huge_pages`, and where the system takes whole regions
    /// only, a region goes back when all of its windows are empty. An idle allocator gives nothing back until
    /// [`trim`](crate::Allocator::trim) is called. Default 32; at most 1,048,576.
    #[must_use]
    pub const fn keep_empty_windows(mut self, windows: usize) -> Self {
        self.settings.keep_empty_windows = windows;
        self
    }

    /// The most bytes to take from the system, at least one window and its bookkeeping (135,832 bytes for the default
    /// shape on the operating system's memory). It bounds [`allocated_bytes`](crate::Allocator::allocated_bytes):
    /// windows that are held, the bookkeeping in use, and large blocks; address space that is only reserved does not
    /// count. Past it allocation fails with [`AllocError::MemoryLimit`](crate::AllocError::MemoryLimit). Default: none.
    #[must_use]
    pub const fn memory_limit(mut self, bytes: u64) -> Self {
        self.settings.memory_limit = Some(bytes);
        self
    }

    /// Whether every byte handed out is zero, also after reuse. Default off.
    #[must_use]
    pub const fn zero(mut self, on: bool) -> Self {
        self.settings.zero = on;
        self
    }

    /// Whether each call starts with the self-check, each block is followed by a canary, every pointer that comes back
    /// is verified, and a write to a freed block is found when its bytes are handed out again. For tests and debugging:
    /// a call then costs time linear in the memory held. Default off.
    #[must_use]
    pub const fn check(mut self, on: bool) -> Self {
        self.settings.check = on;
        self
    }

    /// Whether every block comes straight from the system, so that sanitizers and valgrind see each of them.
    /// Default off.
    #[must_use]
    pub const fn passthrough(mut self, on: bool) -> Self {
        self.settings.passthrough = on;
        self
    }

    /// Whether the system is asked to back regions with transparent huge pages, where it has them (Linux). Windows then
    /// go back by whole regions, and `trim` leaves the holes of windows with blocks alone. The first byte of a huge
    /// page that is touched takes all of it, which [`allocated_bytes`](crate::Allocator::allocated_bytes) does not
    /// count. Default off.
    #[must_use]
    pub const fn huge_pages(mut self, on: bool) -> Self {
        self.settings.huge_pages = on;
        self
    }
}

/// A setting that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// The unit is not a power of two from 16 to 4096 bytes.
    Alignment {
        /// What was asked for, in bytes.
        bytes: usize,
    },
    /// The window is not a power of two of 64 to 65,536 units.
    WindowBytes {
        /// What was asked for, in bytes.
        bytes: usize,
        /// The smallest window for this unit, in bytes.
        least: usize,
        /// The largest window for this unit, in bytes.
        most: usize,
    },
    /// Too many preallocated windows.
    PreallocatedWindows {
        /// What was asked for.
        windows: usize,
        /// The most that is allowed.
        most: usize,
    },
    /// Too many empty windows to keep.
    KeepEmptyWindows {
        /// What was asked for.
        windows: usize,
        /// The most that is allowed.
        most: usize,
    },
    /// The memory limit does not cover one window and its bookkeeping.
    MemoryLimit {
        /// What was asked for, in bytes.
        bytes: u64,
        /// The least that is allowed, in bytes.
        least: u64,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Alignment { bytes } => {
                write!(f, "alignment is {bytes}, must be a power of two from 16 to 4096")
            }
            Self::WindowBytes { bytes, least, most } => {
                write!(f, "window_bytes is {bytes}, must be a power of two from {least} to {most} at this alignment")
            }
            Self::PreallocatedWindows { windows, most } => {
                write!(f, "preallocated_windows is {windows}, must be at most {most}")
            }
            Self::KeepEmptyWindows { windows, most } => {
                write!(f, "keep_empty_windows is {windows}, must be at most {most}")
            }
            Self::MemoryLimit { bytes, least } => {
                write!(f, "memory_limit is {bytes} bytes, must be at least {least}: a window and its bookkeeping")
            }
        }
    }
}

impl core::error::Error for ConfigError {}

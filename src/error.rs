//! What can go wrong with a call, and what the self-check reports: one variant per cause.

use core::fmt;

/// Why no block was handed out, or why a block kept its size. The block that was passed in, if any, is untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocError {
    /// The size is 0.
    ZeroSize,
    /// The size is beyond what can be served: with its alignment beyond `isize::MAX`, or beyond 2 GiB less 4 KiB for a
    /// packet.
    TooLarge,
    /// The system refused memory.
    OutOfMemory,
    /// The [`memory_limit`](crate::Config::memory_limit) is reached.
    MemoryLimit,
    /// The alignment is beyond a unit.
    Alignment,
    /// `shrink` was asked for more than the block holds.
    NotSmaller,
    /// The packet has less headroom than `prepend` needs.
    NoHeadroom,
    /// The packet has less tailroom than it needs, and cannot move: threads share it.
    NoTailroom,
    /// With [`check`](crate::Config::check) on, the self-check found damage;
    /// [`integrity_check`](crate::Allocator::integrity_check) says what.
    Damaged,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroSize => "size is 0, must be at least 1 byte",
            Self::TooLarge => "size is larger than this allocator can serve",
            Self::OutOfMemory => "the system refused memory",
            Self::MemoryLimit => "the memory limit of this allocator is reached",
            Self::Alignment => "the alignment is larger than this allocator's unit",
            Self::NotSmaller => "shrink needs a size that is at most the block's capacity",
            Self::NoHeadroom => "the packet's headroom is smaller than what is to be put there",
            Self::NoTailroom => "the packet's tailroom is too small, and a shared packet cannot move",
            Self::Damaged => "the self-check found damage; integrity_check() says what",
        })
    }
}

impl core::error::Error for AllocError {}

/// Why a pointer cannot be freed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FreeError {
    /// A unit of this allocator without a live block: the block was freed before, or there never was one.
    DoubleFree {
        /// The pointer.
        address: usize,
    },
    /// Inside a live block, but not its start.
    Interior {
        /// The pointer.
        address: usize,
        /// Where the block starts.
        block: usize,
    },
    /// Inside a window's bookkeeping.
    Bookkeeping {
        /// The pointer.
        address: usize,
    },
    /// Not in this allocator's memory: another allocator's, the stack's, or a wild pointer.
    Foreign {
        /// The pointer.
        address: usize,
    },
    /// With [`check`](crate::Config::check) on: a live block, but the size that was told is not the one that was asked
    /// for.
    WrongSize {
        /// The pointer.
        address: usize,
        /// The size that was told.
        size: usize,
        /// The size that was asked for.
        requested: usize,
    },
    /// With [`check`](crate::Config::check) on: the self-check found damage, for example bytes written past the
    /// block's size.
    Damaged(IntegrityError),
}

impl fmt::Display for FreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoubleFree { address } => {
                write!(f, "no live block at {address:#x}: freed twice, or never allocated")
            }
            Self::Interior { address, block } => {
                write!(f, "{address:#x} points {} bytes into the block at {block:#x}", address - block)
            }
            Self::Bookkeeping { address } => {
                write!(f, "{address:#x} points into a window's bookkeeping")
            }
            Self::WrongSize { address, size, requested } => {
                write!(f, "the block at {address:#x} was allocated with {requested} bytes, and freed with {size}")
            }
            Self::Foreign { address } => write!(f, "{address:#x} is not memory of this allocator"),
            Self::Damaged(error) => write!(f, "{error}"),
        }
    }
}

impl core::error::Error for FreeError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Damaged(error) => Some(error),
            _ => None,
        }
    }
}

/// Bytes written past the size that was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// Where the block starts.
    pub block: usize,
    /// The size in bytes that was asked for.
    pub size: usize,
    /// How far behind the last of those bytes the furthest stray write reached that can be seen, in bytes.
    pub past_end: usize,
}

/// Bytes written where no block lives, most likely through a pointer to a block that was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteAfterFree {
    /// The first of them.
    pub address: usize,
    /// How many bytes lie from there to the last of them that can be seen in the same hole or block.
    pub bytes: usize,
}

/// Which total is not the sum of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Total {
    /// Units of live blocks over all windows.
    LiveUnits,
    /// Bytes taken from the system.
    AllocatedBytes,
    /// Bytes of large blocks.
    LargeBytes,
    /// Windows on the list of empty ones.
    EmptyWindows,
    /// Windows on the list of those worth another pass.
    ReusableWindows,
    /// Windows that are held.
    HeldWindows,
    /// Cached blocks: freed, and about to be handed out again.
    CachedBlocks,
}

/// Damage to the bookkeeping, or a write past the end of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IntegrityError {
    /// A region's header was overwritten.
    Header {
        /// The region.
        region: usize,
    },
    /// Two live blocks share units.
    Overlap {
        /// The window.
        window: usize,
        /// Where the second of them starts.
        block: usize,
    },
    /// A live block reaches into the bookkeeping or beyond its region.
    Bookkeeping {
        /// The window.
        window: usize,
        /// Where the block starts.
        block: usize,
    },
    /// The units of a window's live blocks are not as many as were counted.
    LiveUnits {
        /// The window.
        window: usize,
        /// Units that were counted.
        counted: u32,
        /// Units that its map shows.
        found: u32,
    },
    /// A block starts among the units that are yet to be handed out.
    Extent {
        /// The window.
        window: usize,
        /// The first such unit's address.
        unit: usize,
    },
    /// A window is not in the list in which it says it is, or in one that it does not name.
    Place {
        /// The window.
        window: usize,
    },
    /// The reuse threshold of a window is wrong: it would not be reused in time when its blocks are freed.
    Threshold {
        /// The window.
        window: usize,
    },
    /// A total is not the sum of its parts.
    Total {
        /// Which total.
        total: Total,
        /// What was counted.
        counted: u64,
        /// What the parts sum up to.
        found: u64,
    },
    /// A cached block is not one in its window's map; with `check` on, a live block has no size on record, or one that
    /// does not fit it, or the reverse.
    Record {
        /// Where the block starts.
        block: usize,
    },
    /// With `check` on: bytes were written past the size that was asked for.
    Overflow(Overflow),
    /// With `check` on: bytes were written where there is no live block.
    WriteAfterFree(WriteAfterFree),
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LiveUnits => "live units",
            Self::AllocatedBytes => "allocated bytes",
            Self::LargeBytes => "bytes of large blocks",
            Self::EmptyWindows => "empty windows",
            Self::ReusableWindows => "reusable windows",
            Self::HeldWindows => "held windows",
            Self::CachedBlocks => "cached blocks",
        })
    }
}

impl fmt::Display for IntegrityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Header { region } => write!(f, "the header of the region at {region:#x} was overwritten"),
            Self::Overlap { window, block } => {
                write!(f, "in the window at {window:#x} the block at {block:#x} lies within another")
            }
            Self::Bookkeeping { window, block } => {
                write!(f, "in the window at {window:#x} the block at {block:#x} reaches beyond the units for blocks")
            }
            Self::LiveUnits { window, counted, found } => {
                write!(f, "the window at {window:#x} counts {counted} live units, its map shows {found}")
            }
            Self::Extent { window, unit } => {
                write!(f, "in the window at {window:#x} a block starts at {unit:#x}, which was not handed out")
            }
            Self::Place { window } => write!(f, "the window at {window:#x} is not in the list that it belongs to"),
            Self::Threshold { window } => write!(f, "the reuse threshold of the window at {window:#x} is wrong"),
            Self::Total { total, counted, found } => write!(f, "{counted} {total} were counted, there are {found}"),
            Self::Record { block } => write!(f, "the record of the block at {block:#x} does not match the block"),
            Self::Overflow(Overflow { block, size, past_end }) => {
                write!(f, "bytes were written up to {past_end} past the end of the {size} bytes at {block:#x}")
            }
            Self::WriteAfterFree(WriteAfterFree { address, bytes }) => {
                write!(
                    f,
                    "a freed block was written to: {bytes} bytes from {address:#x} on, where there is no live block"
                )
            }
        }
    }
}

impl core::error::Error for IntegrityError {}

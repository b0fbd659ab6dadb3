//! What can go wrong with a call, one variant per cause.

use core::fmt;

use crate::check::IntegrityError;

/// Why no block was handed out, or why a block kept its size. The block that was passed in, if any, is untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AllocError {
    /// The size is 0.
    ZeroSize,
    /// The size is beyond what can be served: with its alignment beyond `isize::MAX`, or beyond 2 GiB less 4 KiB for a packet that
    /// threads share.
    TooLarge,
    /// The system refused memory.
    OutOfMemory,
    /// The [`memory_limit`](crate::Config::memory_limit) is reached.
    MemoryLimit,
    /// The alignment is beyond a unit.
    Alignment,
    /// `shrink` was asked for more than the block holds.
    NotSmaller,
    /// With [`check`](crate::Config::check) on, the self-check found damage;
    /// [`integrity_check`](crate::Allocator::integrity_check) says what.
    Damaged,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroSize => "size is 0, must be at least 1 byte",
            Self::TooLarge => "size is beyond what this allocator can serve",
            Self::OutOfMemory => "the system refused memory",
            Self::MemoryLimit => "the memory limit of this allocator is reached",
            Self::Alignment => "the alignment is larger than this allocator's unit",
            Self::NotSmaller => "shrink needs a size that is at most the block's capacity",
            Self::Damaged => "the self-check found damage; integrity_check() says what",
        })
    }
}

impl core::error::Error for AllocError {}

/// Why a pointer cannot be freed. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FreeError {
    /// A unit of this allocator in which no block lives: the block was freed before, or there never was one.
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
    /// With [`check`](crate::Config::check) on: a live block, but the size that was told is not the one that was asked for.
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
                write!(f, "the block at {address:#x} was asked for with {requested} bytes, and freed with {size}")
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

//! What is measured: every allocator behind one trait, at one call per operation.
//!
//! # The cost of the call
//!
//! An operation costs every subject exactly one call of a function that the compiler cannot look into. For allocators
//! in C and C++ (`foreign`) that is their own function: the methods here are inlined around it. For subjects in Rust
//! (`native`), whose code could be inlined into the loop, the methods are `#[inline(never)]` and the allocator is
//! inlined into them. So nobody saves the call, and nobody pays for two. (tcmalloc is called through a pointer because
//! it is loaded at run time; a predicted indirect call costs what a direct one does.)

use std::ptr::NonNull;

use pktalloc::workload::{Cycle, Op, Ring};

/// An allocator under measurement.
pub(crate) trait Subject: Sized {
    /// What the user of the allocator keeps for each block.
    type Handle;

    /// Gets ready for a workload.
    fn new(plan: &Plan) -> Result<Self, String>;

    /// A block of `size` bytes. Ends the process if there is none.
    fn allocate(&mut self, size: usize) -> Self::Handle;

    /// Gives back a block that this subject allocated.
    fn free(&mut self, handle: Self::Handle);

    /// Where the block's bytes are, for writing.
    fn bytes(handle: &mut Self::Handle) -> *mut u8;

    /// Gives memory that is not in use back to the system, where there is a call for it.
    fn trim(&mut self) {}

    /// Bytes held from the system, where the allocator says so.
    fn allocated_bytes(&self) -> Option<u64> {
        None
    }
}

/// What a subject may know of the workload in advance.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    /// The most bytes that are live at once, sizes rounded up to 64.
    pub(crate) peak: usize,
    /// The largest block.
    pub(crate) largest: usize,
}

impl Plan {
    pub(crate) fn of(cycle: &Cycle) -> Self {
        let ops = || cycle.fill.iter().chain(&cycle.steady);
        Self { peak: cycle.peak_bytes(Ring::UNIT), largest: ops().map(|op: &Op| op.size as usize).max().unwrap_or(0) }
    }
}

/// The usual handle: the address, and the size for those that free faster when they are told.
#[derive(Clone, Copy)]
pub(crate) struct Block {
    pub(crate) address: NonNull<u8>,
    pub(crate) size: usize,
}

impl Block {
    /// A block of `size` bytes at `address`; ends the process if that is null.
    #[inline(always)]
    pub(crate) fn new(address: *mut u8, size: usize) -> Self {
        match NonNull::new(address) {
            Some(address) => Self { address, size },
            None => out_of_memory(size),
        }
    }
}

#[cold]
fn out_of_memory(size: usize) -> ! {
    eprintln!("peers: the subject has no block of {size} bytes");
    std::process::exit(1)
}

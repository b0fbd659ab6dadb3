//! What a workload is made of: operations on numbered slots.

/// One operation on a slot.
///
/// A slot holds at most one block. `size` 0 frees the block that the slot holds; any other size allocates that many
/// bytes into the slot, which is empty then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Op {
    /// The slot, below [`Stream::slots`].
    pub slot: u32,
    /// Bytes to allocate, or 0 to free.
    pub size: u32,
}

impl Op {
    /// Frees the block in `slot`.
    #[must_use]
    pub const fn free(slot: u32) -> Self {
        Self { slot, size: 0 }
    }

    /// Allocates `size` bytes (at least 1) into `slot`.
    #[must_use]
    pub const fn allocate(slot: u32, size: u32) -> Self {
        Self { slot, size }
    }

    /// Whether this operation frees.
    #[must_use]
    pub const fn is_free(self) -> bool {
        self.size == 0
    }
}

/// A program of allocations and frees, the same for every allocator that runs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// The operations, in order.
    pub ops: Vec<Op>,
    /// How many slots they use.
    pub slots: usize,
}

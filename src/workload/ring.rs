//! The floor: what a queue costs at the very least.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// A ring of memory for packets that leave strictly in the order in which they entered.
///
/// The yardstick for allocators: bump a cursor, wrap it at the end, count what is live. It does not know its oldest
/// block, so it cannot notice that it is full: give it room for the [peak](super::Cycle::peak_bytes) of the workload
/// plus its largest block, which may be skipped at the end.
///
/// ```text
///   |  free  | oldest ... live ... newest |  free  |skipped|
///                                         ^ cursor
/// ```
///
/// It hands out pointers to its own memory and never reads or writes it. Blocks overlap if there is no room for all.
#[derive(Debug)]
pub struct Ring {
    memory: NonNull<u8>,
    layout: Layout,
    cursor: usize,
    live: usize,
}

impl Ring {
    /// The alignment of every block, in bytes.
    pub const UNIT: usize = 64;

    /// A ring of at least `bytes` bytes (at least 1 unit).
    ///
    /// # Panics
    ///
    /// If `bytes` is over `isize::MAX` less a unit. Calls [`handle_alloc_error`] if the memory is not to be had.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.max(1).next_multiple_of(Self::UNIT), Self::UNIT)
            .expect("a ring's capacity is at most isize::MAX");
        // SAFETY: the layout has at least `UNIT` bytes.
        let memory = NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        Self { memory, layout, cursor: 0, live: 0 }
    }

    /// A block of `size` bytes, which is at most the capacity.
    ///
    /// # Panics
    ///
    /// If `size` is over the capacity.
    #[inline]
    pub fn allocate(&mut self, size: usize) -> NonNull<u8> {
        let rounded = (size + (Self::UNIT - 1)) & !(Self::UNIT - 1);
        let mut start = self.cursor;
        let mut end = start + rounded;
        if end > self.layout.size() {
            if rounded > self.layout.size() {
                larger_than_ring(size);
            }
            (start, end) = (0, rounded);
        }
        self.cursor = end;
        self.live += 1;
        // SAFETY: start <= end <= the size of the memory.
        unsafe { self.memory.add(start) }
    }

    /// Frees the oldest block.
    ///
    /// # Panics
    ///
    /// With overflow checks, if no block is live.
    #[inline]
    pub const fn free(&mut self) {
        self.live -= 1;
    }

    /// How many blocks are live.
    #[must_use]
    pub const fn live(&self) -> usize {
        self.live
    }
}

#[cold]
#[inline(never)]
fn larger_than_ring(size: usize) -> ! {
    panic!("a block of {size} bytes is larger than its ring");
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the memory was allocated with this layout in `with_capacity`, and only here is it given back.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::Ring;
    use crate::workload::{Pattern, Queue, Sizes};

    #[test]
    fn blocks_of_a_queue_never_overlap() {
        let cycle = Queue { sizes: Sizes::Uniform, pattern: Pattern::Fifo, depth: 64, seed: 1 }.cycle();
        let mut ring = Ring::with_capacity(cycle.peak_bytes(Ring::UNIT) + 2048);
        let mut live = std::collections::BTreeMap::new();
        let mut slots = vec![0; cycle.slots];
        for op in cycle.fill.iter().chain(&cycle.steady[..20_000]) {
            let slot = &mut slots[op.slot as usize];
            if op.is_free() {
                live.remove(slot);
                ring.free();
                continue;
            }
            let start = ring.allocate(op.size as usize).addr().get();
            let end = start + op.size as usize;
            assert!(start.is_multiple_of(Ring::UNIT));
            assert!(live.range(..end).next_back().is_none_or(|(_, &before)| before <= start));
            live.insert(start, end);
            *slot = start;
            assert_eq!(ring.live(), live.len());
        }
    }

    #[test]
    fn wraps_when_the_rest_is_too_small() {
        let mut ring = Ring::with_capacity(192);
        let first = ring.allocate(100);
        ring.free();
        assert_eq!(ring.allocate(65), first);
    }

    #[test]
    #[should_panic(expected = "a block of 129 bytes is larger than its ring")]
    fn a_block_larger_than_the_ring_is_refused() {
        let _ = Ring::with_capacity(128).allocate(129);
    }
}

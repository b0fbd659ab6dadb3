//! Which memory is handed out again: the part of it that was in use last.

use std::collections::BTreeSet;
use std::ptr::NonNull;

use pktalloc::Allocator;

/// Packets that come and go a few at a time stay in the same few cache lines.
#[test]
fn a_window_without_blocks_begins_again_at_its_front() {
    let allocator = Allocator::new();
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        let blocks: Vec<NonNull<u8>> = (0..3).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
        seen.extend(blocks.iter().map(|block| block.addr()));
        for block in blocks {
            // SAFETY: the block is live and not used afterwards.
            unsafe { allocator.free(block) };
        }
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
    assert_eq!(seen.len(), 3);
}

/// A queue needs little more memory than it is deep.
#[test]
fn a_queue_goes_round_in_the_windows_that_it_fills() {
    let allocator = Allocator::new();
    let mut queue: std::collections::VecDeque<NonNull<u8>> =
        (0..1024).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
    for _ in 0..100_000 {
        // SAFETY: the block is live and leaves the queue.
        unsafe { allocator.free(queue.pop_front().unwrap()) };
        queue.push_back(allocator.allocate(1400).unwrap().cast());
    }
    let windows = allocator.stats().windows;
    assert!(windows <= 14, "{windows} windows hold what would fit into 12");
    assert_eq!(allocator.integrity_check(), Ok(()));
    for block in queue {
        // SAFETY: the block is live and not used afterwards.
        unsafe { allocator.free(block) };
    }
    assert_eq!((allocator.used_bytes(), allocator.trim() > 0), (0, true));
    assert_eq!(allocator.stats().windows, 2);
}

/// The packets of a queue that is out of order at its end do not scatter it.
#[test]
fn blocks_that_leave_in_any_order_are_handed_out_again_first() {
    let allocator = Allocator::new();
    let mut blocks: Vec<NonNull<u8>> = (0..4096).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
    let mut random = pktalloc::workload::SplitMix64::new(7);
    for _ in 0..200_000 {
        let leaving = random.below(blocks.len() as u64) as usize;
        // SAFETY: the block is live and its place is taken by another.
        unsafe { allocator.free(blocks[leaving]) };
        blocks[leaving] = allocator.allocate(1400).unwrap().cast();
    }
    let held = allocator.allocated_bytes() as f64 / allocator.used_bytes() as f64;
    assert!(held < 1.25, "{held:.2} times what is live is held");
    assert_eq!(allocator.integrity_check(), Ok(()));
    for block in blocks {
        // SAFETY: the block is live and not used afterwards.
        unsafe { allocator.free(block) };
    }
    let stats = allocator.stats();
    assert_eq!((stats.used_bytes, stats.reusable_windows), (0, 0), "a window without blocks is stranded");
    assert_eq!(allocator.integrity_check(), Ok(()));
}

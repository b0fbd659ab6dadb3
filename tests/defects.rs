//! The known defects of the C++ ancestor, each with the program that shows it.

#![cfg(feature = "std")]

use std::ptr::NonNull;

use pktalloc::workload::SplitMix64;
use pktalloc::{AllocError, Allocator, Config, FreeError, Realloc, WindowState};

fn allocate(allocator: &Allocator, size: usize) -> NonNull<u8> {
    allocator.allocate(size).unwrap().cast()
}

/// Frees blocks that were allocated by `allocator` and not freed since.
fn free_all(allocator: &Allocator, blocks: impl IntoIterator<Item = NonNull<u8>>) {
    for block in blocks {
        // SAFETY: the callers pass live blocks, once.
        unsafe { allocator.free(block) };
    }
}

/// (a) Windows that became empty while they were in the list of full ones were never used again.
#[test]
fn windows_that_drain_completely_are_used_again() {
    let allocator: Allocator = Allocator::with_config(Config::new().keep_empty_windows(1000)).unwrap();
    // 200 windows, filled with sizes that leave the cursor at a different place in each.
    let mut size = 700;
    let mut fill = |enough: &dyn Fn(usize) -> bool| {
        let mut blocks = Vec::new();
        while !enough(blocks.len()) {
            blocks.push(allocate(&allocator, size));
            size = 400 + (size * 7 + 13) % 1700;
        }
        blocks
    };
    let blocks = fill(&|_| allocator.allocated_bytes() >= 200 * 131_072);
    let count = blocks.len();
    // Middle first, then the rest, so that every window passes through every state on its way.
    let (odd, even): (Vec<_>, Vec<_>) = blocks.into_iter().enumerate().partition(|(index, _)| index % 3 == 1);
    free_all(&allocator, odd.into_iter().chain(even).map(|(_, block)| block));
    let stats = allocator.stats();
    assert!(stats.used_bytes == 0 && stats.empty_windows + 1 >= stats.windows, "{stats}");
    let held = allocator.allocated_bytes();
    let blocks = fill(&|filled| filled == count - 200);
    assert_eq!(allocator.allocated_bytes(), held, "memory grew although every window was free");
    free_all(&allocator, blocks);
    allocator.trim();
    assert_eq!(allocator.stats().windows, 2);
    assert!(allocator.windows().iter().all(|window| window.state == WindowState::Empty));
}

/// (b) Sizes near the 32-bit limit overflowed, and the heap was written over.
#[test]
fn sizes_at_every_limit_are_served_or_refused() {
    let allocator: Allocator = Allocator::with_config(Config::new().memory_limit(1 << 20)).unwrap();
    let block = allocate(&allocator, 100);
    let sizes = (6..usize::BITS)
        .flat_map(|bit| (0..=64usize).map(move |delta| (1usize << bit).wrapping_sub(32).wrapping_add(delta)))
        .chain((0..=64).flat_map(|delta| [usize::MAX - delta, isize::MAX as usize - delta, u32::MAX as usize - delta]));
    for size in sizes {
        match allocator.allocate(size) {
            Ok(got) => {
                assert!(got.len() >= size && size <= 1 << 20, "{size}");
                // SAFETY: the block is live, and its capacity may be written.
                unsafe {
                    got.cast::<u8>().write_bytes(0xAA, got.len());
                    allocator.free(got.cast());
                }
            }
            Err(AllocError::MemoryLimit) => assert!(size > 800_000, "{size}"),
            Err(AllocError::TooLarge) => assert!(size > isize::MAX as usize - (1 << 18), "{size}"),
            Err(error) => panic!("{size}: {error}"),
        }
        if size > 1 << 20 {
            // SAFETY: the block stays live when the call fails.
            unsafe {
                assert!(allocator.reallocate(block, size, Realloc::CopyExisting).is_err());
                assert_eq!(allocator.shrink(block, size), Err(AllocError::NotSmaller));
            }
            assert!(allocator.allocate_zeroed(size).is_err());
            assert!(allocator.allocate_batch(size, &mut [NonNull::dangling(); 3]).is_err());
        }
    }
    assert_eq!(allocator.allocate(0), Err(AllocError::ZeroSize));
    assert_eq!(allocator.stats().live_blocks, 1);
    assert_eq!(allocator.integrity_check(), Ok(()));
    free_all(&allocator, [block]);
    assert_eq!(allocator.used_bytes(), 0);
}

/// (e) The self-check reported damage on a healthy window whose last hole had just been filled, and took quadratic
/// time.
#[test]
fn a_window_filled_to_its_last_unit_is_healthy() {
    let allocator = Allocator::new();
    let mut blocks = vec![allocate(&allocator, 64)];
    while allocator.stats().empty_windows > 0 {
        blocks.push(allocate(&allocator, 64));
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
    // Every unit of the first window is taken; now holes of one unit each, all filled again.
    let holes: Vec<_> = blocks.iter().copied().step_by(2).collect();
    free_all(&allocator, holes.iter().copied());
    assert_eq!(allocator.integrity_check(), Ok(()));
    for _ in 0..holes.len() + 4096 {
        blocks.push(allocate(&allocator, 64));
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
}

/// (f) A block that was shrunk to 0 could not be freed.
#[test]
fn shrinking_to_nothing_is_refused_and_the_block_lives_on() {
    let allocator = Allocator::new();
    let block = allocate(&allocator, 1000);
    // SAFETY: the block is live throughout, and freed once.
    unsafe {
        assert_eq!(allocator.shrink(block, 0), Err(AllocError::ZeroSize));
        assert_eq!(allocator.reallocate(block, 0, Realloc::CopyExisting), Err(AllocError::ZeroSize));
        assert_eq!(allocator.used_bytes(), 1024);
        assert_eq!(allocator.shrink(block, 1), Ok(()));
        assert_eq!(allocator.used_bytes(), 64);
        allocator.free(block);
    }
    assert_eq!(allocator.used_bytes(), 0);
}

/// (g) Freeing read a header inside of memory that may have been reused.
#[test]
fn what_a_block_contains_cannot_mislead_a_free() {
    let allocator = Allocator::new();
    let blocks: Vec<_> = (0..300).map(|_| allocate(&allocator, 1400)).collect();
    for (index, &block) in blocks.iter().enumerate() {
        // SAFETY: the block is live and holds 1408 bytes.
        unsafe { block.write_bytes(index as u8, 1408) };
    }
    for &block in &blocks {
        // SAFETY: freed once; the second time there is no block, which the call has to find out.
        unsafe {
            assert_eq!(allocator.try_free(block), Ok(()));
            assert!(matches!(allocator.try_free(block), Err(FreeError::DoubleFree { .. })));
        }
    }
    assert_eq!(allocator.used_bytes(), 0);
    assert_eq!(allocator.integrity_check(), Ok(()));
}

/// (g) again: a large block has no map, but its bytes may look like one.
#[test]
fn what_a_large_block_contains_cannot_mislead_a_free() {
    let allocator = Allocator::new();
    let free_large_block = || {
        for sized in [false, true] {
            let large = allocator.allocate(200_000).unwrap();
            // SAFETY: the block is live, holds as many bytes, and is not used after it is freed.
            unsafe {
                large.cast::<u8>().write_bytes(1, large.len());
                if sized { allocator.free_sized(large.cast(), 200_000) } else { allocator.free(large.cast()) }
            }
            assert_eq!((allocator.stats().large_blocks, allocator.integrity_check()), (0, Ok(())));
        }
    };
    let mut blocks: Vec<_> = (0..4000).map(|_| allocate(&allocator, 1400)).collect();
    free_large_block();
    // Freed in any order, blocks are kept for the next allocation.
    for turn in 0..20_000 {
        let index = turn * 1543 % blocks.len();
        free_all(&allocator, [blocks[index]]);
        blocks[index] = allocate(&allocator, 1400);
    }
    free_all(&allocator, [blocks[7]]);
    assert_eq!(allocate(&allocator, 1400), blocks[7]);
    free_large_block();
    free_all(&allocator, blocks);
    assert_eq!(allocator.used_bytes(), 0);
}

/// (i) The totals were 32-bit.
#[test]
#[cfg(target_pointer_width = "64")]
fn totals_go_beyond_32_bits() {
    let allocator = Allocator::new();
    // Untouched memory costs address space only.
    let blocks: Vec<_> = (0..5).map_while(|_| allocator.allocate(1 << 30).ok()).map(NonNull::cast).collect();
    assert_eq!(blocks.len(), 5, "this test needs 5 GiB of address space");
    assert_eq!(allocator.used_bytes(), 5 << 30);
    assert_eq!(allocator.allocated_bytes(), 5 << 30);
    free_all(&allocator, blocks);
    assert_eq!(allocator.allocated_bytes(), 0);
}

/// What is freed in random order is handed out again at once, and goes back to its windows in the end.
#[test]
fn blocks_freed_in_random_order_are_used_again_and_given_back() {
    let allocator = Allocator::new();
    let mut random = SplitMix64::new(1);
    let mut below = move |limit: usize| random.below(limit as u64) as usize;
    let mut blocks: Vec<_> = (0..2000).map(|_| allocate(&allocator, 1400)).collect();
    for round in 0..100_000 {
        let index = below(blocks.len());
        free_all(&allocator, [blocks[index]]);
        blocks[index] = allocate(&allocator, [1400, 700, 1900][below(3)]);
        if round % 10_000 == 0 {
            assert_eq!(allocator.integrity_check(), Ok(()));
            assert_eq!(allocator.stats().live_blocks, 2000);
        }
    }
    let used = allocator.used_bytes();
    assert!(allocator.allocated_bytes() < used + used / 2, "{allocator:?}");
    let last = blocks.pop().unwrap();
    free_all(&allocator, [last]);
    // SAFETY: the block was freed just now, which the call has to find out.
    assert!(matches!(unsafe { allocator.try_free(last) }, Err(FreeError::DoubleFree { .. })));
    free_all(&allocator, blocks);
    assert_eq!(allocator.used_bytes(), 0);
    assert_eq!(allocator.integrity_check(), Ok(()));
    assert!(allocator.stats().empty_windows + 1 >= allocator.stats().windows);
    allocator.trim();
    assert_eq!(allocator.stats().windows, 2);
}

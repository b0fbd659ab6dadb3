//! Which memory is handed out again: the part of it that was in use last.

#![cfg(feature = "std")]

use std::collections::{BTreeSet, VecDeque};
use std::ptr::NonNull;

use pktalloc::workload::SplitMix64;
use pktalloc::{Allocator, Config, Realloc};

/// Windows in which blocks lie.
fn windows_of(blocks: impl IntoIterator<Item = NonNull<u8>>) -> BTreeSet<usize> {
    blocks.into_iter().map(|block| block.addr().get() / 131_072).collect()
}

/// Packets that come and go a few at a time stay in the same two windows, and in one place if the newest leaves first.
#[test]
fn a_few_packets_stay_where_they_are() {
    for newest_first in [false, true] {
        let allocator = Allocator::new();
        let mut seen = BTreeSet::new();
        for _ in 0..1000 {
            let mut blocks: Vec<NonNull<u8>> = (0..3).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
            seen.extend(blocks.iter().copied());
            if newest_first {
                blocks.reverse();
            }
            for block in blocks {
                // SAFETY: the block is live and not used afterwards.
                unsafe { allocator.free(block) };
            }
            assert_eq!(allocator.integrity_check(), Ok(()));
        }
        assert!(windows_of(seen.iter().copied()).len() <= 2);
        assert!(!newest_first || seen.len() == 3, "{} places", seen.len());
    }
}

/// A short queue stays in two windows, and no packet is lost when it ends.
#[test]
fn a_short_queue_stays_where_it_is() {
    let allocator = Allocator::new();
    let mut queue: VecDeque<NonNull<u8>> = VecDeque::new();
    let mut turn = |size: usize, depth: usize| {
        queue.push_back(allocator.allocate(size).unwrap().cast());
        while queue.len() > depth {
            // SAFETY: the block is live and leaves the queue.
            unsafe { allocator.free(queue.pop_front().unwrap()) };
        }
        queue.back().copied()
    };
    for (size, depth) in [(1400, 16), (1400, 4), (2000, 3), (200, 100), (1400, 20)] {
        let seen: Vec<_> = (0..3000).filter_map(|_| turn(size, depth)).collect();
        let windows = windows_of(seen).len();
        assert!(windows <= 2, "{depth} packets of {size} bytes lay in {windows} windows");
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
    // Other sizes, and more of them.
    for index in 0..5000 {
        turn(1 + index * 7 % 3000, 300);
    }
    assert_eq!(allocator.integrity_check(), Ok(()));
    turn(1, 0);
    assert_eq!((allocator.used_bytes(), allocator.stats().reusable_windows), (0, 0));
    allocator.trim();
    assert_eq!(allocator.stats().windows, 2);
    assert_eq!(allocator.integrity_check(), Ok(()));
}

/// Blocks that stay lie in front of and behind those that come and go.
#[test]
fn a_short_queue_may_begin_among_blocks_that_stay() {
    for stay in [1, 7, 30, 60] {
        let allocator = Allocator::new();
        let blocks: Vec<NonNull<u8>> = (0..85).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
        for (index, &block) in blocks.iter().enumerate() {
            if index % stay != 3 % stay {
                // SAFETY: the block is live and not used afterwards.
                unsafe { allocator.free(block) };
            }
        }
        for size in [1400, 100, 2000, 700] {
            for _ in 0..2000 {
                let short = [allocator.allocate(size).unwrap(), allocator.allocate(size).unwrap()];
                for block in short {
                    // SAFETY: the block is live and not used afterwards.
                    unsafe { allocator.free(block.cast()) };
                }
            }
            assert_eq!(allocator.integrity_check(), Ok(()));
            assert!(allocator.stats().windows <= 3, "{}", allocator.stats());
        }
    }
}

/// A queue needs little more memory than it is deep.
#[test]
fn a_queue_goes_round_in_the_windows_that_it_fills() {
    let allocator = Allocator::new();
    let mut queue: VecDeque<NonNull<u8>> = (0..1024).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
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

/// The packets of a queue that is out of order at its end do not scatter it, and nothing that waits is forgotten.
#[test]
fn blocks_that_leave_in_any_order_are_handed_out_again_first() {
    let frees: [fn(&Allocator, NonNull<u8>); 2] = [
        // SAFETY: the callers below pass blocks that are live and not used afterwards.
        |allocator, block| unsafe { allocator.free(block) },
        // SAFETY: as above, and of this size.
        |allocator, block| unsafe { allocator.free_sized(block, 1400) },
    ];
    for free in frees {
        let allocator = Allocator::new();
        // Enough of them that sized frees wait.
        let mut blocks: Vec<NonNull<u8>> = (0..30_000).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
        let mut random = SplitMix64::new(7);
        for turn in 0..300_000 {
            let leaving = random.below(blocks.len() as u64) as usize;
            free(&allocator, blocks[leaving]);
            if turn % 10_000 == 0 {
                assert_eq!(allocator.used_bytes(), 29_999 * 1408, "what waits counts as freed");
                assert_eq!(allocator.stats().live_blocks, 29_999);
            }
            blocks[leaving] = allocator.allocate(1400).unwrap().cast();
        }
        assert_eq!(blocks.iter().collect::<BTreeSet<_>>().len(), blocks.len(), "a block is handed out once");
        let held = allocator.allocated_bytes() as f64 / allocator.used_bytes() as f64;
        assert!(held < 1.25, "{held:.2} times what is live is held");
        assert_eq!(allocator.integrity_check(), Ok(()));
        for block in blocks {
            free(&allocator, block);
        }
        let stats = allocator.stats();
        assert_eq!((stats.used_bytes, stats.reusable_windows), (0, 0), "a window without blocks is stranded");
        assert_eq!(allocator.integrity_check(), Ok(()));
        allocator.trim();
        assert_eq!(allocator.stats().windows, 2);
    }
}

#[test]
fn a_large_block_that_becomes_smaller_stays_where_it_is_while_it_is_large() {
    let passthrough = Config::new().passthrough(true);
    for (config, size, smaller) in [(Config::new(), 200_000, 150_000), (passthrough, 1400, 700)] {
        let allocator = Allocator::with_config(config).unwrap();
        let block = allocator.allocate(size).unwrap();
        // SAFETY: the block is live, and afterwards only what it became is used.
        let resized = unsafe { allocator.reallocate(block.cast(), smaller, Realloc::CopyExisting) };
        assert_eq!(resized, Ok(block));
    }
}

#[test]
fn a_block_does_not_grow_into_what_is_yet_to_be_handed_out() {
    let allocator = Allocator::new();
    let [first, second, third]: [NonNull<u8>; 3] = std::array::from_fn(|_| allocator.allocate(640).unwrap().cast());
    // SAFETY: the blocks are live, and afterwards only what the first one became is used.
    let grown = unsafe {
        allocator.free(second);
        allocator.free(third);
        allocator.reallocate(first, 2 * 640 + 64, Realloc::CopyExisting).unwrap()
    };
    let next = allocator.allocate(640).unwrap();
    assert_eq!(allocator.integrity_check(), Ok(()));
    let (grown_at, next_at) = (grown.addr().get(), next.addr().get());
    assert!(next_at + next.len() <= grown_at || grown_at + grown.len() <= next_at, "two blocks overlap");
}

/// A block grows over windows where it lies, and becomes a large one, and back, with its size.
#[test]
fn a_block_grows_over_windows_and_beyond_a_region_and_back() {
    let allocator = Allocator::new();
    let quarter = 32_768;
    let mut block = allocator.allocate(quarter).unwrap();
    let mut resize = |size: usize| {
        let before = block;
        // SAFETY: the block is live, and afterwards only what it became is used.
        block = unsafe { allocator.reallocate(block.cast(), size, Realloc::CopyExisting).unwrap() };
        (block.addr() == before.addr(), allocator.stats().large_blocks)
    };
    assert_eq!(resize(quarter), (true, 0), "the room behind the block is free");
    assert_eq!(resize(4 * quarter), (true, 0));
    assert_eq!(resize(4 * quarter + 1), (true, 0));
    assert_eq!(resize(20 * quarter), (true, 0));
    assert_eq!(resize(10 << 20), (false, 1));
    assert_eq!(resize(20 << 20).1, 1);
    assert_eq!(resize(quarter), (false, 0));
    assert_eq!(allocator.integrity_check(), Ok(()));
}

const SIZE: usize = 34 * 64;

/// Packets that are freed hundreds at a time, as an acknowledgement frees them, are the next ones to be handed out:
/// they may still be in the processor's cache. What keeps them grows with them.
#[test]
fn a_burst_of_frees_is_handed_out_next() {
    let allocator = Allocator::new();
    let mut random = SplitMix64::new(5);
    let allocate = || allocator.allocate(1280).unwrap().cast::<u8>();
    // SAFETY: the callers below pass live blocks, and do not use them afterwards.
    let free = |block| unsafe { allocator.free(block) };
    let mut live: Vec<_> = (0..4000).map(|_| allocate()).collect();
    // Bytes that neither windows nor their maps take.
    let bookkeeping = || {
        let stats = allocator.stats();
        stats.allocated_bytes - (131_072 + 2048) * stats.windows
    };
    let before = bookkeeping();
    // One at a time first, in any order, until blocks are cached.
    for _ in 0..20_000 {
        let index = random.below(4000) as usize;
        free(live[index]);
        live[index] = allocate();
    }
    let place = size_of::<NonNull<u8>>() as u64;
    assert_eq!(bookkeeping() - before, 256 * place, "256 places of a pointer");
    let burst = |live: &mut Vec<NonNull<u8>>, random: &mut SplitMix64| {
        let freed: Vec<_> = (0..400).map(|_| live.swap_remove(random.below(live.len() as u64) as usize)).collect();
        freed.iter().for_each(|&block| free(block));
        let back: Vec<_> = (0..400).map(|_| allocate()).collect();
        live.extend(&back);
        let freed: BTreeSet<_> = freed.into_iter().collect();
        back.iter().filter(|&back| freed.contains(back)).count()
    };
    let next: Vec<_> = (0..10).map(|_| burst(&mut live, &mut random)).collect();
    // The first one makes room; now and then half of them go back to their windows.
    assert!(next.iter().filter(|&&next| next == 400).count() >= 8, "{next:?} of 400");
    assert_eq!(bookkeeping() - before, (256 + 512) * place, "and 512 in another place");
    assert_eq!(allocator.integrity_check(), Ok(()));
}

/// Blocks of 34 units, too long for the cache, that fill the only window.
fn full_window() -> (Allocator, Vec<NonNull<u8>>) {
    let allocator = Allocator::with_config(Config::new().memory_limit(134 << 10)).unwrap();
    let blocks: Vec<_> = std::iter::from_fn(|| allocator.allocate(SIZE).ok()).map(NonNull::cast).collect();
    (allocator, blocks)
}

/// The bytes that are free behind a block are its to grow into, to the last one.
#[test]
fn a_block_grows_where_it_lies_as_far_as_units_are_free() {
    let grow = |allocator: &Allocator, block: NonNull<u8>, size: usize| {
        // SAFETY: the callers below pass live blocks, and do not use them afterwards.
        let grown = unsafe { allocator.reallocate(block, size, Realloc::CopyExisting) };
        assert_eq!(allocator.integrity_check(), Ok(()));
        grown.map(|grown| grown.cast() == block)
    };
    let free = |allocator: &Allocator, blocks: &[NonNull<u8>]| {
        // SAFETY: the callers below pass live blocks, and do not use them afterwards.
        unsafe { allocator.free_batch(blocks) };
    };

    // Up to what is yet to be handed out, which begins where the newest block was.
    let allocator = Allocator::new();
    let blocks: [NonNull<u8>; 3] = std::array::from_fn(|_| allocator.allocate(SIZE).unwrap().cast());
    free(&allocator, &blocks[1..]);
    assert_eq!(grow(&allocator, blocks[0], 2 * SIZE), Ok(true));

    // Into what is yet to be handed out, to the end of the window, and on into the next one.
    let allocator = Allocator::new();
    let newest = (0..50).map(|_| allocator.allocate(SIZE).unwrap().cast::<u8>()).last().unwrap();
    let to_the_end = 131_072 - newest.addr().get() % 131_072;
    assert_eq!(grow(&allocator, newest, 2 * SIZE), Ok(true));
    assert_eq!(grow(&allocator, newest, to_the_end), Ok(true));
    assert_eq!(grow(&allocator, newest, to_the_end + 1), Ok(true));

    // Behind what is yet to be handed out, also up to the end of the window.
    let (allocator, blocks) = full_window();
    let [.., last, freed] = blocks[..] else { panic!("{} blocks fill a window", blocks.len()) };
    let to_the_end = 131_072 - last.addr().get() % 131_072;
    free(&allocator, &blocks[1..20]);
    free(&allocator, &[blocks[41], freed]);
    assert_eq!(allocator.allocate(2 * SIZE).map(NonNull::cast), Ok(blocks[1]));
    assert_eq!(grow(&allocator, blocks[40], 2 * SIZE), Ok(true));
    assert_eq!(grow(&allocator, last, to_the_end), Ok(true));
}

/// Windows lie side by side: a block at the end of one ends where the extent of the next begins.
#[test]
fn a_block_that_ends_where_another_window_begins_goes_back_to_its_own() {
    let allocator = Allocator::<64, 2048>::with_config(Config::default().preallocated_windows(4)).unwrap();
    // 64 units each, too long for the cache, so that 32 of them fill a window.
    let size = 4096;
    let mut blocks: Vec<NonNull<u8>> = (0..65).map(|_| allocator.allocate(size).unwrap().cast()).collect();
    blocks.sort_unstable();
    let window = |block: &NonNull<u8>| block.addr().get() >> 17;
    let ends: Vec<_> =
        blocks.windows(2).filter(|pair| window(&pair[0]) != window(&pair[1])).map(|pair| pair[0]).collect();
    assert_eq!(ends.len(), 2);
    // The one in the newest window first, then all that end where a window does.
    let others = blocks.iter().copied().filter(|block| !ends.contains(block)).rev();
    for block in others.chain(ends.iter().copied()) {
        // SAFETY: the block is live and not used afterwards.
        unsafe { allocator.free(block) };
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
    assert_eq!(allocator.used_bytes(), 0);
}

/// `trim` gives back the pages around what stays, in regions of several windows and in those of one, and all of it is
/// to be had again.
#[test]
#[cfg(target_os = "linux")]
fn trim_gives_back_the_pages_around_survivors() {
    fn exercise<const UNIT: usize, const WINDOW_UNITS: usize>(blocks: usize, size: usize) {
        let config = Config::<UNIT, WINDOW_UNITS>::default().preallocated_windows(0);
        let allocator = Allocator::with_config(config).unwrap();
        let blocks: Vec<NonNull<u8>> = (0..blocks).map(|_| allocator.allocate(size).unwrap().cast()).collect();
        let (stay, leave): (Vec<_>, Vec<_>) = blocks.iter().enumerate().partition(|(index, _)| index % 50 == 7);
        for (_, block) in leave {
            // SAFETY: the block is live and not used afterwards.
            unsafe { allocator.free(*block) };
        }
        let before = allocator.allocated_bytes();
        let given = allocator.trim() as u64;
        assert_eq!(allocator.allocated_bytes(), before - given);
        assert!(given > before / 2, "{given} of {before} bytes");
        assert_eq!((allocator.trim(), allocator.integrity_check()), (0, Ok(())));
        let again: Vec<NonNull<u8>> = (0..blocks.len()).map(|_| allocator.allocate(size).unwrap().cast()).collect();
        assert_eq!(allocator.integrity_check(), Ok(()));
        for block in again.iter().chain(stay.iter().map(|(_, block)| *block)) {
            // SAFETY: the block is live and not used afterwards.
            unsafe { allocator.free(*block) };
        }
        allocator.trim();
        assert_eq!((allocator.allocated_bytes(), allocator.integrity_check()), (0, Ok(())));
    }
    exercise::<64, 2048>(5000, 1400);
    // Windows of 8 MiB, each a region.
    exercise::<4096, 2048>(5000, 4096);
}

/// Where nothing lives, nothing that was cached, or in whose bookkeeping it was, keeps a large block or a span out.
#[test]
fn what_is_cached_keeps_no_large_block_out() {
    let random_order = |allocator: &Allocator, count: usize| {
        let mut random = SplitMix64::new(1);
        let mut blocks: Vec<_> = (0..count).map(|_| allocator.packet(1400).unwrap()).collect();
        for _ in 0..100_000 {
            let index = random.next() as usize % count;
            blocks[index] = allocator.packet(1400).unwrap();
        }
        while !blocks.is_empty() {
            blocks.swap_remove(random.next() as usize % blocks.len());
        }
    };
    for (size, in_order) in [(16 << 20, false), (6 << 20, false), (3 << 20, false), (20 << 20, true)] {
        let allocator = Allocator::with_config(Config::new().memory_limit(24 << 20)).unwrap();
        random_order(&allocator, 12_000);
        if in_order {
            // The cache is open, and empty.
            let queue: Vec<_> = (0..15_000).map(|_| allocator.packet(1400).unwrap()).collect();
            drop(queue);
        }
        assert_eq!(allocator.used_bytes(), 0);
        assert_eq!(allocator.packet_for(size).map(|packet| packet.len()), Ok(0), "{size}: {}", allocator.stats());
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
}

/// As asyncio receives: room for 256 KiB is asked for and cut down to a datagram, which leaves in any order. It lies
/// alone in a window, and what is cached of it keeps that from the next receive.
#[test]
fn long_reserves_cut_down_to_little_do_not_spread() {
    const RESERVE: usize = 262_177;
    const WINDOWS: u64 = 3;
    let allocator = Allocator::new();
    let mut random = SplitMix64::new(3);
    let mut queue: Vec<(NonNull<u8>, usize)> = Vec::new();
    let (mut cut, mut most_cut) = (0, 0);
    for turn in 0..200_000 {
        let (block, size) = if turn % 40 == 0 {
            let block = allocator.allocate(RESERVE).unwrap().cast();
            // SAFETY: the block is live.
            let kept = unsafe { allocator.reallocate(block, 71, Realloc::CopyExisting) }.unwrap();
            assert_eq!(kept.cast(), block, "a block with the room stays where it is");
            (block, 71)
        } else {
            let size = [80, 184, 960, 1246][random.below(4) as usize];
            (allocator.allocate(size).unwrap().cast(), size)
        };
        queue.push((block, size));
        cut += u64::from(size == 71);
        most_cut = most_cut.max(cut);
        if queue.len() > 4000 {
            let (block, size) = queue.swap_remove(random.below(queue.len() as u64) as usize);
            // SAFETY: the block is live and not used afterwards.
            unsafe { allocator.free_sized(block, size) };
            cut -= u64::from(size == 71);
        }
    }
    assert_eq!(allocator.integrity_check(), Ok(()));
    // Twice the windows that these take where no other packet comes between.
    let (held, least) = (allocator.stats().peak_allocated_bytes, most_cut * WINDOWS * (128 << 10));
    assert!(held < 2 * least, "{held} bytes were held for {most_cut} reserves that were cut");
}

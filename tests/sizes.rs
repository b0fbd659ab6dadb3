//! Sizes at every power of two plus and minus 32, at the longest block of each path, and at the ends of what a number can
//! say, in every call that takes one.

#![cfg(feature = "std")]

use std::alloc::Layout;
use std::ptr::NonNull;

use pktalloc::system::{Os, Role, System};
use pktalloc::{AllocError, Allocator, Config, Realloc};

/// What every allocator here may hold: enough for each size up to [`SERVED`], as often as a call needs it.
const LIMIT: u64 = 8 << 20;
/// Every size up to this is served.
const SERVED: usize = (1 << 20) + 32;
/// The largest size that leaves room for the largest alignment.
const CONCEIVABLE: usize = isize::MAX as usize - (1 << 18);
/// The longest packet.
const LONGEST_PACKET: usize = (2 << 30) - 4096;

fn sizes() -> impl Iterator<Item = usize> {
    let around = |middle: usize| (0..=64).map(move |delta| middle.wrapping_sub(32).wrapping_add(delta));
    let below = |end: usize| (0..=64).map(move |delta| end - delta);
    // Units whose number the map keeps exactly, and units that are cached.
    let longest = [127 * 64, 1920 * 64];
    (0..usize::BITS)
        .map(|bit| 1 << bit)
        .chain(longest)
        .flat_map(around)
        .chain(below(isize::MAX as usize))
        .chain(below(u32::MAX as usize))
        .chain(below(usize::MAX))
}

fn configs() -> [(&'static str, Config); 5] {
    let config = Config::new().memory_limit(LIMIT);
    [
        ("plain", config),
        ("zero", config.zero(true)),
        ("check", config.check(true)),
        ("passthrough", config.passthrough(true)),
        ("huge pages", config.huge_pages(true)),
    ]
}

/// Expects a size to be served or refused for the right reason, and the bytes of a block that was served to be its own.
fn expect(size: usize, outcome: Result<NonNull<[u8]>, AllocError>, name: &str) -> Option<NonNull<u8>> {
    match outcome {
        Ok(block) => {
            assert!(size != 0 && block.len() >= size, "{name} of {size}: {} bytes", block.len());
            // SAFETY: the first and the last byte are the block's.
            unsafe {
                block.cast::<u8>().write(1);
                block.cast::<u8>().add(block.len() - 1).write(2);
            }
            Some(block.cast())
        }
        Err(error) => {
            expect_refusal(size, error, name);
            None
        }
    }
}

/// Expects a size to be refused for the right reason.
fn expect_refusal(size: usize, error: AllocError, name: &str) {
    expect_refusal_beyond(CONCEIVABLE, size, error, name);
}

/// Expects a size to be refused for the right reason, where those beyond `most` are too large.
fn expect_refusal_beyond(most: usize, size: usize, error: AllocError, name: &str) {
    match error {
        AllocError::ZeroSize => assert_eq!(size, 0, "{name}"),
        AllocError::MemoryLimit => assert!(size > SERVED, "{name} of {size}"),
        AllocError::TooLarge => assert!(size > most, "{name} of {size}"),
        other => panic!("{name} of {size}: {other}"),
    }
}

fn free(allocator: &Allocator, block: Option<NonNull<u8>>) {
    if let Some(block) = block {
        // SAFETY: the block is live and not used afterwards.
        unsafe { allocator.free(block) };
    }
}

#[test]
fn every_size_in_every_call_is_served_or_refused_by_name() {
    for (mode, config) in configs() {
        let allocator = Allocator::with_config(config).unwrap();
        let kept = expect(1000, allocator.allocate(1000), mode).unwrap();
        for size in sizes() {
            let name = |call: &str| format!("{call} with {mode}");
            free(&allocator, expect(size, allocator.allocate(size), &name("allocate")));
            free(&allocator, expect(size, allocator.allocate_zeroed(size), &name("allocate_zeroed")));
            let mut blocks = [NonNull::dangling(); 2];
            match allocator.allocate_batch(size, &mut blocks) {
                Ok(capacity) => {
                    for block in blocks {
                        let block = Ok(NonNull::slice_from_raw_parts(block, capacity));
                        free(&allocator, expect(size, block, &name("allocate_batch")));
                    }
                }
                Err(error) => _ = expect(size, Err(error), &name("allocate_batch")),
            }
            for how in [Realloc::CopyExisting, Realloc::Uninitialized] {
                // From a small block to the size, and back.
                let block = expect(100, allocator.allocate(100), &name("allocate")).unwrap();
                // SAFETY: the block is live, and only what it became is used.
                let grown = unsafe { allocator.reallocate(block, size, how) };
                let grown = expect(size, grown, &name("reallocate")).unwrap_or(block);
                // SAFETY: as above.
                let back = unsafe { allocator.reallocate(grown, 100, how) };
                free(&allocator, expect(100, back, &name("reallocate to 100")));
            }
            // To the size, and to something less.
            // SAFETY: `kept` is live, and stays so whatever the outcome.
            match unsafe { allocator.shrink(kept, size) } {
                Ok(()) => assert!((1..=1024).contains(&size)),
                Err(AllocError::ZeroSize) => assert_eq!(size, 0),
                Err(AllocError::NotSmaller) => {}
                Err(other) => panic!("shrink to {size} with {mode}: {other}"),
            }
            if let Ok(block) = allocator.allocate(size) {
                // SAFETY: the block is live.
                unsafe { allocator.shrink(block.cast(), size / 2 + 1) }.unwrap();
                free(&allocator, Some(block.cast()));
            }
            assert_eq!(allocator.stats().live_blocks, 1, "after {size} with {mode}");
        }
        free(&allocator, Some(kept));
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())), "{mode}");
    }
}

#[test]
fn packets_of_every_size_are_made_and_grown_or_refused_by_name() {
    for (mode, config) in configs() {
        let allocator = Allocator::with_config(config).unwrap();
        // Every byte is written: of the sizes that take long, the powers of two and their neighbours.
        let takes_long = |size: usize| (1 << 16..2 * LIMIT as usize).contains(&size);
        let beside_power = |size: usize| (size - 1..=size + 1).any(usize::is_power_of_two);
        for size in sizes().filter(|&size| !takes_long(size) || beside_power(size)) {
            let mut kept = allocator.packet_from(&[7; 100]).unwrap();
            let name = |call: &str| format!("{call} with {mode}");
            match allocator.packet(size) {
                Ok(packet) => assert!(packet.len() == size && packet.iter().rev().take(64).all(|&byte| byte == 0)),
                Err(error) => expect_refusal_beyond(LONGEST_PACKET, size, error, &name("packet")),
            }
            let filled = allocator.packet_with(size, |room| {
                assert_eq!(room.remaining(), size, "{mode}");
                room.append(&[1, 2, 3][..size.min(3)]);
                Ok::<_, AllocError>(())
            });
            match filled {
                Ok((packet, ())) => assert_eq!(packet[..], [1, 2, 3][..size.min(3)]),
                Err(error) => expect_refusal_beyond(LONGEST_PACKET, size, error, &name("packet_with")),
            }
            // An empty packet has no block: 0 is a size like any other here.
            match kept.resize(size.max(100)) {
                Ok(()) => {
                    assert!(kept.len() == size.max(100) && kept[100..].iter().rev().take(64).all(|&byte| byte == 0));
                }
                Err(error) => expect_refusal_beyond(LONGEST_PACKET, size, error, &name("resize")),
            }
            kept.truncate(100);
            match kept.reserve(size) {
                Ok(()) => assert!(kept.capacity() >= 100 + size, "{} with {mode}", name("reserve")),
                Err(error) => expect_refusal_beyond(LONGEST_PACKET, size.saturating_add(100), error, &name("reserve")),
            }
            kept.shrink_to_fit();
            assert!(kept == [7; 100], "a byte was lost after {size} with {mode}");
            assert_eq!(allocator.stats().live_blocks, 1, "after {size} with {mode}");
        }
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())), "{mode}");
    }
}

/// Blocks lie in windows, in one or in several, up to what a region has; only longer ones come straight from the
/// system.
#[test]
fn a_block_longer_than_a_region_is_a_large_one() {
    const WINDOW: usize = 131_072;
    let allocator = Allocator::new();
    // Address space is scarce where pointers have four bytes.
    let region = if cfg!(target_pointer_width = "64") { 60 } else { 30 } * WINDOW;
    for (size, large_blocks) in [
        (WINDOW / 4, 0),
        (WINDOW / 4 + 1, 0),
        (WINDOW, 0),
        (WINDOW + 1, 0),
        (region, 0),
        (region + 1, 1),
        (2 * region, 2),
    ] {
        let block = allocator.allocate(size).unwrap();
        assert!(block.len() >= size && block.len() - size <= size / 8 + 64, "{} bytes for {size}", block.len());
        assert_eq!(allocator.stats().large_blocks, large_blocks, "after {size}");
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
}

/// At each limit another path, or another way to keep the length, begins: blocks that are cached, whose length the map
/// keeps exactly, longer ones that are cached, that fit into a window. The first block of an allocator comes by the slow
/// path, whatever its size.
#[test]
fn a_block_around_any_limit_is_served_first_and_later() {
    for limit in [32 * 64, 127 * 64, 32_768, 1920 * 64, 2048 * 64] {
        for (size, earlier) in (limit - 1..=limit + 1).flat_map(|size| [(size, 0), (size, 1)]) {
            let allocator = Allocator::new();
            let mut blocks: Vec<_> = (0..earlier).map(|_| Some(allocator.allocate(64).unwrap().cast())).collect();
            blocks.push(expect(size, allocator.allocate(size), "a block"));
            blocks.push(expect(64, allocator.allocate(64), "the next block"));
            assert_eq!(allocator.integrity_check(), Ok(()), "{size} after {earlier}");
            let used = allocator.used_bytes();
            let most = (64 * (earlier + 1) + size + size / 8 + 64) as u64;
            assert!((size as u64..=most).contains(&used), "{size} after {earlier}: {used} bytes are used");
            blocks.into_iter().for_each(|block| free(&allocator, block));
            assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())), "{size} after {earlier}");
        }
    }
}

#[test]
fn a_block_shrinks_to_what_it_has_but_not_to_more() {
    for (mode, config) in configs() {
        for size in [64, 1400, 20_000, 100_000] {
            let allocator = Allocator::with_config(config).unwrap();
            let block = allocator.allocate(size).unwrap();
            // SAFETY: the block is live and only shrunk, to what it has.
            let shrink = |size| unsafe { allocator.shrink(block.cast(), size) };
            assert_eq!(shrink(block.len() + 1), Err(AllocError::NotSmaller), "{mode} of {size}");
            assert_eq!(shrink(block.len() + 64), Err(AllocError::NotSmaller), "{mode} of {size}");
            assert_eq!(shrink(block.len()), Ok(()), "{mode} of {size}");
            assert_eq!(allocator.integrity_check(), Ok(()), "{mode} of {size}");
            free(&allocator, Some(block.cast()));
            assert_eq!(allocator.used_bytes(), 0, "{mode} of {size}");
        }
    }
}

#[test]
fn blocks_of_every_length_go_on_in_the_next_window() {
    for units in 1..=512 {
        let allocator = Allocator::with_config(Config::new().preallocated_windows(0)).unwrap();
        let mut blocks = Vec::new();
        while allocator.stats().windows < 3 {
            let size = units * 64 - blocks.len() % 64;
            let block = allocator.allocate(size).unwrap();
            // A long block is rounded up, by an eighth at most.
            let most = if units < 128 { units } else { units + units / 8 };
            assert!(block.len() >= size && block.len() <= most * 64, "{} bytes for {size}", block.len());
            blocks.push(Some(block.cast::<u8>()));
        }
        assert_eq!(allocator.integrity_check(), Ok(()), "of {units} units");
        blocks.into_iter().for_each(|block| free(&allocator, block));
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())), "of {units} units");
    }
}

/// With idle windows behind it.
#[test]
fn a_block_in_the_last_unit_of_a_window_grows() {
    for size in [65, 4000, 9000, 128 << 10, 300_000] {
        let allocator = Allocator::with_config(Config::new().preallocated_windows(4)).unwrap();
        let is_last = |block: &NonNull<u8>| (block.addr().get() + 64).is_multiple_of(128 << 10);
        let blocks = std::iter::from_fn(|| Some(allocator.allocate(64).unwrap().cast::<u8>()));
        let last = blocks.take(1 << 12).find(is_last).unwrap();
        // SAFETY: a live block, of so many bytes before and after it grows.
        unsafe {
            last.write_bytes(7, 64);
            let grown = allocator.reallocate(last, size, Realloc::CopyExisting).unwrap();
            assert!(grown.len() >= size);
            grown.cast::<u8>().add(64).write_bytes(8, size - 64);
            assert!(grown.as_ref()[..64].iter().all(|&byte| byte == 7));
            assert_eq!(allocator.integrity_check(), Ok(()), "{size} bytes");
            allocator.free(grown.cast());
        }
        assert_eq!(allocator.integrity_check(), Ok(()), "{size} bytes");
    }
}

#[test]
fn objects_of_every_size_and_alignment_are_constructed_or_refused() {
    #[derive(Clone, Copy)]
    #[repr(align(64))]
    struct Line([u8; 64]);
    #[repr(align(128))]
    struct TwoLines;
    let allocator = Allocator::with_config(Config::new().memory_limit(1 << 20)).unwrap();
    let nothing = allocator.construct(()).unwrap();
    let largest_in_window = allocator.construct([7u8; 32_768]).unwrap();
    let large = allocator.construct([Line([9; 64]); 513]).unwrap();
    // SAFETY: the objects are live.
    unsafe {
        assert!(largest_in_window.as_ref().iter().all(|&byte| byte == 7));
        assert!(large.as_ref().iter().all(|line| line.0 == [9; 64]));
    }
    assert_eq!(allocator.stats().large_blocks, 0);
    assert!(matches!(allocator.construct(TwoLines), Err(AllocError::Alignment)));
    let limited = Allocator::with_config(Config::new().memory_limit(134 << 10)).unwrap();
    assert_eq!(limited.construct([0u8; 200_000]), Err(AllocError::MemoryLimit));
    // SAFETY: the objects are live and not used afterwards.
    unsafe {
        allocator.destruct(nothing);
        allocator.destruct(largest_in_window);
        allocator.destruct(large);
    }
    assert_eq!(allocator.used_bytes(), 0);
}

/// The operating system, in regions of 64 MiB.
#[derive(Clone, Default)]
struct Wide;

// SAFETY: every region is the operating system's.
unsafe impl System for Wide {
    const REGION_BYTES: usize = 64 << 20;

    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        Os.allocate(layout, role)
    }

    unsafe fn free(&self, memory: NonNull<u8>, layout: Layout, role: Role) {
        // SAFETY: the caller keeps the same contract.
        unsafe { Os.free(memory, layout, role) };
    }
}

/// A region may have more units than a map can say that a block has.
#[test]
fn blocks_longer_than_a_map_can_say_have_all_of_their_bytes() {
    const UNIT: usize = 16;
    let allocator = Allocator::<UNIT, 65_536, Wide>::with_config_in(Config::default(), Wide).unwrap();
    for units in [491_519, 491_520, 491_521, 524_287, 524_288, 524_289, 600_000, 1 << 20, (1 << 20) + 1, 3 << 20] {
        let size = units * UNIT;
        let block = allocator.allocate(size).unwrap();
        assert!(block.len() >= size, "{} of {size}", block.len());
        let next = allocator.allocate(1000).unwrap().cast::<u8>().addr().get();
        let start = block.cast::<u8>().addr().get();
        assert!(next + 1000 <= start || next >= start + size, "the next block lies in one of {size} bytes");
        assert_eq!(allocator.integrity_check(), Ok(()));
        // SAFETY: live, and not used afterwards.
        unsafe { allocator.free(block.cast()) };
    }
    // A block grows up to there in place, and beyond by moving.
    let mut block = allocator.allocate(7 << 20).unwrap();
    for size in [491_520 * UNIT, 491_521 * UNIT, 9 << 20] {
        // SAFETY: live, and only what comes back is used afterwards.
        block = unsafe { allocator.reallocate(block.cast(), size, Realloc::CopyExisting) }.unwrap();
        assert!(block.len() >= size, "{} of {size}", block.len());
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
}

//! Pointers that are not live blocks: each gets the error that names it, and nothing changes.

#![cfg(feature = "std")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use pktalloc::system::{Os, System};
use pktalloc::{
    AllocError, Allocator, Config, FreeError, IntegrityError, Occupancy, Overflow, Realloc, Stats, WindowState,
    WriteAfterFree, workload::SplitMix64,
};

fn allocate(allocator: &Allocator, size: usize) -> NonNull<u8> {
    allocator.allocate(size).unwrap().cast()
}

fn at(address: usize) -> NonNull<u8> {
    NonNull::new(std::ptr::without_provenance_mut(address)).unwrap()
}

/// Passes a pointer that is no live block and expects the figures to stay.
fn refuse(allocator: &Allocator, pointer: NonNull<u8>) -> FreeError {
    let before: Stats = allocator.stats();
    // SAFETY: no block starts there, which is what the call has to find out.
    let error = unsafe { allocator.try_free(pointer) }.unwrap_err();
    assert_eq!(allocator.stats(), before);
    assert_eq!(allocator.integrity_check(), Ok(()));
    error
}

#[test]
fn every_pointer_that_is_no_live_block_is_named() {
    for config in [Config::new(), Config::new().check(true), Config::new().zero(true)] {
        let allocator = Allocator::with_config(config).unwrap();
        let other = Allocator::new();
        // Too long for the cache.
        let block = allocate(&allocator, 2200);
        let next = allocate(&allocator, 2200);
        let large = allocate(&allocator, 100_000);
        let theirs = allocate(&other, 1400);
        let start = block.addr().get();

        for offset in [1, 8, 63, 64, 640, 1399] {
            let inside = block.map_addr(|address| address.checked_add(offset).unwrap());
            assert_eq!(refuse(&allocator, inside), FreeError::Interior { address: start + offset, block: start });
        }
        for offset in [1, 64, 65_536, 99_999] {
            let inside = large.map_addr(|address| address.checked_add(offset).unwrap());
            let address = inside.addr().get();
            assert_eq!(refuse(&allocator, inside), FreeError::Interior { address, block: large.addr().get() });
        }
        // Where the block ends, in a window that it takes in part.
        let behind = large.map_addr(|address| address.checked_add(106_496).unwrap());
        let address = behind.addr().get();
        assert_eq!(refuse(&allocator, behind), FreeError::DoubleFree { address });
        let windows = allocator.windows();
        for window in &windows {
            for unit in window.bookkeeping.clone() {
                let address = window.address + unit * 64;
                assert_eq!(refuse(&allocator, at(address)), FreeError::Bookkeeping { address });
                assert_eq!(refuse(&allocator, at(address + 1)), FreeError::Bookkeeping { address: address + 1 });
            }
            let last = window.address + 131_072 - 1;
            assert_eq!(refuse(&allocator, at(last)), FreeError::DoubleFree { address: last });
        }
        let on_the_stack = 0u8;
        let from_malloc = Box::new([0u8; 1400]);
        for foreign in [
            theirs.addr().get(),
            (&raw const on_the_stack).addr(),
            from_malloc.as_ptr().addr(),
            1,
            8,
            64,
            4096,
            usize::MAX,
            usize::MAX - 63,
            isize::MAX as usize,
        ] {
            assert_eq!(refuse(&allocator, at(foreign)), FreeError::Foreign { address: foreign });
        }

        // SAFETY: each block is live the first time; the second time the call has to find out that it is not.
        unsafe {
            assert_eq!(allocator.try_free(large), Ok(()));
            assert!(matches!(refuse(&allocator, large), FreeError::DoubleFree { .. }));
            assert_eq!(allocator.try_free(next), Ok(()));
            assert!(matches!(refuse(&allocator, next), FreeError::DoubleFree { .. }));
            // p, q, p
            assert_eq!(allocator.try_free(block), Ok(()));
            assert!(matches!(refuse(&allocator, block), FreeError::DoubleFree { .. }));
        }
        // Freed, and its memory reused by a block that starts elsewhere.
        let small = allocate(&allocator, 640);
        let reused = allocate(&allocator, 2000);
        assert_eq!(small, block);
        assert_eq!(
            refuse(&allocator, next),
            FreeError::Interior { address: next.addr().get(), block: reused.addr().get() }
        );
        // A window that went back to the system.
        // SAFETY: both are live and not used afterwards.
        unsafe {
            allocator.free(small);
            allocator.free(reused);
        }
        let many: Vec<_> = (0..400).map(|_| allocate(&allocator, 1400)).collect();
        let gone = many[399];
        for block in many {
            // SAFETY: live, and not used afterwards.
            unsafe { allocator.free(block) };
        }
        allocator.trim();
        assert!(matches!(refuse(&allocator, gone), FreeError::Foreign { .. } | FreeError::DoubleFree { .. }));
    }
}

#[test]
fn the_byte_behind_a_region_is_foreign_and_its_front_is_bookkeeping() {
    let allocator = Allocator::new();
    allocate(&allocator, 1);
    let region = allocator.windows()[0].address & !(Os::REGION_BYTES - 1);
    // The map, and the places of cached blocks, which are a pointer each.
    let bookkeeping = if cfg!(target_pointer_width = "64") { 3 } else { 2 } * 131_072;
    for offset in [0, 1, 4096, 5000, bookkeeping - 1] {
        let address = region + offset;
        assert_eq!(refuse(&allocator, at(address)), FreeError::Bookkeeping { address });
    }
    // A window that was never in use.
    let address = region + 20 * 131_072;
    assert_eq!(refuse(&allocator, at(address)), FreeError::DoubleFree { address });
    let address = region + Os::REGION_BYTES;
    assert_eq!(refuse(&allocator, at(address)), FreeError::Foreign { address });
}

#[test]
fn free_panics_on_double_free_and_interior_pointers_and_changes_nothing() {
    for config in [Config::new(), Config::new().check(true)] {
        let allocator = Allocator::with_config(config).unwrap();
        let blocks: Vec<_> = (0..10).map(|_| allocate(&allocator, 1400)).collect();
        // SAFETY: live, and not used as a block afterwards.
        unsafe { allocator.free(blocks[4]) };
        let before = allocator.stats();
        for offset in [0, 1, 8, 64, 1407] {
            let index = if offset == 0 { 4 } else { 5 };
            let pointer = blocks[index].map_addr(|address| address.checked_add(offset).unwrap());
            type Misuse<'a> = (&'a str, Box<dyn Fn() + 'a>);
            let misuses: [Misuse<'_>; 3] = [
                // SAFETY: there is no live block at the pointer: the contract is broken on purpose, in the way that the
                // documentation answers with a panic.
                ("free", Box::new(|| unsafe { allocator.free(pointer) })),
                (
                    "shrink",
                    Box::new(|| {
                        // SAFETY: as above.
                        _ = unsafe { allocator.shrink(pointer, 10) };
                    }),
                ),
                (
                    "reallocate",
                    Box::new(|| {
                        // SAFETY: as above.
                        _ = unsafe { allocator.reallocate(pointer, 3000, Realloc::CopyExisting) };
                    }),
                ),
            ];
            for (name, misuse) in misuses {
                let outcome = catch_unwind(AssertUnwindSafe(misuse));
                assert!(outcome.is_err(), "{name} at +{offset} did not panic");
                assert_eq!(allocator.stats(), before, "{name} at +{offset} changed something");
                assert_eq!(allocator.integrity_check(), Ok(()));
            }
        }
    }
}

#[test]
fn with_check_a_sized_free_wants_the_size_that_was_asked_for() {
    let allocator = Allocator::with_config(Config::new().check(true)).unwrap();
    for size in [1400, 10_000, 100_000] {
        let block = allocate(&allocator, size);
        for wrong in [0, 1, size - 1, size + 1, size + 64, usize::MAX] {
            // SAFETY: the size is wrong on purpose, which the documentation answers with a panic.
            let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { allocator.free_sized(block, wrong) }));
            let message = *outcome.unwrap_err().downcast::<String>().unwrap();
            let expected = FreeError::WrongSize { address: block.addr().get(), size: wrong, requested: size };
            assert_eq!(message, format!("cannot free: {expected}"));
            assert_eq!((allocator.stats().live_blocks, allocator.integrity_check()), (1, Ok(())));
        }
        // SAFETY: the block is live, and not used afterwards; the tail is none of ours after the call.
        unsafe {
            allocator.shrink(block, 700).unwrap();
            allocator.free_sized(block, 700);
        }
        assert_eq!(allocator.used_bytes(), 0);
    }
}

/// With units of a page the first block of a window begins right behind the first unit.
#[test]
fn what_is_freed_is_gone_at_once_where_blocks_are_verified() {
    let config = Config::<4096, 64>::default();
    for config in [config.check(true), config.passthrough(true), config.zero(true)] {
        let allocator = Allocator::with_config(config).unwrap();
        for size in [1, 4096, 4080, 10_000] {
            let block = allocator.allocate(size).unwrap().cast::<u8>();
            // SAFETY: the block is live and not used afterwards.
            unsafe { allocator.free_sized(block, size) };
            assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
            let again = allocator.allocate(size).unwrap().cast::<u8>();
            // SAFETY: as above.
            unsafe { allocator.free(again) };
            assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
            // SAFETY: the block was freed just now, which the call has to find out.
            assert!(unsafe { allocator.try_free(block) }.is_err());
        }
    }
}

#[test]
fn without_check_a_wrong_size_does_no_harm() {
    for size in [1400, 10_000, 100_000] {
        for wrong in [0, 1, size - 64, size + 64, usize::MAX] {
            let allocator = Allocator::new();
            let (block, other) = (allocate(&allocator, size), allocate(&allocator, size));
            // SAFETY: live, and not used afterwards; the wrong size is what is tested.
            unsafe { allocator.free_sized(block, wrong) };
            assert_eq!((allocator.stats().live_blocks, allocator.integrity_check()), (1, Ok(())));
            // SAFETY: live, and not used afterwards.
            unsafe { allocator.free_sized(other, size) };
            assert_eq!(allocator.used_bytes(), 0);
        }
    }
}

/// Blocks that leave in no order; the last one has just been freed, and is cached.
fn deep_and_out_of_order(allocator: &Allocator) -> (Vec<NonNull<u8>>, NonNull<u8>) {
    let mut random = SplitMix64::new(3);
    let mut blocks: Vec<_> = (0..30_000).map(|_| allocate(allocator, 1400)).collect();
    for _ in 0..60_000 {
        let leaving = random.below(blocks.len() as u64) as usize;
        // SAFETY: the block is live and its place is taken by another.
        unsafe { allocator.free_sized(blocks[leaving], 1400) };
        blocks[leaving] = allocate(allocator, 1400);
    }
    let freed = blocks.swap_remove(17);
    // SAFETY: the block is live, and not used as a block afterwards.
    unsafe { allocator.free_sized(freed, 1400) };
    (blocks, freed)
}

#[test]
fn a_cached_block_counts_as_free() {
    let allocator = Allocator::new();
    let (blocks, freed) = deep_and_out_of_order(&allocator);
    assert_eq!(allocator.used_bytes(), blocks.len() as u64 * 1408);
    assert_eq!(allocator.stats().live_blocks, blocks.len() as u64);
    assert_eq!(refuse(&allocator, freed), FreeError::DoubleFree { address: freed.addr().get() });
    let seen: usize = allocator.windows().iter().map(|window| window.blocks.len()).sum();
    assert_eq!(seen, blocks.len());
}

#[test]
fn a_write_past_the_end_is_reported_with_its_distance() {
    for (size, past_end) in [(1400, 1), (1400, 8), (1, 1), (64, 16), (1000, 24), (40_000, 1), (40_000, 8)] {
        let allocator = Allocator::with_config(Config::new().check(true)).unwrap();
        let block = allocate(&allocator, size);
        // SAFETY: the canary behind the block is at least 16 bytes, and writing into it is what is tested.
        unsafe { block.add(size + past_end - 1).write(0x5A) };
        let overflow = IntegrityError::Overflow(Overflow { block: block.addr().get(), size, past_end });
        assert_eq!(allocator.integrity_check(), Err(overflow));
        assert!(allocator.allocate(10).is_err(), "allocation goes on over damage");
        // SAFETY: the block is live.
        assert_eq!(unsafe { allocator.try_free(block) }, Err(FreeError::Damaged(overflow)));
        // SAFETY: the byte belongs to the canary; this repairs it.
        unsafe { block.add(size + past_end - 1).write(0xC5) };
        // SAFETY: the block is live and not used afterwards.
        assert_eq!(unsafe { allocator.try_free(block) }, Ok(()));
    }
}

/// What `check` leaves in bytes that no block owns.
const FREED: u8 = 0xDE;

/// Writes a byte where no block lives, and expects `find` to see it; then repairs it.
fn stray_write(allocator: &Allocator, address: NonNull<u8>, find: impl FnOnce()) {
    let found = IntegrityError::WriteAfterFree(WriteAfterFree { address: address.addr().get(), bytes: 1 });
    // SAFETY: the byte lies in a window of the allocator; that nobody may write there is what is tested.
    unsafe {
        assert_eq!(address.read(), FREED);
        address.write(0x5A);
    }
    let before = allocator.stats();
    assert_eq!(allocator.integrity_check(), Err(found));
    find();
    assert_eq!(allocator.integrity_check(), Err(found), "the report hid the damage");
    assert_eq!(allocator.stats(), before);
    // SAFETY: as above; this repairs it.
    unsafe { address.write(FREED) };
    assert_eq!(allocator.integrity_check(), Ok(()));
}

#[test]
fn a_write_to_a_freed_block_is_found_when_its_units_are_handed_out() {
    let allocator = Allocator::with_config(Config::new().check(true)).unwrap();
    let block = allocate(&allocator, 1400);
    // SAFETY: the block is live; afterwards only its address is of interest.
    unsafe { allocator.free(block) };
    for offset in [0, 1, 8, 63, 64, 1399, 1400, 1407] {
        // SAFETY: the byte lies in the units that the block had.
        stray_write(&allocator, unsafe { block.add(offset) }, || {
            assert_eq!(allocator.allocate(1390), Err(AllocError::Damaged), "at +{offset}");
            assert_eq!(allocator.allocate_zeroed(1390), Err(AllocError::Damaged), "at +{offset}");
            assert_eq!(allocator.allocate_batch(1390, &mut [NonNull::dangling(); 3]), Err(AllocError::Damaged));
        });
    }
    assert_eq!(allocate(&allocator, 1390), block);
}

#[test]
fn a_write_to_units_that_a_block_gave_up_or_never_had_is_found() {
    let allocator = Allocator::with_config(Config::new().check(true)).unwrap();
    let (first, second) = (allocate(&allocator, 1400), allocate(&allocator, 1400));
    // SAFETY: both are live, and each is used as what it became.
    unsafe {
        // The tail that a shrink gave back, and growing over it again.
        allocator.shrink(first, 700).unwrap();
        stray_write(&allocator, first.add(1000), || {
            let grown = allocator.reallocate(first, 1400, Realloc::CopyExisting);
            assert_eq!(grown, Err(AllocError::Damaged));
        });
        assert_eq!(allocator.reallocate(first, 1400, Realloc::CopyExisting).unwrap().cast(), first);
        allocator.shrink(first, 700).unwrap();
        stray_write(&allocator, first.add(1407), || {});
        // What a block that moved left behind.
        let moved = allocator.reallocate(first, 3000, Realloc::CopyExisting).unwrap().cast::<u8>();
        assert_ne!(moved, first);
        stray_write(&allocator, first.add(10), || {});
        allocator.free(second);
        stray_write(&allocator, second.add(10), || {});
        // Growing at the end of what was handed out, over units that never were.
        stray_write(&allocator, moved.add(3100), || {
            let grown = allocator.reallocate(moved, 4000, Realloc::CopyExisting);
            assert_eq!(grown, Err(AllocError::Damaged));
        });
        // The last byte of the window.
        let last = (moved.addr().get() | 131_071) - moved.addr().get();
        stray_write(&allocator, moved.add(last), || {});
        allocator.free(moved);
    }
    assert_eq!(allocator.used_bytes(), 0);
}

#[test]
fn free_and_the_self_check_say_what_is_damaged_and_where() {
    let allocator = Allocator::with_config(Config::new().check(true)).unwrap();
    let block = allocate(&allocator, 1000);
    for past_end in [1, 8] {
        // SAFETY: the canary behind the block is at least 16 bytes, and writing into it is what is tested.
        let stray = unsafe { block.add(1000 + past_end - 1) };
        // SAFETY: as above.
        unsafe { stray.write(0) };
        // SAFETY: the block is live; the call panics and leaves it so.
        let panic = catch_unwind(AssertUnwindSafe(|| unsafe { allocator.free(block) })).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        let expected = format!("bytes were written up to {past_end} past the end of the 1000 bytes at {block:p}");
        assert!(message.contains(&expected), "{message}");
        assert_eq!(allocator.integrity_check().unwrap_err().to_string(), expected);
        // SAFETY: as above; this repairs it.
        unsafe { stray.write(0xC5) };
    }
    // SAFETY: the block is live; afterwards only its units are of interest.
    unsafe {
        allocator.free(block);
        block.add(3).write(1);
        block.add(9).write(2);
    }
    let expected = format!(
        "a freed block was written to: 7 bytes from {:#x} on, where there is no live block",
        block.addr().get() + 3
    );
    assert_eq!(allocator.integrity_check().unwrap_err().to_string(), expected);
}

/// All that a call must leave as it is: figures, occupancy, and the bytes of live blocks.
struct State<'a> {
    allocator: &'a Allocator,
    live: Vec<(NonNull<u8>, usize, u8)>,
    stats: Stats,
    windows: Vec<Occupancy>,
}

impl<'a> State<'a> {
    fn of(allocator: &'a Allocator, live: impl IntoIterator<Item = (NonNull<u8>, usize)>) -> Self {
        let live: Vec<_> = live.into_iter().zip(1..).map(|((block, size), tag)| (block, size, tag)).collect();
        for &(block, size, tag) in &live {
            // SAFETY: the block is live and has this size.
            unsafe { block.write_bytes(tag, size) };
        }
        Self { allocator, live, stats: allocator.stats(), windows: allocator.windows() }
    }

    fn expect_unchanged(&self, after: &str) {
        assert_eq!(self.allocator.stats(), self.stats, "after {after}");
        assert_eq!(self.allocator.windows(), self.windows, "after {after}");
        assert_eq!(self.allocator.integrity_check(), Ok(()), "after {after}");
        for &(block, size, tag) in &self.live {
            // SAFETY: the block is live and was written by `of`.
            let bytes = unsafe { NonNull::slice_from_raw_parts(block, size).as_ref() };
            assert!(bytes.iter().all(|&byte| byte == tag), "a byte changed after {after}");
        }
    }
}

/// Every way to pass a pointer back that is trusted, or verified with `check`.
fn expect_panics(allocator: &Allocator, pointer: NonNull<u8>, message: &str, state: &State<'_>, name: &str) {
    type Misuse<'a> = Box<dyn Fn() + 'a>;
    // SAFETY: there is no live block at the pointer: the contract is broken on purpose, in a way that the documentation
    // answers with a panic.
    let reallocate = |size, how| _ = unsafe { allocator.reallocate(pointer, size, how) };
    let calls: [(&str, Misuse<'_>); 5] = [
        // SAFETY: as above.
        ("free", Box::new(|| unsafe { allocator.free(pointer) })),
        // SAFETY: as above.
        ("free_batch", Box::new(|| unsafe { allocator.free_batch(&[pointer]) })),
        // SAFETY: as above.
        ("shrink", Box::new(|| _ = unsafe { allocator.shrink(pointer, 1) })),
        ("reallocate in place", Box::new(|| reallocate(1, Realloc::Uninitialized))),
        ("reallocate", Box::new(|| reallocate(90_000, Realloc::CopyExisting))),
    ];
    for (call, misuse) in calls {
        let panic = catch_unwind(AssertUnwindSafe(misuse)).expect_err(&format!("{call} of {name} went through"));
        let said = panic.downcast_ref::<String>().unwrap();
        assert!(said.contains(message), "{call} of {name}: {said}");
        state.expect_unchanged(&format!("{call} of {name}"));
    }
}

#[test]
fn with_check_every_call_verifies_its_pointer_and_changes_nothing() {
    let allocator = Allocator::with_config(Config::new().check(true).preallocated_windows(3)).unwrap();
    let other = Allocator::new();
    let (block, freed, theirs) = (allocate(&allocator, 1400), allocate(&allocator, 1400), allocate(&other, 1400));
    let (large, freed_large) = (allocate(&allocator, 10 << 20), allocate(&allocator, 10 << 20));
    // SAFETY: both are live.
    unsafe {
        allocator.free(freed);
        allocator.free(freed_large);
    }
    let state = State::of(&allocator, [(block, 1400), (large, 10 << 20)]);
    let windows = allocator.windows();
    let current = windows.iter().find(|window| window.live_units > 0).unwrap();
    let unused = windows.iter().find(|window| window.state == WindowState::Empty).unwrap();
    let (on_the_stack, from_malloc) = (0u64, Box::new([0u8; 1400]));
    let plus = |pointer: NonNull<u8>, offset: usize| pointer.map_addr(|start| start.checked_add(offset).unwrap());
    for (name, pointer, message) in [
        ("a freed block", freed, "freed twice"),
        ("a freed large block", freed_large, "is not memory of this allocator"),
        ("+1", plus(block, 1), "points 1 bytes into the block"),
        ("+8", plus(block, 8), "points 8 bytes into the block"),
        ("the second unit", plus(block, 64), "points 64 bytes into the block"),
        ("the last unit", plus(block, 1344), "points 1344 bytes into the block"),
        ("inside a large block", plus(large, 65_536), "points 65536 bytes into the block"),
        ("bookkeeping", at((current.address & !(Os::REGION_BYTES - 1)) + 4096), "points into a window's bookkeeping"),
        ("a unit never handed out", at(current.address + 131_072 - 64), "never allocated"),
        ("a window never used", at(unused.address + 131_072 - 64), "never allocated"),
        ("another allocator's block", theirs, "is not memory of this allocator"),
        ("the stack", at((&raw const on_the_stack).addr()), "is not memory of this allocator"),
        ("malloc", at(from_malloc.as_ptr().addr()), "is not memory of this allocator"),
        ("the byte behind null", at(1), "is not memory of this allocator"),
        ("the last address", at(usize::MAX), "is not memory of this allocator"),
    ] {
        expect_panics(&allocator, pointer, message, &state, name);
    }
}

#[test]
fn without_check_freed_and_interior_pointers_panic_and_change_nothing() {
    for config in [Config::new(), Config::new().zero(true)] {
        let allocator = Allocator::with_config(config).unwrap();
        let blocks: Vec<_> = (0..10).map(|_| allocate(&allocator, 1400)).collect();
        // A block of more units than a byte of the map keeps exactly.
        let long = allocate(&allocator, 20_000);
        let freed_long = allocate(&allocator, 20_000);
        allocate(&allocator, 64);
        // SAFETY: live; afterwards only the addresses are of interest.
        unsafe {
            allocator.free(blocks[3]);
            allocator.free(freed_long);
        }
        let state = State::of(&allocator, [(blocks[2], 1400), (blocks[4], 1400), (long, 20_000)]);
        let plus = |pointer: NonNull<u8>, offset: usize| pointer.map_addr(|start| start.checked_add(offset).unwrap());
        for (name, pointer, message) in [
            ("a freed block", blocks[3], "freed twice"),
            ("a long freed block", freed_long, "freed twice"),
            ("+1", plus(blocks[2], 1), "points 1 bytes into the block"),
            ("+8", plus(blocks[2], 8), "points 8 bytes into the block"),
            ("the second unit", plus(blocks[2], 64), "points 64 bytes into the block"),
            ("the last unit", plus(blocks[2], 1344), "points 1344 bytes into the block"),
            ("far into a long block", plus(long, 12_800), "points 12800 bytes into the block"),
        ] {
            expect_panics(&allocator, pointer, message, &state, name);
        }
    }
}

/// In memory full of holes freed blocks are kept aside for the next allocation: freeing one of those again is no less
/// an error.
#[test]
fn a_block_that_waits_to_be_handed_out_again_cannot_be_freed_twice() {
    let allocator = Allocator::with_config(Config::new().memory_limit(4 * 131_072)).unwrap();
    let mut blocks = Vec::new();
    while let Ok(block) = allocator.allocate(1400) {
        blocks.push(block.cast::<u8>());
    }
    for block in blocks.iter().step_by(2) {
        // SAFETY: live, and not used afterwards.
        unsafe { allocator.free(*block) };
    }
    // Opens an extent among the holes, from where on freed blocks wait.
    allocate(&allocator, 1400);
    let (twice, live) = (blocks[201], blocks[203]);
    // SAFETY: live; afterwards only the address is of interest.
    unsafe { allocator.free(twice) };
    let before = allocator.stats();
    assert_eq!(refuse(&allocator, twice), FreeError::DoubleFree { address: twice.addr().get() });
    // SAFETY: the contract is broken on purpose, in a way that the documentation answers with a panic.
    catch_unwind(AssertUnwindSafe(|| unsafe { allocator.free(twice) })).unwrap_err();
    // SAFETY: live.
    unsafe { allocator.free(live) };
    // p, q, p
    assert_eq!(refuse(&allocator, twice), FreeError::DoubleFree { address: twice.addr().get() });
    assert_eq!(allocator.stats().live_blocks, before.live_blocks - 1);
}

#[test]
fn a_pointer_into_a_window_that_went_back_to_the_system_is_foreign() {
    for check in [false, true] {
        let allocator = Allocator::with_config(Config::new().check(check).preallocated_windows(0)).unwrap();
        let blocks: Vec<_> = (0..300).map(|_| allocate(&allocator, 1400)).collect();
        // SAFETY: live; afterwards only the addresses are of interest.
        unsafe { allocator.free_batch(&blocks) };
        assert!(allocator.trim() >= 3 * 131_072);
        assert_eq!(allocator.allocated_bytes(), 0);
        for block in blocks {
            let address = block.addr().get();
            assert_eq!(refuse(&allocator, block), FreeError::Foreign { address });
        }
    }
}

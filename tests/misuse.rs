//! Pointers that are not live blocks: each gets the error that names it, and nothing changes.

#![cfg(feature = "std")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use pktalloc::{AllocError, Allocator, Config, FreeError, IntegrityError, Overflow, Realloc, Stats, WriteAfterFree};

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
        let block = allocate(&allocator, 1400);
        let next = allocate(&allocator, 1400);
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
        let windows = allocator.windows();
        for window in &windows {
            for unit in window.bookkeeping.clone() {
                let address = window.address + unit * 64;
                assert_eq!(refuse(&allocator, at(address)), FreeError::Bookkeeping { address });
                assert_eq!(refuse(&allocator, at(address + 1)), FreeError::Bookkeeping { address: address + 1 });
            }
            let last = window.address + 131_072 - 1;
            assert_eq!(refuse(&allocator, at(last)), FreeError::DoubleFree { address: last });
            assert!(!allocator.windows().iter().any(|window| window.blocks.iter().any(|block| block.start == 0)));
            assert!(matches!(
                refuse(&allocator, at(window.address)),
                FreeError::DoubleFree { .. } | FreeError::Bookkeeping { .. }
            ));
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
            assert_eq!(allocator.try_free(next), Ok(()));
            assert!(matches!(refuse(&allocator, next), FreeError::DoubleFree { .. }));
            // p, q, p
            assert_eq!(allocator.try_free(block), Ok(()));
            assert!(matches!(refuse(&allocator, block), FreeError::DoubleFree { .. }));
            assert_eq!(allocator.try_free(large), Ok(()));
            assert!(matches!(refuse(&allocator, large), FreeError::Foreign { .. } | FreeError::DoubleFree { .. }));
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
        allocator.reallocate(first, 700, Realloc::Uninitialized).unwrap();
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
    let expected =
        format!("a freed block was written to: 7 bytes from {:#x} on, where no block lives", block.addr().get() + 3);
    assert_eq!(allocator.integrity_check().unwrap_err().to_string(), expected);
}

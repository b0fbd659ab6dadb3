//! A system that refuses memory at any point, and that knows what it has given: nothing may be lost or leaked.

#![cfg(feature = "std")]

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::rc::Rc;

use pktalloc::system::{Os, Role, System};
use pktalloc::{AllocError, Allocator, Config, Realloc};

/// Counts requests, refuses those that it is told to, and keeps account of every region.
#[derive(Clone, Default)]
struct Faulty {
    requests: Rc<Cell<usize>>,
    refuse: Rc<Cell<Option<usize>>>,
    held: Rc<RefCell<BTreeMap<usize, (Layout, Role)>>>,
}

impl Faulty {
    fn held_bytes(&self) -> u64 {
        self.held.borrow().values().map(|(layout, _)| layout.size() as u64).sum()
    }
}

// SAFETY: every region is the operating system's.
unsafe impl System for Faulty {
    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        let request = self.requests.replace(self.requests.get() + 1);
        if self.refuse.get().is_some_and(|from| request >= from) {
            return None;
        }
        let region = Os.allocate(layout, role)?;
        let before = self.held.borrow_mut().insert(region.addr().get(), (layout, role));
        assert_eq!(before, None);
        Some(region)
    }

    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, role: Role) {
        let held = self.held.borrow_mut().remove(&region.addr().get());
        assert_eq!(held, Some((layout, role)), "a region was freed that is not held, or as what it is not");
        // SAFETY: it came from `allocate` with this layout.
        unsafe { Os.free(region, layout, role) };
    }
}

type FaultyAllocator = Allocator<64, 256, Faulty>;

fn faulty(config: Config<64, 256>) -> (Faulty, FaultyAllocator) {
    let system = Faulty::default();
    let allocator = FaultyAllocator::with_config_in(config, system.clone()).unwrap();
    (system, allocator)
}

/// Sizes in an order that visits windows, large blocks and every way to grow.
fn sizes() -> impl Iterator<Item = usize> {
    let mut state = 12345u32;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        match state >> 28 {
            0 => 5000 + (state >> 16) as usize % 20_000,
            _ => 1 + (state >> 16) as usize % 2000,
        }
    })
}

struct Held {
    block: NonNull<u8>,
    size: usize,
    tag: u8,
}

impl Held {
    fn new(block: NonNull<[u8]>, size: usize, tag: u8) -> Self {
        // SAFETY: the block was just allocated with at least this size.
        unsafe { block.cast::<u8>().write_bytes(tag, size) };
        Self { block: block.cast(), size, tag }
    }

    fn verify(&self, size: usize) {
        // SAFETY: the block is live and was written by `new`.
        let bytes = unsafe { std::slice::from_raw_parts(self.block.as_ptr(), size.min(self.size)) };
        assert!(bytes.iter().all(|&byte| byte == self.tag), "a byte was lost");
    }
}

/// A program of 300 calls that goes on whatever fails. Returns how many calls failed.
fn run(allocator: &FaultyAllocator, live: &mut Vec<Held>) -> usize {
    let mut failures = 0;
    for (step, size) in sizes().take(300).enumerate() {
        let outcome = match step % 5 {
            0 if !live.is_empty() => {
                let held = live.swap_remove(step % live.len());
                held.verify(held.size);
                // SAFETY: the block is live and not used afterwards.
                unsafe { allocator.free(held.block) };
                Ok(())
            }
            1 if !live.is_empty() => {
                let at = step % live.len();
                let held = &mut live[at];
                // SAFETY: the block is live; on success only the new one is used.
                unsafe { allocator.reallocate(held.block, size, Realloc::CopyExisting) }.map(|block| {
                    let moved = Held { block: block.cast(), size: held.size.min(size), tag: held.tag };
                    moved.verify(moved.size);
                    *held = Held::new(block, size, step as u8);
                })
            }
            2 => {
                let mut blocks = [NonNull::dangling(); 7];
                let size = size.min(2000);
                allocator.allocate_batch(size, &mut blocks).map(|capacity| {
                    let new =
                        blocks.map(|block| Held::new(NonNull::slice_from_raw_parts(block, capacity), size, step as u8));
                    live.extend(new);
                })
            }
            _ => allocator.allocate(size).map(|block| live.push(Held::new(block, size, step as u8))),
        };
        if let Err(error) = outcome {
            assert!(matches!(error, AllocError::OutOfMemory | AllocError::MemoryLimit), "{error}");
            failures += 1;
        }
        if step % 16 == 0 {
            assert_eq!(allocator.integrity_check(), Ok(()));
        }
    }
    for held in live.iter() {
        held.verify(held.size);
    }
    failures
}

fn finish(allocator: &FaultyAllocator, live: Vec<Held>) {
    for held in live {
        held.verify(held.size);
        // SAFETY: the block is live and not used afterwards.
        unsafe { allocator.free(held.block) };
    }
    assert_eq!(allocator.used_bytes(), 0);
}

#[test]
fn a_refusal_at_any_point_loses_nothing_and_ends_when_memory_is_back() {
    for config in [
        Config::<64, 256>::default(),
        Config::default().check(true),
        Config::default().zero(true).keep_empty_windows(0),
        Config::default().passthrough(true),
        Config::default().preallocated_windows(9),
    ] {
        let requests = {
            let (system, allocator) = faulty(config);
            let mut live = Vec::new();
            assert_eq!(run(&allocator, &mut live), 0);
            finish(&allocator, live);
            system.requests.get()
        };
        assert!(requests >= 20, "the program grows at {requests} points only");
        for from in 0..requests {
            let (system, allocator) = faulty(config);
            system.refuse.set(Some(from));
            let mut live = Vec::new();
            run(&allocator, &mut live);
            assert_eq!(allocator.allocated_bytes(), system.held_bytes());
            // Memory is back: the same program runs through, on top of what lives already.
            system.refuse.set(None);
            assert_eq!(run(&allocator, &mut live), 0, "refused from request {from}");
            finish(&allocator, live);
            drop(allocator);
            assert_eq!(system.held_bytes(), 0, "leaked after a refusal from request {from}");
        }
    }
}

#[test]
fn the_memory_limit_is_never_passed_and_names_itself() {
    let mut refused = 0;
    for limit in (16_384..600_000).step_by(23_456) {
        let (system, allocator) = faulty(Config::default().memory_limit(limit));
        let mut live = Vec::new();
        let failures = run(&allocator, &mut live);
        assert!(allocator.stats().peak_allocated_bytes <= limit);
        assert_eq!(allocator.allocated_bytes(), system.held_bytes());
        refused += failures;
        finish(&allocator, live);
    }
    assert!(refused > 0, "no limit was reached");
    let (_, allocator) = faulty(Config::default().memory_limit(16_384));
    assert_eq!(allocator.allocate(100_000), Err(AllocError::MemoryLimit));
    assert!(allocator.allocate(1000).is_ok());
}

/// Defects (c) and (d) of the ancestor: large blocks and window lists outlived the destructor.
#[test]
fn dropping_the_allocator_gives_everything_back() {
    let (system, allocator) = faulty(Config::default());
    for size in sizes().take(500) {
        allocator.allocate(size).unwrap();
    }
    assert!(allocator.stats().large_blocks > 10);
    assert_eq!(allocator.allocated_bytes(), system.held_bytes());
    drop(allocator);
    assert_eq!(system.held_bytes(), 0);
}

#[test]
fn nothing_is_asked_for_before_the_first_allocation() {
    let (system, allocator) = faulty(Config::default().preallocated_windows(5));
    assert_eq!((allocator.used_bytes(), allocator.allocated_bytes(), allocator.trim()), (0, 0, 0));
    assert_eq!(allocator.integrity_check(), Ok(()));
    assert_eq!(system.requests.get(), 0);
    allocator.allocate(1).unwrap();
    assert_eq!(system.requests.get(), 5);
}

/// A burst finds the windows of the one before; once the bursts are over, a small queue gives them back.
#[test]
fn empty_windows_go_back_once_no_burst_needs_them() {
    let (system, allocator) = faulty(Config::default().keep_empty_windows(4));
    let burst = |count| {
        let blocks: Vec<_> = (0..count).map(|_| allocator.allocate(4096).unwrap().cast::<u8>()).collect();
        for block in blocks {
            // SAFETY: the block is live and not used afterwards.
            unsafe { allocator.free(block) };
        }
    };
    // Two, since the second begins in the middle of a window.
    burst(300);
    burst(300);
    let (high, requests) = (system.held_bytes(), system.requests.get());
    for _ in 0..10 {
        burst(300);
    }
    assert_eq!(system.requests.get(), requests, "bursts of the same size make windows come and go");

    for _ in 0..200 {
        burst(9);
    }
    assert!(system.held_bytes() < high / 10, "{} of {high} bytes are still held", system.held_bytes());
    assert!(allocator.stats().empty_windows >= 4);
    let requests = system.requests.get();
    for _ in 0..50 {
        burst(9);
    }
    assert_eq!(system.requests.get(), requests, "a small queue makes windows come and go");
}

/// A request that fails must not take the holes away from those that fit.
#[test]
fn every_hole_is_found_when_the_system_gives_no_more() {
    let (_, allocator) = faulty(Config::default().memory_limit(4 * 16_384));
    let mut blocks: Vec<NonNull<u8>> = Vec::new();
    while let Ok(block) = allocator.allocate(1400) {
        blocks.push(block.cast());
    }
    for block in blocks.iter() {
        // A single hole, in a window of which too little is free for a pass.
        // SAFETY: the block is live and not used afterwards.
        unsafe { allocator.free(*block) };
        assert_eq!(allocator.allocate(1400).map(NonNull::cast), Ok(*block));
    }
    for block in blocks.iter().step_by(2) {
        // SAFETY: the block is live and not used afterwards.
        unsafe { allocator.free(*block) };
    }
    let freed = blocks.len().div_ceil(2);
    assert_eq!(allocator.allocate(4000), Err(AllocError::MemoryLimit));
    assert_eq!(allocator.allocate(100_000), Err(AllocError::MemoryLimit));
    for _ in 0..freed {
        assert!(allocator.allocate(1400).is_ok(), "{allocator:?}");
    }
    assert_eq!(allocator.allocate(1400), Err(AllocError::MemoryLimit));
    assert_eq!(allocator.integrity_check(), Ok(()));
}

#[test]
fn a_large_request_leaves_the_holes_to_the_small_ones() {
    let (system, allocator) = faulty(Config::default());
    let blocks: Vec<NonNull<u8>> = (0..2000).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
    for block in blocks.iter().step_by(2) {
        // SAFETY: the block is live and not used afterwards.
        unsafe { allocator.free(*block) };
    }
    allocator.allocate(4000).unwrap();
    let before = system.held_bytes();
    for _ in 0..900 {
        allocator.allocate(1400).unwrap();
    }
    assert!(system.held_bytes() <= before + 16_384, "the holes were not used");
    assert_eq!(allocator.integrity_check(), Ok(()));
}

#[test]
fn a_large_block_gets_what_empty_windows_hold() {
    for preallocated in [0, 8] {
        let (_, allocator) = faulty(Config::default().memory_limit(10 * 16_384).preallocated_windows(preallocated));
        let mut blocks: Vec<NonNull<u8>> = Vec::new();
        while let Ok(block) = allocator.allocate(1400) {
            blocks.push(block.cast());
        }
        for block in blocks {
            // SAFETY: the block is live and not used afterwards.
            unsafe { allocator.free(block) };
        }
        assert!(allocator.allocate(9 * 16_384).is_ok(), "{allocator:?}");
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
}

#[test]
fn a_large_block_can_be_made_smaller_without_memory() {
    let (system, allocator) = faulty(Config::default());
    let block = allocator.allocate(100_000).unwrap();
    // SAFETY: the block is live, and afterwards only what it became is used.
    unsafe {
        block.cast::<u8>().write_bytes(7, 100_000);
        system.refuse.set(Some(0));
        let block = allocator.reallocate(block.cast(), 1000, Realloc::CopyExisting).unwrap();
        assert!(std::slice::from_raw_parts(block.cast::<u8>().as_ptr(), 1000).iter().all(|&byte| byte == 7));
        allocator.free(block.cast());
    }
    assert_eq!(allocator.used_bytes(), 0);
}

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
    /// The first request to refuse, and the first behind it that is granted again.
    refuse: Rc<Cell<Option<(usize, usize)>>>,
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
        if self.refuse.get().is_some_and(|(from, until)| from <= request && request < until) {
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
    sizes_from(12345)
}

fn sizes_from(seed: u32) -> impl Iterator<Item = usize> {
    let mut state = seed;
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
        // Each byte is the one before it: compared many at a time.
        assert!(bytes[0] == self.tag && bytes[1..] == bytes[..bytes.len() - 1], "a byte was lost");
    }
}

/// A program of 300 calls that goes on whatever fails. Returns how many calls failed.
fn run(allocator: &FaultyAllocator, live: &mut Vec<Held>) -> usize {
    run_calls(allocator, live, sizes().take(300))
}

/// A call for each of `sizes`.
fn run_calls<S: System>(
    allocator: &Allocator<64, 256, S>,
    live: &mut Vec<Held>,
    sizes: impl Iterator<Item = usize>,
) -> usize {
    let mut failures = 0;
    for (step, size) in sizes.enumerate() {
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
        if step % 64 == 0 {
            assert_eq!(allocator.integrity_check(), Ok(()));
        }
    }
    for held in live.iter() {
        held.verify(held.size);
    }
    failures
}

fn finish<S: System>(allocator: &Allocator<64, 256, S>, live: Vec<Held>) {
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
            system.refuse.set(Some((from, usize::MAX)));
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
    allocator.allocate(100_000).unwrap();
    assert!(allocator.stats().large_blocks > 0);
    assert_eq!(allocator.allocated_bytes(), system.held_bytes());
    drop(allocator);
    assert_eq!(system.held_bytes(), 0);
}

type Region = (NonNull<u8>, Layout, Role);

/// Keeps what is given back, filled with a byte, so that a write to it shows.
#[derive(Clone, Default)]
struct Quarantine {
    kept: Rc<RefCell<Vec<Region>>>,
}

const GIVEN_BACK: u8 = 0xAB;

// SAFETY: every region is the operating system's.
unsafe impl System for Quarantine {
    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        Os.allocate(layout, role)
    }

    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, role: Role) {
        // SAFETY: the region is as large, and the caller does not use it any more.
        unsafe { region.write_bytes(GIVEN_BACK, layout.size()) };
        self.kept.borrow_mut().push((region, layout, role));
    }
}

#[test]
fn what_went_back_to_the_system_is_not_written_to() {
    let config = Config::<64, 256>::default().preallocated_windows(0).keep_empty_windows(0);
    for config in
        [config, config.check(true), config.check(true).zero(true), config.zero(true), config.passthrough(true)]
    {
        let system = Quarantine::default();
        let allocator = Allocator::<64, 256, _>::with_config_in(config, system.clone()).unwrap();
        let mut live = Vec::new();
        for seed in 0..4 {
            run_calls(&allocator, &mut live, sizes_from(seed).take(150));
            finish(&allocator, std::mem::take(&mut live));
            allocator.trim();
        }
        drop(allocator);
        let kept = system.kept.take();
        assert!(kept.len() > 50, "{} regions went back", kept.len());
        for (region, layout, role) in kept {
            // SAFETY: the region came from `Os` with this layout, and is not used afterwards.
            unsafe {
                let bytes = NonNull::slice_from_raw_parts(region, layout.size()).as_ref();
                assert!(bytes.iter().all(|&byte| byte == GIVEN_BACK), "{role:?} of {} bytes", layout.size());
                Os.free(region, layout, role);
            }
        }
    }
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
    // Returns how many bytes a single free gave back at most.
    let burst = |count| {
        let blocks: Vec<_> = (0..count).map(|_| allocator.allocate(4096).unwrap().cast::<u8>()).collect();
        let held_after = blocks.into_iter().map(|block| {
            // SAFETY: the block is live and not used afterwards.
            unsafe { allocator.free(block) };
            system.held_bytes()
        });
        let mut held = system.held_bytes();
        held_after.map(|after| std::mem::replace(&mut held, after) - after).max().unwrap()
    };
    // Two, since the second begins in the middle of a window.
    burst(300);
    burst(300);
    let (high, requests) = (system.held_bytes(), system.requests.get());
    for _ in 0..10 {
        burst(300);
    }
    assert_eq!(system.requests.get(), requests, "bursts of the same size make windows come and go");

    let most = (0..70_000).map(|_| burst(9)).max().unwrap();
    assert!(most > 0 && most <= 16_384, "{most} bytes went back in one call");
    assert!(system.held_bytes() < high / 10, "{} of {high} bytes are still held", system.held_bytes());
    let requests = system.requests.get();
    for _ in 0..50 {
        burst(9);
    }
    assert_eq!(system.requests.get(), requests, "a small queue makes windows come and go");
}

/// The same memory in regions of several windows.
#[derive(Clone)]
struct Regions(Faulty);

// SAFETY: `Faulty` keeps the contract.
unsafe impl System for Regions {
    const REGION_BYTES: usize = 1 << 20;

    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        self.0.allocate(layout, role)
    }

    unsafe fn free(&self, region: NonNull<u8>, layout: Layout, role: Role) {
        // SAFETY: the caller keeps the same contract.
        unsafe { self.0.free(region, layout, role) }
    }
}

/// Where pages go by whole regions, with huge pages or in a system that takes nothing less, a region stays as long as a
/// block lives in any of its windows.
#[test]
fn a_region_goes_back_when_all_of_its_windows_are_empty() {
    const REGION: u64 = 1 << 20;
    for huge_pages in [false, true] {
        let config = Config::default().huge_pages(huge_pages).preallocated_windows(0).keep_empty_windows(0);
        let system = Faulty::default();
        let allocator = Allocator::<64, 256, Regions>::with_config_in(config, Regions(system.clone())).unwrap();
        let mut blocks = Vec::new();
        while system.held_bytes() < 3 * REGION {
            blocks.push(allocator.allocate(1000).unwrap().cast::<u8>());
        }
        assert_eq!(system.requests.get(), 3);
        assert_eq!(allocator.integrity_check(), Ok(()));
        // The third region has a block; of the second, one stays in a window in the middle.
        let last = blocks.pop().unwrap();
        let stays = blocks.remove(blocks.len() / 4 * 3);
        for block in blocks {
            // SAFETY: the block is live and not used afterwards.
            unsafe { allocator.free(block) };
        }
        allocator.trim();
        assert_eq!(system.held_bytes(), 2 * REGION);
        assert_eq!(allocator.integrity_check(), Ok(()));
        for block in [stays, last] {
            // SAFETY: the block is live and not used afterwards.
            unsafe { allocator.free(block) };
        }
        allocator.trim();
        assert_eq!((system.held_bytes(), allocator.allocated_bytes()), (0, 0));
    }
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
fn what_no_empty_window_can_make_up_for_is_asked_for_once() {
    let (system, allocator) = faulty(Config::default());
    let block = allocator.allocate(1000).unwrap();
    allocator.trim();
    while allocator.stats().empty_windows > 0 {
        allocator.allocate(4096).unwrap();
    }
    let requests = system.requests.get();
    system.refuse.set(Some((requests, usize::MAX)));
    assert_eq!(allocator.allocate(100_000), Err(AllocError::OutOfMemory));
    assert_eq!(system.requests.get(), requests + 1);
    // SAFETY: the block is live and not used afterwards.
    unsafe { allocator.free(block.cast()) };
}

#[test]
fn a_large_block_can_be_made_smaller_but_not_larger_without_memory() {
    for (config, how, left) in [
        (Config::default(), Realloc::CopyExisting, 7),
        (Config::default().zero(true), Realloc::CopyExisting, 7),
        (Config::default().zero(true), Realloc::Uninitialized, 0),
    ] {
        let (system, allocator) = faulty(config);
        let block = allocator.allocate(100_000).unwrap().cast::<u8>();
        // SAFETY: the block is live, and stays so where a call fails; afterwards only what it became is used.
        unsafe {
            block.write_bytes(7, 100_000);
            system.refuse.set(Some((0, usize::MAX)));
            assert_eq!(allocator.reallocate(block, 100_033, how), Err(AllocError::OutOfMemory));
            let block = allocator.reallocate(block, 1000, how).unwrap().cast::<u8>();
            assert!(std::slice::from_raw_parts(block.as_ptr(), 1000).iter().all(|&byte| byte == left), "{config:?}");
            allocator.free(block);
        }
        assert_eq!(allocator.used_bytes(), 0);
    }
}

/// Calls of a long program.
const LONG: usize = 1000;

/// A system that refuses a single request, each in turn: the call that needed it fails or finds another way, and
/// nothing else is any different.
#[test]
fn a_single_refusal_costs_at_most_the_call_that_met_it() {
    for (config, seed) in
        [(Config::<64, 256>::default(), 1), (Config::default().zero(true), 2), (Config::default().passthrough(true), 3)]
    {
        let program = || sizes_from(seed).take(if seed == 3 { LONG / 5 } else { LONG });
        let requests = {
            let (system, allocator) = faulty(config);
            let mut live = Vec::new();
            assert_eq!(run_calls(&allocator, &mut live, program()), 0);
            finish(&allocator, live);
            system.requests.get()
        };
        assert!(requests >= 100, "the program asks {requests} times only");
        for at in 0..requests {
            let (system, allocator) = faulty(config);
            system.refuse.set(Some((at, at + 1)));
            let mut live = Vec::new();
            let failures = run_calls(&allocator, &mut live, program());
            assert!(failures <= 1, "{failures} calls failed of one refusal, of request {at}");
            assert_eq!(allocator.allocated_bytes(), system.held_bytes());
            finish(&allocator, live);
            allocator.trim();
            assert_eq!(allocator.integrity_check(), Ok(()));
            assert_eq!(allocator.stats().empty_windows, allocator.stats().windows, "a window is stranded");
            drop(allocator);
            assert_eq!(system.held_bytes(), 0, "leaked after a refusal of request {at}");
        }
    }
}

/// Every limit from one window to more than the program needs: work goes on below it, and is whole again above it.
#[test]
fn every_memory_limit_is_kept_over_a_long_program() {
    for windows in 1..=40 {
        let limit = windows * 16_384;
        let (system, allocator) = faulty(Config::default().memory_limit(limit));
        let mut live = Vec::new();
        run_calls(&allocator, &mut live, sizes_from(windows as u32).take(LONG));
        assert!(allocator.stats().peak_allocated_bytes <= limit);
        finish(&allocator, live);
        // Everything is there again: as many bytes as the limit allows, in whole windows.
        allocator.trim();
        let mut blocks = Vec::new();
        while let Ok(block) = allocator.allocate(1000) {
            blocks.push(block);
        }
        assert!(allocator.allocated_bytes() == limit, "{} of {limit}", allocator.allocated_bytes());
        // 250 units of each window are for blocks, which a descriptor may part in two.
        assert!(blocks.len() as u64 >= 14 * windows, "{} blocks in {windows} windows", blocks.len());
        drop(allocator);
        assert_eq!(system.held_bytes(), 0);
    }
}

/// Regions from the very top of what a process may map downwards.
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
mod top {
    use super::*;
    use std::ffi::{c_int, c_void};

    unsafe extern "C" {
        fn mmap(at: *mut c_void, bytes: usize, access: c_int, flags: c_int, file: c_int, offset: isize) -> *mut c_void;
        fn munmap(at: *mut c_void, bytes: usize) -> c_int;
    }

    const PROT_READ_WRITE: c_int = 1 | 2;
    const MAP_PRIVATE_ANONYMOUS_FIXED_NOREPLACE: c_int = 0x02 | 0x20 | 0x10_0000;

    /// Gives the highest aligned region that is free.
    #[derive(Default)]
    pub(super) struct Top {
        pub(super) highest: Cell<usize>,
    }

    // SAFETY: the regions are mappings of their own, and none is in use by anybody else.
    unsafe impl System for Top {
        fn allocate(&self, layout: Layout, _role: Role) -> Option<NonNull<u8>> {
            // What a process may map ends at a power of two, on x86-64 the 47th.
            let top = 1_usize << 47;
            (1..20_000).map(|step| (top & !(layout.align() - 1)) - step * layout.align()).find_map(|address| {
                let (at, access) = (std::ptr::without_provenance_mut(address), PROT_READ_WRITE);
                // SAFETY: a mapping that replaces nothing touches nothing that exists.
                let got = unsafe { mmap(at, layout.size(), access, MAP_PRIVATE_ANONYMOUS_FIXED_NOREPLACE, -1, 0) };
                if got.addr() == usize::MAX {
                    return None;
                }
                self.highest.set(self.highest.get().max(got.addr() + layout.size()));
                NonNull::new(got.cast())
            })
        }

        unsafe fn free(&self, region: NonNull<u8>, layout: Layout, _role: Role) {
            // SAFETY: the region is a mapping of this size.
            assert_eq!(unsafe { munmap(region.as_ptr().cast(), layout.size()) }, 0);
        }
    }
}

/// Nothing overflows where addresses end. Windows of one page reach the last one that the system gives.
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_pointer_width = "64", not(miri)))]
#[test]
fn windows_at_the_top_of_the_address_space_work() {
    fn exercise<const UNIT: usize, const WINDOW_UNITS: usize>(sizes: &[usize], window_bytes: usize) {
        let config = Config::<UNIT, WINDOW_UNITS>::default().preallocated_windows(6);
        let allocator = Allocator::with_config_in(config, top::Top::default()).unwrap();
        let mut blocks = Vec::new();
        for &size in sizes {
            for _ in 0..40 {
                let block = allocator.allocate(size).unwrap().cast::<u8>();
                // SAFETY: the block was just allocated with this size.
                unsafe { block.write_bytes(0xA5, size) };
                blocks.push(block);
            }
        }
        let highest = allocator.windows().iter().map(|window| window.address).max().unwrap() + window_bytes;
        assert!(highest >= (1 << 47) - 20_000 * window_bytes, "{highest:#x} is not near the top");
        assert_eq!(allocator.integrity_check(), Ok(()));
        for address in [highest - 1, 1 << 47, usize::MAX, usize::MAX - window_bytes] {
            let pointer = NonNull::new(std::ptr::without_provenance_mut(address)).unwrap();
            // SAFETY: no block starts there, which is what the call has to find out.
            assert!(unsafe { allocator.try_free(pointer) }.is_err());
        }
        for block in blocks {
            // SAFETY: the block is live; afterwards only what it became is used.
            unsafe {
                let grown = allocator.reallocate(block, 3000, Realloc::CopyExisting).unwrap();
                allocator.free(grown.cast());
            }
        }
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
    }
    exercise::<64, 64>(&[1, 64, 1000], 4096);
    exercise::<64, 2048>(&[1, 1400, 32_768, 100_000], 131_072);
}

/// Holes that windows which are nearly full had before memory was scarce: all of them are found once it is refused, a
/// bounded number of windows with each call.
#[test]
fn at_the_limit_the_holes_of_every_region_are_found() {
    let fill = |allocator: &Allocator<64, 2048>, blocks: &mut Vec<NonNull<u8>>| {
        let mut refused = 0;
        while refused < 8 {
            match allocator.allocate(2000) {
                Ok(block) => blocks.push(block.cast()),
                Err(_) => refused += 1,
            }
        }
    };
    // Four regions.
    let config = Config::default().memory_limit(31 << 20);
    let allocators = [Allocator::with_config(config).unwrap(), Allocator::with_config(config).unwrap()];
    let mut all = [Vec::new(), Vec::new()];
    fill(&allocators[0], &mut all[0]);
    // The other one as well, but for a window or two, with a hole for each tenth block: windows are used again for
    // more.
    let near = all[0].len() - 130;
    assert!(near > 12_000);
    all[1].extend((0..near).map(|_| allocators[1].allocate(2000).unwrap().cast::<u8>()));
    for index in (0..near).step_by(10).rev() {
        // SAFETY: the block is live and leaves the list.
        unsafe { allocators[1].free(all[1].swap_remove(index)) };
    }
    fill(&allocators[1], &mut all[1]);
    assert_eq!(all[1].len(), all[0].len());
    for (allocator, blocks) in allocators.iter().zip(all) {
        for block in blocks {
            // SAFETY: the block is live and leaves the list.
            unsafe { allocator.free(block) };
        }
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
    }
}

//! What the system does not take back is not counted as given: neither pages that it refuses, nor those of a mapping
//! that it refuses to undo.

#![cfg(all(feature = "std", target_os = "linux", not(miri)))]

use std::alloc::Layout;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pktalloc::system::{Os, Role, System};
use pktalloc::workload::SplitMix64;
use pktalloc::{Allocator, Config};

unsafe extern "C" {
    safe fn getpagesize() -> c_int;
    fn mincore(at: *mut c_void, bytes: usize, pages: *mut u8) -> c_int;
}

fn page_bytes() -> u64 {
    u64::from(getpagesize().unsigned_abs())
}

/// The whole pages of some bytes, of `page` bytes each.
fn whole_pages(bytes: NonNull<[u8]>, page: usize) -> NonNull<[u8]> {
    let before = bytes.addr().get().next_multiple_of(page) - bytes.addr().get();
    let whole = bytes.len().saturating_sub(before) / page * page;
    let start = bytes.cast::<u8>().map_addr(|address| address.saturating_add(before));
    NonNull::slice_from_raw_parts(start, whole)
}

/// How many of them lie in memory.
fn resident_bytes(pages: NonNull<[u8]>) -> usize {
    if pages.is_empty() {
        // Qemu looks where the answer would go all the same, and refuses.
        return 0;
    }
    let page = page_bytes() as usize;
    let mut found = vec![0_u8; pages.len() / page];
    // SAFETY: there is a byte for each page of a mapping.
    assert_eq!(unsafe { mincore(pages.as_ptr().cast(), pages.len(), found.as_mut_ptr()) }, 0);
    found.iter().filter(|&&found| found & 1 != 0).count() * page
}

/// One test at a time: one of them measures the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The operating system, which takes so many more bytes of the pages of regions back, and keeps account of what it
/// took.
#[derive(Clone, Default)]
struct Reluctant {
    takes: Rc<Cell<usize>>,
    taken: Rc<Cell<usize>>,
    /// How much of that was in memory.
    resident: Rc<Cell<usize>>,
    refused: Rc<Cell<usize>>,
    freed: Rc<Cell<usize>>,
}

// SAFETY: every region is the operating system's.
unsafe impl System for Reluctant {
    const REGION_BYTES: usize = 4 << 20;

    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        Os.allocate(layout, role)
    }

    unsafe fn free(&self, memory: NonNull<u8>, layout: Layout, role: Role) {
        self.freed.set(self.freed.get() + 1);
        // SAFETY: it came from `allocate` with this layout.
        unsafe { Os.free(memory, layout, role) };
    }

    unsafe fn discard(&self, bytes: NonNull<[u8]>) -> usize {
        if bytes.len() > self.takes.get() {
            self.refused.set(self.refused.get() + bytes.len());
            return 0;
        }
        let resident = resident_bytes(whole_pages(bytes, page_bytes() as usize));
        self.resident.set(self.resident.get() + resident);
        // SAFETY: the caller keeps the same contract.
        let taken = unsafe { Os.discard(bytes) };
        self.takes.set(self.takes.get() - taken);
        self.taken.set(self.taken.get() + taken);
        taken
    }
}

/// An allocator with 20,000 packets of which one in a hundred is left, so that every region stays.
fn survivors(system: &Reluctant) -> (Allocator<64, 2048, Reluctant>, Vec<NonNull<u8>>) {
    let config = Config::default().preallocated_windows(0);
    let allocator = Allocator::with_config_in(config, system.clone()).unwrap();
    let blocks: Vec<NonNull<u8>> = (0..20_000).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
    let (kept, gone): (Vec<_>, Vec<_>) = (0..).zip(blocks).partition(|(index, _)| index % 100 == 0);
    for (_, block) in gone {
        // SAFETY: the block is live and leaves the list.
        unsafe { allocator.free(block) };
    }
    (allocator, kept.into_iter().map(|(_, block)| block).collect())
}

#[test]
fn pages_that_are_refused_are_not_counted_as_given() {
    let _alone = alone();
    for takes in [0, 64 << 10, 1 << 20, usize::MAX] {
        let system = Reluctant::default();
        let (allocator, blocks) = survivors(&system);
        system.takes.set(takes);
        let (taken, resident, before) = (system.taken.get(), system.resident.get(), allocator.allocated_bytes());
        let freed = system.freed.get();
        let trimmed = allocator.trim();
        assert_eq!(system.freed.get(), freed, "every region has a survivor");
        let (taken, resident) = ((system.taken.get() - taken) as u64, (system.resident.get() - resident) as u64);
        assert_eq!(before - allocator.allocated_bytes(), trimmed as u64);
        // The cache of freed blocks lies between other bookkeeping, with which it shares a page at either end. Maps
        // that were never used are not counted.
        assert!(
            (resident..taken + 2 * page_bytes()).contains(&(trimmed as u64)),
            "takes {takes}: {trimmed} against {taken}, of which {resident} were in memory"
        );
        assert_eq!((taken == 0, system.refused.get() == 0), (takes == 0, takes == usize::MAX), "{taken} taken");
        assert_eq!(allocator.integrity_check(), Ok(()));
        // What was refused is asked for again, and taken.
        system.takes.set(usize::MAX);
        let more = allocator.trim() as u64;
        assert!(more + taken > 20_000_000, "{more} more than {taken}");
        for block in blocks {
            // SAFETY: the block is live and leaves the list.
            unsafe { allocator.free(block) };
        }
        assert_eq!(allocator.used_bytes(), 0);
        allocator.trim();
        assert_eq!(allocator.allocated_bytes(), 0);
    }
}

/// Frees give windows back as well, one at a time.
#[test]
fn windows_that_are_refused_stay_counted() {
    let _alone = alone();
    let system = Reluctant::default();
    let config = Config::default().preallocated_windows(0).keep_empty_windows(0);
    let allocator = Allocator::<64, 2048, _>::with_config_in(config, system.clone()).unwrap();
    let mut blocks: Vec<NonNull<u8>> = (0..20_000).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
    let most = allocator.allocated_bytes();
    // Survivors in every region, the last one included.
    let kept: Vec<_> = (0..20_000).step_by(400).rev().map(|index| blocks.remove(index)).collect();
    for block in blocks.drain(..) {
        // SAFETY: the block is live and leaves the list.
        unsafe { allocator.free(block) };
    }
    let mut queue: VecDeque<NonNull<u8>> = (0..64).map(|_| allocator.allocate(1400).unwrap().cast()).collect();
    for _ in 0..1_000_000 {
        queue.push_back(allocator.allocate(1400).unwrap().cast());
        // SAFETY: the block is live and leaves the queue.
        unsafe { allocator.free(queue.pop_front().unwrap()) };
    }
    assert!(system.refused.get() > 0, "windows were offered");
    assert_eq!((system.taken.get(), system.freed.get()), (0, 0));
    // The cache of freed blocks may have come in addition.
    assert!((most..most + 131_072).contains(&allocator.allocated_bytes()), "{} of {most}", allocator.allocated_bytes());
    drop(allocator);
    drop(kept);
}

/// The system refuses to undo a mapping when that would cut another one in two and there are too many already.
// The sanitizer unmaps memory of its own when a thread ends, and does not live with a refusal.
#[cfg(not(pktalloc_asan))]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod unmapping {
    use std::ffi::{c_int, c_ulong};
    use std::fs;

    use pktalloc::Allocator;

    use super::{alone, page_bytes};

    #[repr(C)]
    struct Instruction {
        code: u16,
        if_true: u8,
        if_false: u8,
        value: u32,
    }

    #[repr(C)]
    struct Program {
        length: u16,
        instructions: *const Instruction,
    }

    unsafe extern "C" {
        fn prctl(option: c_int, ...) -> c_int;
    }

    const PR_SET_SECCOMP: c_int = 22;
    const PR_SET_NO_NEW_PRIVS: c_int = 38;
    const SECCOMP_MODE_FILTER: c_ulong = 2;
    const MUNMAP: u32 = if cfg!(target_arch = "x86_64") { 11 } else { 215 };
    const LOAD_WORD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const FAIL_WITH_ENOMEM: u32 = 0x0005_0000 | 12;

    /// Has `munmap` fail for this thread from here on; false where the system has no filters.
    fn refuse() -> bool {
        let instruction = |code, if_true, if_false, value| Instruction { code, if_true, if_false, value };
        let instructions = [
            // The number of the call is the first word.
            instruction(LOAD_WORD, 0, 0, 0),
            instruction(JUMP_IF_EQUAL, 0, 1, MUNMAP),
            instruction(RETURN, 0, 0, FAIL_WITH_ENOMEM),
            instruction(RETURN, 0, 0, ALLOW),
        ];
        let program = Program { length: 4, instructions: instructions.as_ptr() };
        let (one, zero): (c_ulong, c_ulong) = (1, 0);
        // SAFETY: both take what they are given here; the filter is copied, and is for this thread and those it starts.
        unsafe {
            prctl(PR_SET_NO_NEW_PRIVS, one, zero, zero, zero) == 0
                && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &raw const program) == 0
        }
    }

    /// Bytes of the process that lie in memory, and bytes of its address space.
    fn memory() -> (u64, u64) {
        let text = fs::read_to_string("/proc/self/statm").unwrap();
        let pages: Vec<u64> = text.split(' ').take(2).map(|pages| pages.parse().unwrap()).collect();
        (pages[1] * page_bytes(), pages[0] * page_bytes())
    }

    /// 64 MiB in large blocks, written and freed: what leaves memory, and what the allocator says that it gave back.
    fn give_back() -> ((u64, u64), u64) {
        let allocator = Allocator::<64, 2048>::new();
        let blocks: Vec<_> = (0..8).map(|_| allocator.allocate(8 << 20).unwrap()).collect();
        for block in &blocks {
            // SAFETY: the block was just allocated with this size.
            unsafe { block.cast::<u8>().write_bytes(1, block.len()) };
        }
        let (before, held) = (memory(), allocator.allocated_bytes());
        for block in blocks {
            // SAFETY: the block is live and leaves the list.
            unsafe { allocator.free(block.cast()) };
        }
        let after = memory();
        let given = held - allocator.allocated_bytes();
        ((before.0.saturating_sub(after.0), before.1.saturating_sub(after.1)), given)
    }

    #[test]
    fn a_mapping_that_stays_has_no_pages() {
        let _alone = alone();
        let found = std::thread::spawn(|| refuse().then(give_back)).join().unwrap();
        let Some(((left_memory, left_addresses), given)) = found else {
            eprintln!("skipped: the system has no filters for its calls");
            return;
        };
        const MIB: u64 = 1 << 20;
        assert!(left_addresses < 4 * MIB, "munmap was not refused: {left_addresses}");
        assert!(given >= 64 * MIB, "{given}");
        // A thread that starts or ends takes a little, too.
        assert!(left_memory >= given - 4 * MIB, "{left_memory} of {given} bytes left memory");
    }
}

/// A system that takes whole regions only. What it took is filled with a pattern and left, so that a write to it shows.
#[derive(Clone, Default)]
struct WholeRegions(Rc<RefCell<Vec<Gone>>>);

/// A region that went, and its bytes.
type Gone = (NonNull<u8>, usize);

impl WholeRegions {
    const PATTERN: u8 = 0x5a;

    /// Bytes that were written since their region went.
    fn written(&self) -> usize {
        let of = |&(region, len): &Gone| {
            // SAFETY: the region is left as it is, and nobody else has it.
            let bytes = unsafe { std::slice::from_raw_parts(region.as_ptr(), len) };
            bytes.iter().filter(|&&byte| byte != Self::PATTERN).count()
        };
        self.0.borrow().iter().map(of).sum()
    }
}

impl Drop for WholeRegions {
    fn drop(&mut self) {
        if Rc::strong_count(&self.0) == 1 {
            for (region, len) in self.0.take() {
                // SAFETY: the region came from `allocate` with this layout, and nobody else has it.
                unsafe { std::alloc::dealloc(region.as_ptr(), Layout::from_size_align(len, len).unwrap()) };
            }
        }
    }
}

// SAFETY: all memory is the standard library's, and is never given out twice.
unsafe impl System for WholeRegions {
    const REGION_BYTES: usize = 1 << 20;

    fn allocate(&self, layout: Layout, _: Role) -> Option<NonNull<u8>> {
        // SAFETY: the size is not 0.
        NonNull::new(unsafe { std::alloc::alloc(layout) })
    }

    unsafe fn free(&self, memory: NonNull<u8>, layout: Layout, role: Role) {
        if role == Role::Region {
            // SAFETY: the caller gives it up.
            unsafe { memory.write_bytes(Self::PATTERN, layout.size()) };
            self.0.borrow_mut().push((memory, layout.size()));
        } else {
            // SAFETY: it came from `allocate` with this layout.
            unsafe { std::alloc::dealloc(memory.as_ptr(), layout) };
        }
    }
}

/// The stacks of cached blocks lie in a region. It stays as long as they are open, also where regions go as a whole.
#[test]
fn the_region_with_the_cache_stays_as_long_as_that_is_open() {
    let _alone = alone();
    let system = WholeRegions::default();
    let config = Config::default().memory_limit(8 << 20).preallocated_windows(0).keep_empty_windows(0);
    let allocator = Allocator::<64, 256, _>::with_config_in(config, system.clone()).unwrap();
    let allocate = || allocator.allocate(700).unwrap().cast::<u8>();
    // SAFETY: each block below is live, and leaves the list.
    let free = |block| unsafe { allocator.free(block) };
    for round in 0..3 {
        // In any order, so that blocks are cached.
        let mut blocks: Vec<_> = (0..3000).map(|_| allocate()).collect();
        for turn in 0..60_000 {
            let index = turn * 1543 % blocks.len();
            free(std::mem::replace(&mut blocks[index], allocate()));
        }
        blocks.drain(..).for_each(free);
        // What asks the empty windows back, at once or little by little.
        let large = allocator.allocate(6_000_000).unwrap().cast();
        free(large);
        let mut queue: VecDeque<_> = (0..100).map(|_| allocate()).collect();
        for _ in 0..600_000 {
            queue.push_back(allocate());
            free(queue.pop_front().unwrap());
        }
        queue.into_iter().for_each(free);
        assert_eq!((system.written(), allocator.integrity_check()), (0, Ok(())), "round {round}");
    }
    assert!(!system.0.borrow().is_empty(), "regions went");
}

/// The operating system with larger pages, as some processors have: whole ones alone are taken back.
#[derive(Clone, Default)]
struct LargePages<const PAGE: usize>;

// SAFETY: every region is the operating system's.
unsafe impl<const PAGE: usize> System for LargePages<PAGE> {
    const REGION_BYTES: usize = Os::REGION_BYTES;

    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        Os.allocate(layout, role)
    }

    unsafe fn free(&self, memory: NonNull<u8>, layout: Layout, role: Role) {
        // SAFETY: it came from `allocate` with this layout.
        unsafe { Os.free(memory, layout, role) };
    }

    unsafe fn discard(&self, bytes: NonNull<[u8]>) -> usize {
        // SAFETY: a part of what the caller gives up.
        unsafe { Os.discard(whole_pages(bytes, PAGE.max(page_bytes() as usize))) }
    }
}

/// Whatever came before, no more than in a new allocator is held once all is freed and trimmed, and there is nothing
/// left to trim.
fn expect_the_floor<S: System + Clone + Default>(in_order: &[bool]) {
    let _alone = alone();
    let new = || Allocator::<64, 2048, S>::with_config_in(Config::default(), S::default()).unwrap();
    let floor = |allocator: &Allocator<64, 2048, S>| {
        drop(allocator.packet(1400).unwrap());
        allocator.trim();
        allocator.allocated_bytes()
    };
    let least = floor(&new());
    for &in_order in in_order {
        let allocator = new();
        let mut random = SplitMix64::new(9);
        let mut queue: VecDeque<_> =
            (0..30_000).map(|_| allocator.packet(32 + random.below(2000) as usize).unwrap()).collect();
        for _ in 0..60_000 {
            let index = if in_order { 0 } else { random.below(queue.len() as u64) as usize };
            drop(queue.swap_remove_front(index));
            queue.push_back(allocator.packet(32 + random.below(2000) as usize).unwrap());
        }
        while let Some(last) = queue.len().checked_sub(1) {
            drop(queue.swap_remove_front(if in_order { 0 } else { random.below(last as u64 + 1) as usize }));
        }
        assert_eq!((floor(&allocator), allocator.trim()), (least, 0), "in order: {in_order}");
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
}

/// Page faults of this thread until now that needed no disk.
fn page_faults() -> libc::c_long {
    // SAFETY: a plain structure that the call fills.
    unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage.ru_minflt
    }
}

/// An allocator that is made after another one has gone finds its pages, those of the cache included.
#[test]
fn allocators_that_come_and_go_take_no_page_faults() {
    let _alone = alone();
    // In one place for all of them: a sanitizer takes other pages for what is allocated again, and for the stack of a
    // call.
    let mut blocks: Vec<NonNull<u8>> = Vec::with_capacity(500);
    let mut use_one = || {
        let before = page_faults();
        let allocator = Allocator::new();
        let mut random = SplitMix64::new(3);
        let take = |size| {
            let block = allocator.allocate(size).unwrap().cast::<u8>();
            // SAFETY: the block has that many bytes.
            unsafe { block.write_bytes(1, size) };
            block
        };
        blocks.extend((0..500).map(|_| take(1400)));
        for round in 0..20_000 {
            let index = random.below(blocks.len() as u64) as usize;
            let left = std::mem::replace(&mut blocks[index], take(100 + round % 1300));
            // SAFETY: live, and not used afterwards.
            unsafe { allocator.free(left) };
        }
        for block in blocks.drain(..) {
            // SAFETY: live, and not used afterwards.
            unsafe { allocator.free(block) };
        }
        drop(allocator);
        page_faults() - before
    };
    let first = use_one();
    let later = (0..5).map(|_| use_one()).min().unwrap();
    assert!(first > 100 && later <= 2, "{first} at first, {later} later");
}

/// What an allocator had for its cache goes back with `trim`, also when it is another one that has it now.
#[test]
fn pages_of_a_cache_that_was_another_ones_go_back() {
    let _alone = alone();
    let config = Config::default().preallocated_windows(0);
    let trimmed = |resident: u64| {
        let system = Scribbling::<{ 8 << 20 }>::default();
        system.resident.set(resident);
        let allocator = Allocator::<64, 2048, _>::with_config_in(config, system.clone()).unwrap();
        let packet = allocator.packet(100).unwrap();
        let before = system.discarded.get();
        allocator.trim();
        assert_eq!(allocator.integrity_check(), Ok(()));
        drop(packet);
        system.discarded.get() - before
    };
    let (with_stacks, without) = (trimmed(1 << 5 | 1), trimmed(1 << 5));
    assert!(with_stacks >= without + (60 << 10), "{with_stacks} bytes, {without} where there were none");
}

#[test]
fn trim_goes_back_to_the_floor() {
    expect_the_floor::<Os>(&[true, false]);
    expect_the_floor::<LargePages<{ 16 << 10 }>>(&[true, false]);
    // The cache, which blocks that leave in any order are kept in, is no whole page of these.
    expect_the_floor::<LargePages<{ 64 << 10 }>>(&[true]);
}

/// The operating system, where pages contain anything once they were taken back, and which begins with a region of
/// which some windows have pages.
#[derive(Clone, Default)]
struct Scribbling<const REGION_BYTES: usize> {
    resident: Rc<Cell<u64>>,
    discarded: Rc<Cell<usize>>,
}

// SAFETY: every region is the operating system's.
unsafe impl<const BYTES: usize> System for Scribbling<BYTES> {
    const REGION_BYTES: usize = BYTES;

    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        Os.allocate(layout, role)
    }

    unsafe fn free(&self, memory: NonNull<u8>, layout: Layout, role: Role) {
        // SAFETY: it came from `allocate` with this layout.
        unsafe { Os.free(memory, layout, role) };
    }

    unsafe fn discard(&self, bytes: NonNull<[u8]>) -> usize {
        let pages = whole_pages(bytes, page_bytes() as usize);
        // SAFETY: the caller does not use these bytes any more.
        unsafe { pages.cast::<u8>().write_bytes(0xa5, pages.len()) };
        self.discarded.set(self.discarded.get() + pages.len());
        pages.len()
    }

    fn take_kept(&self, layout: Layout) -> Option<(NonNull<u8>, u64)> {
        let resident = self.resident.take();
        if resident == 0 { None } else { Some((self.allocate(layout, Role::Region)?, resident)) }
    }
}

/// A part of a window's map that was taken back contains anything, be it less than the map.
#[test]
fn a_map_that_has_lost_a_part_is_none_any_more() {
    let _alone = alone();
    let config = Config::<16, 8192>::default().preallocated_windows(0);
    let allocator = Allocator::with_config_in(config, Scribbling::<{ 512 << 10 }>::default()).unwrap();
    let allocate = || allocator.allocate(4000).unwrap().cast::<u8>();
    let window = |block: &NonNull<u8>| block.addr().get() >> 17;
    let blocks: Vec<_> = (0..90).map(|_| allocate()).collect();
    let middle = window(&blocks[45]);
    let (gone, kept): (Vec<_>, Vec<_>) = blocks.into_iter().partition(|block| window(block) == middle);
    assert!(kept.iter().any(|block| window(block) < middle) && kept.iter().any(|block| window(block) > middle));
    for block in gone {
        // SAFETY: the block is live and leaves the list.
        unsafe { allocator.free(block) };
    }
    allocator.trim();
    let again: Vec<_> = (0..30).map(|_| allocate()).collect();
    assert!(again.iter().any(|block| window(block) == middle));
    assert_eq!(allocator.integrity_check(), Ok(()));
}

/// Maps that share no page with one that is in use go back, whatever lies beside them.
#[test]
fn maps_go_back_also_behind_a_window_that_never_had_one() {
    let _alone = alone();
    if page_bytes() != 4096 {
        eprintln!("skipped: two maps are no page of this system");
        return;
    }
    let trimmed = |resident: u64| {
        let system = Scribbling::<{ 8 << 20 }>::default();
        system.resident.set(resident << 10);
        let config = Config::default().preallocated_windows(0);
        let allocator = Allocator::<64, 2048, _>::with_config_in(config, system).unwrap();
        let packets: Vec<_> = (0..resident.count_ones()).map(|_| allocator.packet(128 << 10).unwrap()).collect();
        let kept = packets.into_iter().next_back();
        allocator.trim();
        assert_eq!(allocator.integrity_check(), Ok(()));
        let bytes = allocator.allocated_bytes();
        drop(kept);
        bytes
    };
    assert_eq!(trimmed(0b111), trimmed(0b100));
}

/// The operating system, which keeps one region for the next allocator.
#[derive(Clone, Default)]
struct Lending {
    region: Rc<Cell<Option<NonNull<u8>>>>,
    /// Which 64ths of it may have pages; 0 while it is not kept.
    kept: Rc<Cell<u64>>,
}

impl Lending {
    /// Bytes of the region that lie in memory.
    fn resident(&self) -> usize {
        resident_bytes(NonNull::slice_from_raw_parts(self.region.get().unwrap(), Self::REGION_BYTES))
    }
}

// SAFETY: every region is the operating system's.
unsafe impl System for Lending {
    const REGION_BYTES: usize = 8 << 20;

    fn allocate(&self, layout: Layout, role: Role) -> Option<NonNull<u8>> {
        let region = Os.allocate(layout, role);
        self.region.set(region);
        region
    }

    unsafe fn free(&self, memory: NonNull<u8>, layout: Layout, role: Role) {
        // SAFETY: it came from `allocate` with this layout.
        unsafe { Os.free(memory, layout, role) };
    }

    unsafe fn discard(&self, bytes: NonNull<[u8]>) -> usize {
        // SAFETY: the caller keeps the same contract.
        unsafe { Os.discard(bytes) }
    }

    unsafe fn keep(&self, region: NonNull<u8>, _: Layout, resident: u64) -> bool {
        assert_eq!(self.region.get(), Some(region));
        self.kept.set(resident);
        true
    }

    fn take_kept(&self, _: Layout) -> Option<(NonNull<u8>, u64)> {
        match self.kept.take() {
            0 => None,
            resident => Some((self.region.get()?, resident)),
        }
    }
}

/// Fills most of a region of `system` and drops the allocator.
fn use_up<const UNIT: usize, const WINDOW_UNITS: usize>(system: &Lending) {
    let allocator = Allocator::<UNIT, WINDOW_UNITS, _>::with_config_in(Config::default(), system.clone()).unwrap();
    for _ in 0..4000 {
        let block = allocator.allocate(1400).unwrap();
        // SAFETY: the block is live, and nobody else's.
        unsafe { block.cast::<u8>().write_bytes(7, 1400) };
    }
    assert_eq!(allocator.integrity_check(), Ok(()));
}

/// What is in memory of the region of an allocator that has one block and was trimmed is what it counts.
fn expect_what_is_counted<const UNIT: usize, const WINDOW_UNITS: usize>(system: &Lending) {
    let config = Config::default().preallocated_windows(0).keep_empty_windows(0);
    let allocator = Allocator::<UNIT, WINDOW_UNITS, _>::with_config_in(config, system.clone()).unwrap();
    allocator.allocate(1400).unwrap();
    allocator.trim();
    // And pages of which it counts a part.
    let most = allocator.allocated_bytes() as usize + 8 * page_bytes() as usize;
    assert!(system.resident() <= most, "{} of {most}", system.resident());
    assert_eq!(allocator.integrity_check(), Ok(()));
}

/// The pages that an allocator of another shape left in a region go back with `trim`, be they bookkeeping here and
/// windows there or the other way round.
#[test]
fn pages_that_an_allocator_of_another_shape_left_go_back() {
    let _alone = alone();
    let system = Lending::default();
    use_up::<16, 8192>(&system);
    expect_what_is_counted::<64, 2048>(&system);
    use_up::<64, 2048>(&system);
    expect_what_is_counted::<16, 8192>(&system);
    use_up::<64, 2048>(&system);
    expect_what_is_counted::<64, 2048>(&system);
    let region = system.region.get().unwrap();
    // SAFETY: it came from `allocate` with this layout.
    unsafe { system.free(region, Layout::from_size_align(8 << 20, 8 << 20).unwrap(), Role::Region) };
}

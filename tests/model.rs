//! Random programs of every call against a shadow model that knows every live byte.

#![cfg(feature = "std")]

use std::collections::BTreeMap;
use std::ptr::NonNull;

use pktalloc::{AllocError, Allocator, Config, FreeError, Realloc};
use proptest::prelude::*;

/// A call. Blocks are named by an index into those that are live, modulo their number.
#[derive(Clone, Debug)]
enum Call {
    Allocate(usize),
    AllocateZeroed(usize),
    AllocateBatch(usize, usize),
    Free(usize),
    FreeOldest(usize),
    Reallocate(usize, usize, bool),
    Shrink(usize, usize),
    TryFreeInside(usize, usize),
    TryFreeTwice(usize),
    Trim,
}

fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => 1usize..=2000,
        2 => prop::sample::select(vec![1, 63, 64, 65, 1000, 1400, 1500]),
        1 => 2000usize..=32_768,
        1 => 32_769usize..=300_000,
    ]
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        12 => size().prop_map(Call::Allocate),
        2 => size().prop_map(Call::AllocateZeroed),
        2 => (size(), 0usize..40).prop_map(|(size, count)| Call::AllocateBatch(size.min(4000), count)),
        6 => any::<usize>().prop_map(Call::Free),
        4 => (1usize..30).prop_map(Call::FreeOldest),
        4 => (any::<usize>(), size(), any::<bool>()).prop_map(|(block, size, copy)| Call::Reallocate(block, size, copy)),
        3 => (any::<usize>(), any::<usize>()).prop_map(|(block, size)| Call::Shrink(block, size)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(block, offset)| Call::TryFreeInside(block, offset)),
        1 => any::<usize>().prop_map(Call::TryFreeTwice),
        1 => Just(Call::Trim),
    ]
}

/// A live block and what its bytes must be.
struct Block {
    pointer: NonNull<u8>,
    bytes: Vec<u8>,
    born: u64,
}

/// The allocator and all that is known about its blocks, by address.
struct Shadow<const UNIT: usize, const WINDOW_UNITS: usize> {
    allocator: Allocator<UNIT, WINDOW_UNITS>,
    zero: bool,
    has_limit: bool,
    live: BTreeMap<usize, Block>,
    born: u64,
}

impl<const UNIT: usize, const WINDOW_UNITS: usize> Shadow<UNIT, WINDOW_UNITS> {
    fn new(config: Config<UNIT, WINDOW_UNITS>, zero: bool) -> Self {
        let allocator = Allocator::with_config(config).unwrap();
        Self { allocator, zero, has_limit: false, live: BTreeMap::new(), born: 0 }
    }

    /// Enters a block that was just handed out; its first `kept` bytes must be `old`'s.
    fn enter(&mut self, block: NonNull<[u8]>, size: usize, old: &[u8], zeroed: bool) {
        let pointer = block.cast::<u8>();
        let start = pointer.addr().get();
        assert!(block.len() >= size, "{} bytes for {size}", block.len());
        assert_eq!(start % UNIT, 0, "{start:#x} is not aligned");
        let before = self.live.range(..start + block.len()).next_back();
        if let Some((&other, held)) = before {
            assert!(other + held.bytes.len() <= start, "{start:#x} overlaps the block at {other:#x}");
        }
        // SAFETY: the block was just handed out.
        let slice = unsafe { std::slice::from_raw_parts_mut(pointer.as_ptr(), block.len()) };
        assert_eq!(&slice[..old.len()], old, "bytes were lost on the way");
        if zeroed {
            assert!(slice[old.len()..].iter().all(|&byte| byte == 0), "not zero");
        }
        self.born += 1;
        for (index, byte) in slice.iter_mut().enumerate() {
            *byte = (self.born as usize * 31 + index * 7) as u8;
        }
        self.live.insert(start, Block { pointer, bytes: slice.to_vec(), born: self.born });
    }

    /// Takes a block out after comparing its bytes.
    fn leave(&mut self, address: usize) -> Block {
        let block = self.live.remove(&address).unwrap();
        // SAFETY: the block is live.
        let now = unsafe { std::slice::from_raw_parts(block.pointer.as_ptr(), block.bytes.len()) };
        assert_eq!(now, block.bytes, "the block at {address:#x} was overwritten");
        block
    }

    fn pick(&self, index: usize) -> Option<usize> {
        self.live.keys().nth(index % self.live.len().max(1)).copied()
    }

    fn free(&mut self, address: usize) {
        let block = self.leave(address);
        // SAFETY: the block was live until now, and of this size.
        unsafe {
            if block.born.is_multiple_of(2) {
                self.allocator.free(block.pointer);
            } else {
                self.allocator.free_sized(block.pointer, block.bytes.len());
            }
        }
    }

    fn step(&mut self, call: Call) {
        match call {
            Call::Allocate(size) => {
                let block = self.allocator.allocate(size).unwrap();
                self.enter(block, size, &[], self.zero);
            }
            Call::AllocateZeroed(size) => {
                let block = self.allocator.allocate_zeroed(size).unwrap();
                self.enter(block, size, &[], true);
            }
            Call::AllocateBatch(size, count) => {
                let mut blocks = vec![NonNull::dangling(); count];
                let capacity = self.allocator.allocate_batch(size, &mut blocks).unwrap();
                for block in blocks {
                    self.enter(NonNull::slice_from_raw_parts(block, capacity), size, &[], self.zero);
                }
            }
            Call::Free(index) => {
                if let Some(address) = self.pick(index) {
                    self.free(address);
                }
            }
            Call::FreeOldest(count) => {
                for _ in 0..count {
                    let oldest = self.live.iter().min_by_key(|(_, block)| block.born).map(|(&address, _)| address);
                    if let Some(address) = oldest {
                        self.free(address);
                    }
                }
            }
            Call::Reallocate(index, size, copy) => {
                let Some(address) = self.pick(index) else { return };
                let old = self.leave(address);
                let how = if copy { Realloc::CopyExisting } else { Realloc::Uninitialized };
                // SAFETY: the block is live, and only the new one is used afterwards.
                let block = match unsafe { self.allocator.reallocate(old.pointer, size, how) } {
                    Ok(block) => block,
                    Err(error) => {
                        assert!(error == AllocError::MemoryLimit && self.has_limit, "{error}");
                        self.live.insert(address, old);
                        return;
                    }
                };
                let kept = if copy { old.bytes.len().min(size) } else { 0 };
                // A block that stays may keep more than its size.
                self.enter(block, size, &old.bytes[..kept], false);
            }
            Call::Shrink(index, size) => {
                let Some(address) = self.pick(index) else { return };
                let mut block = self.leave(address);
                let size = size % (block.bytes.len() + 1);
                // SAFETY: the block is live, and its tail is not used afterwards.
                let outcome = unsafe { self.allocator.shrink(block.pointer, size) };
                if size == 0 {
                    assert_eq!(outcome, Err(AllocError::ZeroSize));
                } else {
                    assert_eq!(outcome, Ok(()));
                    block.bytes.truncate(size);
                }
                self.live.insert(address, block);
            }
            Call::TryFreeInside(index, offset) => {
                let Some(address) = self.pick(index) else { return };
                let block = &self.live[&address];
                let offset = 1 + offset % block.bytes.len();
                if offset < block.bytes.len() {
                    let inside = block.pointer.map_addr(|start| start.checked_add(offset).unwrap());
                    // SAFETY: no block starts there, which is what the call has to find out.
                    let outcome = unsafe { self.allocator.try_free(inside) };
                    assert_eq!(outcome, Err(FreeError::Interior { address: address + offset, block: address }));
                }
            }
            Call::TryFreeTwice(index) => {
                let Some(address) = self.pick(index) else { return };
                let block = self.leave(address);
                // SAFETY: the block is live the first time; the second time there is none, which the call finds out.
                unsafe {
                    assert_eq!(self.allocator.try_free(block.pointer), Ok(()));
                    let again = self.allocator.try_free(block.pointer);
                    assert!(
                        matches!(again, Err(FreeError::DoubleFree { .. } | FreeError::Foreign { .. })),
                        "{again:?}"
                    );
                }
            }
            Call::Trim => {
                let before = self.allocator.allocated_bytes();
                let returned = self.allocator.trim();
                assert_eq!(self.allocator.allocated_bytes() + returned as u64, before);
            }
        }
        assert_eq!(self.allocator.integrity_check(), Ok(()));
        assert_eq!(self.allocator.stats().live_blocks, self.live.len() as u64);
        let held: u64 = self.live.values().map(|block| block.bytes.len() as u64).sum();
        assert!(self.allocator.used_bytes() >= held);
        assert!(self.allocator.allocated_bytes() >= self.allocator.used_bytes());
    }

    /// Allocates; a refusal must be for want of a hole, once the calls that find one window after the other have been made.
    fn expect_no_hole_if_refused(&mut self, taken: usize, size: usize) {
        let units = taken.div_ceil(UNIT);
        let hole = |allocator: &Allocator<UNIT, WINDOW_UNITS>| {
            allocator.windows().iter().any(|window| {
                let mut from = window.bookkeeping.end;
                let mut gaps = window.blocks.iter().map(|block| block.start - std::mem::replace(&mut from, block.end));
                gaps.any(|gap| gap >= units) || window.units - from >= units
            })
        };
        let tries = self.allocator.windows().len() / 16 + 2;
        for last in (0..tries).rev() {
            match self.allocator.allocate(size) {
                Ok(block) => return self.enter(block, size, &[], false),
                Err(error) => assert_eq!(error, AllocError::MemoryLimit),
            }
            assert!(last > 0 || units > WINDOW_UNITS || !hole(&self.allocator), "{size} bytes would fit");
        }
    }

    /// Frees what is left and expects nothing to be stranded.
    fn finish(mut self, floor: u64) {
        for address in self.live.keys().copied().collect::<Vec<_>>() {
            self.free(address);
        }
        assert_eq!(self.allocator.used_bytes(), 0);
        let stats = self.allocator.stats();
        assert!(stats.empty_windows + 1 >= stats.windows, "windows are stranded: {stats}");
        self.allocator.trim();
        // The bookkeeping of the region that is left: a byte a unit, and a few KiB.
        let bookkeeping = if floor == 0 { 0 } else { ((8 << 20) / UNIT + 8192) as u64 };
        assert!(self.allocator.allocated_bytes() <= floor + bookkeeping, "{:?}", self.allocator);
        assert!(self.allocator.windows().iter().all(|window| window.blocks.is_empty()));
        assert_eq!(self.allocator.integrity_check(), Ok(()));
    }
}

fn run<const UNIT: usize, const WINDOW_UNITS: usize>(
    config: Config<UNIT, WINDOW_UNITS>,
    zero: bool,
    floor: u64,
    calls: &[Call],
) {
    let mut shadow = Shadow::new(config, zero);
    for call in calls {
        shadow.step(call.clone());
    }
    shadow.finish(floor);
}

/// Calls of one program.
const CALLS: std::ops::Range<usize> = 1..400;

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn the_default_configuration_keeps_every_byte(calls in prop::collection::vec(call(), CALLS)) {
        run(Config::new(), false, 2 * 131_072, &calls);
    }

    #[test]
    fn small_windows_keep_every_byte(calls in prop::collection::vec(call(), CALLS)) {
        run(Config::<16, 256>::default().preallocated_windows(0).keep_empty_windows(1), false, 0, &calls);
    }

    #[test]
    fn page_sized_units_keep_every_byte(calls in prop::collection::vec(call(), CALLS)) {
        run(Config::<4096, 64>::default().preallocated_windows(1), false, 262_144, &calls);
    }

    #[test]
    fn zeroing_keeps_every_byte_and_hands_out_zeros(calls in prop::collection::vec(call(), CALLS)) {
        run(Config::<64, 1024>::default().zero(true), true, 2 * 65_536, &calls);
    }

    #[test]
    fn checking_keeps_every_byte(calls in prop::collection::vec(call(), 1..120)) {
        run(Config::<32, 2048>::default().check(true), false, 2 * 65_536, &calls);
    }

    #[test]
    fn checking_and_zeroing_together_keep_every_byte(calls in prop::collection::vec(call(), 1..120)) {
        run(Config::<64, 512>::default().check(true).zero(true), true, 2 * 32_768, &calls);
    }

    #[test]
    fn passing_through_keeps_every_byte(calls in prop::collection::vec(call(), CALLS)) {
        run(Config::new().passthrough(true), false, 0, &calls);
    }

    #[test]
    fn huge_pages_keep_every_byte(calls in prop::collection::vec(call(), CALLS)) {
        run(Config::new().huge_pages(true).keep_empty_windows(0), false, 4 << 20, &calls);
    }

    #[test]
    fn what_is_refused_at_the_limit_fits_nowhere(
        limit in 8_u64..100,
        check: bool,
        calls in prop::collection::vec(call(), 1..300),
    ) {
        let config = Config::<64, 64>::default().memory_limit(limit << 13).check(check).preallocated_windows(0);
        let mut shadow = Shadow::new(config, false);
        shadow.has_limit = true;
        for call in calls {
            // Long blocks would take all.
            let call = match call {
                Call::Allocate(size) if size > 4096 => Call::Allocate(size % 9000 + 1),
                Call::AllocateZeroed(size) => Call::Allocate(size % 4096 + 1),
                Call::AllocateBatch(_, count) => Call::Allocate(count * 100 + 1),
                call => call,
            };
            if let Call::Allocate(size) = call {
                shadow.expect_no_hole_if_refused(size + if check { 16 } else { 0 }, size);
            } else {
                shadow.step(call);
            }
        }
        shadow.finish(0);
    }
}

//! Memory that the user brings: regions from a buffer, and an allocator that lives in one.

use std::alloc::Layout;
use std::mem::MaybeUninit;
use std::ptr::NonNull;

use pktalloc::system::{Buffer, Role, System};
use pktalloc::{AllocError, Allocator, Config};
use proptest::prelude::*;

const PAGE: usize = 4096;
/// What a buffer hands out is a multiple of this.
const GRAIN: usize = 2 * size_of::<usize>();

/// 64 KiB that start at a multiple of 64 KiB.
#[repr(align(65536))]
struct Memory([MaybeUninit<u8>; 65_536]);

fn memory() -> Box<Memory> {
    // Boxed without a copy on the stack: `uninit` writes nothing.
    Box::new(Memory([MaybeUninit::uninit(); 65_536]))
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

#[test]
fn regions_are_aligned_and_the_first_place_that_fits_is_taken() {
    let mut memory = memory();
    let start = memory.0.as_ptr().addr();
    let buffer = Buffer::new(&mut memory.0);
    let take =
        |size, align| buffer.allocate(layout(size, align), Role::Region).map(|region| region.addr().get() - start);
    assert_eq!(take(100, 8), Some(0));
    assert_eq!(take(PAGE, PAGE), Some(PAGE));
    let behind = 100_usize.next_multiple_of(GRAIN);
    assert_eq!(take(100, 8), Some(behind), "the hole in front of the aligned region is used");
    assert_eq!(take(32_768, 32_768), Some(32_768));
    assert_eq!(take(32_768, 32_768), None);
    assert_eq!(take(24_576, 1), Some(8192));
    assert_eq!(take(PAGE - 2 * behind, 1), Some(2 * behind));
    assert_eq!((take(1, 1), buffer.free_bytes()), (None, 0));
}

#[test]
fn freed_regions_join_in_any_order() {
    let mut memory = memory();
    let all = memory.0.len();
    let buffer = Buffer::new(&mut memory.0);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1], [0, 2, 1, 3]] {
        let regions = [(); 4].map(|()| buffer.allocate(layout(all / 4, 16), Role::Large).unwrap());
        assert_eq!(buffer.allocate(layout(1, 1), Role::Large), None);
        for (freed, index) in order.into_iter().enumerate() {
            // SAFETY: the region is the one that was allocated with this layout.
            unsafe { buffer.free(regions[index], layout(all / 4, 16), Role::Large) };
            assert_eq!(buffer.free_bytes(), (freed + 1) * all / 4);
        }
        let whole = buffer.allocate(layout(all, 65_536), Role::Large).unwrap();
        // SAFETY: as above.
        unsafe { buffer.free(whole, layout(all, 65_536), Role::Large) };
    }
}

#[test]
fn memory_that_is_short_or_crooked_is_no_harm() {
    let mut memory = memory();
    for (from, to) in [(0_usize, 0), (0, 15), (1, 16), (1, 17), (3, 40), (16, 32), (15, 100)] {
        let usable = (to / GRAIN * GRAIN).saturating_sub(from.next_multiple_of(GRAIN));
        let buffer = Buffer::new(&mut memory.0[from..to]);
        assert_eq!(buffer.free_bytes(), usable);
        assert_eq!(buffer.allocate(layout(usable + 1, 1), Role::Large), None);
        assert_eq!(buffer.allocate(layout(usable.max(1), 1), Role::Large).is_some(), usable > 0);
    }
    let buffer = Buffer::new(&mut memory.0);
    for (size, align) in [(usize::MAX >> 1, 1), (1, 1 << (usize::BITS - 2)), (65_536, 1 << 20)] {
        // A buffer may happen to lie at a multiple of a MiB, but then there is nothing behind it.
        let region = buffer.allocate(layout(size, align), Role::Large);
        assert!(region.is_none_or(|region| region.addr().get() % align == 0));
    }
}

#[test]
fn an_allocator_lives_in_a_buffer_and_gives_all_of_it_back() {
    let mut memory = memory();
    let range = memory.0.as_ptr_range();
    let mut allocator =
        Allocator::with_config_in(Config::<64, 64>::default().keep_empty_windows(0), Buffer::new(&mut memory.0))
            .unwrap();
    for _ in 0..3 {
        let mut live = Vec::new();
        let refused = loop {
            let size = 1 + live.len() * 37 % 700;
            match allocator.allocate(size) {
                Ok(block) => live.push((block, live.len() as u8)),
                Err(error) => break error,
            }
            let (block, tag) = live[live.len() - 1];
            // SAFETY: the block was just allocated.
            unsafe { block.cast::<u8>().write_bytes(tag, block.len()) };
        };
        assert_eq!(refused, AllocError::OutOfMemory);
        assert!(live.iter().map(|(block, _)| block.len()).sum::<usize>() > 40 * 1024);
        for (block, tag) in live {
            assert!(range.contains(&block.cast::<MaybeUninit<u8>>().as_ptr().cast_const()));
            // SAFETY: the block is live, and not used after it is freed.
            unsafe {
                assert!(block.as_ref().iter().all(|&byte| byte == tag));
                allocator.free(block.cast());
            }
        }
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
        // Moving the allocator moves neither the windows nor the buffer's runs.
        allocator = *Box::new(allocator);
        allocator.trim();
        assert_eq!(allocator.allocated_bytes(), 2 * 4096);
        // A large block, in what the windows gave back.
        drop(allocator.packet(20_000).unwrap());
    }
    drop(allocator);
    assert_eq!(Buffer::new(&mut memory.0).free_bytes(), 65_536);
}

/// A block of every unit that a window has for blocks lies in it; one of a byte more lies in memory of its own.
#[test]
fn a_block_as_long_as_a_window_lies_in_it() {
    let mut memory = memory();
    let allocator = Allocator::with_config_in(Config::<64, 64>::default(), Buffer::new(&mut memory.0)).unwrap();
    drop(allocator.packet(1).unwrap());
    let bookkeeping = allocator.windows()[0].bookkeeping.clone();
    let most = 64 * (64 - bookkeeping.len());
    let whole = allocator.packet(most).unwrap();
    assert_eq!((allocator.stats().large_blocks, allocator.integrity_check()), (0, Ok(())));
    let found = allocator.windows().into_iter().find(|window| window.live_units > 0).unwrap();
    assert_eq!(found.address + 64 * bookkeeping.end, whole.as_ptr().addr());
    assert_eq!(found.blocks, std::slice::from_ref(&(bookkeeping.end..64)));
    let beyond = allocator.packet(most + 1).unwrap();
    assert_eq!((allocator.stats().large_blocks, allocator.integrity_check()), (1, Ok(())));
    drop((whole, beyond));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn regions_never_overlap_and_all_memory_comes_back(
        calls in prop::collection::vec((any::<bool>(), 1usize..5000, 0u32..13, any::<usize>()), 1..300),
    ) {
        let mut memory = memory();
        let range = memory.0.as_ptr_range();
        let buffer = Buffer::new(&mut memory.0);
        let mut live: Vec<(NonNull<u8>, Layout)> = Vec::new();
        let mut held = 0;
        for (take, size, shift, pick) in calls {
            if take {
                let layout = layout(size, 1 << shift);
                let Some(region) = buffer.allocate(layout, Role::Region) else { continue };
                let (start, end) = (region.addr().get(), region.addr().get() + size);
                prop_assert!(start % layout.align() == 0);
                prop_assert!(start >= range.start.addr() && end <= range.end.addr());
                let apart = |(other, layout): &(NonNull<u8>, Layout)| {
                    end <= other.addr().get() || other.addr().get() + layout.size() <= start
                };
                prop_assert!(live.iter().all(apart));
                // SAFETY: the region was just handed out.
                unsafe { region.write_bytes(0xff, size) };
                held += size.next_multiple_of(GRAIN);
                live.push((region, layout));
            } else if !live.is_empty() {
                let (region, layout) = live.swap_remove(pick % live.len());
                // SAFETY: the region is live with this layout.
                unsafe { buffer.free(region, layout, Role::Region) };
                held -= layout.size().next_multiple_of(GRAIN);
            }
            prop_assert_eq!(buffer.free_bytes(), 65_536 - held);
        }
        for (region, layout) in live {
            // SAFETY: as above.
            unsafe { buffer.free(region, layout, Role::Region) };
        }
        prop_assert!(buffer.allocate(layout(65_536, 65_536), Role::Region).is_some());
    }
}

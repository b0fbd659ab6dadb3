//! The trait of `allocator-api2`: its contract call by call, and collections against those of the standard library.

use std::alloc::Layout;
use std::collections::HashMap as Model;
use std::ptr::NonNull;
use std::rc::Rc;

use allocator_api2::alloc::Allocator as Api;
use allocator_api2::boxed::Box as BoxIn;
use allocator_api2::vec::Vec as VecIn;
use hashbrown::{DefaultHashBuilder, HashMap};
use pktalloc::{Allocator, Config, RcAllocator};
use proptest::prelude::*;

/// One allocator for each mode.
fn allocators() -> [Allocator; 5] {
    let config = Config::new();
    [config, config.zero(true), config.check(true), config.check(true).zero(true), config.passthrough(true)]
        .map(|config| Allocator::with_config(config).unwrap())
}

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// Writes every byte of a block that was just handed out for `layout`, after looking at its shape.
fn accept(block: NonNull<[u8]>, layout: Layout, tag: u8) -> NonNull<u8> {
    assert!(block.len() >= layout.size(), "{} bytes for {layout:?}", block.len());
    assert_eq!(block.cast::<u8>().addr().get() % layout.align(), 0, "{layout:?}");
    // SAFETY: the block was just handed out.
    unsafe { block.cast::<u8>().write_bytes(tag, block.len()) };
    block.cast()
}

fn bytes<'a>(block: NonNull<u8>, len: usize) -> &'a [u8] {
    // SAFETY: the callers pass live blocks of that length, all of it written.
    unsafe { std::slice::from_raw_parts(block.as_ptr(), len) }
}

const SIZES: [usize; 9] = [0, 1, 63, 64, 65, 1400, 5000, 32_769, 300_000];
const ALIGNMENTS: [usize; 9] = [1, 2, 16, 64, 128, 512, 4096, 65_536, 1 << 20];

#[test]
fn every_layout_is_served_and_comes_back_whole() {
    for allocator in allocators() {
        let mut live = Vec::new();
        for (index, (size, align)) in SIZES.iter().flat_map(|&s| ALIGNMENTS.map(|a| (s, a))).enumerate() {
            let layout = layout(size, align);
            let tag = index as u8;
            live.push((accept(Api::allocate(&allocator, layout).unwrap(), layout, tag), layout, tag));
            let zeroed = Api::allocate_zeroed(&allocator, layout).unwrap();
            assert!(bytes(zeroed.cast(), zeroed.len()).iter().all(|&byte| byte == 0));
            live.push((accept(zeroed, layout, !tag), layout, !tag));
        }
        for (block, layout, tag) in live {
            assert!(bytes(block, layout.size()).iter().all(|&byte| byte == tag));
            // SAFETY: the block is live and was allocated with this layout.
            unsafe { allocator.deallocate(block, layout) };
        }
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
    }
}

/// A layout fits a block when its size is anything from what was asked for to what was returned.
#[test]
fn every_size_that_fits_frees_a_block() {
    for allocator in allocators() {
        for align in [64, 256, 4096] {
            // Blocks that lie differently beside what they are aligned to, so that their returned lengths differ.
            let mut in_front = Vec::new();
            for whole in [false, true, true, true, true] {
                in_front.push(allocator.packet(1).unwrap());
                let block = Api::allocate(&allocator, layout(100, align)).unwrap();
                let size = if whole { block.len() } else { 100 };
                // SAFETY: the block is live, not used afterwards, and the layout fits it.
                unsafe { Api::deallocate(&allocator, block.cast(), layout(size, align)) };
            }
        }
        assert_eq!((allocator.used_bytes(), allocator.integrity_check()), (0, Ok(())));
    }
}

#[test]
fn a_block_takes_any_layout_over_and_keeps_its_bytes() {
    for allocator in allocators() {
        for (old_size, new_size) in SIZES.iter().flat_map(|&old| SIZES.map(|new| (old, new))) {
            for (old_align, new_align) in [(1, 1), (8, 64), (64, 1), (128, 128), (1, 4096), (4096, 8), (512, 65_536)] {
                let (old, new) = (layout(old_size, old_align), layout(new_size, new_align));
                let block = accept(Api::allocate(&allocator, old).unwrap(), old, 0xab);
                // SAFETY: the block is live and was allocated with `old`; afterwards only the new one is used.
                let moved = unsafe {
                    match new_size >= old_size {
                        true if new_size % 2 == 0 => allocator.grow(block, old, new),
                        true => allocator.grow_zeroed(block, old, new),
                        false => Api::shrink(&allocator, block, old, new),
                    }
                }
                .unwrap();
                let kept = old_size.min(new_size);
                assert!(bytes(moved.cast(), kept).iter().all(|&byte| byte == 0xab));
                if new_size >= old_size && new_size % 2 == 1 {
                    assert!(bytes(moved.cast(), moved.len())[old_size..].iter().all(|&byte| byte == 0));
                }
                let block = accept(moved, new, 0xcd);
                // SAFETY: the block is live and has this layout now.
                unsafe { allocator.deallocate(block, new) };
                assert_eq!(allocator.used_bytes(), 0);
            }
        }
        assert_eq!(allocator.integrity_check(), Ok(()));
    }
}

#[test]
fn a_block_grows_and_shrinks_in_place() {
    let allocator = Allocator::new();
    let [small, large] = [layout(100, 8), layout(20_000, 8)];
    // Opens an extent that has room for the large one.
    drop(VecIn::<u8, _>::with_capacity_in(20_000, &allocator));
    let block = Api::allocate(&allocator, small).unwrap();
    // SAFETY: the block is live with the layout that the call before gave it.
    unsafe {
        let grown = allocator.grow(block.cast(), small, large).unwrap();
        assert_eq!(grown.cast::<u8>(), block.cast());
        let shrunk = Api::shrink(&allocator, grown.cast(), large, small).unwrap();
        assert_eq!((shrunk.cast::<u8>(), shrunk.len(), allocator.used_bytes()), (block.cast(), 128, 128));
        allocator.deallocate(shrunk.cast(), small);
    }
}

#[test]
fn what_cannot_be_served_is_an_error_and_leaves_the_block() {
    let config = Config::<64, 64>::default().preallocated_windows(1).memory_limit(8192);
    let allocator = Allocator::with_config(config).unwrap();
    for (size, align) in [(usize::MAX / 4, 8), (isize::MAX as usize - 4095, 4096), (1, 1 << (usize::BITS - 2))] {
        assert!(Api::allocate(&allocator, layout(size, align)).is_err());
        assert!(Api::allocate_zeroed(&allocator, layout(size, align)).is_err());
    }
    let mut numbers = VecIn::new_in(&allocator);
    numbers.extend(0..100u32);
    assert!(numbers.try_reserve(100_000).is_err());
    assert!(numbers.iter().copied().eq(0..100));
    let old = layout(100, 128);
    let block = accept(Api::allocate(&allocator, old).unwrap(), old, 9);
    // SAFETY: the block is live and has this layout, since the other one cannot be had.
    unsafe {
        assert!(allocator.grow(block, old, layout(1 << 30, 128)).is_err());
        assert!(bytes(block, 100).iter().all(|&byte| byte == 9));
        allocator.deallocate(block, old);
    }
}

#[test]
fn objects_live_in_boxes() {
    trait Codec {
        fn decode(&self, byte: u8) -> u8;
    }
    struct Xor(Rc<u8>);
    impl Codec for Xor {
        fn decode(&self, byte: u8) -> u8 {
            byte ^ *self.0
        }
    }
    #[repr(align(256))]
    struct Aligned([u8; 256]);

    let allocator = Allocator::new();
    let key = Rc::new(0x5a);
    let boxed: BoxIn<Xor, &Allocator> = BoxIn::new_in(Xor(Rc::clone(&key)), &allocator);
    let aligned = BoxIn::new_in(Aligned([7; 256]), &allocator);
    let nothing = BoxIn::new_in((), &allocator);
    assert_eq!((&raw const *aligned).addr() % 256, 0);
    assert_eq!((boxed.decode(0x5a), aligned.0[255], *nothing), (0, 7, ()));
    assert_eq!(allocator.stats().live_blocks, 2);
    drop((boxed, aligned, nothing));
    assert_eq!((Rc::strong_count(&key), allocator.used_bytes()), (1, 0));
}

#[test]
fn a_collection_owns_its_allocator_or_shares_it() {
    let mut owning: VecIn<u64, Allocator> = VecIn::new_in(Allocator::new());
    owning.extend(0..1000);
    let moved = Box::new(owning);
    assert!(moved.iter().copied().eq(0..1000));

    let allocator = Rc::new(Allocator::new());
    let watch = Rc::downgrade(&allocator);
    let shared = RcAllocator::from(allocator);
    let mut vectors: Vec<VecIn<u64, RcAllocator>> = (0..3).map(|_| VecIn::new_in(shared.clone())).collect();
    for value in 0..3000 {
        vectors[value as usize % 3].push(value);
    }
    let packet = shared.packet_from(b"beside them").unwrap();
    drop(shared);
    assert!(vectors.iter().zip(0..).all(|(vector, first)| vector.iter().copied().eq((first..3000).step_by(3))));
    drop(vectors);
    assert_eq!(watch.upgrade().unwrap().used_bytes(), 64);
    drop(packet);
    assert!(watch.upgrade().is_none());
}

/// A call on a vector and on a map; a number picks places and lengths.
#[derive(Clone, Debug)]
enum Call {
    Push(u64),
    Pop,
    Insert(u64),
    Remove(u64),
    SwapRemove(u64),
    Extend(u64),
    Truncate(u64),
    Resize(u64),
    ShrinkToFit,
    Reserve(u64),
    SplitOff(u64),
    Retain(u64),
    Clone,
}

fn call() -> impl Strategy<Value = Call> {
    let number = || any::<u64>();
    prop_oneof![
        4 => number().prop_map(Call::Push),
        1 => Just(Call::Pop),
        2 => number().prop_map(Call::Insert),
        2 => number().prop_map(Call::Remove),
        1 => number().prop_map(Call::SwapRemove),
        4 => number().prop_map(Call::Extend),
        2 => number().prop_map(Call::Truncate),
        2 => number().prop_map(Call::Resize),
        2 => Just(Call::ShrinkToFit),
        1 => number().prop_map(Call::Reserve),
        1 => number().prop_map(Call::SplitOff),
        1 => number().prop_map(Call::Retain),
        1 => Just(Call::Clone),
    ]
}

/// An element with an alignment of its own.
trait Element: Clone + PartialEq + std::fmt::Debug {
    fn of(number: u64) -> Self;
}

impl Element for u8 {
    fn of(number: u64) -> Self {
        number as Self
    }
}

/// Needs more than a unit's alignment.
#[derive(Clone, Debug, PartialEq)]
#[repr(align(128))]
struct Wide(u64);

impl Element for Wide {
    fn of(number: u64) -> Self {
        Self(number)
    }
}

/// Owns memory elsewhere, so that a lost or doubled element shows.
impl Element for Rc<u64> {
    fn of(number: u64) -> Self {
        Rc::new(number)
    }
}

fn vectors<T: Element>(allocator: &Allocator, calls: &[Call]) {
    let (mut ours, mut model) = (VecIn::new_in(allocator), Vec::new());
    let at = |number: u64, len: usize| (number % (len as u64 + 1)) as usize;
    for call in calls {
        let len = model.len();
        match *call {
            Call::Push(number) => {
                ours.push(T::of(number));
                model.push(T::of(number));
            }
            Call::Pop => assert_eq!(ours.pop(), model.pop()),
            Call::Insert(number) => {
                ours.insert(at(number, len), T::of(number));
                model.insert(at(number, len), T::of(number));
            }
            Call::Remove(number) if len > 0 => {
                assert_eq!(ours.remove(at(number, len - 1)), model.remove(at(number, len - 1)));
            }
            Call::SwapRemove(number) if len > 0 => {
                assert_eq!(ours.swap_remove(at(number, len - 1)), model.swap_remove(at(number, len - 1)));
            }
            Call::Remove(_) | Call::SwapRemove(_) => {}
            Call::Extend(number) => {
                let more = (number..).take(number as usize % 400).map(T::of);
                ours.extend(more.clone());
                model.extend(more);
            }
            Call::Truncate(number) => {
                ours.truncate(at(number, len));
                model.truncate(at(number, len));
            }
            Call::Resize(number) => {
                ours.resize(number as usize % 2000, T::of(number));
                model.resize(number as usize % 2000, T::of(number));
            }
            Call::ShrinkToFit => ours.shrink_to_fit(),
            Call::Reserve(number) => ours.reserve(number as usize % 3000),
            Call::SplitOff(number) => {
                assert_eq!(ours.split_off(at(number, len)).as_slice(), model.split_off(at(number, len)));
            }
            Call::Retain(number) => {
                let (mut one, mut other) = (0, 0);
                let keep = |count: &mut u64| {
                    *count += 1;
                    !(*count ^ number).is_multiple_of(3)
                };
                ours.retain(|_| keep(&mut one));
                model.retain(|_| keep(&mut other));
            }
            Call::Clone => ours = ours.clone(),
        }
        assert_eq!(ours.as_slice(), model);
    }
}

fn maps(allocator: &Allocator, calls: &[Call]) {
    let mut ours: HashMap<u64, BoxIn<[u8], &Allocator>, _, _> =
        HashMap::with_hasher_in(DefaultHashBuilder::default(), allocator);
    let mut model: Model<u64, Vec<u8>> = Model::new();
    let boxed = |value: &[u8]| {
        let mut vector = VecIn::new_in(allocator);
        vector.extend_from_slice(value);
        vector.into_boxed_slice()
    };
    for call in calls {
        match *call {
            Call::Push(number) | Call::Insert(number) | Call::Resize(number) => {
                let (key, value) = (number % 500, vec![number as u8; number as usize % 700]);
                let before = ours.insert(key, boxed(&value));
                assert_eq!(before.as_deref(), model.insert(key, value).as_deref());
            }
            Call::Remove(number) | Call::SwapRemove(number) | Call::Truncate(number) => {
                assert_eq!(ours.remove(&(number % 500)).as_deref(), model.remove(&(number % 500)).as_deref());
            }
            Call::Extend(number) => {
                let more = (0..number % 100).map(|index| (number.wrapping_add(index) % 500, vec![index as u8; 40]));
                ours.extend(more.clone().map(|(key, value)| (key, boxed(&value))));
                model.extend(more);
            }
            Call::Retain(number) => {
                ours.retain(|key, _| !(key ^ number).is_multiple_of(3));
                model.retain(|key, _| !(key ^ number).is_multiple_of(3));
            }
            Call::ShrinkToFit => ours.shrink_to_fit(),
            Call::Reserve(number) => ours.reserve(number as usize % 3000),
            Call::Clone => ours = ours.clone(),
            Call::Pop | Call::SplitOff(_) => {}
        }
        assert_eq!(ours.len(), model.len());
    }
    assert!(model.iter().all(|(key, value)| ours[key][..] == value[..]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn collections_hold_what_the_standard_librarys_hold(
        calls in prop::collection::vec(call(), 1..60),
        mode in 0usize..5,
    ) {
        let allocator = &allocators()[mode];
        vectors::<u8>(allocator, &calls);
        vectors::<Wide>(allocator, &calls);
        vectors::<Rc<u64>>(allocator, &calls);
        maps(allocator, &calls);
        prop_assert_eq!(allocator.used_bytes(), 0);
        prop_assert_eq!(allocator.integrity_check(), Ok(()));
    }
}

//! What each operation of the hot path costs, one at a time.
//!
//! `cargo bench` runs all of it; `cargo bench --bench hot_path -- fifo` only the groups with that word in their name.
//! The comparison with other allocators is in `peers`, a package of its own.

use std::alloc::{GlobalAlloc, Layout, System, alloc_zeroed, dealloc};
use std::collections::VecDeque;
use std::hint::black_box;
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use pktalloc::workload::{Ring, Sizes};
use pktalloc::{Allocator, Realloc};

/// A usual packet.
const PACKET: usize = 1400;
/// How deep queues are, and how many operations are timed at once.
const DEPTH: usize = 1024;
/// A window of the default size.
const WINDOW_BYTES: usize = 128 << 10;

type Block = NonNull<u8>;

fn allocate(allocator: &Allocator, size: usize) -> Block {
    allocator.allocate(size).expect("the system has memory").cast()
}

/// # Safety
///
/// The block is live, and of this allocator.
unsafe fn free(allocator: &Allocator, block: Block) {
    // SAFETY: as the caller promises.
    unsafe { allocator.free(block) };
}

/// Times `timed` in chunks of [`DEPTH`] operations, with `untimed` after each to go back to the beginning.
fn in_chunks<State>(
    iterations: u64,
    state: &mut State,
    timed: fn(&mut State, usize),
    untimed: fn(&mut State),
) -> Duration {
    let mut total = Duration::ZERO;
    let mut left = usize::try_from(iterations).expect("a number of iterations fits usize");
    while left > 0 {
        let chunk = left.min(DEPTH);
        let start = Instant::now();
        timed(state, chunk);
        total += start.elapsed();
        untimed(state);
        left -= chunk;
    }
    total
}

/// An allocator with the blocks that are live in it.
struct Live {
    allocator: Allocator,
    blocks: Vec<Block>,
}

impl Live {
    fn new() -> Self {
        Self { allocator: Allocator::new(), blocks: Vec::with_capacity(DEPTH) }
    }

    fn fill(&mut self, count: usize) {
        for _ in 0..count {
            self.blocks.push(allocate(&self.allocator, PACKET));
        }
    }

    fn drain(&mut self) {
        for block in self.blocks.drain(..) {
            // SAFETY: `fill` allocated it, and it leaves the list.
            unsafe { free(&self.allocator, block) };
        }
    }
}

/// Allocations and frees by themselves.
fn halves(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("halves");
    group.throughput(Throughput::Elements(1));
    group.bench_function("allocate", |bencher| {
        let mut live = Live::new();
        bencher.iter_custom(|iterations| in_chunks(iterations, &mut live, Live::fill, Live::drain));
    });
    group.bench_function("free", |bencher| {
        let mut live = Live::new();
        bencher.iter_custom(|iterations| {
            live.fill(DEPTH);
            let total = in_chunks(iterations, &mut live, |live, _| live.drain(), |live| live.fill(DEPTH));
            live.drain();
            // Whole chunks are freed: the last one may be larger than what was asked for.
            let freed = iterations.next_multiple_of(DEPTH as u64);
            total.mul_f64(iterations as f64 / freed as f64)
        });
    });
    group.finish();
}

/// A queue in which the oldest block leaves for each one that enters.
fn queue<B>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    sizes: &Sizes,
    mut enter: impl FnMut(usize) -> B,
    mut leave: impl FnMut(B),
) {
    let mut draw = sizes.draw(1);
    // Sizes are drawn beforehand; a prime number of them, so that each meets all places in the queue.
    let drawn: Vec<usize> = (0..65_537).map(|_| draw.next_size() as usize).collect();
    let mut next = drawn.iter().copied().cycle();
    let mut live: VecDeque<B> = next.by_ref().take(DEPTH).map(&mut enter).collect();
    group.bench_function(name, |bencher| {
        bencher.iter(|| {
            live.pop_front().map(&mut leave);
            live.push_back(enter(next.next().expect("sizes have no end")));
        });
    });
    live.into_iter().for_each(leave);
}

/// A pair of a free and an allocation, beside the floor and the system's malloc.
fn pairs(criterion: &mut Criterion) {
    let layout = |size| Layout::from_size_align(size, 16).expect("packets are small");
    for (name, sizes) in [("fifo_1400_1024", Sizes::Fixed(1400)), ("fifo_uniform_1024", Sizes::Uniform)] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        let allocator = Allocator::new();
        queue(
            &mut group,
            "pktalloc",
            &sizes,
            |size| allocate(&allocator, size),
            |block| {
                // SAFETY: the queue frees each block once.
                unsafe { free(&allocator, block) };
            },
        );
        let ring = std::cell::RefCell::new(Ring::with_capacity(2 * DEPTH * 2048));
        queue(&mut group, "floor", &sizes, |size| ring.borrow_mut().allocate(size), |_| ring.borrow_mut().free());
        queue(
            &mut group,
            "malloc",
            &sizes,
            |size| {
                // SAFETY: packets have at least 1 byte.
                (unsafe { System.alloc(layout(size)) }, size)
            },
            |(block, size)| {
                // SAFETY: allocated above with this layout, and freed once.
                unsafe { System.dealloc(block, layout(size)) };
            },
        );
        group.finish();
    }
}

/// A buffer for the largest packet is allocated, a smaller packet arrives, and the tail is given back.
fn receive(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("receive");
    group.throughput(Throughput::Elements(1));
    let allocator = Allocator::new();
    let enter = |size| {
        let block = allocate(&allocator, 2048);
        // SAFETY: just allocated.
        unsafe { allocator.shrink(block, size) }.expect("a packet is at least 1 byte, and at most its buffer");
        block
    };
    queue(&mut group, "shrink_after_receive", &Sizes::Fixed(900), enter, |block| {
        // SAFETY: the queue frees each block once.
        unsafe { free(&allocator, block) };
    });
    group.finish();
}

fn reallocate(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reallocate");
    let allocator = Allocator::new();
    let resize = |block: Block, size: usize, how: Realloc| {
        // SAFETY: callers pass their live block, and go on with the one that is returned.
        unsafe { allocator.reallocate(block, size, how) }.expect("the system has memory").cast()
    };

    group.throughput(Throughput::Elements(2));
    let mut newest = allocate(&allocator, 1000);
    group.bench_function("in_place_grow_and_shrink", |bencher| {
        bencher.iter(|| {
            newest = resize(newest, PACKET, Realloc::CopyExisting);
            newest = resize(newest, 1000, Realloc::CopyExisting);
        });
    });
    // SAFETY: live, and not used again.
    unsafe { free(&allocator, newest) };

    group.throughput(Throughput::Bytes(PACKET as u64));
    group.bench_function("moving", |bencher| {
        bencher.iter(|| {
            let block = allocate(&allocator, PACKET);
            let behind = allocate(&allocator, PACKET);
            let moved = resize(block, 2 * PACKET, Realloc::CopyExisting);
            assert_ne!(moved, block, "a block with another behind it has to move");
            // SAFETY: live, and not used again.
            unsafe {
                free(&allocator, behind);
                free(&allocator, moved);
            }
        });
    });
    group.finish();
}

fn batch(criterion: &mut Criterion) {
    const BATCH: usize = 64;
    let mut group = criterion.benchmark_group("batch");
    group.throughput(Throughput::Elements(BATCH as u64));
    let allocator = Allocator::new();
    let mut batches: VecDeque<[Block; BATCH]> = VecDeque::new();
    let enter = || {
        let mut blocks = [Block::dangling(); BATCH];
        allocator.allocate_batch(PACKET, &mut blocks).expect("the system has memory");
        blocks
    };
    batches.extend((0..DEPTH / BATCH).map(|_| enter()));
    group.bench_function("pair", |bencher| {
        bencher.iter(|| {
            if let Some(oldest) = batches.pop_front() {
                // SAFETY: each batch is freed once.
                unsafe { allocator.free_batch(&oldest) };
            }
            batches.push_back(enter());
        });
    });
    group.finish();
}

/// A new allocator, ten packets written, the allocator dropped, beside one window from calloc.
fn new_and_drop(criterion: &mut Criterion) {
    const PACKETS: usize = 10;
    let write = |block: *mut u8| {
        // SAFETY: callers pass a block of at least this size.
        unsafe { ptr::write_bytes(black_box(block), 1, PACKET) };
    };
    let mut group = criterion.benchmark_group("new_and_drop");
    group.throughput(Throughput::Elements(PACKETS as u64));
    group.bench_function("pktalloc", |bencher| {
        bencher.iter(|| {
            let allocator = Allocator::new();
            (0..PACKETS).for_each(|_| write(allocate(&allocator, PACKET).as_ptr()));
        });
    });
    group.bench_function("calloc", |bencher| {
        let layout = Layout::array::<u8>(WINDOW_BYTES).expect("a window is small");
        bencher.iter(|| {
            // SAFETY: a window is not empty.
            let window = unsafe { alloc_zeroed(layout) };
            assert!(!window.is_null(), "the system has memory");
            // SAFETY: ten packets fit into a window.
            (0..PACKETS).for_each(|packet| write(unsafe { window.add(packet * PACKET.next_multiple_of(64)) }));
            // SAFETY: allocated above with this layout.
            unsafe { dealloc(window, layout) };
        });
    });
    group.finish();
}

/// The self-check of a thousand windows with a hole behind every other block.
fn self_check(criterion: &mut Criterion) {
    const WINDOWS: usize = 1000;
    let mut group = criterion.benchmark_group("self_check");
    let allocator = Allocator::new();
    let mut kept = true;
    while allocator.allocated_bytes() < (WINDOWS * WINDOW_BYTES) as u64 {
        let block = allocate(&allocator, PACKET);
        let behind = allocate(&allocator, PACKET);
        kept = !kept;
        // SAFETY: live, and not used again.
        unsafe { free(&allocator, if kept { block } else { behind }) };
    }
    group.throughput(Throughput::Bytes(allocator.allocated_bytes()));
    group.sample_size(20);
    group.bench_function("thousand_windows", |bencher| {
        bencher.iter(|| allocator.integrity_check().expect("nothing is damaged"));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    // All of it in under a minute.
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = halves, pairs, receive, reallocate, batch, new_and_drop, self_check
}
criterion_main!(benches);

//! What `check` costs: nanoseconds per pair of a free and an allocation in a queue, with the mode off and on.

use std::hint::black_box;
use std::ptr::NonNull;
use std::sync::LazyLock;
use std::time::Instant;

use pktalloc::{Allocator, Config};

/// Nanoseconds that this process has computed for; where the system does not say, nanoseconds that have passed.
fn computed() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let on_cpu = std::fs::read_to_string("/proc/self/schedstat").ok();
    let on_cpu = on_cpu.and_then(|line| line.split(' ').next()?.parse().ok());
    on_cpu.unwrap_or_else(|| START.elapsed().as_nanos() as f64)
}

/// Nanoseconds per pair.
fn pair(config: Config, depth: usize, pairs: usize) -> f64 {
    let allocator = Allocator::with_config(config).expect("a configuration that makes sense");
    let allocate = || allocator.allocate(black_box(1400)).expect("memory").cast::<u8>();
    let mut ring: Vec<NonNull<u8>> = (0..depth).map(|_| allocate()).collect();
    let start = computed();
    for at in 0..pairs {
        let slot = &mut ring[at % depth];
        // SAFETY: the block is live and not used afterwards.
        unsafe { allocator.free(*slot) };
        *slot = allocate();
    }
    (computed() - start) / pairs as f64
}

fn main() {
    println!("fifo, 1400 bytes: ns per pair");
    for depth in [64, 256, 1024] {
        let off = pair(Config::new(), depth, 1 << 25);
        let on = pair(Config::new().check(true), depth, (1 << 20) / depth);
        println!("depth {depth:6}: off {off:8.1}, check {on:10.0}");
    }
}

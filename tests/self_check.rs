//! The self-check takes time that is linear in what it checks.

#![cfg(feature = "std")]

use std::time::{Duration, Instant};

use pktalloc::{Allocator, Config};

/// Fills as many windows, with a hole behind every other block, and returns the shortest time of a few self-checks.
fn time_of_a_check(windows: u64, config: Config<64, 256>) -> Duration {
    let allocator = Allocator::with_config(config).unwrap();
    let mut blocks = Vec::new();
    while allocator.stats().windows < windows {
        for _ in 0..windows {
            blocks.push(allocator.allocate(640).unwrap().cast());
        }
    }
    for block in blocks.into_iter().step_by(2) {
        // SAFETY: the block is live and not used afterwards.
        unsafe { allocator.free(block) };
    }
    let check = |_| {
        let start = Instant::now();
        assert_eq!(allocator.integrity_check(), Ok(()));
        start.elapsed()
    };
    (0..5).map(check).min().unwrap()
}

#[test]
fn ten_thousand_windows_take_less_than_a_second_and_ten_times_as_long_as_a_thousand() {
    let (few, many) = (time_of_a_check(1000, Config::default()), time_of_a_check(10_000, Config::default()));
    println!("1,000 windows: {few:?}; 10,000 windows: {many:?}");
    // Twice to three times what a build without optimisation needs.
    assert!(many < Duration::from_secs(1), "10,000 windows took {many:?}");
    // Quadratic time would be a hundred times as long.
    assert!(many < few * 40, "1,000 windows took {few:?}, 10,000 {many:?}");
}

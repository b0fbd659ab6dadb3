//! What calls cost, in instructions counted by valgrind: the same on every run.

// Valgrind runs no program that a sanitizer was built into.
#![cfg(all(feature = "std", target_os = "linux", not(any(miri, pktalloc_asan))))]

use std::env;
use std::hint::black_box;
use std::process::Command;

use pktalloc::{AllocError, Allocator};

/// Names the length that the packets of [`packets`] are cut to, in the process that is counted.
const VARIABLE: &str = "PKTALLOC_COUNTED_LENGTH";
/// What a slot has: whole units.
const MOST: usize = 1408;
const PACKETS: u64 = 1000;

/// What is counted: packets of [`MOST`] bytes that turn out shorter.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn pktalloc_counted(allocator: &Allocator, len: usize) {
    for _ in 0..PACKETS {
        let packet = allocator.packet_with(MOST, |room| {
            room.zeroed();
            room.advance(len);
            Ok::<_, AllocError>(())
        });
        drop(black_box(packet));
    }
}

/// Not a test of its own: what [`a_shrink_that_frees_no_unit_costs_next_to_nothing`] runs under valgrind.
#[test]
fn packets() {
    let len = env::var(VARIABLE).map_or(MOST, |len| len.parse().unwrap());
    let allocator = Allocator::new();
    let first = allocator.packet(MOST).unwrap();
    pktalloc_counted(&allocator, len);
    drop(first);
}

/// Instructions a packet; `None` without valgrind.
fn instructions(len: usize) -> Option<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=pktalloc_counted"])
        .arg(env::current_exe().unwrap())
        .args(["--exact", "packets", "--test-threads=1"])
        .env(VARIABLE, len.to_string())
        .output()
        .ok()?;
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}");
    let counted = text.lines().find_map(|line| line.split_once("Collected : ")).unwrap().1;
    Some(counted.trim().parse::<f64>().unwrap() / PACKETS as f64)
}

#[test]
fn a_shrink_that_frees_no_unit_costs_next_to_nothing() {
    let Some(whole) = instructions(MOST) else {
        eprintln!("skipped: there is no valgrind to count instructions with (Debian: valgrind)");
        return;
    };
    // The last unit is needed for one of its bytes, or not at all.
    let [within, shorter] = [MOST - 63, MOST - 64].map(|len| instructions(len).unwrap());
    println!("{whole} for whole packets, {within} within the last unit, {shorter} for a unit less");
    assert!(within - whole <= 60.0, "{within} instructions instead of {whole}");
    assert!(shorter - within >= 15.0, "giving a unit back was not counted: {shorter} and {whole}");
}

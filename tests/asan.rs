//! Under AddressSanitizer a byte that is in no block cannot be read: `make sanitize` builds and runs this.

#![cfg(all(feature = "std", pktalloc_asan))]

use std::process::Command;
use std::ptr::NonNull;

use pktalloc::system::{Os, System};
use pktalloc::{Allocator, Config, Realloc};

/// Set to the name of what a child process is to do wrong.
const MISDEED: &str = "PKTALLOC_ASAN_MISDEED";

fn allocate(allocator: &Allocator, size: usize) -> NonNull<u8> {
    allocator.allocate(size).unwrap().cast()
}

/// Reads a byte that is in no block, in one of the ways to come by such a byte.
fn commit(misdeed: &str) -> u8 {
    let allocator = Allocator::with_config(Config::new().memory_limit(4 * 131_072)).unwrap();
    let (block, behind) = (allocate(&allocator, 1400), allocate(&allocator, 1400));
    // SAFETY: none for the last read of each: it is what the sanitizer has to stop.
    unsafe {
        block.write_bytes(7, 1400);
        match misdeed {
            // A cached block.
            "freed" => {
                allocator.free(block);
                block.add(700).read()
            }
            "freed, newest" => {
                allocator.free(behind);
                behind.read()
            }
            "shrunk" => {
                allocator.shrink(block, 700).unwrap();
                block.add(704).read()
            }
            "moved" => {
                allocator.reallocate(block, 5000, Realloc::CopyExisting).unwrap();
                block.read()
            }
            "never handed out" => behind.add(1408).read(),
            // Such a block is not cached: its window is where the next allocation looks.
            "freed, memory refused" => {
                let mut blocks = vec![];
                while let Ok(block) = allocator.allocate(1400) {
                    blocks.push(block.cast::<u8>());
                }
                for block in blocks.iter().step_by(2) {
                    allocator.free(*block);
                }
                allocate(&allocator, 1400);
                allocator.free(blocks[101]);
                blocks[101].add(1).read()
            }
            "long" => {
                let long = allocate(&allocator, 200_000);
                allocator.free(long);
                long.add(150_000).read()
            }
            "span" => {
                let allocator = Allocator::new();
                let span = allocate(&allocator, 5_000_000);
                allocator.free(span);
                span.add(50_000).read()
            }
            // Longer than a region: mapped by itself, and unmapped.
            "large" => {
                let allocator = Allocator::new();
                let large = allocate(&allocator, 2 * Os::REGION_BYTES);
                allocator.free(large);
                large.add(50_000).read()
            }
            "nothing" => block.read(),
            other => panic!("what is {other:?}?"),
        }
    }
}

#[test]
fn a_read_of_a_byte_in_no_block_is_a_report() {
    if let Ok(misdeed) = std::env::var(MISDEED) {
        println!("{}", commit(&misdeed));
        return;
    }
    let this = std::env::current_exe().unwrap();
    let run = |misdeed: &str| {
        Command::new(&this)
            .arg("--exact")
            .arg("a_read_of_a_byte_in_no_block_is_a_report")
            .env(MISDEED, misdeed)
            .output()
    };
    for (misdeed, report) in [
        ("freed", "use-after-poison"),
        ("freed, newest", "use-after-poison"),
        ("shrunk", "use-after-poison"),
        ("moved", "use-after-poison"),
        ("never handed out", "use-after-poison"),
        ("freed, memory refused", "use-after-poison"),
        ("long", "use-after-poison"),
        ("span", "use-after-poison"),
        ("large", "SEGV"),
    ] {
        let output = run(misdeed).unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(report), "{misdeed}: {}: {said}", output.status);
    }
    let output = run("nothing").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

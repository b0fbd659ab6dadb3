//! The inputs of the fuzz targets, through the same programs: what fuzzing has found once is found again here.

#![cfg(feature = "std")]

use std::fs;
use std::path::Path;

#[allow(unreachable_pub, reason = "public in the package of the fuzz targets")]
#[path = "programs/mod.rs"]
mod targets;

/// Runs every input of a target.
fn replay(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(target);
    let mut inputs = 0;
    for input in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = input.unwrap().path();
        println!("{}", path.display());
        run(&fs::read(&path).unwrap());
        inputs += 1;
    }
    assert!(inputs >= 4, "{} holds {inputs} inputs", folder.display());
}

#[test]
fn programs_of_raw_calls() {
    replay("api", targets::api::run);
}

#[test]
fn any_configuration() {
    replay("config", targets::config::run);
}

#[test]
fn programs_of_packets() {
    replay("packets", targets::packets::run);
    replay("packets", targets::room::run);
}

/// The same programs, made up.
#[test]
fn random_programs_of_packets() {
    let mut random = pktalloc::workload::SplitMix64::new(3);
    for _ in 0..300 {
        let bytes: Vec<u8> = (0..random.below(2000)).map(|_| random.below(256) as u8).collect();
        targets::room::run(&bytes);
    }
}

#[cfg(feature = "replay")]
#[test]
fn any_bytes_as_a_trace() {
    replay("trace", targets::trace::run);
}

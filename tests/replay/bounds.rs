//! Reading and running take memory and time by what is there, and can be ended at any moment.

use core::ops::ControlFlow;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use pktalloc::replay::{
    Competitor, Error, Link, MAX_PACKET_BYTES, Options, Phase, Plan, Program, ReadOptions, Rule, Runner, Setup, Trace,
};

use crate::files::{Little, MICROSECONDS, Writer, gzip, pcap, zstd};
use crate::support::{TestFile, competitors, complaint, link, load, plan, proceed, run};

/// Bytes without end that are produced as they are read, compressed.
fn bomb(block: &[u8], times: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..times {
        encoder.write_all(block).unwrap();
    }
    encoder.finish().unwrap()
}

#[test]
fn what_expands_without_end_is_refused_early() {
    let head = |text: &[u8]| gzip(text);
    // One row of 64 MiB, of digits or of commas; a first line of that length.
    for filling in [b'1', b','] {
        let row = [head(b"# dt_us,size\n"), bomb(&vec![filling; 1 << 20], 64)].concat();
        assert_eq!(complaint(&row), "length of the line is more than 65536 bytes; allowed: up to 65536 bytes");
        assert!(matches!(load(&bomb(&vec![filling; 1 << 20], 64)), Err(Error::Unrecognized { .. })));
        assert!(Link::load(&TestFile::new(&row).0, &mut proceed).is_err());
    }
    let interface = Writer::new(Little).block(1, |body| body.u32(1).u32(0)).bytes;
    let interfaces = [head(&Writer::new(Little).section().bytes), bomb(&interface.repeat(1000), 100)].concat();
    assert_eq!(complaint(&interfaces), "number of interfaces is 65537; allowed: 65536 in a section");
    let mut departures = b"# dt_ms,count\n".to_vec();
    departures.extend(b"1,1\n".repeat((1 << 22) + 1));
    let error = Link::load(&TestFile::new(&departures).0, &mut proceed).unwrap_err();
    assert!(error.to_string().ends_with("number of rows is more than 4194304; allowed: up to 4194304"), "{error}");
}

#[test]
fn a_zstd_bomb_is_refused() {
    let bytes = zstd(&vec![0; 8 << 20]);
    let bomb = [zstd(&pcap(Little).pcap_record(200, 0, 8 << 20, 8 << 20).bytes[..196]), bytes.repeat(40)].concat();
    let error = load(&bomb).unwrap_err();
    assert!(error.to_string().contains("expands more than 4096 times"), "{error}");
}

#[test]
fn claims_of_huge_packets_cost_no_more_than_small_ones() {
    let mut capture = Writer::new(Little).pcap_header(MICROSECONDS);
    for second in 0..200 {
        capture = capture.pcap_record(second, 0, 0, MAX_PACKET_BYTES);
    }
    let plan = plan(&load(&capture.bytes).unwrap(), None);
    let started = std::time::Instant::now();
    for competitor in competitors() {
        let found = run(&Program::from(plan.clone()), &competitor).unwrap();
        assert!(found.resident_bytes.is_none_or(|bytes| bytes < 256 << 20), "{found:?}");
    }
    // Writing and reading 3.2 GB takes seconds and 3.2 GB.
    assert!(started.elapsed().as_secs() < 20);
}

#[test]
fn a_million_packets_are_no_trouble() {
    let mut capture = Writer::new(Little).pcap_header(MICROSECONDS);
    for packet in 0..1_000_000 {
        capture = capture.pcap_record(packet / 1000, packet % 1000 * 1000, 0, 60 + packet % 1400);
    }
    let trace = load(&capture.bytes).unwrap();
    assert_eq!(trace.packets().len(), 1_000_000);
    let departures = link("# dt_ms,count\n1,1\n7,3\n").unwrap();
    for rule in [Rule::Depth(100_000), Rule::Delay(30_000_000_000), Rule::Link(departures)] {
        assert_eq!(plan(&trace, Some(rule)).stream.ops.len(), 2_000_000);
    }
}

#[test]
fn a_replay_can_be_interrupted_at_every_step() {
    let file = TestFile::new(&pcap(Little).bytes);
    let run = |stop_at: u32| {
        let mut step = 0;
        let mut watch = |_, _, _| {
            step += 1;
            if step == stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let trace = Trace::load(&file.0, ReadOptions::default(), &mut watch)?;
        let program = Program::from(Plan::new(&trace, &Options::default(), &mut watch)?);
        let mut runner = Runner::new(&program, &Competitor::Pktalloc(Setup::default()))?;
        runner.first_pass(&mut watch)?;
        runner.round(1, &mut || match watch(Phase::Timing, 0, 0) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Interrupted),
        })
    };
    // Planning, verifying (twice), one round.
    for step in 1..5 {
        assert!(matches!(run(step), Err(Error::Interrupted)), "step {step}");
    }
    assert!(run(0).is_ok());
}

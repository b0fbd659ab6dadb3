//! What several of the tests use: files, what is wrong with them, programs and allocators.

use core::ops::ControlFlow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use pktalloc::replay::{
    CallTrace, Competitor, Error, Fault, Link, Options, Phase, Place, Plan, Program, ReadOptions, Recording, Rule,
    Runner, Setup, Trace,
};
use pktalloc::workload::Op;

pub(crate) fn proceed(_: Phase, _: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// A file that is removed when the test is done with it.
pub(crate) struct TestFile(pub(crate) PathBuf);

impl TestFile {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // The name says nothing about what is in it, and should not matter.
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("replay-{}-{number}.txt", std::process::id()));
        fs::write(&path, bytes).unwrap();
        Self(path)
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        fs::remove_file(&self.0).unwrap();
    }
}

pub(crate) fn load(bytes: &[u8]) -> Result<Trace, Error> {
    Trace::load(&TestFile::new(bytes).0, ReadOptions::default(), &mut proceed)
}

/// What is wrong with a file for a reader that takes no half one.
pub(crate) fn strict_fault(bytes: &[u8]) -> (Place, Fault) {
    match Trace::load(&TestFile::new(bytes).0, ReadOptions { strict: true }, &mut proceed) {
        Err(Error::Fault { place, fault, .. }) => (place, fault),
        other => panic!("{other:?}"),
    }
}

/// Times and sizes of the packets of a file.
pub(crate) fn arrivals(bytes: &[u8]) -> Vec<(u64, u32)> {
    load(bytes).unwrap().packets().iter().map(|packet| (packet.arrival(), packet.size())).collect()
}

/// What is wrong with a file, and where; checks that the message is one line that starts with the file's name.
pub(crate) fn fault(bytes: &[u8]) -> (Place, Fault) {
    let error = load(bytes).unwrap_err();
    let text = error.to_string();
    let Error::Fault { path, place, fault } = error else { panic!("{text}") };
    assert!(text.starts_with(&format!("{}: {place}: ", path.display())), "{text}");
    assert!(!text.contains('\n'), "{text}");
    (place, fault)
}

/// What is wrong with a file, in words.
pub(crate) fn complaint(bytes: &[u8]) -> String {
    fault(bytes).1.to_string()
}

pub(crate) fn trace(text: &str) -> Trace {
    load(text.as_bytes()).unwrap()
}

pub(crate) fn link(text: &str) -> Result<Link, Error> {
    Link::load(&TestFile::new(text.as_bytes()).0, &mut proceed)
}

pub(crate) fn plan(trace: &Trace, rule: Option<Rule>) -> Plan {
    Plan::new(trace, &Options { rule, copies: 1 }, &mut proceed).unwrap()
}

/// A program by the sizes that come (positive) and leave (negative).
pub(crate) fn sizes(plan: &Plan) -> Vec<i64> {
    let mut held = vec![0; plan.stream.slots];
    let step = |op: &Op| {
        let slot = &mut held[op.slot as usize];
        if op.is_free() {
            assert_ne!(*slot, 0, "freed twice");
            -core::mem::take(slot)
        } else {
            assert_eq!(*slot, 0, "slot taken");
            *slot = i64::from(op.size);
            *slot
        }
    };
    let sizes = plan.stream.ops.iter().map(step).collect();
    assert!(held.iter().all(|&size| size == 0), "some are not freed");
    sizes
}

/// Those that run everywhere.
pub(crate) fn competitors() -> [Competitor; 2] {
    [Competitor::Pktalloc(Setup::default()), Competitor::Malloc]
}

/// Runs a program once in each way; the first pass.
pub(crate) fn run(program: &Program, competitor: &Competitor) -> Result<pktalloc::replay::FirstPass, Error> {
    let mut runner = Runner::new(program, competitor)?;
    let found = runner.first_pass(&mut proceed)?;
    runner.begin()?;
    runner.round(2, &mut || Ok(()))?;
    Ok(found)
}

pub(crate) fn calls(rows: &str) -> Result<CallTrace, Error> {
    let file = TestFile::new(format!("# call,allocator,block,size\n{rows}").as_bytes());
    match Recording::load(&file.0, ReadOptions::default(), &mut proceed)? {
        Recording::Calls(trace) => Ok(trace),
        Recording::Packets(_) => panic!("not calls"),
    }
}

/// The traces that the project is measured with, where they are to be had.
pub(crate) fn shared_traces() -> Option<PathBuf> {
    let directory = std::env::var_os("PKTALLOC_TRACES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/traces"), PathBuf::from);
    if directory.is_dir() {
        return Some(directory);
    }
    eprintln!("skipped: no traces in {}; PKTALLOC_TRACES can name their directory", directory.display());
    None
}

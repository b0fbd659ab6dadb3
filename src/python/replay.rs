//! The replay, for the command line: what a file holds as a `Program`, and a `Runner` for one allocator.
//!
//! Nothing here is for other programs: the names are private to the package, and may change.

use core::ops::ControlFlow;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::{class, figures};
use crate::replay::{
    CallTrace, Competitor, Error, Link, Options, Phase, Plan, Program, Progress, ReadOptions, Recording, Rule, Runner,
    Setup, Trace, convert_recording, recording_bytes, recording_header,
};

const NANOSECONDS_PER_MILLISECOND: f64 = 1e6;
const NANOSECONDS_PER_SECOND: f64 = 1e9;

/// Adds the replay to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    class::add(module, c"load", &wrap_pyfunction!(load, module)?)?;
    class::add(module, c"begin_recording", &wrap_pyfunction!(begin_recording, module)?)?;
    class::add(module, c"end_recording", &wrap_pyfunction!(end_recording, module)?)?;
    let recorder = match RECORDER {
        Some(library) => PyBytes::new_with(module.py(), library.len(), |bytes| {
            bytes.copy_from_slice(library);
            Ok(())
        })?
        .into_any(),
        None => module.py().None().into_bound(module.py()),
    };
    class::add(module, c"recorder", &recorder)?;
    module.add_class::<ReplayProgram>()?;
    module.add_class::<ReplayRunner>()
}

/// What a call from Python watches while it works without the interpreter's lock: signals, and who is told how far it
/// is.
struct Watch<'a> {
    progress: Option<&'a Py<PyAny>>,
    raised: Option<PyErr>,
}

impl<'a> Watch<'a> {
    fn new(progress: Option<&'a Py<PyAny>>) -> Self {
        Self { progress, raised: None }
    }

    fn tick(&mut self, phase: Phase, done: u64, total: u64) -> ControlFlow<()> {
        let call = |py: Python<'_>| {
            py.check_signals()?;
            match self.progress {
                Some(progress) => progress.call1(py, (phase.name(), done, total)).map(drop),
                None => Ok(()),
            }
        };
        match Python::attach(call) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.raised = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// Works without the lock; what the one who is told raised comes before what the work says.
    fn run<T: Send>(
        mut self,
        py: Python<'_>,
        file: Option<&Path>,
        work: impl FnOnce(&mut Progress<'_>) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let watch = &mut self;
        let result = py.detach(|| work(&mut |phase, done, total| watch.tick(phase, done, total)));
        match (self.raised, result) {
            (Some(raised), _) => Err(raised),
            (None, result) => result.map_err(|error| exception(file, &error)),
        }
    }
}

/// Read a capture or a trace and lay out its replay; see docs/replay.md.
///
/// `fd` is read instead of the file where it is given, and stays open. `progress(phase, done, total)` is called every
/// few milliseconds (a total of 0: not known); what it raises ends the work. Returns the program and what the file
/// holds.
#[pyfunction]
#[pyo3(signature = (file, *, fd=None, strict=false, depth=None, delay_ms=None, link=None, copies=1, progress=None))]
#[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
fn load<'py>(
    py: Python<'py>,
    file: PathBuf,
    fd: Option<i32>,
    strict: bool,
    depth: Option<u32>,
    delay_ms: Option<f64>,
    link: Option<PathBuf>,
    copies: u32,
    progress: Option<Py<PyAny>>,
) -> PyResult<(ReplayProgram, Bound<'py, PyDict>)> {
    let progress = progress.as_ref();
    let ruled = depth.is_some() || delay_ms.is_some() || link.is_some();
    let rule = match (depth, delay_ms, link) {
        (None, None, None) => None,
        (Some(depth), None, None) => Some(Rule::Depth(depth)),
        (None, Some(delay_ms), None) => Some(Rule::Delay(nanoseconds(delay_ms)?)),
        (None, None, Some(link)) => {
            Some(Rule::Link(Watch::new(progress).run(py, Some(&link), |tick| Link::load(&link, tick))?))
        }
        _ => return Err(PyValueError::new_err("only one of depth, delay_ms and link may be given")),
    };
    let open = fd.map(|fd| duplicate(py, fd)).transpose()?;
    let options = Options { rule, copies };
    let (loaded, program) = Watch::new(progress).run(py, Some(&file), |tick| {
        let reading = ReadOptions { strict };
        let recording = match open {
            Some(open) => Recording::from_file(open, &file, reading, tick),
            None => Recording::load(&file, reading, tick),
        };
        match recording? {
            Recording::Packets(trace) => {
                let plan = Plan::new(&trace, &options, tick)?;
                let facts = Facts::Packets(Summary::of(&trace), plan.without_stream());
                Ok((facts, Program::from(plan)))
            }
            Recording::Calls(_) if ruled || copies > 1 => Err(Error::Option {
                name: "depth, delay, link and copies",
                allowed: "left out for a call trace, which says itself when blocks are freed",
            }),
            Recording::Calls(trace) => {
                let facts = Facts::Calls(trace.without_calls());
                Ok((facts, Program::from(trace)))
            }
        }
    })?;
    let facts = PyDict::new(py);
    match loaded {
        Facts::Packets(summary, plan) => describe_packets(&facts, &summary, &plan)?,
        Facts::Calls(trace) => describe_calls(&facts, &trace)?,
    }
    facts.set_item("steps", program.len())?;
    Ok((ReplayProgram(program), facts))
}

/// What is said of a trace once its packets are gone.
struct Summary {
    format: &'static str,
    duration: u64,
    notes: Vec<String>,
}

impl Summary {
    fn of(trace: &Trace) -> Self {
        Self {
            format: trace.format().name(),
            duration: trace.duration(),
            notes: trace.notes().iter().map(ToString::to_string).collect(),
        }
    }
}

enum Facts {
    Packets(Summary, Plan),
    Calls(CallTrace),
}

fn nanoseconds(milliseconds: f64) -> PyResult<u64> {
    if milliseconds.is_finite() && milliseconds >= 0.0 {
        // Saturates: for ever is long enough.
        Ok((milliseconds * NANOSECONDS_PER_MILLISECOND) as u64)
    } else {
        Err(PyValueError::new_err("delay_ms must be 0 or more"))
    }
}

/// A file of our own for a descriptor of the caller's.
#[cfg(unix)]
fn duplicate(_: Python<'_>, fd: i32) -> PyResult<File> {
    use std::os::fd::BorrowedFd;
    if fd < 0 {
        return Err(PyValueError::new_err("fd must be 0 or more"));
    }
    // SAFETY: only its number is used, for one call, which fails if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    Ok(borrowed.try_clone_to_owned()?.into())
}

/// A file of our own for a descriptor of the caller's, which is a number of the C library that the interpreter runs on.
#[cfg(windows)]
fn duplicate(py: Python<'_>, fd: i32) -> PyResult<File> {
    use std::os::windows::io::BorrowedHandle;
    if fd < 0 {
        return Err(PyValueError::new_err("fd must be 0 or more"));
    }
    let handle: isize = py.import("msvcrt")?.call_method1("get_osfhandle", (fd,))?.extract()?;
    // SAFETY: a handle is a number, which is used for one call that fails if it is not open.
    let borrowed = unsafe { BorrowedHandle::borrow_raw(core::ptr::without_provenance_mut(handle as usize)) };
    Ok(borrowed.try_clone_to_owned()?.into())
}

#[cfg(not(any(unix, windows)))]
fn duplicate(_: Python<'_>, _: i32) -> PyResult<File> {
    Err(PyValueError::new_err("fd is for Unix and Windows"))
}

/// The exception for an error; its message names the file where there is one.
fn exception(file: Option<&Path>, error: &Error) -> PyErr {
    let named = || match file {
        Some(file) => format!("{}: {error}", file.display()),
        None => error.to_string(),
    };
    match error {
        Error::OutOfMemory { .. } | Error::NoMemory { .. } => PyMemoryError::new_err(named()),
        Error::Corrupted { .. } | Error::Integrity { .. } => PyRuntimeError::new_err(named()),
        Error::TooManyPackets { .. } | Error::TooManyBytes { .. } => PyValueError::new_err(named()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

fn describe_packets(facts: &Bound<'_, PyDict>, summary: &Summary, plan: &Plan) -> PyResult<()> {
    let lifetimes = PyDict::new(facts.py());
    lifetimes.set_item("recorded", plan.counts.recorded)?;
    lifetimes.set_item("forever", plan.counts.forever)?;
    lifetimes.set_item("ruled", plan.counts.ruled)?;
    let (rule, depth, delay_ms, link) = match &plan.rule {
        Rule::Departure => ("departure", None, None, None),
        Rule::Depth(depth) => ("depth", Some(*depth), None, None),
        Rule::Delay(delay) => ("delay", None, Some(*delay as f64 / NANOSECONDS_PER_MILLISECOND), None),
        // A name that is no text goes through as Python keeps such names.
        Rule::Link(link) => ("link", None, None, Some(link.path().as_os_str().to_owned())),
    };
    lifetimes.set_item("rule", rule)?;
    lifetimes.set_item("depth", depth)?;
    lifetimes.set_item("delay_ms", delay_ms)?;
    lifetimes.set_item("link", link)?;

    facts.set_item("format", summary.format)?;
    facts.set_item("notes", &summary.notes)?;
    facts.set_item("seconds", summary.duration as f64 / NANOSECONDS_PER_SECOND)?;
    facts.set_item("copies", plan.copies)?;
    facts.set_item("packets", plan.packets)?;
    facts.set_item("calls", None::<u64>)?;
    facts.set_item("bytes", plan.bytes)?;
    facts.set_item("smallest", plan.smallest)?;
    facts.set_item("largest", plan.largest)?;
    facts.set_item("lifetimes", lifetimes)?;
    facts.set_item("peak_packets", plan.peak_packets)?;
    facts.set_item("peak_bytes", plan.peak_bytes)
}

fn describe_calls(facts: &Bound<'_, PyDict>, trace: &CallTrace) -> PyResult<()> {
    let calls = PyDict::new(facts.py());
    calls.set_item("new", trace.counts.new)?;
    calls.set_item("allocate", trace.counts.allocate)?;
    calls.set_item("free", trace.counts.free)?;
    calls.set_item("reallocate_copy", trace.counts.reallocate_copy)?;
    calls.set_item("reallocate_discard", trace.counts.reallocate_discard)?;
    facts.set_item("format", "calls")?;
    facts.set_item("notes", Vec::<String>::new())?;
    facts.set_item("seconds", None::<f64>)?;
    facts.set_item("copies", 1)?;
    facts.set_item("packets", None::<u64>)?;
    facts.set_item("calls", calls)?;
    facts.set_item("bytes", trace.bytes)?;
    facts.set_item("smallest", trace.smallest)?;
    facts.set_item("largest", trace.largest)?;
    facts.set_item("lifetimes", None::<u64>)?;
    facts.set_item("peak_packets", trace.slots)?;
    facts.set_item("peak_bytes", trace.peak_bytes)
}

/// The library that `pktalloc record` preloads, where there is one for the system.
#[cfg(pktalloc_recorder)]
const RECORDER: Option<&[u8]> = Some(include_bytes!(env!("PKTALLOC_RECORDER")));
#[cfg(not(pktalloc_recorder))]
const RECORDER: Option<&[u8]> = None;

/// Make an empty file one that the recorder can write to: `slots` calls, of blocks of `least` to `most` bytes.
#[pyfunction]
fn begin_recording(py: Python<'_>, fd: i32, slots: u64, least: u64, most: u64) -> PyResult<()> {
    let mut file = duplicate(py, fd)?;
    file.write_all(&recording_header(slots, least, most))?;
    Ok(file.set_len(recording_bytes(slots))?)
}

/// Write what was recorded in a file as a call trace, compressed with gzip or plain; what it holds, and what was left
/// out.
#[pyfunction]
fn end_recording<'py>(py: Python<'py>, fd: i32, out: i32, compress: bool) -> PyResult<Bound<'py, PyDict>> {
    let (mut file, out) = (duplicate(py, fd)?, duplicate(py, out)?);
    let found = py.detach(|| {
        file.rewind()?;
        let mut input = BufReader::new(file);
        if compress {
            let mut encoder = GzEncoder::new(BufWriter::new(out), Compression::default());
            let found = convert_recording(&mut input, BufWriter::new(&mut encoder))?;
            encoder.finish()?.flush()?;
            Ok(found)
        } else {
            convert_recording(&mut input, BufWriter::new(out))
        }
    });
    let found = found.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::OutOfMemory => PyMemoryError::new_err("there is no memory for the recording"),
        _ => error.into(),
    })?;
    let result = PyDict::new(py);
    for (name, count) in [
        ("processes", found.processes),
        ("allocated", found.allocated),
        ("freed", found.freed),
        ("resized", found.resized),
        ("smaller", found.smaller),
        ("larger", found.larger),
        ("unknown", found.unknown),
        ("over_limit", found.over_limit),
        ("unfinished", found.unfinished),
    ] {
        result.set_item(name, count)?;
    }
    Ok(result)
}

/// A program of allocations and frees.
#[pyclass(frozen, module = "pktalloc._pktalloc", name = "ReplayProgram")]
struct ReplayProgram(Program);

#[pymethods]
impl ReplayProgram {
    /// Packets, or calls about blocks: what a time is divided by.
    #[getter]
    fn units(&self) -> u64 {
        self.0.units()
    }

    /// Write it to a descriptor, for another process.
    fn write(&self, py: Python<'_>, fd: i32) -> PyResult<()> {
        let file = duplicate(py, fd)?;
        Ok(py.detach(|| {
            let mut out = BufWriter::new(file);
            self.0.write(&mut out)?;
            out.flush()
        })?)
    }

    /// Read what `write` wrote.
    #[staticmethod]
    fn read(py: Python<'_>, fd: i32) -> PyResult<Self> {
        let file = duplicate(py, fd)?;
        let program = py.detach(|| Program::read(&mut BufReader::new(file)));
        program.map(Self).map_err(|error| exception(None, &error))
    }

    /// How many steps there are.
    fn __len__(&self) -> usize {
        self.0.len()
    }

    /// The first steps, and frees of what is live then.
    fn head(&self, py: Python<'_>, steps: usize) -> PyResult<Self> {
        py.detach(|| self.0.head(steps)).map(Self).map_err(|error| exception(None, &error))
    }

    /// Sizes (upper ends of ranges, with counts), lifetimes (by doublings of later allocations) and live bytes (after
    /// numbers of steps).
    fn profile<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let profile = py.detach(|| self.0.profile()).map_err(|error| exception(None, &error))?;
        let result = PyDict::new(py);
        result.set_item("sizes", profile.sizes)?;
        result.set_item("lifetimes", profile.lifetimes)?;
        result.set_item("live", profile.live)?;
        Ok(result)
    }
}

/// One allocator that runs a program.
#[pyclass(unsendable, module = "pktalloc._pktalloc", name = "ReplayRunner")]
struct ReplayRunner {
    /// Before the program, which it borrows.
    runner: Option<Runner<'static>>,
    program: Py<ReplayProgram>,
}

impl ReplayRunner {
    fn run<T: Send>(
        &mut self,
        py: Python<'_>,
        progress: Option<&Py<PyAny>>,
        work: impl FnOnce(&mut Runner<'static>, &mut Progress<'_>) -> Result<T, Error> + Send,
    ) -> PyResult<T> {
        let runner = OneThread(self.runner.as_mut().expect("there until it is dropped"));
        Watch::new(progress).run(py, None, move |tick| {
            let OneThread(runner) = { runner };
            work(runner, tick)
        })
    }
}

/// What stays on its thread although the interpreter's lock is let go.
struct OneThread<T>(T);

// SAFETY: `Python::detach` calls its closure on the same thread.
unsafe impl<T> Send for OneThread<T> {}

#[pymethods]
impl ReplayRunner {
    /// `allocator` is 'pktalloc', 'malloc', 'loop' or the name of a shared library; the rest are settings of pktalloc.
    #[new]
    #[pyo3(signature = (program, allocator, *, alignment=None, window_bytes=None, preallocated_windows=None, keep_empty_windows=None,
        memory_limit=None, zero=false, check=false, huge_pages=false))]
    #[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
    fn new(
        program: Py<ReplayProgram>,
        allocator: OsString,
        alignment: Option<usize>,
        window_bytes: Option<usize>,
        preallocated_windows: Option<usize>,
        keep_empty_windows: Option<usize>,
        memory_limit: Option<u64>,
        zero: bool,
        check: bool,
        huge_pages: bool,
    ) -> PyResult<Self> {
        let defaults = Setup::default();
        let competitor = match allocator.to_str() {
            Some("pktalloc") => Competitor::Pktalloc(Setup {
                alignment: alignment.unwrap_or(defaults.alignment),
                window_bytes: window_bytes.unwrap_or(defaults.window_bytes),
                preallocated_windows,
                keep_empty_windows,
                memory_limit,
                zero,
                check,
                huge_pages,
            }),
            Some("malloc") => Competitor::Malloc,
            Some("loop") => Competitor::Loop,
            _ => Competitor::Library(PathBuf::from(allocator)),
        };
        // SAFETY: the program is frozen and outlives the runner, which is dropped first.
        let borrowed: &'static Program = unsafe { &*core::ptr::from_ref(&program.get().0) };
        let runner = Runner::new(borrowed, &competitor).map_err(|error| exception(None, &error))?;
        Ok(Self { runner: Some(runner), program })
    }

    /// Run the program once over all bytes; what was found.
    #[pyo3(signature = (progress=None))]
    fn first_pass<'py>(&mut self, py: Python<'py>, progress: Option<Py<PyAny>>) -> PyResult<Bound<'py, PyDict>> {
        let found = self.run(py, progress.as_ref(), |runner, tick| runner.first_pass(tick))?;
        let result = PyDict::new(py);
        result.set_item("held_bytes", found.held_bytes)?;
        result.set_item("resident_bytes", found.resident_bytes)?;
        result.set_item("longest_ns", u64::try_from(found.longest.as_nanos()).unwrap_or(u64::MAX))?;
        result.set_item("longest_call", found.longest_call)?;
        let moments: Vec<_> = found
            .moments
            .iter()
            .map(|moment| (moment.step, moment.live_bytes, moment.held_bytes, moment.resident_bytes))
            .collect();
        result.set_item("moments", moments)?;
        Ok(result)
    }

    /// Begin again with a new allocator.
    fn begin(&mut self, py: Python<'_>) -> PyResult<()> {
        self.run(py, None, |runner, _| runner.begin())
    }

    /// How often the program must run for a round to be long enough.
    fn passes_per_round(&mut self, py: Python<'_>) -> PyResult<u32> {
        self.run(py, None, |runner, tick| runner.passes_per_round(&mut ticking(tick)))
    }

    /// Run the program as often as told; seconds.
    fn round(&mut self, py: Python<'_>, passes: u32) -> PyResult<f64> {
        let time = self.run(py, None, |runner, tick| runner.round(passes, &mut ticking(tick)))?;
        Ok(time.as_secs_f64())
    }

    /// The windows when the most bytes are live, at most so many of them, and how many there are.
    #[pyo3(signature = (most=None))]
    fn windows_at_peak<'py>(&mut self, py: Python<'py>, most: Option<usize>) -> PyResult<(Bound<'py, PyAny>, usize)> {
        let mut windows = self.run(py, None, |runner, tick| runner.windows_at_peak(&mut ticking(tick)))?;
        let count = windows.len();
        windows.truncate(most.unwrap_or(count));
        Ok((figures::windows(py, windows)?, count))
    }
}

impl Drop for ReplayRunner {
    fn drop(&mut self) {
        self.runner = None;
        let _ = &self.program;
    }
}

/// A tick of a round that looks for signals.
fn ticking(progress: &mut Progress<'_>) -> impl FnMut() -> Result<(), Error> {
    move || match progress(Phase::Timing, 0, 0) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Interrupted),
    }
}

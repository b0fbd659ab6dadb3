//! The replay, for the command line: one function that takes a file's name and returns a dictionary.

use core::ops::ControlFlow;
use std::path::{Path, PathBuf};

use pyo3::exceptions::{PyMemoryError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::figures;
use crate::replay::{Error, Link, Options, Phase, Plan, Progress, Report, Rule, Spread, Trace};
use crate::replay::{replay as run, windows_at_peak as run_to_peak};

const NANOSECONDS_PER_MILLISECOND: f64 = 1e6;
const NANOSECONDS_PER_SECOND: f64 = 1e9;

/// Adds the replay to the module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(replay, module)?)
}

/// Replay a capture or a trace against this allocator and the system's malloc; see docs/replay.md.
///
/// `progress(phase, done, total)` is called every few milliseconds (a total of 0: not known); what it raises ends the
/// replay. With `windows_at_peak` the result has the windows as they are when the most bytes are held.
#[pyfunction]
#[pyo3(signature = (file, *, depth=None, delay_ms=None, link=None, copies=1, rounds=None, progress=None, windows_at_peak=false))]
#[expect(clippy::too_many_arguments, reason = "they are keywords to Python")]
fn replay<'py>(
    py: Python<'py>,
    file: PathBuf,
    depth: Option<u32>,
    delay_ms: Option<f64>,
    link: Option<PathBuf>,
    copies: u32,
    rounds: Option<u32>,
    progress: Option<Py<PyAny>>,
    windows_at_peak: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let rule = match (depth, delay_ms, link) {
        (None, None, None) => None,
        (Some(depth), None, None) => Some(Rule::Depth(depth)),
        (None, Some(delay_ms), None) => Some(Rule::Delay(nanoseconds(delay_ms)?)),
        (None, None, Some(link)) => Some(Rule::Link(Link::load(&link).map_err(|error| exception(&link, &error))?)),
        _ => {
            return Err(PyValueError::new_err("only one of depth, delay_ms and link may be given"));
        }
    };
    let options = Options { rule, copies };
    let mut raised = None;
    let result = py.detach(|| {
        let mut tick = |phase: Phase, done, total| {
            let call = |py: Python<'_>| {
                py.check_signals()?;
                match &progress {
                    Some(progress) => progress.call1(py, (phase.name(), done, total)).map(drop),
                    None => Ok(()),
                }
            };
            match Python::attach(call) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    raised = Some(error);
                    ControlFlow::Break(())
                }
            }
        };
        let (trace, plan, report) = load_and_run(&file, &options, rounds, &mut tick)?;
        let windows = if windows_at_peak { Some(run_to_peak(&plan)?) } else { None };
        Ok((trace, plan, report, windows))
    });
    match (result, raised) {
        (_, Some(raised)) => Err(raised),
        (Err(error), None) => Err(exception(&file, &error)),
        (Ok((trace, plan, report, windows)), None) => {
            let result = dictionary(py, &file, &trace, &plan, &report)?;
            if let Some(windows) = windows {
                result.set_item("windows_at_peak", figures::windows(py, windows)?)?;
            }
            Ok(result)
        }
    }
}

fn load_and_run(
    file: &Path,
    options: &Options,
    rounds: Option<u32>,
    progress: &mut Progress<'_>,
) -> Result<(Trace, Plan, Report), Error> {
    let trace = Trace::load(file, progress)?;
    let plan = Plan::new(&trace, options, progress)?;
    let report = run(&plan, rounds, progress)?;
    Ok((trace, plan, report))
}

fn nanoseconds(milliseconds: f64) -> PyResult<u64> {
    if milliseconds.is_finite() && milliseconds >= 0.0 {
        // Saturates: for ever is long enough.
        Ok((milliseconds * NANOSECONDS_PER_MILLISECOND) as u64)
    } else {
        Err(PyValueError::new_err("delay_ms must be 0 or more"))
    }
}

/// The exception for an error; its message names the file in any case.
fn exception(file: &Path, error: &Error) -> PyErr {
    let named = || format!("{}: {error}", file.display());
    match error {
        Error::OutOfMemory { .. } => PyMemoryError::new_err(named()),
        Error::Corrupted { .. } | Error::Integrity { .. } => PyRuntimeError::new_err(named()),
        Error::TooManyPackets { .. } | Error::TooManyBytes { .. } => PyValueError::new_err(named()),
        _ => PyValueError::new_err(error.to_string()),
    }
}

/// What a replay found, in the words of docs/replay.md.
fn dictionary<'py>(
    py: Python<'py>,
    file: &Path,
    trace: &Trace,
    plan: &Plan,
    report: &Report,
) -> PyResult<Bound<'py, PyDict>> {
    let lifetimes = PyDict::new(py);
    lifetimes.set_item("recorded", plan.counts.recorded)?;
    lifetimes.set_item("forever", plan.counts.forever)?;
    lifetimes.set_item("ruled", plan.counts.ruled)?;
    let (rule, depth, delay_ms, link) = match &plan.rule {
        Rule::Departure => ("departure", None, None, None),
        Rule::Depth(depth) => ("depth", Some(*depth), None, None),
        Rule::Delay(delay) => ("delay", None, Some(*delay as f64 / NANOSECONDS_PER_MILLISECOND), None),
        Rule::Link(link) => ("link", None, None, Some(link.path().display().to_string())),
    };
    lifetimes.set_item("rule", rule)?;
    lifetimes.set_item("depth", depth)?;
    lifetimes.set_item("delay_ms", delay_ms)?;
    lifetimes.set_item("link", link)?;

    let times = PyDict::new(py);
    times.set_item("pktalloc", spread(py, report.ours)?)?;
    times.set_item("malloc", spread(py, report.malloc)?)?;
    times.set_item("loop", spread(py, report.bare_loop)?)?;

    let memory = PyDict::new(py);
    memory.set_item("held_bytes", report.held_bytes)?;
    memory.set_item("live_bytes", report.live_bytes)?;
    memory.set_item("held_over_live", report.held_over_live())?;

    let result = PyDict::new(py);
    result.set_item("file", file.display().to_string())?;
    result.set_item("format", trace.format().name())?;
    result.set_item("seconds", trace.duration() as f64 / NANOSECONDS_PER_SECOND)?;
    result.set_item("copies", plan.copies)?;
    result.set_item("packets", plan.packets)?;
    result.set_item("bytes", plan.bytes)?;
    result.set_item("smallest", plan.smallest)?;
    result.set_item("largest", plan.largest)?;
    result.set_item("lifetimes", lifetimes)?;
    result.set_item("peak_packets", plan.peak_packets)?;
    result.set_item("verified_packets", plan.packets)?;
    result.set_item("rounds", report.rounds)?;
    result.set_item("passes_per_round", report.passes)?;
    result.set_item("ns_per_packet", times)?;
    result.set_item("speedup", spread(py, report.speedup)?)?;
    result.set_item("memory", memory)?;
    result.set_item("winner", report.winner().name())?;
    result.set_item("verdict", report.to_string())?;
    Ok(result)
}

fn spread(py: Python<'_>, spread: Spread) -> PyResult<Bound<'_, PyDict>> {
    let result = PyDict::new(py);
    result.set_item("median", spread.median)?;
    result.set_item("low", spread.low)?;
    result.set_item("high", spread.high)?;
    Ok(result)
}

//! Pictures of windows: which units are in use, which are holes.

use core::fmt::Write;
use core::ops::Range;

use crate::{Occupancy, WindowState};

/// Characters that a window takes on a terminal.
const COLUMNS: usize = 64;
/// From no unit in use to all of them.
const SHADES: [char; 5] = [' ', '░', '▒', '▓', '█'];

/// The name of a window's state.
pub(super) fn state_name(state: WindowState) -> &'static str {
    match state {
        WindowState::Current => "current",
        WindowState::Full => "full",
        WindowState::Reusable => "reusable",
        WindowState::Empty => "empty",
    }
}

/// How many units of `part` lie in `runs`, which are in ascending order.
fn covered(runs: &[Range<usize>], part: &Range<usize>) -> usize {
    let from = runs.partition_point(|run| run.end <= part.start);
    let overlapping = runs[from..].iter().take_while(|run| run.start < part.end);
    overlapping.map(|run| run.end.min(part.end) - run.start.max(part.start)).sum()
}

/// A line for each window: its address, its units from left to right, and its state.
pub(super) fn text<'a>(windows: impl Iterator<Item = &'a Occupancy>) -> String {
    let mut out = String::new();
    for window in windows {
        if !out.is_empty() {
            out.push('\n');
        }
        let _ = write!(out, "{:#014x} │", window.address);
        for column in 0..COLUMNS {
            let part = column * window.units / COLUMNS..(column + 1) * window.units / COLUMNS;
            let live = covered(&window.blocks, &part);
            // A cell with a single unit in use is not shown as empty, nor one with a single hole as full.
            let shade = match part.len() - live {
                0 => SHADES.len() - 1,
                _ if live == 0 => 0,
                _ => 1 + live * (SHADES.len() - 2) / part.len(),
            };
            out.push(SHADES[shade]);
        }
        let _ = write!(out, "│ {}", state_name(window.state));
    }
    out
}

/// Height of a window's row, and its distance from the next, in the units of the drawing.
const ROW: usize = 14;
const ROW_STEP: usize = 20;
/// Where the rows begin: beside the addresses, below the legend.
const LEFT: usize = 190;
const TOP: usize = 34;
/// Length of a row.
const LENGTH: usize = 1024;

/// A drawing: windows as rows, blocks as runs in two alternating colours, holes as what is left of the row.
pub(super) fn svg<'a>(windows: impl ExactSizeIterator<Item = &'a Occupancy>) -> String {
    let (width, height) = (LEFT + LENGTH + 10, TOP + windows.len() * ROW_STEP + 6);
    let mut out = String::new();
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"monospace\" font-size=\"11\">\n\
         <style>.h{{fill:#eceff1}}.a{{fill:#1565c0}}.b{{fill:#64b5f6}}.k{{fill:#78909c}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (place, (class, label)) in
        [("a", "block"), ("b", "next block"), ("h", "hole"), ("k", "bookkeeping")].into_iter().enumerate()
    {
        let x = LEFT + place * 110;
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"8\" width=\"12\" height=\"12\"/><text x=\"{}\" y=\"18\">{label}</text>",
            x + 18
        );
    }
    for (row, window) in windows.enumerate() {
        let y = TOP + row * ROW_STEP;
        let (units, state) = (window.units, state_name(window.state));
        let _ = write!(
            out,
            "<text x=\"6\" y=\"{}\">{:#014x} {state}</text>\n\
             <svg x=\"{LEFT}\" y=\"{y}\" width=\"{LENGTH}\" height=\"{ROW}\" viewBox=\"0 0 {units} 1\" \
             preserveAspectRatio=\"none\"><title>{} of {units} units in {} blocks</title>\
             <path class=\"h\" d=\"{}\"/><path class=\"k\" d=\"{}\"/>",
            y + 11,
            window.address,
            window.live_units,
            window.blocks.len(),
            run(&(0..units)),
            run(&window.bookkeeping),
        );
        for (first, class) in ["a", "b"].into_iter().enumerate() {
            let blocks: String = window.blocks.iter().skip(first).step_by(2).map(run).collect();
            if !blocks.is_empty() {
                let _ = write!(out, "<path class=\"{class}\" d=\"{blocks}\"/>");
            }
        }
        out.push_str("</svg>\n");
    }
    out.push_str("</svg>\n");
    out
}

/// The outline of a run of units.
fn run(units: &Range<usize>) -> String {
    format!("M{} 0h{}v1h-{}z", units.start, units.len(), units.len())
}

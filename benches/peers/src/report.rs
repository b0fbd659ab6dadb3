//! Figures as a person reads them.

use std::fmt::Write;

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::matrix::Row;
use crate::memory::{Question, Weight};
use crate::names::{Name, Role};
use crate::targets::Target;

/// The matrix: one line for each cell, nanoseconds per pair. The fastest peer of a cell is marked. The spread is the
/// distance of the quartiles, of the subject that spread the most.
pub(crate) fn table(rows: &[Row]) -> String {
    let subjects: Vec<Name> =
        Name::value_variants().iter().copied().filter(|&name| rows.iter().any(|row| row.get(name).is_some())).collect();
    let mut text = format!("{:<56}", "ns per pair (median)");
    for name in &subjects {
        let _ = write!(text, " {:>8}", short(*name));
    }
    text.push_str("   spread\n");
    for row in rows {
        let _ = write!(text, "{:<56}", row.cell);
        let fastest = fastest_peer(row).map(|(name, _)| name);
        for &name in &subjects {
            let mark = if Some(name) == fastest { "*" } else { "" };
            let figure = row.get(name).map_or(String::new(), |figure| format!("{mark}{:.1}", figure.median()));
            let _ = write!(text, " {figure:>8}");
        }
        let spread = row.figures.iter().map(|(_, figure)| figure.spread() / figure.median()).fold(0.0, f64::max);
        let _ = writeln!(text, "   {:4.0} %", 100.0 * spread);
    }
    text
}

/// The peer that took least.
fn fastest_peer(row: &Row) -> Option<(Name, f64)> {
    let peers = row.figures.iter().filter(|(name, _)| name.role() == Role::Peer);
    peers.map(|(name, figure)| (*name, figure.median())).min_by(|(_, a), (_, b)| a.total_cmp(b))
}

/// What each subject holds at most, and what it leaves: resident bytes, and those it says it holds, in KiB.
pub(crate) fn weights(weights: &[(Question, Name, Weight)]) -> String {
    let mut text = format!(
        "{:<48} {:<13} {:>9} {:>9} {:>9} {:>6} {:>9} {:>9} {:>9} {:>6}\n",
        "memory, KiB", "", "most live", "held", "resident", "/live", "in the end", "held", "resident", "/live"
    );
    let kib = |bytes: Option<u64>| bytes.map_or(String::new(), |bytes| (bytes >> 10).to_string());
    let ratio = |bytes: Option<u64>, live: u64| match bytes {
        Some(bytes) if live > 0 => format!("{:.2}", bytes as f64 / live as f64),
        _ => String::new(),
    };
    for (question, name, weight) in weights {
        let &Weight { live, peak_live, allocated, peak_allocated, resident, peak_resident, .. } = weight;
        let _ = writeln!(
            text,
            "{:<48} {name:<13} {:>9} {:>9} {:>9} {:>6} {:>10} {:>9} {:>9} {:>6}",
            question.to_string(),
            kib(Some(peak_live)),
            kib(peak_allocated),
            kib(peak_resident),
            ratio(peak_allocated.or(peak_resident), peak_live),
            kib(Some(live)),
            kib(allocated),
            kib(Some(resident)),
            ratio(Some(resident), live),
        );
    }
    text
}

/// All figures.
pub(crate) fn json(rows: &[Row], weights: &[(Question, Name, Weight)], targets: &[Target]) -> Value {
    let figures = rows.iter().flat_map(|row| {
        row.figures.iter().map(|(name, figure)| {
            json!({
                "cell": row.cell.to_string(), "subject": name.to_string(),
                "median_ns": figure.median(), "quartile_distance_ns": figure.spread(),
            })
        })
    });
    let weights = weights.iter().map(|(question, name, weight)| {
        json!({
            "question": question.to_string(), "subject": name.to_string(), "live_bytes": weight.live,
            "allocated_bytes": weight.allocated, "resident_bytes": weight.resident, "peak_live_bytes": weight.peak_live,
            "peak_allocated_bytes": weight.peak_allocated, "peak_resident_bytes": weight.peak_resident,
        })
    });
    let targets = targets.iter().map(|target| {
        let case = |case: &crate::targets::Case| json!({ "case": case.name, "ratio": case.ratio });
        json!({
            "target": target.name, "limit": target.limit, "met": target.misses().next().is_none(),
            "cases": target.cases.iter().map(case).collect::<Vec<_>>(),
        })
    });
    json!({
        "figures": figures.collect::<Vec<_>>(),
        "weights": weights.collect::<Vec<_>>(),
        "targets": targets.collect::<Vec<_>>(),
    })
}

/// A name of at most 8 letters, to head a column.
fn short(name: Name) -> &'static str {
    match name {
        Name::Pktalloc => "pktalloc",
        Name::PktallocKept => "pk kept",
        Name::Empty => "empty",
        Name::Floor => "floor",
        Name::Malloc => "malloc",
        Name::Jemalloc => "jemalloc",
        Name::JemallocBest => "je best",
        Name::Mimalloc => "mimalloc",
        Name::MimallocHeap => "mi heap",
        Name::Snmalloc => "snmalloc",
        Name::Rpmalloc => "rpmalloc",
        Name::RpmallocHeap => "rp heap",
        Name::Tcmalloc => "tcmalloc",
        Name::Rlsf => "rlsf",
        Name::Pool => "Vec pool",
        Name::Bytes => "BytesMut",
    }
}

//! Figures as a person reads them.

use std::fmt::Write;

use crate::matrix::Row;
use crate::names::{Name, Role};
use clap::ValueEnum;

/// The matrix: one line for each cell, nanoseconds per pair. The fastest peer of a cell is marked.
pub(crate) fn table(rows: &[Row]) -> String {
    let subjects: Vec<Name> = Name::value_variants()
        .iter()
        .copied()
        .filter(|&name| rows.iter().any(|row| row.get(name).is_some()))
        .collect();
    let mut text = format!("{:<34}", "ns per pair (median)");
    for name in &subjects {
        let _ = write!(text, " {:>8}", short(*name));
    }
    text.push_str("   spread\n");
    for row in rows {
        let _ = write!(text, "{:<34}", row.cell);
        let fastest = fastest_peer(row).map(|(name, _)| name);
        for &name in &subjects {
            let mark = if Some(name) == fastest { "*" } else { "" };
            let figure = row.get(name).map_or(String::new(), |figure| format!("{mark}{:.1}", figure.median));
            let _ = write!(text, " {figure:>8}");
        }
        let spread = row.figures.iter().map(|(_, figure)| figure.spread / figure.median).fold(0.0, f64::max);
        let _ = writeln!(text, "   {:4.0} %", 100.0 * spread);
    }
    text
}

/// The peer that took least.
pub(crate) fn fastest_peer(row: &Row) -> Option<(Name, f64)> {
    let peers = row.figures.iter().filter(|(name, _)| name.role() == Role::Peer);
    peers.map(|&(name, figure)| (name, figure.median)).min_by(|(_, a), (_, b)| a.total_cmp(b))
}

/// A name of at most 8 letters, to head a column.
fn short(name: Name) -> &'static str {
    match name {
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

//! Runs every client in all variants, and prints the table.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::Client;

/// Runs of every variant.
pub(crate) const ROUNDS: usize = 9;

/// Which allocator serves everything but packets, and where packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Variant {
    global: Global,
    pktalloc: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Global {
    System,
    Jemalloc,
    Mimalloc,
}

impl Global {
    const ALL: [Self; 3] = [Self::System, Self::Jemalloc, Self::Mimalloc];

    fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Jemalloc => "jemalloc",
            Self::Mimalloc => "mimalloc",
        }
    }

    /// The binary, which lies beside this one.
    fn program(self) -> Result<PathBuf, String> {
        let name = match self {
            Self::System => "clients",
            Self::Jemalloc => "clients-jemalloc",
            Self::Mimalloc => "clients-mimalloc",
        };
        let this = env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
        let program = this.with_file_name(name);
        if program.exists() {
            Ok(program)
        } else {
            Err(format!("{} is not built: cargo build --bins", program.display()))
        }
    }
}

/// What the runs of a variant came to.
#[derive(Default)]
struct Figures {
    milliseconds: Vec<f64>,
    grown: Vec<f64>,
}

/// Runs the clients, so many rounds each, and prints the table and the verdict.
pub(crate) fn measure(clients: &[Client], rounds: usize) -> Result<(), String> {
    let variants: Vec<Variant> =
        [false, true].into_iter().flat_map(|pktalloc| Global::ALL.map(|global| Variant { global, pktalloc })).collect();
    let (mut rows, mut slower, mut close) = (0, Vec::new(), Vec::new());
    for &client in clients {
        println!("{}: {}", client.name(), client.about());
        let figures = run(client, &variants, rounds)?;
        let own = figures.iter().zip(&variants).filter(|(_, variant)| !variant.pktalloc);
        let fastest = own.map(|(figures, _)| median(&figures.milliseconds)).fold(f64::INFINITY, f64::min);
        println!(
            "  {:<24} {:>10} {:>8} {:>18} {:>12}",
            "packets, all else", "ms (median)", "spread", "of its own memory", "grown, MiB"
        );
        for (index, (variant, row)) in variants.iter().zip(&figures).enumerate() {
            let packets = if variant.pktalloc { "pktalloc" } else { "own" };
            // The same global allocator, the client's own memory.
            let ratios = ratios(&row.milliseconds, &figures[index % Global::ALL.len()].milliseconds);
            let of_own = if variant.pktalloc { format!("{:.3}", median(&ratios)) } else { String::new() };
            println!(
                "  {:<24} {:>10.1} {:>6.1} % {of_own:>18} {:>12.1}",
                format!("{packets}, {}", variant.global.name()),
                median(&row.milliseconds),
                100.0 * spread(&row.milliseconds),
                median(&row.grown) / f64::from(1 << 20),
            );
            if variant.pktalloc {
                rows += 1;
                let which = || {
                    format!(
                        "{} with {} by {:.1} %",
                        client.name(),
                        variant.global.name(),
                        100.0 * (median(&ratios) - 1.0)
                    )
                };
                if quantile(&ratios, 0.25) > 1.0 {
                    slower.push(which());
                } else if median(&ratios) > 1.0 {
                    close.push(which());
                }
            }
        }
        let ours = figures.iter().zip(&variants).filter(|(_, variant)| variant.pktalloc);
        let best = ours.map(|(figures, _)| median(&figures.milliseconds)).fold(f64::INFINITY, f64::min);
        println!("  fastest with pktalloc {best:.1} ms, fastest without {fastest:.1} ms: {:.3}\n", best / fastest);
    }
    let list = |which: &[String]| if which.is_empty() { "none".to_owned() } else { which.join(", ") };
    println!(
        "make bench-clients: {} clients, {rows} comparisons, medians of {rounds} interleaved runs, the same results in all; \
         slower than before in three of four runs: {}; in half of them: {}",
        clients.len(),
        list(&slower),
        list(&close),
    );
    Ok(())
}

/// Runs all variants of a client in turn; each round begins with another. They must give the same result.
fn run(client: Client, variants: &[Variant], rounds: usize) -> Result<Vec<Figures>, String> {
    let mut figures: Vec<Figures> = variants.iter().map(|_| Figures::default()).collect();
    let mut result: Option<String> = None;
    for round in 0..rounds {
        for turn in 0..variants.len() {
            let index = (round + turn) % variants.len();
            let Variant { global, pktalloc } = variants[index];
            let memory = if pktalloc { "pktalloc" } else { "own" };
            let what = format!("{} with {memory} memory and {}", client.name(), global.name());
            let output = Command::new(global.program()?)
                .args(["run", client.name(), memory])
                .output()
                .map_err(|error| format!("{what}: {error}"))?;
            let text = String::from_utf8_lossy(&output.stdout);
            let fields: Vec<&str> = text.split_ascii_whitespace().collect();
            let [sum, nanoseconds, grown] = fields[..] else {
                return Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim_end()));
            };
            let number = |text: &str| text.parse::<f64>().map_err(|error| format!("{what}: {text:?}: {error}"));
            let expected = result.get_or_insert_with(|| sum.to_owned());
            if expected != sum {
                return Err(format!("{what} gives {sum}, and others {expected}"));
            }
            figures[index].milliseconds.push(number(nanoseconds)? / 1e6);
            figures[index].grown.push(number(grown)?);
        }
    }
    Ok(figures)
}

/// The value below which `share` of the values lie.
fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let position = share * (sorted.len() - 1) as f64;
    let (low, high) = (position.floor(), position.ceil());
    sorted[low as usize] + (sorted[high as usize] - sorted[low as usize]) * (position - low)
}

fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The distance of the quartiles, of the median.
fn spread(values: &[f64]) -> f64 {
    (quantile(values, 0.75) - quantile(values, 0.25)) / median(values)
}

/// The ratios of the rounds.
fn ratios(ours: &[f64], theirs: &[f64]) -> Vec<f64> {
    ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()
}

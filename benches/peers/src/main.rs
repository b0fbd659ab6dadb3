//! Measures pktalloc beside other allocators, and says which of its targets it meets.

mod cell;
mod driver;
mod foreign;
mod lane;
mod matrix;
mod names;
mod native;
mod report;
mod subject;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use pktalloc::workload::{Pattern, Sizes};

use crate::cell::Cell;
use crate::matrix::Matrix;
use crate::names::Name;

#[derive(Parser)]
#[command(about, version)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: Run,
}

#[derive(Subcommand)]
enum Command {
    /// One subject in one cell, asked by the parent process
    #[command(hide = true)]
    Lane { subject: Name, cell: Cell },
}

#[derive(clap::Args)]
struct Run {
    /// Packet sizes: uniform, imix or a number of bytes
    #[arg(long, value_delimiter = ',', default_value = "1000,1400,uniform,imix")]
    sizes: Vec<Sizes>,
    /// Patterns
    #[arg(long, value_delimiter = ',', default_value = "fifo,reorder,straggler,sack,burst,random")]
    patterns: Vec<Pattern>,
    /// Depths of the queue
    #[arg(long, value_delimiter = ',', default_value = "64,1024,16384,262144")]
    depths: Vec<u32>,
    /// Whether packets are written
    #[arg(long, value_enum, default_value = "both")]
    touch: Touch,
    /// Subjects; all unless named
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<Name>,
    /// Rounds of each cell
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Touch {
    Untouched,
    Written,
    Both,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Command::Lane { subject, cell }) => lane::serve(subject, cell),
        None => run(arguments.run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(run: Run) -> Result<(), String> {
    let mut cells = Vec::new();
    for written in [false, true] {
        if run.touch == (if written { Touch::Untouched } else { Touch::Written }) {
            continue;
        }
        for &pattern in &run.patterns {
            for sizes in &run.sizes {
                for &depth in &run.depths {
                    cells.push(Cell { pattern, sizes: sizes.clone(), depth, written });
                }
            }
        }
    }
    let subjects = if run.subjects.is_empty() { Name::value_variants().to_vec() } else { run.subjects };
    let mut matrix = Matrix::new(subjects, run.rounds);
    let rows = matrix.measure_all(&cells)?;
    print!("{}", report::table(&rows));
    for (name, reason) in matrix.absent() {
        println!("absent: {name}: {reason}");
    }
    Ok(())
}

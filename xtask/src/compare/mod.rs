//! `cargo xtask compare`: every row on every peer, in one run.
//!
//! Four suites of rows: the C functions, Rust programs (`--front`), whole programs (`--programs`),
//! single calls (`--latency`). Promises that the samples of one row and round lie next to each
//! other in time (interleaved), each in a process of its own, and that the allocator meant is the
//! one that served it. Calls `peers` or `front` (who), `suite` (the order), the suites (`sample`,
//! `programs`, `latency`), `tables`, `plot` and `part` (what is shown and written).

mod crates;
mod figures;
mod front;
mod latency;
mod part;
mod peers;
mod plot;
mod programs;
mod report;
mod sample;
mod suite;
mod tables;

use crate::tools;
use anyhow::{Context, bail};
use part::Part;
use peers::Peer;
use report::Results;
use std::path::{Path, PathBuf};
use suite::Suite;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rows to run, by name (default: all; a wrong name shows them)
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Allocators to run, by name (default: all)
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How often each row runs on each allocator; the median counts (0: with --add only)
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds within the clock for each sample
    #[arg(long, default_value_t = 0.5, conflicts_with = "programs")]
    seconds: f64,
    /// Seconds of idleness before a sample's final memory is read
    #[arg(long, default_value_t = 0.0, conflicts_with_all = ["programs", "latency"])]
    rest: f64,
    /// Fail when rsalloc needs more than so many times the best peer's in the first table
    #[arg(long)]
    limit: Option<f64>,
    /// Add the samples of these files, which --csv wrote of the same build: a run in pieces
    #[arg(long, value_delimiter = ',', value_name = "FILE")]
    add: Vec<PathBuf>,
    /// Write every sample to this file
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Write plots into this folder
    #[arg(long)]
    plots: Option<PathBuf>,
    /// Compare Rust programs on a `#[global_allocator]`, not the C functions
    #[arg(long)]
    front: bool,
    /// Compare whole programs, by LD_PRELOAD
    #[arg(long, conflicts_with = "front")]
    programs: bool,
    /// Compare how long single calls take, and not only on the average
    #[arg(long, conflicts_with_all = ["front", "programs"])]
    latency: bool,
    /// Write tables, samples and plots to docs/benchmarks.md and docs/benchmarks/
    #[arg(long)]
    write: bool,
}

/// Runs the command.
pub fn main(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.rounds == 0 && arguments.add.is_empty() {
        bail!("--rounds 0 measures nothing");
    }
    let peers = if arguments.front {
        front::select(&arguments.peers)?
    } else {
        tools::build_release(&["benches", "alloc-preload"])?;
        peers::select(&arguments.peers)?
    };
    let program = peers.first().context("no allocator")?.program.clone();
    let (rows, seconds) = (&arguments.rows, arguments.seconds);
    if arguments.programs {
        let suite = programs::Programs::new(rows, &peers)?;
        return run(&arguments, suite, peers, &part::PROGRAMS, plot::write);
    }
    if arguments.latency {
        let suite = latency::Latency::new(&program, rows, seconds)?;
        return run(&arguments, suite, peers, &part::LATENCY, latency::draw);
    }
    let suite = sample::Micro::new(&program, rows, seconds, arguments.rest)?;
    let part = if arguments.front { &part::FRONT } else { &part::C };
    run(&arguments, suite, peers, part, plot::write)
}

/// Writes pictures into a folder; their names and captions.
type Draw<S> = fn(&Results<S>, &Path) -> anyhow::Result<Vec<(&'static str, String)>>;

/// Measures, shows the tables, writes what is to be written, and judges.
fn run<S: Suite>(
    arguments: &Arguments,
    mut suite: S,
    peers: Vec<Peer>,
    part: &Part,
    draw: Draw<S::Sample>,
) -> anyhow::Result<()> {
    let mut results = Results::new(suite.rows(), peers);
    suite::measure(&mut suite, arguments.rounds, &mut results)?;
    for file in &arguments.add {
        results.add_csv(file)?;
    }
    let results = &results;
    println!("{}", tables::all(results));
    let docs = tools::root().join("docs");
    if let Some(path) = &arguments.csv {
        results.write_csv(path)?;
    }
    if let Some(folder) = &arguments.plots {
        draw(results, folder)?;
    }
    if arguments.write {
        let folder = part.folder_in(&docs);
        results.write_csv(&folder.join("compare.csv"))?;
        let pictures = draw(results, &folder)?;
        let text = tables::document(results, part, &pictures)?;
        part.write(&docs.join("benchmarks.md"), &text)?;
    }
    results.verdict(arguments.limit)
}

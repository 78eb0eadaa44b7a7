//! `cargo xtask compare`: every row on every peer, in one run.
//!
//! Promises that the samples of one row and round lie next to each other in time (interleaved), each
//! in a process of its own, and that the allocator meant is the one that served it. Calls `peers`
//! or `front` (who), `sample` (one process), `report` (tables), `plot`.

mod crates;
mod front;
pub mod peers;
pub mod plot;
pub mod report;
pub mod sample;

use crate::tools;
use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use report::Results;
use std::path::PathBuf;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Rows to run, by name (default: all; `workload --list` names them)
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Allocators to run, by name (default: all)
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// How often each row runs on each allocator; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds within the clock for each sample
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Seconds of idleness before a sample's final memory is read
    #[arg(long, default_value_t = 0.0)]
    rest: f64,
    /// Fail when rsalloc needs more than so many times the best peer's time in any row
    #[arg(long)]
    limit: Option<f64>,
    /// Write every sample to this file
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Write plots into this folder
    #[arg(long)]
    plots: Option<PathBuf>,
    /// Compare Rust programs on a `#[global_allocator]`, not the C functions
    #[arg(long)]
    front: bool,
    /// Write tables, samples and plots to docs/benchmarks.md and docs/benchmarks/
    #[arg(long)]
    write: bool,
}

/// Runs the command.
pub fn main(mut arguments: Arguments) -> anyhow::Result<()> {
    if arguments.rounds == 0 {
        bail!("--rounds 0 measures nothing");
    }
    let docs = tools::root().join("docs");
    let part = if arguments.front { report::FRONT } else { report::C };
    if arguments.write {
        let folder = docs.join(report::plots_folder(part));
        arguments.csv.get_or_insert_with(|| folder.join("compare.csv"));
        arguments.plots.get_or_insert(folder);
    }
    let peers = if arguments.front {
        front::select(&arguments.peers)?
    } else {
        tools::build_release(&["benches", "alloc-preload"])?;
        peers::select(&arguments.peers)?
    };
    let program = &peers.first().context("no allocator")?.program;
    let rows = sample::select_rows(program, &arguments.rows)?;
    let (seconds, rest) = (arguments.seconds, arguments.rest);
    let results = measure(arguments.rounds, rows, peers, |row, peer| {
        sample::take(&row.name, peer, seconds, rest)
    })?;

    println!("{}", results.tables());
    if let Some(path) = &arguments.csv {
        results.write_csv(path)?;
    }
    if let Some(folder) = &arguments.plots {
        plot::write(&results, folder)?;
    }
    if arguments.write {
        results.write_markdown(&docs.join("benchmarks.md"), part)?;
    }
    results.verdict(arguments.limit)
}

/// Takes `rounds` samples of every row on every peer, interleaved.
pub fn measure(
    rounds: usize,
    rows: Vec<sample::Row>,
    peers: Vec<peers::Peer>,
    take: impl Fn(&sample::Row, &peers::Peer) -> anyhow::Result<sample::Sample>,
) -> anyhow::Result<Results> {
    let progress = ProgressBar::new((rounds * rows.len() * peers.len()) as u64);
    progress.set_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({eta} left)")
            .context("the progress bar's template")?,
    );
    let mut results = Results::new(rows, peers);
    for round in 0..rounds {
        for row in 0..results.rows.len() {
            for turn in 0..results.peers.len() {
                // Each round starts with another peer, so that none always follows the same one.
                let peer = (turn + round) % results.peers.len();
                let (what, who) = (&results.rows[row], &results.peers[peer]);
                progress.set_message(format!("round {}: {} on {}", round + 1, what.name, who.name));
                let sample = take(what, who);
                results.add(round, row, peer, sample);
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    Ok(results)
}

//! `cargo lab compare`: every row on every peer, in one run.
//!
//! Four suites of rows: the C functions, Rust programs (`--front`), whole programs (`--programs`), single calls
//! (`--latency`). Promises that the samples of one row and round lie next to each other in time (interleaved), each in
//! a process of its own, and that the allocator meant is the one that served it. `replay`, a suite of its own, and
//! `memory` use these modules too.

pub mod confidence;
mod crates;
pub mod figures;
mod front;
mod goals;
mod latency;
pub mod multiples;
pub mod part;
pub mod peers;
pub mod plot;
mod programs;
pub mod report;
pub mod sample;
mod shares;
pub mod suite;
pub mod tables;

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
    /// Allocators to run, by name (default: all); one of your own as NAME=LIBRARY.so, for LD_PRELOAD
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// Seconds within the clock for each sample
    #[arg(long, default_value_t = 0.5, conflicts_with = "programs")]
    seconds: f64,
    /// Seconds of idleness before a sample's final memory is read
    #[arg(long, default_value_t = 0.0, conflicts_with_all = ["programs", "latency"])]
    rest: f64,
    /// Fail when rsalloc needs more than so many times the best peer's in the first table
    #[arg(long)]
    limit: Option<f64>,
    /// Compare with an allocator that does nothing, in the rows that it can run
    #[arg(long, conflicts_with_all = ["peers", "front", "programs", "latency"])]
    floor: bool,
    /// Compare Rust programs on a `#[global_allocator]`, not the C functions
    #[arg(long)]
    front: bool,
    /// With the row on polars, whose first build takes long
    #[arg(long, requires = "front", conflicts_with = "rows")]
    queries: bool,
    /// Compare whole programs, by LD_PRELOAD
    #[arg(long, conflicts_with = "front")]
    programs: bool,
    /// Compare how long single calls take, and not only on the average
    #[arg(long, conflicts_with_all = ["front", "programs"])]
    latency: bool,
    /// Sample where CPU time goes, in one more run of each row on each allocator
    #[arg(long, conflicts_with = "latency")]
    shares: bool,
    /// Print the names of the rows, and measure nothing
    #[arg(long)]
    list: bool,
    /// Print each goal beside what the tables and samples in docs/benchmarks say of it, and measure nothing
    #[arg(long)]
    goals: bool,
    #[command(flatten)]
    run: Run,
}

/// How often to measure, and what becomes of the samples.
#[derive(clap::Args)]
pub struct Run {
    /// How often each row runs on each allocator; the median counts, and below 5 has no interval (0: with --add only)
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Add the samples of these files, which --csv wrote of the same build: a run in pieces
    #[arg(long, value_delimiter = ',', value_name = "FILE")]
    add: Vec<PathBuf>,
    /// Write every sample to this file
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Write plots into this folder
    #[arg(long)]
    plots: Option<PathBuf>,
    /// Write tables, samples and plots to docs/benchmarks/tables.md and folders below docs/benchmarks/
    #[arg(long)]
    write: bool,
}

/// Runs the command. A wrong name of a row or of an allocator is refused before anything is built.
pub fn main(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.goals {
        print!("{}", goals::table(&tools::root().join("docs"))?);
        return Ok(());
    }
    let rows = arguments.wanted()?;
    if arguments.list {
        println!("{}", rows.join("\n"));
        return Ok(());
    }
    arguments.run.check()?;
    let (seconds, limit) = (arguments.seconds, arguments.limit);
    if arguments.front {
        let peers = front::select(&arguments.peers, &rows)?;
        let suite = sample::Micro::new(front::rows(&rows)?, &arguments);
        return arguments.run.all(suite, peers, &part::FRONT, plot::write)?.verdict(limit);
    }
    peers::check(&arguments.peers)?;
    tools::build_release(&["benches", "rsalloc-preload", "rsalloc-cli"])?;
    if arguments.floor {
        let suite = sample::Micro::new(sample::rows(&rows), &arguments);
        let peers = peers::with_floor()?;
        return arguments.run.all(suite, peers, &part::FLOOR, plot::write)?.verdict(limit);
    }
    let peers = peers::select(&arguments.peers)?;
    let program = peers.first().context("no allocator")?.program.clone();
    if arguments.programs {
        let suite = programs::Programs::new(&rows, &peers, arguments.shares)?;
        return arguments.run.all(suite, peers, &part::PROGRAMS, plot::write)?.verdict(limit);
    }
    if arguments.latency {
        let suite = latency::Latency::new(&program, &rows, seconds)?;
        return arguments.run.all(suite, peers, &part::LATENCY, latency::draw)?.verdict(limit);
    }
    let suite = sample::Micro::new(sample::rows(&rows), &arguments);
    arguments.run.all(suite, peers, &part::C, plot::write)?.verdict(limit)
}

impl Arguments {
    /// The rows to run; an error if one is named that there is not.
    fn wanted(&self) -> anyhow::Result<Vec<String>> {
        if self.front && self.rows.is_empty() && !self.list && !self.queries {
            return Ok(front::usual());
        }
        sample::select(self.names().into_iter(), &self.rows)
    }

    /// The names of the suite's rows.
    fn names(&self) -> Vec<&'static str> {
        if self.front {
            return front::all().map(|row| row.name).collect();
        }
        if self.programs {
            return crate::programs::rows::loads::ALL.iter().map(|row| row.name).collect();
        }
        if self.latency {
            return benches::latency::LOADS.iter().map(|load| load.name).collect();
        }
        let rows = benches::rows::ROWS.iter().map(|row| row.name);
        rows.filter(|name| !self.floor || peers::FLOOR_ROWS.contains(name)).collect()
    }
}

/// Writes pictures into a folder; their names and captions.
type Draw<S> = fn(&Results<S>, &Path) -> anyhow::Result<Vec<(&'static str, String)>>;

impl Run {
    /// An error when nothing would be measured.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.rounds == 0 && self.add.is_empty() {
            bail!("--rounds 0 measures nothing");
        }
        Ok(())
    }

    /// Measures, shows the tables, and writes what is to be written.
    pub fn all<S: Suite>(
        &self,
        mut suite: S,
        peers: Vec<Peer>,
        part: &Part,
        draw: Draw<S::Sample>,
    ) -> anyhow::Result<Results<S::Sample>> {
        let mut results = Results::new(suite.rows(), peers);
        suite::measure(&mut suite, self.rounds, &mut results)?;
        for file in &self.add {
            results.add_csv(file)?;
        }
        results.appendix = suite.appendix(&results.peers)?;
        println!("{}", tables::all(&results));
        let docs = tools::root().join("docs");
        if let Some(path) = &self.csv {
            results.write_csv(path)?;
        }
        if let Some(folder) = &self.plots {
            draw(&results, folder)?;
        }
        if self.write {
            let folder = part.folder_in(&docs);
            let pictures = draw(&results, &folder)?;
            results.write_csv(&part.samples_in(&docs))?;
            let text = tables::document(&results, part, &pictures)?;
            part.write(&docs.join("benchmarks/tables.md"), &text)?;
        }
        Ok(results)
    }
}

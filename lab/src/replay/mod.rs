//! `cargo lab replay`: recorded programs' allocator calls on every peer, in one run.
//!
//! Promises what `compare` does (interleaved, each sample in a process of its own, served by the allocator
//! that is meant); the calls are those of the trace, in its order. Calls the `replay` program of benches,
//! `programs` (traces to start with), `against` (the library of another commit) and `compare`'s modules.

mod against;
mod programs;

use crate::compare::figures::{Metric, Row};
use crate::compare::peers::{self, Peer};
use crate::compare::report::Results;
use crate::compare::sample::{self, Sample};
use crate::compare::suite::Suite;
use crate::compare::{Run, part, plot};
use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Traces of `rsalloc record` (default: those of some programs, which are recorded first)
    traces: Vec<PathBuf>,
    /// Which programs are recorded
    #[arg(long, value_delimiter = ',', value_parser = programs::names(), conflicts_with = "traces")]
    programs: Vec<String>,
    /// Allocators to run, by name (default: all)
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    /// The library of this commit too, as a peer
    #[arg(long, value_name = "REV")]
    against: Option<String>,
    /// Fail when rsalloc needs more than so many times the time of that commit in any row
    #[arg(long, requires = "against")]
    limit: Option<f64>,
    /// Seconds of idleness before a sample's final memory is read
    #[arg(long, default_value_t = 0.0)]
    rest: f64,
    #[command(flatten)]
    run: Run,
}

/// What `replay compile` says of a trace.
#[derive(Deserialize)]
struct Outline {
    name: String,
    threads: u64,
    calls: u64,
    peak_bytes: u64,
    unknown: u64,
    implied: u64,
    lost: u64,
    cut: u64,
}

/// The traces as rows.
struct Replay {
    /// The program that runs them.
    program: PathBuf,
    rows: Vec<Row>,
    /// By row: what the trace was made into.
    compiled: Vec<PathBuf>,
    rest: f64,
    /// Where these lie; removed with the value.
    _scratch: tempfile::TempDir,
}

/// A sample may take so long: a wrong order is noticed after a minute.
const SECONDS_MAX: f64 = 300.0;

/// Runs the command.
pub fn main(mut arguments: Arguments) -> anyhow::Result<()> {
    arguments.run.check()?;
    peers::check(&arguments.peers)?;
    tools::build_release(&["benches", "rsalloc-preload", "rsalloc-cli", "record"])?;
    if arguments.traces.is_empty() {
        arguments.traces = programs::record(&arguments.programs)?;
    }
    let suite = Replay::new(&arguments.traces, arguments.rest)?;
    let mut peers = peers::select(&arguments.peers)?;
    let other = arguments.against.as_deref().map(|revision| against::peer(revision, &peers));
    if let Some(other) = other {
        peers.insert(1, other?);
    }
    let results = arguments.run.all(suite, peers, &part::REPLAY, plot::write)?;
    results.verdict(None)?;
    match &arguments.against {
        Some(revision) => hold_against(&results, revision, arguments.limit),
        None => Ok(()),
    }
}

impl Replay {
    /// A row for each trace.
    fn new(traces: &[PathBuf], rest: f64) -> anyhow::Result<Replay> {
        let folder = tools::release_dir()?;
        let program = folder.join("replay");
        let scratch = tempfile::tempdir_in(folder).context("no space beside the builds")?;
        let (mut rows, mut compiled) = (Vec::new(), Vec::new());
        for trace in traces {
            let file = scratch.path().join(rows.len().to_string());
            let row = compile(&program, trace, &file)?;
            ensure!(rows.iter().all(|r: &Row| r.name != row.name), "two traces {}", row.name);
            rows.push(row);
            compiled.push(file);
        }
        Ok(Replay { program, rows, compiled, rest, _scratch: scratch })
    }
}

impl Suite for Replay {
    type Sample = Sample;

    fn rows(&self) -> Vec<Row> {
        self.rows.clone()
    }

    fn take(&mut self, run: usize, peer: &Peer) -> anyhow::Result<Vec<Sample>> {
        let file = self.compiled[run].to_str().context("the build folder's name is not UTF-8")?;
        let arguments = ["run", file, "--rest", &self.rest.to_string()];
        Ok(vec![sample::ask(peer, &self.program, &arguments, SECONDS_MAX + self.rest)?])
    }
}

/// Makes a program of `trace`; the row that it is.
fn compile(replay: &Path, trace: &Path, program: &Path) -> anyhow::Result<Row> {
    let mut command = Command::new(replay);
    let said = tools::output(command.arg("compile").arg(trace).arg(program));
    // What is wrong with a trace is one line of the program's; where it was run does not matter.
    let said = said.map_err(|error| anyhow::anyhow!("{}", error.root_cause()))?;
    let outline: Outline = serde_json::from_str(&said).context("what replay compile says")?;
    let Outline { calls, threads, peak_bytes, .. } = outline;
    let mib = peak_bytes as f64 / sample::MIB;
    let mut what = format!("{calls} calls of {threads} threads, {mib:.1} MiB live at the most");
    for (count, words) in [
        (outline.unknown, "frees of objects from before the recording left out"),
        (outline.implied, "objects freed by no event, freed when their address came again"),
        (outline.lost, "calls in signal handlers left out"),
        (outline.cut, "calls at the end left out"),
    ] {
        if count > 0 {
            write!(what, "; {count} {words}")?;
        }
    }
    let name = trace.file_stem().map_or(outline.name, |stem| stem.to_string_lossy().into_owned());
    Ok(Row { name, unit: "call".into(), what })
}

/// Prints how the first peer stands to the library of `revision`, which is the second.
fn hold_against(
    results: &Results<Sample>,
    revision: &str,
    limit: Option<f64>,
) -> anyhow::Result<()> {
    let ratio = |metric: &Metric<Sample>, row| {
        Some(results.median(metric, row, 0)? / results.median(metric, row, 1)?)
    };
    let mut slow = Vec::new();
    println!(
        "This build over {revision}:\n\n| row | time | CPU time | peak RSS |\n|---|--:|--:|--:|"
    );
    for (index, row) in results.rows.iter().enumerate() {
        let [time, cpu, peak] = [&sample::TIME, &sample::CPU, &sample::PEAK]
            .map(|metric| ratio(metric, index).unwrap_or(f64::NAN));
        println!("| {} | {time:.3} | {cpu:.3} | {peak:.3} |", row.name);
        if limit.is_some_and(|limit| time.is_nan() || time > limit) {
            slow.push(format!("{} takes {time:.3} times what it took at {revision}", row.name));
        }
    }
    if !slow.is_empty() {
        bail!("{}", slow.join("\n"));
    }
    Ok(())
}

/// Whether the first of `peers` is this build in its normal mode.
fn starts_with_ours(peers: &[Peer]) -> bool {
    peers.first().is_some_and(|peer| peer.ours && peer.environment.is_empty())
}

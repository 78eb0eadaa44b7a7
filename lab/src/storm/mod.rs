//! The process in a storm: `cargo lab storm`.
//!
//! Each row is a small C program that does to the library what a hard life does to a process: forks, signals, crashes,
//! refusals, threads, hours. It checks every object it has by marks and the heap by the validator; a row runs it in the
//! modes of the library, and hears when it falls silent.
//!
//! I1: what can't be run is an error or is printed as NOT RUN, never a pass.

mod control;
mod hang;
mod long;
mod refuse;
pub mod rss;
pub mod victim;
mod wide;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::criu::kind::{Kind, MODES};
use victim::{Line, Run, Victim};

/// Builds the victim of a row in the folder `scratch`, to be run elsewhere.
pub fn build(scratch: &Path, name: &str) -> Result<PathBuf> {
    let row = ROWS.iter().find(|row| row.name == name).context("no such row")?;
    victim::compile(scratch, row.name, row.source, &[])
}

/// The options of `cargo lab storm`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these rows
    #[arg(value_parser = names())]
    rows: Vec<String>,
    /// Only these modes
    #[arg(long, value_delimiter = ',', value_parser = MODES.map(|kind| kind.name))]
    mode: Vec<String>,
    /// As much of the row's unit as docs/proof.md has (minutes to an hour for each row and mode)
    #[arg(long, conflicts_with = "amount")]
    long: bool,
    /// So much of the row's unit
    #[arg(long)]
    amount: Option<u64>,
    /// Load deliberate defects before the library; succeed if every one is seen
    #[arg(long, conflicts_with_all = ["long", "amount", "mode"])]
    control: bool,
    /// Draw what was measured over time into docs/lab/storms
    #[arg(long)]
    write: bool,
}

/// A row: a victim, how long it runs, and how it is judged.
struct Row {
    name: &'static str,
    unit: &'static str,
    source: &'static str,
    modes: &'static [&'static str],
    short: u64,
    long: u64,
    /// A victim that prints nothing for so many seconds counts as hung.
    silence: u64,
    judge: fn(&Trial) -> Result<String>,
}

const ALL: &[&str] = &["libc", "own", "mm_cid", "atomic"];

/// The victim of many threads, which the table of memory uses too.
pub const THREADS: &str = include_str!("victims/threads.c");

const ROWS: &[Row] = &[
    Row {
        name: "fork",
        unit: "forks",
        source: include_str!("victims/fork.c"),
        modes: ALL,
        short: 60,
        long: 100_000,
        silence: 60,
        judge: plain,
    },
    Row {
        name: "spawn",
        unit: "programs",
        source: include_str!("victims/spawn.c"),
        modes: ALL,
        short: 100,
        long: 20_000,
        silence: 60,
        judge: plain,
    },
    Row {
        name: "vfork",
        unit: "children",
        source: include_str!("victims/vfork.c"),
        modes: ALL,
        short: 120,
        long: 20_000,
        silence: 60,
        judge: plain,
    },
    Row {
        name: "clone",
        unit: "children",
        source: include_str!("victims/clone.c"),
        modes: ALL,
        short: 160,
        long: 20_000,
        silence: 60,
        judge: plain,
    },
    Row {
        name: "signals",
        unit: "seconds",
        source: include_str!("victims/signals.c"),
        modes: ALL,
        short: 3,
        long: 180,
        silence: 60,
        judge: plain,
    },
    Row {
        name: "crash",
        unit: "crashes",
        source: include_str!("victims/crash.c"),
        modes: ALL,
        short: 500,
        long: 100_000,
        silence: 60,
        judge: plain,
    },
    Row {
        name: "refuse",
        unit: "rounds of all cases",
        source: include_str!("victims/refuse.c"),
        modes: ALL,
        short: 1,
        long: 10,
        silence: 60,
        judge: refuse::judge,
    },
    Row {
        name: "threads",
        unit: "threads",
        source: THREADS,
        modes: &["libc", "own", "atomic"],
        short: 1500,
        long: 10_000,
        silence: 120,
        judge: wide::judge,
    },
    Row {
        name: "long",
        unit: "seconds",
        source: include_str!("victims/long.c"),
        modes: &["libc"],
        short: 12,
        long: 3600,
        silence: 120,
        judge: long::judge,
    },
];

/// A row in one mode.
struct Trial<'a> {
    victim: &'a Victim,
    kind: &'static Kind,
    amount: u64,
    before: Option<&'a Path>,
    silence: Duration,
    write: bool,
    bar: &'a ProgressBar,
}

fn names() -> Vec<&'static str> {
    ROWS.iter().map(|row| row.name).collect()
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    ensure!(args.amount != Some(0), "--amount 0 would check nothing");
    tools::build_release(&["rsalloc-preload", "rsalloc-cli"])?;
    let scratch = tempfile::tempdir()?;
    let wanted = |list: &[String], name: &str| list.is_empty() || list.iter().any(|n| n == name);
    if args.control {
        return control::check(scratch.path(), |name| wanted(&args.rows, name));
    }
    let (mut passed, mut failed) = (0, 0);
    for row in ROWS.iter().filter(|row| wanted(&args.rows, row.name)) {
        let victim = Victim::build(scratch.path(), row.name, row.source)?;
        let amount = args.amount.unwrap_or(if args.long { row.long } else { row.short });
        let kinds = MODES.iter().filter(|kind| wanted(&args.mode, kind.name));
        for kind in kinds.filter(|kind| row.modes.contains(&kind.name)) {
            let bar = bar(amount, row, kind);
            let trial = Trial {
                victim: &victim,
                kind,
                amount,
                before: None,
                silence: Duration::from_secs(row.silence),
                write: args.write,
                bar: &bar,
            };
            let begin = Instant::now();
            let result = (row.judge)(&trial);
            bar.finish_and_clear();
            let seconds = begin.elapsed().as_secs_f64();
            let (verdict, text) = match &result {
                Ok(text) => ("ok  ", text.clone()),
                Err(error) => ("FAIL", format!("{error:#}")),
            };
            println!("{verdict} {:<8} {:<7} {seconds:>6.1} s  {text}", row.name, kind.name);
            *if result.is_ok() { &mut passed } else { &mut failed } += 1;
        }
    }
    println!("{passed} passed, {failed} failed");
    ensure!(passed + failed > 0, "no row runs in that mode");
    if failed > 0 {
        bail!("{failed} failed; run a row alone: cargo lab storm ROW --mode MODE");
    }
    Ok(())
}

fn bar(amount: u64, row: &Row, kind: &Kind) -> ProgressBar {
    let template = "{elapsed_precise} {msg} {wide_bar} {pos}/{len}";
    let style = ProgressStyle::with_template(template).expect("a constant template");
    let bar = ProgressBar::new(amount).with_style(style);
    bar.set_message(format!("{} {} ({})", row.name, kind.name, row.unit));
    bar
}

impl Trial<'_> {
    /// How to run its victim.
    fn settings(&self) -> Run<'_> {
        Run {
            kind: self.kind,
            amount: self.amount,
            before: self.before,
            extra: None,
            setup: None,
            published: self.kind.published,
            silence: self.silence,
        }
    }

    /// Runs the victim once, showing how far it is.
    fn run(&self, mut hear: impl FnMut(i32, &Line) -> Result<()>) -> Result<String> {
        self.victim.run(&self.settings(), |pid, line| {
            if let Line::At(number, _) = line {
                self.bar.set_position(*number);
            }
            hear(pid, line)
        })
    }
}

/// The judge of rows whose victims check themselves.
fn plain(trial: &Trial) -> Result<String> {
    trial.run(|_, _| Ok(()))
}

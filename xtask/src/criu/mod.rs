//! Checkpoint and restore of a process that hammers the allocator: `cargo xtask criu`.
//!
//! Dumps, kills and restores a victim again and again, in each mode of the library; after each
//! restore every thread must go on, every object hold what was written to it, and mode and rseq
//! registrations be the same. Dump time and image size are compared with those on glibc's malloc.
//! Called by hand and by `preflight`; calls `fetch` (CRIU), `cycle` and `control`.
//!
//! I1: what can't be had or done ends the command with an error, never with a pass.

mod board;
mod control;
mod cycle;
mod fetch;
mod images;
pub mod kind;
mod process;
mod registration;
mod victim;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};

use crate::tools;
use cycle::Taken;
use images::{Criu, Way};
use kind::{GLIBC, Kind, MODES};
use process::Process;

/// The options of `cargo xtask criu`.
#[derive(clap::Args)]
pub struct Args {
    /// Cycles in each mode
    #[arg(long, default_value_t = 20)]
    cycles: usize,
    /// Only these modes
    #[arg(long, value_delimiter = ',', value_parser = kind::MODES.map(|kind| kind.name))]
    mode: Vec<String>,
    /// Only these ways to dump [default: all that the kernel can do]
    #[arg(long, value_delimiter = ',')]
    way: Vec<Way>,
    /// Make defects on purpose; succeed if every one is seen
    #[arg(long)]
    control: bool,
    /// Be the process that is dumped
    #[arg(long, hide = true, requires = "harness")]
    victim: Option<PathBuf>,
    #[arg(long, hide = true)]
    harness: Option<i32>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let (Some(board), Some(harness)) = (args.victim, args.harness) {
        return victim::main(&board, harness);
    }
    ensure!(args.cycles > 0, "--cycles 0 would check nothing");
    let criu = fetch::criu()?;
    tools::build_release(&["alloc-preload"])?;
    // A restored process becomes ours when the criu that made it ends.
    // SAFETY: no duties.
    let done = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    ensure!(done == 0, "prctl: {}", std::io::Error::last_os_error());
    if args.control {
        return control::check(&criu);
    }
    println!("CRIU {}, Linux {}", criu.version()?, kernel()?);
    let ways = ways(&criu, &args.way)?;
    let named = |kind: &&Kind| args.mode.is_empty() || args.mode.iter().any(|m| m == kind.name);
    let bar = ProgressBar::new((args.cycles * (1 + MODES.iter().filter(named).count())) as u64)
        .with_style(
            ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} {msg}")
                .expect("a constant template"),
        );
    let mut rows = Vec::new();
    for kind in MODES.iter().filter(named).chain([&GLIBC]) {
        bar.set_message(kind.name);
        let row = cycles(&criu, kind, (args.cycles, &ways), &bar)?;
        bar.suspend(|| println!("{}", row.line()));
        rows.push(row);
    }
    bar.finish_and_clear();
    let glibc = rows.pop().context("glibc comes last")?;
    for row in &rows {
        println!("{}", row.ratios(&glibc));
    }
    Ok(())
}

/// The ways to dump, one after the other.
fn ways(criu: &Criu, wanted: &[Way]) -> Result<Vec<Way>> {
    let can_chain = criu.tracks_memory();
    if !wanted.is_empty() {
        let needs = "--way chain needs a kernel with CONFIG_MEM_SOFT_DIRTY; this one has none";
        ensure!(can_chain || !wanted.contains(&Way::Chain), needs);
        return Ok(wanted.to_vec());
    }
    // Most of them whole dumps.
    let mut ways = vec![Way::Once, Way::Once, Way::LeaveRunning];
    if can_chain {
        ways.push(Way::Chain);
    } else {
        println!("NOT RUN: incremental chains: this kernel has no CONFIG_MEM_SOFT_DIRTY");
    }
    Ok(ways)
}

/// What the cycles of one kind took.
struct Row {
    kind: &'static str,
    cycles: usize,
    caught: usize,
    verified: u64,
    dump: Duration,
    restore: Duration,
    bytes: u64,
}

fn cycles(
    criu: &Criu,
    kind: &'static Kind,
    (count, ways): (usize, &[Way]),
    bar: &ProgressBar,
) -> Result<Row> {
    let room = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
    let mut process = Process::start(kind, room.path()).context(kind.name)?;
    let identity = process.identity(kind).context(kind.name)?;
    let mut measured: Vec<Taken> = Vec::new();
    let (mut caught, mut unjudged) = (0, 0);
    for (number, &way) in ways.iter().cycle().take(count).enumerate() {
        let taken = cycle::turn(criu, (&mut process, kind, &identity), way, &cycle::NONE)
            .with_context(|| format!("{}, cycle {} ({way:?})", kind.name, number + 1))?;
        caught += taken.dump.caught;
        unjudged += usize::from(way == Way::LeaveRunning && taken.dump.caught > 0);
        // The ways differ too much for one median.
        if way == ways[0] {
            measured.push(taken);
        }
        bar.inc(1);
    }
    if unjudged > 0 {
        let (name, what) = (kind.name, "had a thread in a section: only their images are judged");
        bar.suspend(|| println!("{name:<8}NOT JUDGED: what ran on after {unjudged} snapshots that {what} (docs/proof.md)"));
    }
    Ok(Row {
        kind: kind.name,
        cycles: count,
        caught,
        verified: process.board.verified(),
        dump: median(measured.iter().map(|taken| taken.dump.wall)),
        restore: median(measured.iter().map(|taken| taken.restore)),
        bytes: median(measured.iter().map(|taken| taken.dump.bytes)),
    })
}

impl Row {
    fn line(&self) -> String {
        format!(
            "{:<8}{:>5} cycles ok, {:>4} threads caught in a section, {:>11} objects compared; medians: dump {:>4} ms, restore {:>4} ms, image {:>5.1} MB",
            self.kind,
            self.cycles,
            self.caught,
            self.verified,
            self.dump.as_millis(),
            self.restore.as_millis(),
            self.bytes as f64 / 1e6,
        )
    }

    fn ratios(&self, glibc: &Row) -> String {
        let ratio = |a: f64, b: f64| a / b;
        format!(
            "{:<8}against glibc: dump time {:.2}, restore time {:.2}, image size {:.2}",
            self.kind,
            ratio(self.dump.as_secs_f64(), glibc.dump.as_secs_f64()),
            ratio(self.restore.as_secs_f64(), glibc.restore.as_secs_f64()),
            ratio(self.bytes as f64, glibc.bytes as f64),
        )
    }
}

fn median<T: Ord>(values: impl Iterator<Item = T>) -> T {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    let middle = values.len() / 2;
    values.swap_remove(middle)
}

fn kernel() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel?")?;
    // Without what a distribution adds.
    Ok(text.trim().split('-').next().unwrap_or_default().to_owned())
}

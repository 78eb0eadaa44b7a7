//! Checkpoint and restore of a process that hammers the allocator: `cargo lab criu`.
//!
//! Dumps, kills and restores a victim again and again, in each mode of the library; after each restore every thread
//! must go on, every object hold what was written to it, and mode and rseq registrations be the same. Dump time and
//! image size are compared with those on glibc's malloc. With `--redis` a real server is the victim.
//!
//! I1: what can't be had or done ends the command with an error, never with a pass.

pub mod board;
pub mod child;
pub mod control;
mod cycle;
pub mod fetch;
pub mod identity;
pub mod images;
pub mod kind;
pub mod process;
mod publish;
mod record;
mod redis;
pub(crate) mod registration;
mod rounds;
mod section;
pub mod snapshot;
mod stats;
pub mod victim;

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use images::{Criu, Way};
use kind::{GLIBC, Kind, MODES};
use record::Record;

/// The options of `cargo lab criu`.
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
    /// Without glibc's malloc in turn: nothing is compared, and it takes half the time
    #[arg(long)]
    alone: bool,
    /// Keep the results in this file, and go on from what is there
    #[arg(long)]
    record: Option<PathBuf>,
    /// Make defects on purpose; succeed if every one is seen
    #[arg(long)]
    control: bool,
    /// Show what `--leave-running` and pre-dumps do to threads inside a section, without the allocator
    #[arg(long)]
    snapshot: bool,
    /// Put redis-server through the cycles instead: every value is read back after each restore,
    /// then some are changed. On libc's rseq only
    #[arg(long, conflicts_with_all = ["mode", "way", "alone", "record", "control", "snapshot"])]
    redis: bool,
    /// A process that publishes its statistics instead: it goes on with its file, or nothing is restored
    #[arg(long, conflicts_with_all = ["redis", "mode", "way", "alone", "record", "control", "snapshot"])]
    publish: bool,
    /// Be the process that `--snapshot` dumps
    #[arg(long, hide = true)]
    spin: bool,
    /// Be the process that is dumped
    #[arg(long, hide = true, requires = "harness")]
    victim: Option<PathBuf>,
    #[arg(long, hide = true)]
    harness: Option<i32>,
    #[command(flatten)]
    options: victim::Options,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let (Some(board), Some(harness)) = (args.victim, args.harness) {
        return victim::main(&board, harness, args.options);
    }
    if args.spin {
        return section::main();
    }
    ensure!(args.cycles > 0, "--cycles 0 would check nothing");
    let criu = fetch::criu()?;
    tools::build_release(&["rsalloc-preload", "rsalloc-cli"])?;
    child::adopt()?;
    if args.control {
        return control::check(&criu);
    }
    if args.snapshot {
        return snapshot::show(&criu);
    }
    println!("CRIU {}, Linux {}", criu.version()?, kernel()?);
    if args.redis {
        return redis::run(&criu, &MODES[0], args.cycles);
    }
    if args.publish {
        return publish::run(&criu);
    }
    let ways = ways(&criu, &args.way)?;
    let named = |kind: &&Kind| args.mode.is_empty() || args.mode.iter().any(|m| m == kind.name);
    let peers: &[&Kind] = if args.alone { &[] } else { &[&GLIBC] };
    let kinds: Vec<_> = MODES.iter().filter(named).chain(peers.iter().copied()).collect();
    let mut record = Record::open(args.record)?;
    let outcome = rounds::run(&criu, &kinds, (args.cycles, &ways), &mut record);
    record.print();
    outcome
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

fn kernel() -> Result<String> {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("which kernel?")?;
    // Without what a distribution adds.
    Ok(text.trim().split('-').next().unwrap_or_default().to_owned())
}

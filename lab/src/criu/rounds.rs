//! The cycles of all kinds, interleaved: each round is one cycle of each kind.
//!
//! So a machine that is busy for a while is busy for all of them, and the ratios hold. A process that is not in turn is
//! stopped.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use super::cycle;
use super::identity::Identity;
use super::images::{Criu, Way};
use super::kind::Kind;
use super::process::{Process, WAIT_LIMIT};
use super::record::Record;

/// How often a run without a terminal says how far it is.
const ROUNDS_PER_LINE: usize = 50;

/// A process of one kind, through all its lives.
struct Life {
    kind: &'static Kind,
    process: Process,
    identity: Identity,
    verified: u64,
    /// Holds the files of the process.
    _scratch: TempDir,
}

/// Runs rounds until each of `kinds` has `goal` cycles in `record`.
pub fn run(
    criu: &Criu,
    kinds: &[&'static Kind],
    (goal, ways): (usize, &[Way]),
    record: &mut Record,
) -> Result<()> {
    let mut lives = Vec::new();
    for &kind in kinds.iter().filter(|kind| record.cycles(kind.name) < goal) {
        lives.push(Life::start(kind).context(kind.name)?);
    }
    let bar = ProgressBar::new(goal as u64).with_style(
        ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} {msg}")
            .expect("a constant template"),
    );
    let done = |lives: &[Life], record: &Record| {
        lives.iter().map(|life| record.cycles(life.kind.name)).min()
    };
    while let Some(done) = done(&lives, record) {
        bar.set_position(done as u64);
        // Each goes first in its turn.
        lives.rotate_left(1);
        for life in &mut lives {
            let number = record.cycles(life.kind.name);
            let way = ways[number % ways.len()];
            bar.set_message(life.kind.name);
            life.turn(criu, way, way == ways[0], record)
                .with_context(|| format!("{}, cycle {} ({way:?})", life.kind.name, number + 1))?;
        }
        record.save()?;
        lives.retain(|life| record.cycles(life.kind.name) < goal);
        if (done + 1) % ROUNDS_PER_LINE == 0 && !std::io::stderr().is_terminal() {
            eprintln!("{} of {goal} rounds in {:.0?}", done + 1, bar.elapsed());
        }
    }
    bar.finish_and_clear();
    Ok(())
}

impl Life {
    fn start(kind: &'static Kind) -> Result<Life> {
        let scratch = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
        let process = Process::start(kind, scratch.path())?;
        let identity = process.identity(kind)?;
        process.child.signal(libc::SIGSTOP);
        Ok(Life { kind, process, identity, verified: 0, _scratch: scratch })
    }

    fn turn(&mut self, criu: &Criu, way: Way, measured: bool, record: &mut Record) -> Result<()> {
        let Life { kind, process, identity, .. } = self;
        process.child.signal(libc::SIGCONT);
        process.goes_on(WAIT_LIMIT).context("before the dump")?;
        let taken = cycle::turn(criu, (process, kind, identity), way, &cycle::NONE)?;
        process.child.signal(libc::SIGSTOP);
        let verified = process.board.verified();
        record.add(kind.name, &taken, verified - self.verified, measured);
        self.verified = verified;
        Ok(())
    }
}

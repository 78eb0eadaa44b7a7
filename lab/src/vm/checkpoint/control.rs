//! Proof that a journey can be red: `cargo lab vm --checkpoint --control`.
//!
//! Each defect must turn its machine red, for its own reason, and the same journey without one is green.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Journey, PERCENT_IN_PARENTS, PLACE, SHELF, arrival, arrive, chains, departure, leave};
use crate::criu::images::{self, Way};
use crate::criu::kind::MODES;
use crate::criu::victim::MARK;
use crate::vm::cell::Step;
use crate::vm::judge::Demand;
use crate::vm::plan::Task;
use crate::vm::{Host, Row};

/// The pre-dump that is damaged: neither the first nor the last.
const MIDDLE: usize = 2;
/// Seen: a wrong byte after the 13th, 18th and 56th pre-dump, of which each chain has three.
const EXPOSED_CHAINS: usize = 40;

/// Runs the control; fails if a defect is not seen.
pub fn run(host: &mut Host, journeys: &[Journey]) -> Result<()> {
    let mut missed = 0;
    let first = |chain| journeys.iter().find(|journey| (journey.way == Way::Chain) == chain);
    if let Some(journey) = first(false) {
        missed += of_dump(host, journey)?;
    }
    if let Some(journey) = first(true) {
        missed += of_chain(host, journey)?;
    }
    ensure!(missed == 0, "{missed} defects not seen");
    Ok(())
}

/// A damaged image, and a process that has no sections to abort.
fn of_dump(host: &mut Host, journey: &Journey) -> Result<usize> {
    let steps = [0, 3].map(|index| departure(index, Way::Once, 1, 0));
    green("dumped", &leave(host, journey.from, &steps)?)?;
    let cell = journey.cell(journey.to[0]);
    green("restored", &arrive(host, cell, &[arrival(&MODES[0], &cell.kernel)])?)?;
    let atomic = Step { demands: vec![Demand::Aborts(1)], ..arrival(&MODES[3], &cell.kernel) };
    let row = arrive(host, cell, &[atomic])?;
    let mut missed = unseen("a process without sections", &row, "0 aborted sections");
    flip(host.disk.as_deref().context("a disk")?)?;
    let row = arrive(host, cell, &[arrival(&MODES[0], &cell.kernel)])?;
    missed += unseen("a bit of each object flipped on the disk", &row, "not 0x");
    Ok(missed)
}

/// A damaged image in the middle, a dump that is called a chain, and a thread that CRIU leaves unprotected.
fn of_chain(host: &mut Host, journey: &Journey) -> Result<usize> {
    let mut plain = departure(1, Way::Once, 1, SHELF);
    plain.demands.push(Demand::InParents(PERCENT_IN_PARENTS));
    let row = leave(host, journey.from, &[plain])?;
    let mut missed = unseen("one dump called a chain", &row, ": 0 % of the pages");
    green("a chain", &leave(host, journey.from, &[chains(0, 1)])?)?;
    let cell = journey.cell(journey.to[0]);
    green("restored from it", &arrive(host, cell, &[arrival(&MODES[0], &cell.kernel)])?)?;
    let images = format!("{PLACE}/{}/{}", MODES[0].name, images::link(MIDDLE));
    let damage = Step::succeeds(Task::new("flip", &["/bin/lab", "vm", "flip", &images]));
    let row = arrive(host, cell, &[damage, arrival(&MODES[0], &cell.kernel)])?;
    missed += unseen("a bit of each object flipped in a pre-dump in the middle", &row, "not 0x");
    let mut exposed = departure(2, Way::Chain, EXPOSED_CHAINS, 0);
    exposed.task.command.push("--first-allocates".into());
    let row = leave(host, journey.from, &[exposed])?;
    missed += unseen("a first thread that allocates, pre-dumped", &row, "a wrong byte");
    Ok(missed)
}

fn green(name: &str, row: &Row) -> Result<()> {
    ensure!(row.faults.is_empty(), "red without a defect: {}", row.faults.join("; "));
    println!("green     {name}, no defect");
    Ok(())
}

/// 1 if no fault of `row` says so.
fn unseen(name: &str, row: &Row, says: &str) -> usize {
    let said = row.faults.join("; ");
    let is_red = said.contains(says);
    println!("{:<9} {name}: {said}", if is_red { "red" } else { "NOT SEEN" });
    usize::from(!is_red)
}

fn flip(disk: &Path) -> Result<()> {
    let mut bytes = fs::read(disk)?;
    let flipped = images::flip_in(&mut bytes, &MARK.to_ne_bytes(), 16);
    ensure!(flipped > 0, "no object on the disk");
    fs::write(disk, bytes).context("write the disk")
}

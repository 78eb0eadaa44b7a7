//! The positive control: deliberate defects in front of the allocator, each of which its row must see.
//!
//! The library under test is the one that is shipped; a defect is a second one that is loaded before it and replaces a
//! function. A row must be green without the defect.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::ProgressBar;

use super::victim::{Victim, compile};
use super::{ROWS, Trial};
use crate::criu::kind::MODES;

struct Defect {
    row: &'static str,
    number: u32,
    name: &'static str,
    amount: u64,
    /// What the row's error must contain.
    seen: &'static str,
}

const DEFECTS: &[Defect] = &[
    Defect { row: "fork", number: 1, name: "no handlers of fork", amount: 2000, seen: "it hangs" },
    // Seen by the first child, at the gate's amount; by its marks in one of seven runs only.
    Defect {
        row: "vfork",
        number: 2,
        name: "libc's vfork",
        amount: 120,
        seen: "a child runs sections",
    },
    Defect {
        row: "clone",
        number: 8,
        name: "libc's clone",
        amount: 160,
        seen: "a child runs sections",
    },
    Defect {
        row: "spawn",
        number: 7,
        name: "an object handed out twice",
        amount: 100,
        seen: "wrong byte",
    },
    Defect { row: "signals", number: 3, name: "a plain lock", amount: 3, seen: "it hangs" },
    Defect { row: "signals", number: 4, name: "an object lost", amount: 3, seen: "lost" },
    Defect { row: "crash", number: 3, name: "a plain lock", amount: 500, seen: "it hangs" },
    Defect {
        row: "refuse",
        number: 6,
        name: "null without ENOMEM",
        amount: 1,
        seen: "without ENOMEM",
    },
    Defect { row: "refuse", number: 4, name: "an object lost", amount: 1, seen: "out of memory" },
    Defect {
        row: "threads",
        number: 5,
        name: "a page for each thread",
        amount: 1500,
        seen: "cost memory",
    },
    Defect { row: "long", number: 4, name: "an object lost", amount: 12, seen: "grew" },
];

/// A row that has to hang is not waited for as long as others: on a busy machine a row without a defect is
/// silent for longer.
const SILENCE_OF_HANGS: u64 = 8;

/// Runs every defect of the wanted rows on the first of the row's modes.
pub fn check(scratch: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<()> {
    let mut blind = Vec::new();
    for defect in DEFECTS.iter().filter(|defect| is_wanted(defect.row)) {
        let row = ROWS.iter().find(|row| row.name == defect.row).context("no such row")?;
        let kind = MODES.iter().find(|kind| kind.name == row.modes[0]).context("no such mode")?;
        let victim = Victim::build(scratch, row.name, row.source)?;
        let number = format!("-DDEFECT={}", defect.number);
        let name = format!("defect-{}.so", defect.number);
        let source = include_str!("victims/defects.c");
        let library = compile(scratch, &name, source, &["-shared", "-fPIC", &number])?;
        let bar = ProgressBar::hidden();
        let trial = |before, amount, silence| Trial {
            victim: &victim,
            kind,
            amount,
            before,
            silence: Duration::from_secs(silence),
            write: false,
            bar: &bar,
        };
        (row.judge)(&trial(None, row.short, row.silence)).with_context(|| {
            format!("{}: red without a defect: the control shows nothing", row.name)
        })?;
        let silence = if defect.seen == "it hangs" { SILENCE_OF_HANGS } else { row.silence };
        let said = match (row.judge)(&trial(Some(&library), defect.amount, silence)) {
            Ok(text) => text,
            Err(error) if format!("{error:#}").contains(defect.seen) => {
                let first = format!("{error:#}");
                let first = first.lines().next().unwrap_or_default();
                println!("seen by {:<8} {}: {first}", row.name, defect.name);
                continue;
            }
            Err(error) => format!("red, but not by {:?}: {error:#}", defect.seen),
        };
        blind.push(format!("not seen by {}: {}: {said}", row.name, defect.name));
    }
    if blind.is_empty() {
        return Ok(());
    }
    bail!("{}", blind.join("\n"))
}

//! Proof that a cycle can fail: `cargo lab criu --control`.
//!
//! Each defect must turn a cycle red, for its own reason.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::cycle::{self, Damage};
use super::images::{self, Criu, Way};
use super::kind::{Kind, MODES};
use super::process::Process;
use super::publish;
use super::redis;
use super::victim::MARK;

/// A defect, and what the cycle must then say.
struct Defect {
    name: &'static str,
    damage: Damage,
    says: &'static str,
}

const DEFECTS: [Defect; 3] = [
    Defect {
        name: "a byte of each object flipped in the image",
        damage: Damage { images: flip, ..cycle::NONE },
        says: "not 0x",
    },
    Defect {
        name: "the restored process stopped",
        damage: Damage {
            process: |process| process.child.signal(libc::SIGSTOP),
            limit: Duration::from_secs(2),
            ..cycle::NONE
        },
        says: "threads do not go on",
    },
    Defect {
        name: "the restored process killed",
        damage: Damage { process: |process| process.child.signal(libc::SIGKILL), ..cycle::NONE },
        says: "the process ended",
    },
];

/// Runs the control; fails if a defect is not seen.
pub fn check(criu: &Criu) -> Result<()> {
    let kind = &MODES[0];
    with(criu, kind, &cycle::NONE).context("without a defect")?;
    println!("green     no defect");
    let mut missed = 0;
    for Defect { name, damage, says } in &DEFECTS {
        let said = match with(criu, kind, damage) {
            Ok(()) => "nothing".to_owned(),
            Err(error) => format!("{error:#}"),
        };
        let red = said.contains(says);
        missed += usize::from(!red);
        println!("{:<9} {name}: {said}", if red { "red" } else { "NOT SEEN" });
    }
    // One mode called by another's name.
    let scratch = tempfile::tempdir()?;
    let process = Process::start(&MODES[3], scratch.path())?;
    let confused = process.identity(kind);
    missed += usize::from(confused.is_ok());
    let seen = if confused.is_err() { "red" } else { "NOT SEEN" };
    println!("{seen:<9} another mode than asked for");
    missed += usize::from(!redis::control(criu)?);
    missed += usize::from(!publish::control(criu)?);
    ensure!(missed == 0, "{missed} defects not seen");
    Ok(())
}

fn with(criu: &Criu, kind: &Kind, damage: &Damage) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut process = Process::start(kind, scratch.path())?;
    let identity = process.identity(kind)?;
    cycle::turn(criu, (&mut process, kind, &identity), Way::Once, damage).map(drop)
}

/// Flips a bit in the second word of every object of an image.
pub fn flip(folder: &Path) -> Result<()> {
    // Objects are aligned to 16.
    images::flip_behind(folder, &MARK.to_ne_bytes(), 16)
}

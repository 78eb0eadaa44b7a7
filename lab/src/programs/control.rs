//! Proof that the rows can fail: `cargo lab programs --check-control`.
//!
//! Builds stand-in libraries with rustc: glibc's malloc unharmed (every row must stay green, so that a red row is due
//! to the defect), with each of two defects (every row must turn red on one of them at least: a program that asks for
//! memory a few times may not come across the other), and the unharmed one under a name that no process shows (every
//! row must miss it).

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::mode::Mode;
use super::rows::Program;
use super::table::Row;
use super::{Bench, Library};

const SOURCE: &str = include_str!("scripts/broken.rs");

/// Runs the control; fails if a row does not tell broken from unharmed.
pub fn check(bench: &Bench, programs: &[&'static Program]) -> Result<()> {
    let run = |library: &Library| bench.rows(programs, library, &[Mode::Rseq]);
    let unharmed = library(bench, "none")?;
    // The loader opens the link, /proc shows the file.
    let hidden = Library { path: bench.scratch.join("hidden.so"), inspector: None };
    symlink(&unharmed.path, &hidden.path)?;
    let green = run(&unharmed)?;
    let broken = [run(&library(bench, "flip")?)?, run(&library(bench, "overlap")?)?];
    let unseen = run(&hidden)?;
    let mut blind = Vec::new();
    for (i, program) in programs.iter().enumerate() {
        let missed =
            matches!(&unseen[i].with, Err(why) if why.starts_with("the library was not seen"));
        let verdicts = [
            (green[i].with.is_ok(), "green unharmed"),
            (broken.iter().any(|rows| is_red(&rows[i])), "red broken"),
            (missed, "red unseen"),
        ];
        let shown =
            verdicts.map(|(right, what)| format!("{}{what}", if right { "" } else { "NOT " }));
        println!("control {:<16} {}", program.name, shown.join(", "));
        if verdicts.iter().any(|(right, _)| !right) {
            blind.push(program.name);
        }
    }
    ensure!(blind.is_empty(), "control failed for {}", blind.join(", "));
    println!("control ok: {} programs", programs.len());
    Ok(())
}

/// Red because of the library: it ran without.
fn is_red(row: &Row) -> bool {
    row.with.is_err() && row.without.is_some()
}

fn library(bench: &Bench, defect: &str) -> Result<Library> {
    let (source, library): (PathBuf, PathBuf) =
        (bench.scratch.join("broken.rs"), bench.scratch.join(format!("broken-{defect}.so")));
    std::fs::write(&source, SOURCE)?;
    let output = Command::new("rustc")
        .args(["--edition=2024", "--crate-type=cdylib", "-O", "-Cpanic=abort", "--cfg"])
        .arg(format!("defect=\"{defect}\""))
        .arg("-o")
        .args([&library, &source])
        .output()
        .context("rustc did not start")?;
    ensure!(output.status.success(), "rustc: {}", String::from_utf8_lossy(&output.stderr));
    Ok(Library { path: library, inspector: None })
}

//! The long run: the fuzz targets' replays on random sequences, without the fuzzer.
//!
//! Promises that every round is a process of its own that counted its operations itself, that the ways are taken in
//! turn, and that a failure ends the run with the sequence as a test to paste.

use anyhow::{Context, bail};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Target and configuration of the rounds, in turn.
const WAYS: [(&str, &str); 4] = [
    ("operations", "mode:auto"),
    ("operations", "mode:atomic"),
    ("operations", "mode:auto,cache:64k"),
    ("tiers", "mode:auto"),
];
/// Objects that come or go in one round.
const ROUND: u64 = 20_000_000;
/// No two rounds share a sequence.
const SEEDS_OF_A_ROUND: u64 = 1 << 32;

/// Runs rounds until `wanted` operations are done.
pub fn run(wanted: u64, seed: u64) -> anyhow::Result<()> {
    let release = tools::release_dir()?;
    let target = release.parent().context("a build has a folder above it")?;
    let mut build = tools::cargo(&["build", "--release", "--quiet", "--example", "drive"]);
    build.arg("--manifest-path").arg(tools::root().join("fuzz/Cargo.toml"));
    tools::run(build.arg("--target-dir").arg(target)).context("`drive` does not build")?;
    let drive = release.join("examples/drive");
    let (mut done, mut cases) = ([0; WAYS.len()], 0);
    let begin = Instant::now();
    for round in 0.. {
        let total: u64 = done.iter().sum();
        if total >= wanted {
            break;
        }
        let way = round as usize % WAYS.len();
        let (target, conf) = WAYS[way];
        let seed = seed.wrapping_add(round * SEEDS_OF_A_ROUND);
        let (operations, sequences) =
            one_round(&drive, target, conf, seed, ROUND.min(wanted - total))?;
        done[way] += operations;
        cases += sequences;
        println!("{:>14} operations in {:.0} s", total + operations, begin.elapsed().as_secs_f64());
    }
    for ((target, conf), operations) in WAYS.iter().zip(done) {
        println!("{target:<12}{conf:<22}{operations:>14} operations");
    }
    println!("{cases} sequences, first seed {seed}, no failure");
    Ok(())
}

/// Operations and sequences of one process.
fn one_round(
    drive: &Path,
    target: &str,
    conf: &str,
    seed: u64,
    wanted: u64,
) -> anyhow::Result<(u64, u64)> {
    let mut drive = Command::new(drive);
    drive.args([target, &seed.to_string(), &wanted.to_string()]).env("RSALLOC_CONF", conf);
    let output = drive.stdin(Stdio::null()).output().context("cannot start `drive`")?;
    let text = String::from_utf8_lossy(&output.stdout);
    match (output.status.success(), counts(&text)) {
        (true, Some(counts)) => Ok(counts),
        _ => {
            println!("{}\n{text}", super::reason(&String::from_utf8_lossy(&output.stderr)));
            bail!(
                "{target} ({conf}) failed at seed {seed}; paste the test into alloc-core/tests/regressions.rs"
            )
        }
    }
}

/// Of the line `N operations in M cases`.
fn counts(text: &str) -> Option<(u64, u64)> {
    let mut words = text.lines().last()?.split(' ');
    let operations = words.next()?.parse().ok()?;
    Some((operations, words.nth(2)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_line_counts() {
        assert_eq!(counts("x\n12 operations in 3 cases\n"), Some((12, 3)));
        for text in ["", "12 operations", "#[test]\nfn f() {}", "12 operations in"] {
            assert_eq!(counts(text), None, "{text}");
        }
    }
}

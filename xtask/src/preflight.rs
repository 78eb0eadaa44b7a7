//! `cargo xtask preflight`: all gates, one after the other; `.ci/run` is the same with `--ci`.
//!
//! Promises that every gate runs even when one before it failed, that each gets one line with its
//! verdict, and that the exit code is 0 only if all of them passed.

use anyhow::{Context, ensure};
use nix::sys::statvfs::statvfs;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;
use tools::gates::{GATES, Gate, Tool};

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Install by apt what the gates need, first
    #[arg(long)]
    ci: bool,
    /// Run only these gates, by name
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
}

/// Debian packages of the gates themselves; `aarch64`, `compare`, `criu` and `programs` fetch their own.
const PACKAGES: &[&str] = &["g++", "chromium"];

/// A gate that takes longer than this hangs. All of them together should take 35 minutes.
const MINUTES_EACH: u64 = 20;

/// What all gates' builds take on the disk, in GiB, and a third more.
const DISK_GIB: u64 = 22;

/// Lines of a failed gate's log that are shown.
const TAIL: usize = 40;

/// Runs the command.
pub fn main(arguments: &Arguments) -> anyhow::Result<()> {
    for name in &arguments.only {
        let known: Vec<_> = GATES.iter().map(|gate| gate.name).collect();
        ensure!(known.contains(&name.as_str()), "no gate {name}; there are: {}", known.join(", "));
    }
    if arguments.ci {
        tools::apt_install(PACKAGES)?;
    }
    if arguments.only.is_empty() {
        let disk = statvfs(tools::root()).context("how much space is there?")?;
        suffices(disk.blocks_available() * disk.fragment_size())?;
    }
    let only = &arguments.only;
    let gates = GATES.iter().filter(|gate| only.is_empty() || only.iter().any(|n| n == gate.name));
    let logs = tools::release_dir()?.with_file_name("preflight");
    std::fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;

    let (mut passed, mut failed) = (0, 0);
    for gate in gates {
        if run(gate, &logs)? {
            passed += 1;
        } else {
            failed += 1;
        }
    }
    println!("The logs are in {}.", logs.display());
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        std::process::exit(1); // Without an error's text: the summary is the last line.
    }
    Ok(())
}

/// An error if the gates' builds need more than the `free` bytes of the disk.
fn suffices(free: u64) -> anyhow::Result<()> {
    ensure!(
        free >> 30 >= DISK_GIB,
        "{} GiB are free on this disk, and the gates' builds need {DISK_GIB}: free some, or choose gates with --only",
        free >> 30
    );
    Ok(())
}

/// Runs one gate, says how it went, and returns whether it passed.
fn run(gate: &Gate, logs: &Path) -> anyhow::Result<bool> {
    let log = logs.join(gate.name).with_extension("log");
    let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let begin = Instant::now();
    let status = command(gate)?
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .context("cannot start `timeout`, which coreutils has")?;
    let verdict = if status.success() { "ok  " } else { "FAIL" };
    let seconds = begin.elapsed().as_secs_f64();
    println!("{verdict} {:<10} {seconds:>6.1} s  {}", gate.name, gate.shown());
    if !status.success() {
        let text = std::fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            println!("     | {line}");
        }
        println!("     | {status}");
    }
    Ok(status.success())
}

fn command(gate: &Gate) -> anyhow::Result<Command> {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=10", &format!("{MINUTES_EACH}m")]).current_dir(tools::root());
    let cargo = tools::cargo(&[]);
    match gate.tool {
        Tool::Cargo => command.arg(cargo.get_program()),
        Tool::Xtask => command.arg(std::env::current_exe().context("where is this program?")?),
        Tool::Lab => command.arg(cargo.get_program()).arg("lab"),
        Tool::Cross => command.arg("xtask/cross.sh"),
        Tool::Nodes => command.arg("xtask/nodes.sh"),
    };
    command.args(gate.arguments);
    // A log is for reading: no backtrace under a one-line error.
    command.env("RUST_BACKTRACE", "0").env("CARGO_TERM_COLOR", "never");
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn runs(tool: Tool, arguments: &'static [&'static str]) -> bool {
        let logs = std::env::temp_dir().join(format!("preflight-{}", std::process::id()));
        std::fs::create_dir_all(&logs).unwrap();
        run(&Gate { name: arguments[0], tool, arguments }, &logs).unwrap()
    }

    #[test]
    fn a_gate_passes_and_fails_with_its_command() {
        assert!(runs(Tool::Cargo, &["--version"]));
        assert!(!runs(Tool::Cargo, &["no-such-command"]));
    }

    #[test]
    fn a_full_disk_is_told_before_the_first_gate() {
        assert!(suffices(DISK_GIB << 30).is_ok());
        let told = suffices((DISK_GIB << 30) - 1).unwrap_err().to_string();
        assert!(told.starts_with(&format!("{} GiB are free", DISK_GIB - 1)), "{told}");
    }

    /// A gate that names a command which is gone would fail only in CI.
    #[test]
    fn every_gate_of_xtask_is_a_command_with_these_arguments() {
        for gate in GATES.iter().filter(|gate| gate.tool == Tool::Xtask) {
            let parsed = crate::Cli::command().try_get_matches_from(gate.words());
            assert!(parsed.is_ok(), "{}: {}", gate.name, parsed.unwrap_err());
        }
    }
}

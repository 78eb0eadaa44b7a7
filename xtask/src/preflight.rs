//! `cargo xtask preflight`: all gates, one after the other; `.ci/run` is the same with `--ci`.
//!
//! Promises that every gate runs even when one before it failed, that each gets one line with its
//! verdict, and that the exit code is 0 only if all of them passed. [`GATES`] is the one list, so
//! that CI and a developer's machine cannot drift apart. Calls cargo and this program's own commands.

use crate::tools;
use anyhow::{Context, ensure};
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

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

struct Gate {
    name: &'static str,
    tool: Tool,
    arguments: &'static [&'static str],
}

enum Tool {
    Cargo,
    Xtask,
}

const GATES: &[Gate] = &[
    cargo("tests", &["test", "--workspace"]),
    cargo("fmt", &["fmt", "--all", "--check"]),
    cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    xtask("layers", &["layers"]),
    xtask("golden", &["golden"]),
    xtask("imports", &["imports"]),
    xtask("loom", &["loom"]),
    xtask("loom-blind", &["loom", "--control"]),
    xtask("sweep", &["sweep"]),
    xtask("sweep-blind", &["sweep", "--control"]),
    xtask("criu", &["criu", "--cycles", "20", "--mode", "libc,own,atomic"]),
    xtask("criu-redis", &["criu", "--redis", "--cycles", "5"]),
    xtask("criu-blind", &["criu", "--control"]),
    // Short: the rows check what they read back, on both paths; the figures do not count here.
    xtask(
        "workloads",
        &["compare", "--peers", "rsalloc,rsalloc-atomic", "--rounds", "1", "--seconds", "0.05"],
    ),
    // Short as well: whole programs whose output must be right, and single calls.
    xtask(
        "timed-programs",
        &[
            "compare",
            "--programs",
            "--peers",
            "rsalloc,rsalloc-atomic",
            "--rows",
            "memcached,sqlite3,python3-malloc",
            "--rounds",
            "1",
        ],
    ),
    xtask(
        "latency",
        &["compare", "--latency", "--peers", "rsalloc", "--rounds", "1", "--seconds", "0.1"],
    ),
    // About a minute, of which a sixth is the load that must not grow.
    xtask("storm", &["storm"]),
    xtask("programs", &["programs", "--quick", "--mode", "all"]),
    xtask("vm", &["vm", "--quick"]),
    cargo("refusals", &["test", "--package", "rsalloc-core", "--features", "faults"]),
    cargo(
        "counters",
        &["test", "--package", "rsalloc-core", "--features", "counters", "--lib", "counters"],
    ),
    cargo(
        "counters-c",
        &[
            "clippy",
            "--package",
            "rsalloc-preload",
            "--features",
            "counters",
            "--",
            "-D",
            "warnings",
        ],
    ),
    xtask("fuzz-blind", &["fuzz", "--check-control"]),
    // Nine runs, two at once: five minutes on two CPUs.
    xtask("fuzz", &["fuzz", "--seconds", "60"]),
];

/// Debian packages of the gates themselves; `compare`, `criu` and `programs` fetch their own.
const PACKAGES: &[&str] = &["binutils", "g++"];

/// A gate that takes longer than this hangs. All of them together have 30 minutes.
const MINUTES_EACH: u64 = 20;

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

/// Runs one gate, says how it went, and returns whether it passed.
fn run(gate: &Gate, logs: &Path) -> anyhow::Result<bool> {
    let log = logs.join(gate.name).with_extension("log");
    let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
    let begin = Instant::now();
    let status = gate
        .command()?
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

impl Gate {
    fn command(&self) -> anyhow::Result<Command> {
        let mut command = Command::new("timeout");
        command.args(["--kill-after=10", &format!("{MINUTES_EACH}m")]).current_dir(tools::root());
        match self.tool {
            Tool::Cargo => command.arg(tools::cargo(&[]).get_program()),
            Tool::Xtask => command.arg(std::env::current_exe().context("where is this program?")?),
        };
        command.args(self.arguments);
        // A log is for reading: no backtrace under a one-line error.
        command.env("RUST_BACKTRACE", "0").env("CARGO_TERM_COLOR", "never");
        Ok(command)
    }

    fn shown(&self) -> String {
        let tool = match self.tool {
            Tool::Cargo => "cargo",
            Tool::Xtask => "cargo xtask",
        };
        format!("{tool} {}", self.arguments.join(" "))
    }
}

const fn cargo(name: &'static str, arguments: &'static [&'static str]) -> Gate {
    Gate { name, tool: Tool::Cargo, arguments }
}

const fn xtask(name: &'static str, arguments: &'static [&'static str]) -> Gate {
    Gate { name, tool: Tool::Xtask, arguments }
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

    /// A gate that names a command which is gone would fail only in CI.
    #[test]
    fn every_own_gate_is_a_command_with_these_arguments() {
        for gate in GATES.iter().filter(|gate| matches!(gate.tool, Tool::Xtask)) {
            let words = std::iter::once("xtask").chain(gate.arguments.iter().copied());
            let parsed = crate::Cli::command().try_get_matches_from(words);
            assert!(parsed.is_ok(), "{}: {}", gate.name, parsed.unwrap_err());
        }
    }

    #[test]
    fn the_readmes_test_command_comes_first() {
        assert_eq!(GATES[0].shown(), "cargo test --workspace");
    }
}

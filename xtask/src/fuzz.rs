//! `cargo xtask fuzz`: runs the fuzz targets of `fuzz/` for a while each.
//!
//! Promises that a crash fails the command and is shown as a test to paste into the tests, after libFuzzer has made it
//! smaller; that a target which ran nothing fails too; and, with `--check-control`, that a defect made on purpose is
//! found. As many runs go on at once as there are CPUs. The long run of `--operations` is in `long`.

mod long;

use crate::parallel;
use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// How long each run lasts
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Run only these targets
    #[arg(long, value_delimiter = ',')]
    target: Vec<String>,
    /// Make each known defect on purpose; succeed if every one is found
    #[arg(long)]
    check_control: bool,
    /// Instead of fuzzing: random sequences until so many objects came and went
    #[arg(long, conflicts_with = "check_control")]
    operations: Option<u64>,
    /// Number of the first random sequence
    #[arg(long, default_value_t = 1, requires = "operations")]
    seed: u64,
}

struct Target {
    name: &'static str,
    /// Bytes of the longest input.
    len_max: u32,
    dictionary: Option<&'static str>,
    /// One run with each.
    confs: &'static [&'static str],
    /// What the target can be asked to break, by `RSALLOC_FUZZ_DEFECT`.
    defects: &'static [&'static str],
    /// The file that keeps the sequences it finds, as tests.
    tests: &'static str,
}

const CORE_TESTS: &str = "alloc-core/tests/regressions.rs";

/// What most targets are: sequences of operations on objects, held against one model.
const SEQUENCES: Target = Target {
    name: "",
    len_max: 1000,
    dictionary: None,
    confs: &["mode:auto"],
    defects: &["Contents", "Overlap", "Lost", "Count"],
    tests: CORE_TESTS,
};
const BOTH_PATHS: &[&str] = &["mode:auto", "mode:atomic"];

const TARGETS: &[Target] = &[
    Target { name: "operations", confs: BOTH_PATHS, ..SEQUENCES },
    Target { name: "tiers", ..SEQUENCES },
    Target { name: "schedules", confs: BOTH_PATHS, ..SEQUENCES },
    Target {
        name: "c_abi",
        confs: BOTH_PATHS,
        defects: &["Contents", "Overlap", "Lost", "Errno"],
        tests: "alloc-preload/tests/sequences.rs",
        ..SEQUENCES
    },
    Target { name: "reference", defects: &["Contents"], ..SEQUENCES },
    Target {
        name: "conf",
        len_max: 600,
        dictionary: Some("fuzz/conf.dict"),
        defects: &["Contents"],
        ..SEQUENCES
    },
];

/// How long a control may take to find its defect.
const CONTROL_SECONDS: u64 = 60;
/// How long a target runs without a defect before.
const SOUND_SECONDS: u64 = 2;
/// How long a crash is made smaller.
const SHRINK_SECONDS: u64 = 30;

/// Runs the command.
pub fn main(arguments: &Arguments) -> anyhow::Result<()> {
    for name in &arguments.target {
        let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        ensure!(
            known.contains(&name.as_str()),
            "no target {name}; there are: {}",
            known.join(", ")
        );
    }
    if let Some(operations) = arguments.operations {
        return long::run(operations, arguments.seed);
    }
    install()?;
    tools::build_release(&["rsalloc-preload"])?;
    tools::run(fuzz("build", None)?.env("CARGO_TERM_QUIET", "true"))
        .context("the fuzz targets do not build")?;
    let wanted = &arguments.target;
    let targets = TARGETS
        .iter()
        .filter(|target| wanted.is_empty() || wanted.iter().any(|n| n == target.name));
    let (check_control, seconds) = (arguments.check_control, arguments.seconds);
    let runs: Vec<_> = targets
        .flat_map(|target| {
            let ways = if check_control { target.defects } else { target.confs };
            ways.iter().map(move |way| (target, *way))
        })
        .collect();
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
    let failed = parallel::each(runs, cpus, |(target, way)| {
        let (failed, words) = match check_control {
            true => control(target, way)?,
            false => search(target, way, seconds)?,
        };
        println!("{words}");
        Ok(failed)
    })?;
    let faults = failed.into_iter().filter(|&failed| failed).count();
    let what = if check_control { "defects not found" } else { "runs failed" };
    ensure!(faults == 0, "{faults} {what}");
    Ok(())
}

/// Makes sure that cargo-fuzz is there, and the C++ compiler that libFuzzer is built with.
fn install() -> anyhow::Result<()> {
    if !tools::has("c++") {
        bail!("libFuzzer needs a C++ compiler; run as root: apt-get install g++");
    }
    let has = || tools::output(&mut tools::cargo(&["fuzz", "--version"])).is_ok();
    if !has() {
        eprintln!("cargo-fuzz is missing: cargo install cargo-fuzz");
        tools::output(&mut tools::cargo(&["install", "--locked", "--quiet", "cargo-fuzz"]))
            .context("cannot install cargo-fuzz; run: cargo install --locked cargo-fuzz")?;
        ensure!(has(), "cargo-fuzz is installed, but cargo does not find it; mend the PATH");
    }
    Ok(())
}

/// Runs a target with a configuration; returns whether it failed, and what to print.
fn search(target: &Target, conf: &str, seconds: u64) -> anyhow::Result<(bool, String)> {
    let scratch = tempfile::tempdir()?;
    let output = run(target, &scratch, seconds, &[("RSALLOC_CONF", conf)])?;
    let text = String::from_utf8_lossy(&output.stderr);
    let name = format!("{} ({conf})", target.name);
    let runs = statistic(&text, "number_of_executed_units").unwrap_or(0);
    if output.status.success() && runs > 0 {
        return Ok((false, format!("{name:<26}{runs:>9} runs in {seconds} s")));
    }
    let words = match artifact(scratch.path()) {
        Some(found) => show(target, &scratch, &found, conf, &text)?,
        None => last_lines(&text, 20),
    };
    Ok((true, format!("{name:<26}FAILED\n{words}")))
}

/// Runs a target with one of its defects; returns whether the defect stayed unseen, and what to print.
fn control(target: &Target, defect: &str) -> anyhow::Result<(bool, String)> {
    // A target that fails anyway finds nothing.
    let sound = run(target, &tempfile::tempdir()?, SOUND_SECONDS, &[])?;
    if !sound.status.success() {
        let why = reason(&String::from_utf8_lossy(&sound.stderr));
        return Ok((true, format!("{:<12}{defect:<10}red without the defect: {why}", target.name)));
    }
    let scratch = tempfile::tempdir()?;
    let output = run(target, &scratch, CONTROL_SECONDS, &[("RSALLOC_FUZZ_DEFECT", defect)])?;
    let found = !output.status.success() && artifact(scratch.path()).is_some();
    let text = String::from_utf8_lossy(&output.stderr);
    // The message that found it is shown: another fault would look the same.
    let why = reason(&text).lines().nth(1).map_or(String::new(), |line| format!(": {line}"));
    let verdict = if found { format!("found{why}") } else { "NOT FOUND".into() };
    Ok((!found, format!("{:<12}{defect:<10}{verdict}", target.name)))
}

fn run(
    target: &Target,
    scratch: &tempfile::TempDir,
    seconds: u64,
    env: &[(&str, &str)],
) -> anyhow::Result<Output> {
    let corpus = scratch.path().join("corpus");
    std::fs::create_dir(&corpus).context("create a folder for the corpus")?;
    let mut command = fuzz("run", Some(target.name))?;
    command.arg(corpus).arg("--").envs(env.iter().copied());
    command.args([
        &format!("-max_total_time={seconds}"),
        &format!("-artifact_prefix={}/", scratch.path().display()),
        &format!("-max_len={}", target.len_max),
        // Long sequences from the start.
        "-len_control=0",
        "-timeout=60",
        "-print_final_stats=1",
    ]);
    command.args(target.dictionary.map(|file| format!("-dict={file}")));
    command.output().context("cannot start cargo")
}

/// What went wrong, and the smallest input that libFuzzer finds for it as a test.
fn show(
    target: &Target,
    scratch: &tempfile::TempDir,
    found: &Path,
    conf: &str,
    text: &str,
) -> anyhow::Result<String> {
    let small = scratch.path().join("small");
    let mut shrink = fuzz("run", Some(target.name))?;
    shrink.arg(found).arg("--").env("RSALLOC_CONF", conf).args([
        "-minimize_crash=1",
        &format!("-max_total_time={SHRINK_SECONDS}"),
        &format!("-exact_artifact_path={}", small.display()),
    ]);
    // What can't be made smaller, or does not fail again in a fresh process, is shown as it is.
    let _ = shrink.output();
    let input = if small.exists() { &small } else { found };
    let kept = tools::root().join("fuzz/artifacts").join(target.name);
    std::fs::create_dir_all(&kept).context("create fuzz/artifacts")?;
    let kept = kept.join(found.file_name().unwrap_or_default());
    std::fs::copy(input, &kept).with_context(|| format!("write {}", kept.display()))?;
    let output =
        fuzz("fmt", Some(target.name))?.arg(&kept).output().context("cannot start cargo")?;
    let words = String::from_utf8_lossy(&output.stderr);
    let test = words.find("#[test]").map_or(&*words, |at| words[at..].trim_end());
    let (why, kept, tests) = (reason(text), kept.display(), target.tests);
    Ok(format!("{why}\nThe input is {kept}. As a test for {tests}:\n\n{test}"))
}

/// `cargo fuzz COMMAND TARGET` without sanitizers: they would watch the fuzzer's own allocator, and
/// without them a stable compiler does.
fn fuzz(command: &str, target: Option<&str>) -> anyhow::Result<Command> {
    let mut fuzz = tools::cargo(&["fuzz", command, "--sanitizer", "none"]);
    fuzz.args(target).stdin(Stdio::null());
    fuzz.env("RSALLOC_FUZZ_LIBRARY", tools::library()?);
    Ok(fuzz)
}

/// The file that libFuzzer left for a failure.
fn artifact(scratch: &Path) -> Option<PathBuf> {
    let mut files = std::fs::read_dir(scratch).ok()?.flatten().map(|entry| entry.path());
    files.find(|path| path.is_file() && path.file_name().is_some_and(|name| name != "small"))
}

fn statistic(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("stat::{name}:")))?;
    line.trim().parse().ok()
}

/// The line of the panic, of the allocator itself or of libFuzzer, and the one behind it.
fn reason(text: &str) -> String {
    let says = |line: &&str| {
        line.contains("panicked at") || line.starts_with("rsalloc: ") || line.contains("ERROR: lib")
    };
    let lines: Vec<_> = text.lines().collect();
    let at = lines.iter().position(says).unwrap_or(lines.len().saturating_sub(2));
    lines[at..lines.len().min(at + 2)].join("\n")
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that cargo-fuzz has but this command does not would never run.
    #[test]
    fn every_target_is_listed() {
        let folder = std::fs::read_dir(tools::root().join("fuzz/fuzz_targets")).unwrap();
        let mut files: Vec<_> =
            folder.map(|file| file.unwrap().path().file_stem().unwrap().to_owned()).collect();
        let mut names: Vec<std::ffi::OsString> =
            TARGETS.iter().map(|target| target.name.into()).collect();
        files.sort();
        names.sort();
        assert_eq!(files, names);
    }

    #[test]
    fn statistics_and_reasons_are_found() {
        let text =
            "x\nthread panicked at a.rs:1:\ncontents changed\nstat::number_of_executed_units: 12\n";
        assert_eq!(statistic(text, "number_of_executed_units"), Some(12));
        assert_eq!(statistic(text, "peak_rss_mb"), None);
        assert_eq!(reason(text), "thread panicked at a.rs:1:\ncontents changed");
    }
}

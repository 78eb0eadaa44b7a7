//! `rsalloc stats`: a running process's statistics, or a program's at its end.

use crate::format::Format;
use crate::inspect;
use crate::launch::{self, How};
use anyhow::{Context, Result, bail};
use rsalloc_core::Stats;
use rsalloc_core::internals::describe;
use serde_json::Value;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How long a process has to reach a slow path and answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// Statistics of a running process, which publishes them anew.
pub fn of_process(pid: u32, format: Format, output: Option<PathBuf>) -> Result<ExitCode> {
    let Some(block) = inspect::find(pid)? else { bail!("rsalloc is not active in process {pid}") };
    let before = block.read()?.generation;
    block.request_stats()?;
    let start = Instant::now();
    let mut seen = block.read()?;
    while seen.generation == before && start.elapsed() < ANSWER_TIMEOUT {
        std::thread::sleep(Duration::from_millis(5));
        seen = block.read()?;
    }
    if seen.generation == before {
        let which = if before == 0 { "it has published none yet" } else { "these are older" };
        eprintln!("rsalloc: process {pid} allocated too little to answer; {which}");
    }
    let mut text = String::new();
    if format.json {
        describe::all_json(&mut text, &seen.report, &seen.stats)?;
    } else {
        text = format!("{}\n", seen.stats);
    }
    put(&text, output, Stream::Out)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a program to its end, then shows what it left: on stderr, since stdout is the program's.
pub fn of_program(
    how: &How,
    program: &[OsString],
    format: Format,
    output: Option<PathBuf>,
) -> Result<ExitCode> {
    let name = |pid: &str| {
        std::env::temp_dir().join(format!("rsalloc-stats-{}-{pid}.json", std::process::id()))
    };
    let mut conf = how.conf.clone();
    conf.push(format!("stats_at_exit:{}", name("%p").display()));
    let how = How { conf, ..how.clone() };
    let mut child = launch::command(&how, program)?.spawn().context("cannot run the program")?;
    let file = name(&child.id().to_string());
    let status = child.wait().context("cannot wait for the program")?;
    let left = std::fs::read_to_string(&file);
    let _ = std::fs::remove_file(&file);
    match left.ok().and_then(|text| serde_json::from_str::<Value>(&text).ok()) {
        Some(found) => put(&render(&found, format), output, Stream::Err)?,
        None => eprintln!("rsalloc: the program left no statistics ({status})"),
    }
    Ok(launch::exit_code(status))
}

fn render(found: &Value, format: Format) -> String {
    if format.json {
        return format!("{found}\n");
    }
    let line = |(name, _)| format!("{name:<20}{:>16}\n", found["stats"][name]);
    Stats::default().entries().map(line).collect()
}

enum Stream {
    Out,
    Err,
}

fn put(text: &str, output: Option<PathBuf>, stream: Stream) -> Result<()> {
    match (output, stream) {
        (Some(path), _) => {
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        }
        (None, Stream::Out) => Ok(std::io::stdout().write_all(text.as_bytes())?),
        (None, Stream::Err) => Ok(std::io::stderr().write_all(text.as_bytes())?),
    }
}

//! `rsalloc check`: is rsalloc active in a process, in which mode, and why.

use crate::format::Format;
use crate::launch::{self, How};
use crate::output;
use crate::read::{self, Heap, Target};
use anyhow::{Context, Result, bail};
use rsalloc_core::Mode;
use rsalloc_core::internals::describe::SCHEMA;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::{Child, ExitCode, Stdio};

/// Name of the hidden subcommand whose process is examined.
pub const PROBE: &str = "check-probe";

/// Examines `target`, or a child that is started for it.
pub fn check(target: Option<Target>, format: Format, how: &How) -> Result<ExitCode> {
    let child = if target.is_none() { Some(Probe::start(how)?) } else { None };
    let of_child = child.as_ref().map(|child| Target::Process(child.0.id()));
    let target = target.or(of_child).context("no process to examine")?;
    let heap = read::find(&target)?;
    let report = heap.as_ref().map(Heap::report);
    let answer = match format.json {
        true => as_json(&target, heap.as_ref())?,
        false => as_text(&target, heap.as_ref()),
    };
    output::put(&answer, None, output::Stream::Out)?;
    Ok(ExitCode::from(match report.map(|report| report.mode) {
        Some(Mode::RseqLibc | Mode::RseqOwn) => 0,
        Some(Mode::Atomic) => 1,
        _ => 2,
    }))
}

fn as_text(target: &Target, heap: Option<&Heap>) -> String {
    let Some(heap) = heap else { return format!("rsalloc is not active in {target}\n") };
    let verdict = if heap.is_active() { "is active" } else { "is loaded, but not active" };
    format!(
        "rsalloc {verdict} in {target}\nfile:            {}\n{}\n",
        heap.file.display(),
        heap.report()
    )
}

fn as_json(target: &Target, heap: Option<&Heap>) -> Result<String> {
    let pid = match target {
        Target::Process(pid) => Some(*pid),
        Target::Core(_) | Target::Published(_) => heap.and_then(|heap| heap.pid),
    };
    let mut answer =
        json!({"schema": SCHEMA, "pid": pid, "active": false, "file": null, "report": null});
    if let Some(heap) = heap {
        answer["active"] = heap.is_active().into();
        answer["file"] = heap.file.to_string_lossy().into();
        answer["report"] = serde_json::from_str::<Value>(&heap.report().json().to_string())?;
    }
    Ok(format!("{answer}\n"))
}

/// The child: writes a byte, for which it allocates, and waits until its stdin is closed.
pub fn probe() -> Result<ExitCode> {
    std::io::stdout().write_all(b"!")?;
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(ExitCode::SUCCESS)
}

/// A child on rsalloc that has allocated, and ends when this is dropped.
struct Probe(Child);

impl Probe {
    fn start(how: &How) -> Result<Self> {
        let mut command = launch::probe(how, PROBE)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut probe = Self(command.spawn().context("cannot start a child to examine")?);
        let mut sign = [0];
        match probe.0.stdout.as_mut().map(|out| out.read_exact(&mut sign)) {
            Some(Ok(())) => Ok(probe),
            _ => bail!("a child started on rsalloc ended at once: {}", probe.0.wait()?),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

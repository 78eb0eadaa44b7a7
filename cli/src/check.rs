//! `rsalloc check`: is rsalloc active in a process, in which mode, and why.

use crate::format::Format;
use crate::inspect::{self, Block};
use crate::launch::{self, How};
use anyhow::{Context, Result, bail};
use rsalloc_core::Mode;
use rsalloc_core::internals::publish::Snapshot;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::process::{Child, ExitCode, Stdio};

/// Name of the hidden subcommand whose process is examined.
pub const PROBE: &str = "check-probe";

/// Examines process `pid`, or a child that is started for it.
pub fn check(pid: Option<u32>, format: Format, how: &How) -> Result<ExitCode> {
    let child = if pid.is_none() { Some(Probe::start(how)?) } else { None };
    let pid = pid.or(child.as_ref().map(|c| c.0.id())).context("no process to examine")?;
    let found = match inspect::find(pid)? {
        Some(block) => Some((block.read()?, block)),
        None => None,
    };
    print!("{}", if format.json { as_json(pid, &found)? } else { as_text(pid, &found)? });
    Ok(ExitCode::from(match found {
        None => 2,
        Some((seen, _)) => match seen.report.mode {
            Mode::RseqLibc | Mode::RseqOwn => 0,
            Mode::Atomic => 1,
            _ => 2,
        },
    }))
}

type Found = Option<(Snapshot, Block)>;

fn as_text(pid: u32, found: &Found) -> Result<String> {
    let Some((seen, block)) = found else {
        return Ok(format!("rsalloc is not active in process {pid}\n"));
    };
    let verdict = if is_active(seen) { "is active" } else { "is loaded, but not active" };
    let file = block.file.display();
    Ok(format!("rsalloc {verdict} in process {pid}\nfile:            {file}\n{}\n", seen.report))
}

fn as_json(pid: u32, found: &Found) -> Result<String> {
    let mut answer = json!({"pid": pid, "active": false, "file": null, "report": null});
    if let Some((seen, block)) = found {
        answer["active"] = is_active(seen).into();
        answer["file"] = block.file.to_string_lossy().into();
        answer["report"] = serde_json::from_str::<Value>(&seen.report.json().to_string())?;
    }
    Ok(format!("{answer}\n"))
}

fn is_active(seen: &Snapshot) -> bool {
    seen.report.mode != Mode::Unset
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

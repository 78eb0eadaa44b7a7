//! What a process runs on, as the library published it and as the kernel knows it.
//!
//! Read before the first dump and after each restore by `process` and `redis`; asks the `rsalloc`
//! command and `registration`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::kind::Kind;
use super::registration::{self, Registration};
use crate::tools;

/// What must be the same in every life of a process.
#[derive(PartialEq, Eq, Debug)]
pub struct Identity {
    /// The published mode; none on glibc's malloc.
    report: Option<serde_json::Value>,
    /// The rseq areas that the kernel knows, thread by thread.
    registrations: Vec<Registration>,
}

impl Identity {
    /// What process `pid` of so many `threads` runs on; an error unless that is `kind`.
    pub fn of(pid: i32, kind: &Kind, threads: usize) -> Result<Identity> {
        let report = kind.published.map(|expected| report(pid, expected)).transpose()?;
        let registrations = registration::of(pid)?;
        let registered = registrations.iter().filter(|found| found.is_some()).count();
        let wanted = if kind.is_registered { threads } else { 0 };
        ensure!(registered == wanted, "{registered} threads have rseq registered, not {wanted}");
        Ok(Identity { report, registrations })
    }
}

/// What the library published, which must be mode and shard index as `expected`.
fn report(pid: i32, expected: (&str, &str)) -> Result<serde_json::Value> {
    let inspector = tools::release_dir()?.join("rsalloc");
    // Its exit status is the mode; what matters is in the text.
    let answer = Command::new(inspector)
        .args(["check", "--json", &pid.to_string()])
        .output()
        .context("cannot start rsalloc")?;
    let answer: serde_json::Value = serde_json::from_slice(&answer.stdout)
        .with_context(|| String::from_utf8_lossy(&answer.stderr).into_owned())?;
    let report = &answer["report"];
    let found = (report["mode"].as_str(), report["shard_index"].as_str());
    let (mode, index) = expected;
    ensure!(found == (Some(mode), Some(index)), "mode {found:?} instead of {expected:?}");
    Ok(report.clone())
}

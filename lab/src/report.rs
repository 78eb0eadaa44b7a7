//! The report that the library publishes in a running process.

use anyhow::{Context, ensure};
use std::process::Command;

/// What the library published in process `pid`; an error unless mode and shard index are as `expected`.
pub fn of(pid: i32, expected: (&str, &str)) -> anyhow::Result<serde_json::Value> {
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
    let wanted = (Some(expected.0), Some(expected.1));
    ensure!(found == wanted, "it runs in mode {found:?} instead of {expected:?}: {answer}");
    Ok(report.clone())
}

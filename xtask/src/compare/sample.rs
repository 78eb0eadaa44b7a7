//! One run of the workload program: one row on one peer.
//!
//! Called by `compare`. Promises that a sample was served by the allocator it is named after.

use super::peers::Peer;
use crate::tools;
use anyhow::{Context, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

/// A row that the workload program offers.
#[derive(Deserialize)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// What one operation is.
    pub unit: String,
    /// What happens in it.
    pub what: String,
}

/// What one run cost, as the workload program prints it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sample {
    /// The file that `malloc` came from.
    #[serde(skip_serializing)]
    pub allocator: String,
    /// Operations within the clock.
    pub operations: u64,
    /// Wall-clock nanoseconds over operations.
    pub ns_per_operation: f64,
    /// CPU seconds within the clock.
    pub cpu_seconds: f64,
    /// Resident bytes before the load.
    pub start_rss_bytes: u64,
    /// The most resident bytes.
    pub peak_rss_bytes: u64,
    /// Resident bytes after all was freed.
    pub final_rss_bytes: u64,
    /// Page faults.
    pub minor_faults: u64,
}

/// The rows of these names in the order of the program's table, all if there are none.
pub fn select_rows(program: &Path, names: &[String]) -> anyhow::Result<Vec<Row>> {
    let list = tools::output(Command::new(program).arg("--list"))?;
    let all: Vec<Row> = serde_json::from_str(&list).context("the list of rows")?;
    for name in names {
        if !all.iter().any(|row| row.name == *name) {
            let known: Vec<_> = all.iter().map(|row| row.name.as_str()).collect();
            bail!("no row {name}; there are: {}", known.join(", "));
        }
    }
    Ok(all.into_iter().filter(|row| names.is_empty() || names.contains(&row.name)).collect())
}

/// Runs `row` on `peer`.
pub fn take(row: &str, peer: &Peer, seconds: f64, rest: f64) -> anyhow::Result<Sample> {
    let arguments =
        [row, "--seconds", &seconds.to_string(), "--rest", &rest.to_string()].map(OsString::from);
    let sample: Sample = run(peer, &peer.program, &arguments, 60.0 + 30.0 * seconds + rest)?;
    served_by(&sample.allocator, peer)?;
    Ok(sample)
}

/// Runs `program` on `peer` for at most `seconds`; the line of JSON that it prints.
pub fn run<T: DeserializeOwned>(
    peer: &Peer,
    program: &Path,
    arguments: &[OsString],
    seconds: f64,
) -> anyhow::Result<T> {
    // `timeout` and `env` run on the C library's allocator: only the program gets the peer.
    let mut command = Command::new("timeout");
    command.arg(seconds.to_string()).arg("env");
    command.env_remove("LD_PRELOAD").env_remove("RSALLOC_CONF");
    command.args(peer.environment.iter().map(|(key, value)| format!("{key}={value}")));
    if let Some(library) = &peer.preload {
        command.arg(format!("LD_PRELOAD={}", library.display()));
    }
    command.arg(program).args(arguments);
    Ok(serde_json::from_str(&tools::output(&mut command)?)?)
}

/// An error unless `allocator`, which a program said, is the one that `peer` means.
pub fn served_by(allocator: &str, peer: &Peer) -> anyhow::Result<()> {
    match peer.says {
        Some(name) if allocator == name => Ok(()),
        Some(name) => bail!("{allocator} served it, not {name}"),
        None => came_from(allocator, peer.preload.as_deref()),
    }
}

/// An error unless `malloc` came from `preload`, or from the C library where nothing is preloaded.
fn came_from(allocator: &str, preload: Option<&Path>) -> anyhow::Result<()> {
    let meant = match preload {
        Some(library) => same_file(Path::new(allocator), library),
        None => allocator.rsplit('/').next().is_some_and(|name| name.starts_with("libc.so")),
    };
    if !meant {
        bail!("malloc came from {allocator}, not from {preload:?}");
    }
    Ok(())
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_served_by_another_allocator_is_refused() {
        assert!(came_from("/lib/x86_64-linux-gnu/libc.so.6", None).is_ok());
        assert!(came_from("/usr/lib/libjemalloc.so.2", None).is_err());
        let here =
            Path::new(file!()).file_name().map(|_| tools::root().join("Cargo.toml")).unwrap();
        assert!(came_from(here.to_str().unwrap(), Some(&here)).is_ok());
        assert!(came_from("/lib/x86_64-linux-gnu/libc.so.6", Some(&here)).is_err());
    }
}

//! One run of the workload program: one row on one peer.
//!
//! Promises that a sample was served by the allocator it is named after, with caches per CPU where the peer is said to
//! have them.

use super::Arguments;
use super::figures::{Figures, Metric, Row, Summary};
use super::peers::{Caches, Peer};
use super::shares::{self, Classifier, Code};
use super::suite::Suite;
use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;

/// Rows of the programs `workload`, `front` and `applications`.
pub struct Micro {
    rows: Vec<Row>,
    seconds: f64,
    rest: f64,
    takes_shares: bool,
}

/// What one run cost, as the workload program prints it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sample {
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
    /// The same after the program has woken up and made a few allocations; 0 of loads that do not (`replay`).
    #[serde(default)]
    pub woken_rss_bytes: u64,
    /// Page faults.
    pub minor_faults: u64,
}

/// What a sample takes from its peer only, not from our own environment.
pub const CLEARED: [&str; 3] = ["LD_PRELOAD", "RSALLOC_CONF", "GLIBC_TUNABLES"];

/// How long rows run while samples are taken: 1,200 samples of each CPU.
const SAMPLED_SECONDS: &str = "0.3";

/// Bytes of it.
pub const MIB: f64 = (1 << 20) as f64;

/// The clock's time.
pub const TIME: Metric<Sample> = Metric {
    title: "Time, ns",
    digits: 2,
    summary: Summary::GeometricMean,
    plot: Some("time"),
    of: |s| s.ns_per_operation,
};

/// What all threads used of the CPUs.
pub const CPU: Metric<Sample> = Metric {
    title: "CPU time of all threads, ns",
    digits: 2,
    summary: Summary::GeometricMean,
    plot: None,
    of: |s| s.cpu_seconds * 1e9 / s.operations.max(1) as f64,
};

/// The most memory.
pub const PEAK: Metric<Sample> = Metric {
    title: "Peak RSS, MiB",
    digits: 1,
    summary: Summary::GeometricMean,
    plot: Some("peak-rss"),
    of: |s| s.peak_rss_bytes as f64 / MIB,
};

impl Figures for Sample {
    const METRICS: &'static [Metric<Self>] = &[
        TIME,
        CPU,
        PEAK,
        Metric {
            title: "RSS after all was freed, MiB",
            digits: 1,
            summary: Summary::None,
            plot: None,
            of: |s| s.final_rss_bytes as f64 / MIB,
        },
        Metric {
            title: "Page faults",
            digits: 0,
            summary: Summary::None,
            plot: None,
            of: |s| s.minor_faults as f64,
        },
    ];
}

impl Micro {
    /// These rows, measured as the command line says.
    pub fn new(rows: Vec<Row>, arguments: &Arguments) -> Micro {
        let Arguments { seconds, rest, shares, .. } = *arguments;
        Micro { rows, seconds, rest, takes_shares: shares }
    }
}

/// The rows of these names of the program `workload`.
pub fn rows(names: &[String]) -> Vec<Row> {
    let chosen = benches::rows::ROWS.iter().filter(|row| names.iter().any(|name| name == row.name));
    let row = |row: &benches::rows::Row| Row {
        name: row.name.to_owned(),
        unit: row.unit.to_owned(),
        what: row.what.to_owned(),
    };
    chosen.map(row).collect()
}

impl Suite for Micro {
    type Sample = Sample;

    fn rows(&self) -> Vec<Row> {
        self.rows.clone()
    }

    fn take(&mut self, run: usize, peer: &Peer) -> anyhow::Result<Vec<Sample>> {
        Ok(vec![take(&self.rows[run].name, peer, self.seconds, self.rest)?])
    }

    fn appendix(&mut self, peers: &[Peer]) -> anyhow::Result<String> {
        if !self.takes_shares {
            return Ok(String::new());
        }
        let mut classifier = Classifier::default();
        let mut rows = Vec::new();
        for row in &self.rows {
            eprintln!("shares of {}", row.name);
            let shares = peers.iter().map(|peer| {
                let arguments = [&row.name, "--seconds", SAMPLED_SECONDS, "--samples"];
                let samples = ask(peer, peer.program_of(&row.name), &arguments, 60.0)?;
                classifier.shares(&Code::of(peer), &samples)
            });
            rows.push((row.name.clone(), shares.collect()));
        }
        Ok(shares::table(peers, &rows))
    }
}

/// Runs `row` of the workload program on `peer`.
pub fn take(row: &str, peer: &Peer, seconds: f64, rest: f64) -> anyhow::Result<Sample> {
    let limit = 60.0 + 30.0 * seconds + rest;
    let (seconds, rest) = (seconds.to_string(), rest.to_string());
    ask(peer, peer.program_of(row), &[row, "--seconds", &seconds, "--rest", &rest], limit)
}

/// Of `all`, those of these names, all if there are none.
pub fn select<'a>(
    all: impl Iterator<Item = &'a str> + Clone,
    names: &[String],
) -> anyhow::Result<Vec<String>> {
    for name in names {
        if !all.clone().any(|row| row == name) {
            bail!("no row {name}; there are: {}", all.collect::<Vec<_>>().join(", "));
        }
    }
    let wanted = all.filter(|row| names.is_empty() || names.iter().any(|name| name == row));
    Ok(wanted.map(str::to_owned).collect())
}

/// The allocator that served a program, and what it measured.
#[derive(Deserialize)]
struct Answer<T> {
    /// The file that `malloc` came from, or the front's name.
    allocator: String,
    /// Whether its caches are per CPU, where it says so.
    per_cpu: Option<bool>,
    #[serde(flatten)]
    measured: T,
}

/// Runs one of our programs on `peer`; what it measured. An error unless the peer served it.
pub fn ask<T: DeserializeOwned>(
    peer: &Peer,
    program: &Path,
    arguments: &[&str],
    limit: f64,
) -> anyhow::Result<T> {
    let answer = answer(peer, peer.environment, program, arguments, limit)?;
    match peer.says {
        Some(name) if answer.allocator == name => {}
        Some(name) => bail!("{} served it, not {name}", answer.allocator),
        None => served_by(&answer.allocator, peer.preload.as_deref())?,
    }
    has_caches(peer.caches, answer.per_cpu)?;
    Ok(answer.measured)
}

/// Makes sure that a peer whose caches must be per CPU has them, and that the question can be
/// answered with no: without the peer's environment libc registers with rseq, and the peer must
/// say that it fell back.
pub fn check_caches(peer: &Peer) -> anyhow::Result<()> {
    if peer.caches == Caches::Any {
        return Ok(());
    }
    let list = tools::output(Command::new(&peer.program).arg("--list"))?;
    let rows: Vec<Row> = serde_json::from_str(&list).context("the list of rows")?;
    let arguments = [&rows[0].name, "--iters", "1"];
    let per_cpu = |environment| -> anyhow::Result<Option<bool>> {
        let answer: Answer<serde_json::Value> =
            answer(peer, environment, &peer.program, &arguments, 60.0)?;
        Ok(answer.per_cpu)
    };
    has_caches(peer.caches, per_cpu(peer.environment)?)?;
    let without = per_cpu(&[])?;
    ensure!(
        without == Some(false),
        "{} answers {without:?} when asked for caches per CPU where it can't have them: \
         the check that it has them is worth nothing",
        peer.name
    );
    Ok(())
}

fn answer<T: DeserializeOwned>(
    peer: &Peer,
    environment: &[(&str, &str)],
    program: &Path,
    arguments: &[&str],
    limit: f64,
) -> anyhow::Result<Answer<T>> {
    // `timeout` and `env` run on the C library's allocator: only the program gets the peer.
    let mut command = Command::new("timeout");
    command.arg(limit.to_string()).arg("env");
    for variable in CLEARED {
        command.env_remove(variable);
    }
    command.args(environment.iter().map(|(key, value)| format!("{key}={value}")));
    if let Some(library) = &peer.preload {
        command.arg(format!("LD_PRELOAD={}", library.display()));
    }
    let text = tools::output(command.arg(program).args(arguments))?;
    serde_json::from_str(&text).context("what the program printed")
}

fn has_caches(wanted: Caches, per_cpu: Option<bool>) -> anyhow::Result<()> {
    match (wanted, per_cpu) {
        (Caches::Any, _) | (Caches::PerCpu, Some(true)) => Ok(()),
        (Caches::PerCpu, Some(false)) => bail!("it ran with caches per thread, not per CPU"),
        (Caches::PerCpu, None) => bail!("it doesn't say whether its caches are per CPU"),
    }
}

/// An error unless `malloc` came from `preload`, or from the C library where nothing is preloaded.
fn served_by(allocator: &str, preload: Option<&Path>) -> anyhow::Result<()> {
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

    impl Sample {
        /// One operation that took so long.
        pub fn of(ns_per_operation: f64) -> Sample {
            Sample {
                operations: 1,
                ns_per_operation,
                cpu_seconds: 0.0,
                start_rss_bytes: 0,
                peak_rss_bytes: 0,
                final_rss_bytes: 0,
                woken_rss_bytes: 0,
                minor_faults: 0,
            }
        }
    }

    #[test]
    fn a_fall_back_to_caches_per_thread_is_refused() {
        assert!(has_caches(Caches::PerCpu, Some(true)).is_ok());
        assert!(has_caches(Caches::PerCpu, Some(false)).is_err());
        assert!(has_caches(Caches::PerCpu, None).is_err());
        assert!(has_caches(Caches::Any, None).is_ok());
    }

    #[test]
    fn rows_are_selected_by_name_in_the_tables_order() {
        let all = || ["a", "b", "c"].into_iter();
        assert_eq!(select(all(), &[]).unwrap(), ["a", "b", "c"]);
        assert_eq!(select(all(), &["c".into(), "a".into()]).unwrap(), ["a", "c"]);
        assert!(select(all(), &["d".into()]).unwrap_err().to_string().contains("a, b, c"));
    }

    #[test]
    fn a_sample_served_by_another_allocator_is_refused() {
        assert!(served_by("/lib/x86_64-linux-gnu/libc.so.6", None).is_ok());
        assert!(served_by("/usr/lib/libjemalloc.so.2", None).is_err());
        let here =
            Path::new(file!()).file_name().map(|_| tools::root().join("Cargo.toml")).unwrap();
        assert!(served_by(here.to_str().unwrap(), Some(&here)).is_ok());
        assert!(served_by("/lib/x86_64-linux-gnu/libc.so.6", Some(&here)).is_err());
    }
}

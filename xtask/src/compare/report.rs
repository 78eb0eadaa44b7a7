//! Samples turned into medians, ratios, tables, and the CSV file.
//!
//! Called by `compare` and read by `plot`. "Best peer" leaves out our own variants; a peer that
//! failed in a row has no figure there, and the failure is listed.

use super::peers::Peer;
use super::sample::{Row, Sample};
use crate::tools;
use anyhow::{Context, bail};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

/// All samples of a run.
pub struct Results {
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// The allocators, in order.
    pub peers: Vec<Peer>,
    samples: Vec<Entry>,
    failures: Vec<Failure>,
}

struct Failure {
    round: usize,
    row: usize,
    peer: usize,
    cause: String,
}

struct Entry {
    round: usize,
    row: usize,
    peer: usize,
    sample: Sample,
}

/// A figure of a sample that gets a table.
pub struct Metric {
    /// The table's title.
    pub title: &'static str,
    digits: usize,
    of: fn(&Sample) -> f64,
}

const MIB: f64 = (1 << 20) as f64;

/// Wall-clock time, the figure of the plots and the limit.
pub const TIME: Metric = Metric { title: "Time, ns", digits: 2, of: |s| s.ns_per_operation };

const METRICS: &[Metric] = &[
    TIME,
    CPU,
    PEAK,
    Metric {
        title: "RSS after all was freed, MiB",
        digits: 1,
        of: |s| s.final_rss_bytes as f64 / MIB,
    },
    Metric { title: "Page faults", digits: 0, of: |s| s.minor_faults as f64 },
];

/// What all threads used of the CPUs.
pub const CPU: Metric = Metric {
    title: "CPU time of all threads, ns",
    digits: 2,
    of: |s| s.cpu_seconds * 1e9 / s.operations.max(1) as f64,
};

/// Peak memory, the figure of the second plot.
pub const PEAK: Metric =
    Metric { title: "Peak RSS, MiB", digits: 1, of: |s| s.peak_rss_bytes as f64 / MIB };

impl Results {
    /// No samples yet.
    pub fn new(rows: Vec<Row>, peers: Vec<Peer>) -> Self {
        Results { rows, peers, samples: Vec::new(), failures: Vec::new() }
    }

    /// Takes in a sample or a failure.
    pub fn add(&mut self, round: usize, row: usize, peer: usize, sample: anyhow::Result<Sample>) {
        match sample {
            Ok(sample) => self.samples.push(Entry { round, row, peer, sample }),
            Err(error) => {
                let cause = error.root_cause().to_string();
                let cause = cause.lines().next().unwrap_or_default().to_owned();
                self.failures.push(Failure { round, row, peer, cause });
            }
        }
    }

    /// The median of `metric` over the rounds; none if no round succeeded.
    pub fn median(&self, metric: &Metric, row: usize, peer: usize) -> Option<f64> {
        let own = self.samples.iter().filter(|entry| entry.row == row && entry.peer == peer);
        median(own.map(|entry| (metric.of)(&entry.sample)).collect())
    }

    /// The lowest median of the peers that are not ours.
    pub fn best_peer(&self, metric: &Metric, row: usize) -> Option<f64> {
        let others = (0..self.peers.len()).filter(|&peer| !self.peers[peer].ours);
        others.filter_map(|peer| self.median(metric, row, peer)).min_by(f64::total_cmp)
    }

    /// All tables as Markdown, and what failed.
    pub fn tables(&self) -> String {
        let mut text = String::from("| row | what happens |\n|---|---|\n");
        for Row { name, what, .. } in &self.rows {
            writeln!(text, "| {name} | {what} |").unwrap();
        }
        for metric in METRICS {
            self.table(metric, &mut text);
        }
        if !self.failures.is_empty() {
            text.push_str("\nFailed:\n\n");
            for failure in &self.failures {
                writeln!(text, "* {}", self.shown(failure)).unwrap();
            }
        }
        text
    }

    /// Writes every sample, one a line.
    pub fn write_csv(&self, path: &Path) -> anyhow::Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            round: usize,
            row: &'a str,
            unit: &'a str,
            peer: &'a str,
            operations: u64,
            ns_per_operation: f64,
            cpu_seconds: f64,
            start_rss_bytes: u64,
            peak_rss_bytes: u64,
            final_rss_bytes: u64,
            minor_faults: u64,
        }
        make_folder_of(path)?;
        let mut csv =
            csv::Writer::from_path(path).with_context(|| format!("write {}", path.display()))?;
        for Entry { round, row, peer, sample } in &self.samples {
            csv.serialize(Line {
                round: round + 1,
                row: &self.rows[*row].name,
                unit: &self.rows[*row].unit,
                peer: self.peers[*peer].name,
                operations: sample.operations,
                ns_per_operation: sample.ns_per_operation,
                cpu_seconds: sample.cpu_seconds,
                start_rss_bytes: sample.start_rss_bytes,
                peak_rss_bytes: sample.peak_rss_bytes,
                final_rss_bytes: sample.final_rss_bytes,
                minor_faults: sample.minor_faults,
            })?;
        }
        Ok(csv.flush()?)
    }

    /// Puts the tables, the machine and the command into the generated part of `path`.
    /// `part` names it, and the folder of the plots.
    pub fn write_markdown(&self, path: &Path, part: &str) -> anyhow::Result<()> {
        let folder = plots_folder(part);
        let new = format!(
            "{}\n\n![Time as a multiple of the best peer's]({folder}/time.svg)\n\
             ![Peak RSS as a multiple of the leanest peer's]({folder}/peak-rss.svg)\n{}",
            self.origin()?,
            self.tables()
        );
        write_part(path, &new, part)
    }

    /// An error when one of our samples failed, or a row is slower than `limit` times the best peer.
    pub fn verdict(&self, limit: Option<f64>) -> anyhow::Result<()> {
        let failures = self.failures.iter().filter(|failure| self.peers[failure.peer].ours);
        let mut bad: Vec<_> = failures.map(|failure| self.shown(failure)).collect();
        // The atomic path has a goal of its own; the limit is the normal path's.
        let limited =
            |peer: &usize| self.peers[*peer].ours && self.peers[*peer].environment.is_empty();
        for row in 0..self.rows.len() {
            for peer in (0..self.peers.len()).filter(limited) {
                let ratio = self.ratio(&TIME, row, peer).unwrap_or(0.0);
                if limit.is_some_and(|limit| ratio > limit) {
                    let (row, peer) = (&self.rows[row].name, self.peers[peer].name);
                    bad.push(format!("{row} on {peer}: {ratio:.2} times the best peer"));
                }
            }
        }
        if !bad.is_empty() {
            bail!("{}", bad.join("\n"));
        }
        Ok(())
    }

    fn shown(&self, failure: &Failure) -> String {
        let Failure { round, row, peer, cause } = failure;
        let (row, peer) = (&self.rows[*row].name, self.peers[*peer].name);
        format!("{row} on {peer}, round {}: {cause}", round + 1)
    }

    /// The median over the best peer's; none where either is missing.
    pub fn ratio(&self, metric: &Metric, row: usize, peer: usize) -> Option<f64> {
        Some(self.median(metric, row, peer)? / self.best_peer(metric, row)?)
    }

    fn table(&self, metric: &Metric, text: &mut String) {
        let ours: Vec<_> = (0..self.peers.len()).filter(|&peer| self.peers[peer].ours).collect();
        write!(text, "\n### {}\n\n| row | per |", metric.title).unwrap();
        self.peers.iter().for_each(|peer| write!(text, " {} |", peer.name).unwrap());
        ours.iter().for_each(|&peer| write!(text, " {}/best |", self.peers[peer].name).unwrap());
        text.push_str("\n|---|---|");
        text.push_str(&"--:|".repeat(self.peers.len() + ours.len()));
        for (row, Row { name, unit, .. }) in self.rows.iter().enumerate() {
            write!(text, "\n| {name} | {unit} |").unwrap();
            let best = self.best_peer(metric, row);
            for peer in 0..self.peers.len() {
                match self.median(metric, row, peer) {
                    None => text.push_str(" failed |"),
                    Some(value) => {
                        let bold =
                            if !self.peers[peer].ours && Some(value) == best { "**" } else { "" };
                        write!(text, " {bold}{value:.*}{bold} |", metric.digits).unwrap();
                    }
                }
            }
            for &peer in &ours {
                match self.ratio(metric, row, peer).filter(|ratio| ratio.is_finite()) {
                    None => text.push_str(" - |"),
                    Some(ratio) => write!(text, " {ratio:.2} |").unwrap(),
                }
            }
        }
        text.push('\n');
    }

    fn origin(&self) -> anyhow::Result<String> {
        let rounds = self.samples.iter().map(|entry| entry.round + 1).max().unwrap_or(0);
        Ok(format!(
            "{} Medians of {rounds} rounds, interleaved, each sample in its own process; bold is the best \
             peer, the last columns are ours over the best peer. {}",
            origin()?,
            allocators(&self.peers)
        ))
    }
}

/// Where, when and how figures were measured.
pub fn origin() -> anyhow::Result<String> {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").context("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown CPU", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("osrelease")?;
    let kernel = kernel.trim().split('-').next().unwrap_or_default();
    let cpus = std::thread::available_parallelism()?;
    let date = tools::output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    Ok(format!(
        "Machine: {model}, {cpus} CPUs, Linux {kernel}. Date: {}. Command: `cargo xtask {command}`.",
        date.trim()
    ))
}

/// The allocators and what they were built from.
pub fn allocators(peers: &[Peer]) -> String {
    let peers = peers.iter().map(|peer| format!("{} ({})", peer.name, peer.version));
    format!("Allocators: {}.", peers.collect::<Vec<_>>().join(", "))
}

/// Puts `new` into the part of the page at `path` that is generated for `part`.
pub fn write_part(path: &Path, new: &str, part: &str) -> anyhow::Result<()> {
    make_folder_of(path)?;
    let old = std::fs::read_to_string(path).unwrap_or_else(|_| "# Benchmarks\n".to_owned());
    std::fs::write(path, replace_generated(&old, new, part))
        .with_context(|| format!("write {}", path.display()))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

/// Where the plots of `part` lie, below docs.
pub fn plots_folder(part: &str) -> &'static str {
    match part {
        FRONT => "benchmarks/front",
        REPLAY => "benchmarks/replay",
        _ => "benchmarks",
    }
}

/// The part of the tables with the Rust front.
pub const FRONT: &str = "compare-front";
/// The part with recorded programs.
pub const REPLAY: &str = "replay";
/// The part with the C functions.
pub const C: &str = "compare";

/// `old` with what stands between the marks of `part` replaced by `new`; the marks are added if missing.
fn replace_generated(old: &str, new: &str, part: &str) -> String {
    let (begin, end) = (format!("<!-- {part}: begin -->"), format!("<!-- {part}: end -->"));
    let (before, after) = match (old.split_once(&begin), old.split_once(&end)) {
        (Some((before, _)), Some((_, after))) => (before.to_owned(), after),
        _ => (format!("{}\n\n", old.trim_end()), "\n"),
    };
    format!("{before}{begin}\n{}\n{end}{after}", new.trim())
}

fn make_folder_of(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn only_the_generated_part_is_replaced() {
        let first = replace_generated("# Benchmarks\n\nWords.\n", "one", C);
        assert!(first.starts_with("# Benchmarks\n\nWords.\n") && first.contains("\none\n"));
        let with_tail = first + "More words.\n";
        let second = replace_generated(&with_tail, "two", C);
        assert_eq!(second, with_tail.replace("one", "two"));
        let both = replace_generated(&second, "three", FRONT);
        assert!(both.starts_with(second.trim_end()) && both.contains("\nthree\n"));
    }

    fn results(times: &[(&'static str, bool, Option<f64>)]) -> Results {
        let peers = times.iter().map(|&(name, ours, _)| Peer {
            name,
            ours,
            version: String::new(),
            preload: None,
            environment: &[],
            program: Default::default(),
            says: None,
        });
        let row = Row { name: "row".into(), unit: "pair".into(), what: "it".into() };
        let mut results = Results::new(vec![row], peers.collect());
        for (peer, (.., time)) in times.iter().enumerate() {
            let sample = time.map(|ns_per_operation| Sample {
                allocator: String::new(),
                operations: 1,
                ns_per_operation,
                cpu_seconds: 0.0,
                start_rss_bytes: 0,
                peak_rss_bytes: 0,
                final_rss_bytes: 0,
                minor_faults: 0,
            });
            results.add(0, 0, peer, sample.context("it crashed"));
        }
        results
    }

    #[test]
    fn the_best_peer_is_never_ours() {
        let results =
            results(&[("ours", true, Some(1.0)), ("a", false, Some(2.0)), ("b", false, Some(3.0))]);
        assert_eq!(results.best_peer(&TIME, 0), Some(2.0));
        assert!(
            results.tables().contains("| 1.00 | **2.00** | 3.00 | 0.50 |"),
            "{}",
            results.tables()
        );
    }

    #[test]
    fn the_limit_and_our_failures_are_errors() {
        let slow = results(&[("ours", true, Some(1.4)), ("a", false, Some(1.0))]);
        assert!(slow.verdict(Some(1.5)).is_ok() && slow.verdict(None).is_ok());
        assert!(slow.verdict(Some(1.3)).is_err());
        let crashed = results(&[("ours", true, None), ("a", false, Some(1.0))]);
        assert!(crashed.verdict(None).is_err());
        assert!(crashed.tables().contains("it crashed"));
        let other = results(&[("ours", true, Some(1.0)), ("a", false, None)]);
        assert!(other.verdict(Some(1.3)).is_ok() && other.tables().contains(" failed |"));
    }
}

//! The samples of a run: medians, what failed, the CSV file.
//!
//! A peer that failed in a row has no figure there, and the failure is kept.

use super::confidence::median;
use super::figures::{Figures, Metric, Row};
use super::multiples::Multiples;
use super::part;
use super::peers::Peer;
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// All samples of a run.
pub struct Results<S> {
    /// The rows, in order.
    pub rows: Vec<Row>,
    /// The allocators, in order.
    pub peers: Vec<Peer>,
    /// What follows the tables.
    pub appendix: String,
    samples: Vec<Entry<S>>,
    failures: Vec<Failure>,
}

struct Failure {
    round: usize,
    row: usize,
    peer: usize,
    cause: String,
}

struct Entry<S> {
    round: usize,
    row: usize,
    peer: usize,
    sample: S,
}

/// The first fields of a line of the CSV file.
#[derive(Serialize, Deserialize)]
pub struct Key<'a> {
    /// From 1.
    pub round: usize,
    /// Its name.
    pub row: &'a str,
    /// What one operation of it is.
    pub unit: &'a str,
    /// The allocator's name.
    pub peer: &'a str,
}

impl<S: Figures> Results<S> {
    /// No samples yet.
    pub fn new(rows: Vec<Row>, peers: Vec<Peer>) -> Self {
        Results { rows, peers, appendix: String::new(), samples: Vec::new(), failures: Vec::new() }
    }

    /// Takes in a sample or a failure.
    pub fn add(&mut self, round: usize, row: usize, peer: usize, sample: anyhow::Result<S>) {
        match sample {
            Ok(sample) => self.samples.push(Entry { round, row, peer, sample }),
            Err(error) => {
                let cause = error.root_cause().to_string();
                let cause = cause.lines().next().unwrap_or_default().to_owned();
                self.failures.push(Failure { round, row, peer, cause });
            }
        }
    }

    /// The samples of a row on a peer.
    pub fn samples(&self, row: usize, peer: usize) -> impl Iterator<Item = &S> {
        let own = self.samples.iter().filter(move |entry| entry.row == row && entry.peer == peer);
        own.map(|entry| &entry.sample)
    }

    /// How many rounds there were.
    pub fn rounds(&self) -> usize {
        (0..self.rows.len()).map(|row| self.rounds_of(row)).max().unwrap_or(0)
    }

    fn rounds_of(&self, row: usize) -> usize {
        let own = self.samples.iter().filter(|entry| entry.row == row);
        own.map(|entry| entry.round + 1).max().unwrap_or(0)
    }

    /// The median of `metric` over the rounds; none if no round succeeded.
    pub fn median(&self, metric: &Metric<S>, row: usize, peer: usize) -> Option<f64> {
        median(self.samples(row, peer).map(metric.of).collect())
    }

    /// The figures of a row, by round and peer; none where a sample is missing.
    pub fn by_round(&self, metric: &Metric<S>, row: usize, rounds: usize) -> Vec<Vec<Option<f64>>> {
        let mut figures = vec![vec![None; self.peers.len()]; rounds];
        for entry in self.samples.iter().filter(|entry| entry.row == row) {
            figures[entry.round][entry.peer] = Some((metric.of)(&entry.sample));
        }
        figures
    }

    /// Takes in the samples that [`Results::write_csv`] wrote into the file at `path`; an error if
    /// there is one of a row or an allocator that is not in this comparison.
    pub fn add_csv(&mut self, path: &Path) -> anyhow::Result<()> {
        let shown = path.display();
        let mut csv = csv::Reader::from_path(path).with_context(|| format!("read {shown}"))?;
        // A row's rounds go on counting from file to file.
        let first: Vec<_> = (0..self.rows.len()).map(|row| self.rounds_of(row)).collect();
        let mut added = 0;
        let names = csv.headers()?.clone();
        for line in csv.records() {
            let line = line.with_context(|| format!("read {shown}"))?;
            let Key { round, row, peer, .. } = line.deserialize(Some(&names))?;
            let sample: S = line.deserialize(Some(&names)).with_context(|| format!("{shown}"))?;
            let row = self.rows.iter().position(|known| known.name == row).with_context(|| {
                format!("{shown} has row {row}, which is not of this comparison: see --rows")
            })?;
            let peer = self.peers.iter().position(|known| known.name == peer);
            let peer = peer.with_context(|| format!("{shown} has an allocator not named here"))?;
            self.samples.push(Entry { round: first[row] + round - 1, row, peer, sample });
            added += 1;
        }
        ensure!(added > 0, "{shown} has no samples");
        Ok(())
    }

    /// Writes every sample, one a line.
    pub fn write_csv(&self, path: &Path) -> anyhow::Result<()> {
        part::make_folder_of(path)?;
        let mut csv =
            csv::Writer::from_path(path).with_context(|| format!("write {}", path.display()))?;
        for Entry { round, row, peer, sample } in &self.samples {
            let Row { name, unit, .. } = &self.rows[*row];
            let key = Key { round: round + 1, row: name, unit, peer: self.peers[*peer].name };
            csv.serialize((key, sample))?;
        }
        Ok(csv.flush()?)
    }

    /// An error when one of our samples failed, or a row's first figure is more than `limit` times
    /// the best peer's.
    pub fn verdict(&self, limit: Option<f64>) -> anyhow::Result<()> {
        let failures = self.failures.iter().filter(|failure| self.peers[failure.peer].ours);
        let mut bad: Vec<_> = failures.map(|failure| self.shown(failure)).collect();
        // The atomic path has a goal of its own; the limit is the normal path's.
        let limited =
            |peer: &usize| self.peers[*peer].ours && self.peers[*peer].environment.is_empty();
        let multiples = Multiples::of(self, &S::METRICS[0]);
        for row in 0..self.rows.len() {
            for peer in (0..self.peers.len()).filter(limited) {
                let ratio = multiples.of_row(row, peer).map_or(0.0, |multiple| multiple.value);
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

    /// What failed, a line each.
    pub fn failed(&self) -> impl Iterator<Item = String> {
        self.failures.iter().map(|failure| self.shown(failure))
    }

    fn shown(&self, failure: &Failure) -> String {
        let Failure { round, row, peer, cause } = failure;
        let (row, peer) = (&self.rows[*row].name, self.peers[*peer].name);
        format!("{row} on {peer}, round {}: {cause}", round + 1)
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::peers::Caches;
    use super::super::sample::Sample;
    use super::*;

    /// A peer, ours if it is called so.
    pub fn peer(name: &'static str) -> Peer {
        Peer {
            name,
            ours: name == "ours",
            version: String::new(),
            preload: None,
            environment: &[],
            caches: Caches::Any,
            program: Default::default(),
            others: Vec::new(),
            says: None,
        }
    }

    pub fn row(name: &str) -> Row {
        Row { name: name.into(), unit: "pair".into(), what: "it".into() }
    }

    /// Times by rows and peers.
    pub fn results(peers: &[&'static str], rows: &[(&str, &[Option<f64>])]) -> Results<Sample> {
        let names = rows.iter().map(|(name, _)| row(name)).collect();
        let mut results = Results::new(names, peers.iter().map(|name| peer(name)).collect());
        for (row, (_, times)) in rows.iter().enumerate() {
            for (peer, time) in times.iter().enumerate() {
                results.add(0, row, peer, time.map(Sample::of).context("it crashed"));
            }
        }
        results
    }

    #[test]
    fn the_limit_and_our_failures_are_errors() {
        let of = |ours, a| results(&["ours", "a"], &[("row", &[ours, a])]);
        let slow = of(Some(1.4), Some(1.0));
        assert!(slow.verdict(Some(1.5)).is_ok() && slow.verdict(None).is_ok());
        assert!(slow.verdict(Some(1.3)).is_err());
        let crashed = of(None, Some(1.0));
        assert!(crashed.verdict(None).is_err());
        assert!(crashed.failed().any(|line| line.contains("it crashed")));
        assert!(of(Some(1.0), None).verdict(Some(1.3)).is_ok());
    }

    #[test]
    fn a_line_of_the_csv_file_has_key_and_figures_and_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("below/samples.csv");
        let one = |name: &str| results(&["ours", "a"], &[(name, &[Some(1.5), None])]);
        one("row").write_csv(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("round,row,unit,peer,operations,ns_per_operation,"), "{text}");
        assert!(lines[1].starts_with("1,row,pair,ours,1,1.5,") && lines.len() == 2, "{text}");

        let mut again =
            results(&["a", "ours"], &[("other", &[None, None]), ("row", &[None, None])]);
        again.add_csv(&path).unwrap();
        again.add_csv(&path).unwrap();
        assert_eq!(again.samples(1, 1).map(|s| s.ns_per_operation).collect::<Vec<_>>(), [1.5, 1.5]);
        assert_eq!(again.rounds(), 2, "those of the second file come after those of the first");
        one("other").write_csv(&path).unwrap();
        again.add_csv(&path).unwrap();
        assert_eq!(again.rounds(), 2, "another row's rounds are its own");
        assert!(one("another").add_csv(&path).is_err());
    }
}

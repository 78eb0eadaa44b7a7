//! The samples of the last table runs, which `--write` keeps in docs/benchmarks/samples, and multiples of them.

use super::super::confidence::median;
use super::super::figures::{Figures, Metric};
use super::super::multiples::{Multiple, Multiples};
use super::super::part::Part;
use super::super::report::Key;
use anyhow::{Context, ensure};
use std::path::Path;

/// One figure of a suite's samples.
pub struct Kept {
    rows: Vec<String>,
    peers: Vec<String>,
    /// By row, round and peer.
    figures: Vec<Vec<Vec<Option<f64>>>>,
}

/// Rows of one or several suites, on the allocators that all of them have.
pub struct Compared {
    rows: Vec<String>,
    peers: Vec<String>,
    multiples: Multiples,
}

/// Our normal path; other variants of ours begin with the same word.
const OURS: &str = "rsalloc";

impl Kept {
    /// The figure `metric` of the samples of `part`; none if they are not kept.
    pub fn read<S: Figures>(
        folder: &Path,
        part: &Part,
        metric: &Metric<S>,
    ) -> anyhow::Result<Option<Kept>> {
        let path = part.samples_in(folder);
        if !path.is_file() {
            return Ok(None);
        }
        let mut kept = Kept { rows: Vec::new(), peers: Vec::new(), figures: Vec::new() };
        kept.take(&path, metric).with_context(|| format!("read {}", path.display()))?;
        Ok(Some(kept))
    }

    fn take<S: Figures>(&mut self, path: &Path, metric: &Metric<S>) -> anyhow::Result<()> {
        let mut csv = csv::Reader::from_path(path)?;
        let names = csv.headers()?.clone();
        for line in csv.records() {
            let line = line?;
            let Key { round, row, peer, .. } = line.deserialize(Some(&names))?;
            let sample: S = line.deserialize(Some(&names))?;
            ensure!(round > 0, "rounds count from 1");
            let row = index(&mut self.rows, row);
            let peer = index(&mut self.peers, peer);
            self.figures.resize(self.rows.len(), Vec::new());
            let rounds = &mut self.figures[row];
            rounds.resize(rounds.len().max(round), Vec::new());
            let peers = &mut rounds[round - 1];
            peers.resize(self.peers.len().max(peers.len()), None);
            peers[peer] = Some((metric.of)(&sample));
        }
        Ok(())
    }

    /// Whether there is a row of this name.
    pub fn has(&self, row: &str) -> bool {
        self.rows.iter().any(|known| known == row)
    }

    /// The median of `row` on `peer` over the rounds.
    pub fn median(&self, row: &str, peer: &str) -> Option<f64> {
        let row = self.rows.iter().position(|known| known == row)?;
        let peer = self.peers.iter().position(|known| known == peer)?;
        let rounds = self.figures[row].iter();
        median(rounds.filter_map(|peers| *peers.get(peer)?).collect())
    }

    fn rounds(&self) -> usize {
        self.figures.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// By round and peer of `peers`.
    fn row(&self, row: usize, rounds: usize, peers: &[String]) -> Vec<Vec<Option<f64>>> {
        let at = |round: usize, name: &String| {
            let peer = self.peers.iter().position(|known| known == name)?;
            *self.figures[row].get(round)?.get(peer)?
        };
        (0..rounds).map(|round| peers.iter().map(|peer| at(round, peer)).collect()).collect()
    }
}

/// The place of `name`, which is added if it is new.
fn index(names: &mut Vec<String>, name: &str) -> usize {
    names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    })
}

impl Compared {
    /// The rows of `parts` that `is_wanted`, over the best of the allocators that `is_rival`. Rounds of different suites
    /// have nothing to do with each other, so they can be drawn together.
    pub fn of(
        parts: &[&Kept],
        is_wanted: impl Fn(&str) -> bool,
        is_rival: impl Fn(&str) -> bool,
    ) -> Compared {
        let first = parts.first().map_or(&[][..], |kept| &kept.peers);
        let everywhere = |name: &&String| parts.iter().all(|kept| kept.peers.contains(name));
        let peers: Vec<String> = first.iter().filter(everywhere).cloned().collect();
        let rivals = peers.iter().enumerate();
        let rivals = rivals.filter(|(_, name)| !name.starts_with(OURS) && is_rival(name));
        let rivals: Vec<_> = rivals.map(|(peer, _)| peer).collect();
        let rounds = parts.iter().map(|kept| kept.rounds()).min().unwrap_or(0);
        let (mut rows, mut figures) = (Vec::new(), Vec::new());
        for kept in parts {
            for (row, name) in kept.rows.iter().enumerate().filter(|(_, name)| is_wanted(name)) {
                rows.push(name.clone());
                figures.push(kept.row(row, rounds, &peers));
            }
        }
        let multiples = Multiples::over(figures.into_iter(), &rivals, rounds, peers.len());
        Compared { rows, peers, multiples }
    }

    fn ours(&self) -> Option<usize> {
        self.peers.iter().position(|name| name == OURS)
    }

    /// Ours, by row; without those that we or all rivals failed in.
    pub fn each(&self) -> Vec<(String, Multiple)> {
        let Some(ours) = self.ours() else { return Vec::new() };
        let rows = self.rows.iter().enumerate();
        rows.filter_map(|(row, name)| Some((name.clone(), self.multiples.of_row(row, ours)?)))
            .collect()
    }

    /// The geometric mean of ours over the rows in which every allocator has a figure, and how many these are.
    pub fn mean(&self) -> Option<(usize, Multiple)> {
        let rows = self.multiples.complete_rows();
        Some((rows.len(), self.multiples.mean(&rows, self.ours()?)?))
    }

    /// That mean over the lowest one of another allocator, and that one's name.
    pub fn mean_over_next(&self) -> Option<(String, Multiple)> {
        let rows = self.multiples.complete_rows();
        let others = (0..self.peers.len()).filter(|&peer| !self.peers[peer].starts_with(OURS));
        let means = others.filter_map(|peer| Some((peer, self.multiples.mean(&rows, peer)?.value)));
        let (next, _) = means.min_by(|a, b| a.1.total_cmp(&b.1))?;
        let over = self.multiples.mean_over(&rows, self.ours()?, next)?;
        Some((self.peers[next].clone(), over))
    }
}

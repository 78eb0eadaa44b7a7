//! A set of rows, and how the samples of all allocators are taken side by side.
//!
//! Promises that the samples of one row and round lie next to each other in time.

use super::figures::{Figures, Row};
use super::peers::Peer;
use super::report::Results;
use crate::programs::child;
use anyhow::{Context, ensure};
use indicatif::{ProgressBar, ProgressStyle};

/// See the head of the file.
pub trait Suite {
    /// What one row's run cost.
    type Sample: Figures;

    /// The rows, in order; each run gives samples of the next few of them.
    fn rows(&self) -> Vec<Row>;

    /// How many rows a run gives samples of.
    const ROWS_A_RUN: usize = 1;

    /// What follows the tables, measured after all rounds.
    fn appendix(&mut self, _peers: &[Peer]) -> anyhow::Result<String> {
        Ok(String::new())
    }

    /// Does run `run` on `peer`: one sample for each of its rows.
    fn take(&mut self, run: usize, peer: &Peer) -> anyhow::Result<Vec<Self::Sample>>;
}

/// Adds `rounds` samples of each row on each peer.
pub fn measure<S: Suite>(
    suite: &mut S,
    rounds: usize,
    results: &mut Results<S::Sample>,
) -> anyhow::Result<()> {
    let runs = results.rows.len() / S::ROWS_A_RUN;
    let progress = ProgressBar::new((rounds * runs * results.peers.len()) as u64);
    progress.set_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({eta} left)")
            .context("the progress bar's template")?,
    );
    for round in 0..rounds {
        for run in 0..runs {
            let first = run * S::ROWS_A_RUN;
            for turn in 0..results.peers.len() {
                // Each round starts with another peer, so that none always follows the same one.
                let peer = (turn + round) % results.peers.len();
                let (row_name, served_by) = (&results.rows[first].name, &results.peers[peer]);
                progress.set_message(format!(
                    "round {}: {row_name} on {}",
                    round + 1,
                    served_by.name
                ));
                let samples = suite.take(run, served_by);
                ensure!(!child::is_interrupted(), "interrupted");
                match samples {
                    Ok(samples) => {
                        ensure!(samples.len() == S::ROWS_A_RUN, "a run gave too few samples");
                        for (row, sample) in (first..).zip(samples) {
                            results.add(round, row, peer, Ok(sample));
                        }
                    }
                    Err(error) => results.add(round, first, peer, Err(error)),
                }
                progress.inc(1);
            }
        }
    }
    progress.finish_and_clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::{peer, row};
    use super::super::sample::Sample;
    use super::*;

    /// Two runs of two rows each, of which one peer can do the first only.
    #[derive(Default)]
    struct Fake {
        taken: Vec<(usize, &'static str)>,
    }

    impl Suite for Fake {
        type Sample = Sample;
        const ROWS_A_RUN: usize = 2;

        fn rows(&self) -> Vec<Row> {
            ["a", "b", "c", "d"].map(row).into()
        }

        fn take(&mut self, run: usize, peer: &Peer) -> anyhow::Result<Vec<Sample>> {
            self.taken.push((run, peer.name));
            ensure!(run == 0 || peer.name != "lame", "it fell");
            Ok(vec![Sample::of(1.0), Sample::of(2.0)])
        }
    }

    #[test]
    fn rounds_are_interleaved_and_begin_with_another_peer() {
        let mut fake = Fake::default();
        let mut results = Results::new(fake.rows(), vec![peer("ours"), peer("lame")]);
        measure(&mut fake, 2, &mut results).unwrap();
        let round = |one, other| [(0, one), (0, other), (1, one), (1, other)];
        assert_eq!(fake.taken, [round("ours", "lame"), round("lame", "ours")].concat());
        let times = |row, peer| results.samples(row, peer).map(|s| s.ns_per_operation).collect();
        let both: [Vec<f64>; 4] = [times(1, 0), times(3, 0), times(1, 1), times(3, 1)];
        assert_eq!(both, [vec![2.0; 2], vec![2.0; 2], vec![2.0; 2], vec![]]);
        assert_eq!(results.failed().count(), 2);
    }
}

//! Each allocator's multiples of the best peer: by row, and in the geometric mean.
//!
//! "Best peer" leaves out our own variants. A multiple is the median over the rounds of the figure over the best peer's figure of the same round. The best peer
//! of a round is the one with the lowest median of the *other* rounds: chosen by its own figure, the luckiest of nine
//! equal peers would seem 1 to 2 % better than it is.

use super::confidence::{self, Interval, median};
use super::figures::{Figures, Metric};
use super::report::Results;

/// A multiple, and where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Multiple {
    /// The median, or the mean of medians.
    pub value: f64,
    /// None with too few rounds.
    pub interval: Option<Interval>,
}

/// The multiples of one metric.
pub struct Multiples {
    /// By row, round and peer; none where a sample is missing.
    rows: Vec<Vec<Vec<Option<f64>>>>,
    rounds: usize,
    peers: usize,
}

impl Multiples {
    /// Those of `metric`.
    pub fn of<S: Figures>(results: &Results<S>, metric: &Metric<S>) -> Multiples {
        let rounds = results.rounds();
        let others: Vec<_> =
            (0..results.peers.len()).filter(|&peer| !results.peers[peer].ours).collect();
        let figures = (0..results.rows.len()).map(|row| results.by_round(metric, row, rounds));
        Multiples::over(figures, &others, rounds, results.peers.len())
    }

    /// Those of `figures`, of each row by round and peer, over the best of `others`.
    pub fn over(
        figures: impl Iterator<Item = Vec<Vec<Option<f64>>>>,
        others: &[usize],
        rounds: usize,
        peers: usize,
    ) -> Multiples {
        let row = |row: Vec<_>| (0..rounds).map(|round| of_round(&row, round, others)).collect();
        Multiples { rows: figures.map(row).collect(), rounds, peers }
    }

    /// The multiple of a peer in a row; none without a sample.
    pub fn of_row(&self, row: usize, peer: usize) -> Option<Multiple> {
        self.with_interval(|rounds| self.median(row, peer, rounds))
    }

    /// The geometric mean of a peer's multiples over `rows`; none if there are none.
    pub fn mean(&self, rows: &[usize], peer: usize) -> Option<Multiple> {
        self.with_interval(|rounds| self.mean_in(rows, peer, rounds))
    }

    /// The mean of `peer` over that of `other`.
    pub fn mean_over(&self, rows: &[usize], peer: usize, other: usize) -> Option<Multiple> {
        self.with_interval(|rounds| {
            Some(self.mean_in(rows, peer, rounds)? / self.mean_in(rows, other, rounds)?)
        })
    }

    /// The rows in which every allocator has a multiple.
    pub fn complete_rows(&self) -> Vec<usize> {
        let all: Vec<_> = (0..self.rounds).collect();
        let complete =
            |&row: &usize| (0..self.peers).all(|peer| self.median(row, peer, &all).is_some());
        (0..self.rows.len()).filter(complete).collect()
    }

    fn with_interval(&self, mut figure: impl FnMut(&[usize]) -> Option<f64>) -> Option<Multiple> {
        let all: Vec<_> = (0..self.rounds).collect();
        let value = figure(&all)?;
        Some(Multiple { value, interval: confidence::interval(self.rounds, figure) })
    }

    fn median(&self, row: usize, peer: usize, rounds: &[usize]) -> Option<f64> {
        median(rounds.iter().filter_map(|&round| self.rows[row][round][peer]).collect())
    }

    fn mean_in(&self, rows: &[usize], peer: usize, rounds: &[usize]) -> Option<f64> {
        let logs = rows.iter().map(|&row| Some(self.median(row, peer, rounds)?.ln()));
        let logs = logs.collect::<Option<Vec<f64>>>().filter(|logs| !logs.is_empty())?;
        Some((logs.iter().sum::<f64>() / logs.len() as f64).exp())
    }
}

/// The multiples of all peers in `round`, of figures by round and peer; `others` are those that can be the best.
fn of_round(figures: &[Vec<Option<f64>>], round: usize, others: &[usize]) -> Vec<Option<f64>> {
    let here = &figures[round];
    let elsewhere = |peer: usize| {
        let rest = figures.iter().enumerate().filter(|(other, _)| *other != round);
        let rest = median(rest.filter_map(|(_, figures)| figures[peer]).collect());
        rest.or(here[peer])
    };
    let ranked = others.iter().filter_map(|&peer| Some((elsewhere(peer)?, here[peer]?)));
    let best = ranked.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, figure)| figure);
    let multiple = |figure: &Option<f64>| {
        let multiple = (*figure)? / best?;
        (multiple.is_finite() && multiple > 0.0).then_some(multiple)
    };
    here.iter().map(multiple).collect()
}

#[cfg(test)]
mod tests {
    use super::super::confidence::Standing;
    use super::super::report::tests::{peer, results, row};
    use super::super::sample::{Sample, TIME};
    use super::*;

    /// `rounds` rounds of one row on these peers, each with a time and this share of noise.
    fn noisy(
        times: &[(&'static str, f64)],
        noise: f64,
        rounds: usize,
        seed: u64,
    ) -> Results<Sample> {
        let mut random = fastrand::Rng::with_seed(seed);
        let peers = times.iter().map(|(name, _)| peer(name)).collect();
        let mut results = Results::new(vec![row("row")], peers);
        for round in 0..rounds {
            let machine = 1.0 + 0.2 * random.f64();
            for (peer, (_, time)) in times.iter().enumerate() {
                let noise = 1.0 + noise * (random.f64() + random.f64() - 1.0);
                results.add(round, 0, peer, Ok(Sample::of(time * machine * noise)));
            }
        }
        results
    }

    fn standings(times: &[(&'static str, f64)]) -> [usize; 3] {
        let mut counts = [0; 3];
        for seed in 0..50 {
            let multiples = Multiples::of(&noisy(times, 0.03, 9, seed), &TIME);
            let interval = multiples.of_row(0, 0).unwrap().interval.unwrap();
            counts[match interval.standing() {
                Standing::Ahead => 0,
                Standing::Level => 1,
                Standing::Behind => 2,
            }] += 1;
        }
        counts
    }

    #[test]
    fn equal_allocators_are_level_and_different_ones_are_not() {
        const EQUAL: [(&str, f64); 6] =
            [("ours", 5.0), ("a", 5.0), ("b", 5.0), ("c", 5.0), ("d", 5.0), ("e", 9.0)];
        let with_ours = |time| {
            let mut times = EQUAL;
            times[0].1 = time;
            standings(&times)
        };
        let [ahead, level, behind] = with_ours(5.0);
        assert!(level >= 44 && ahead <= 4 && behind <= 4, "{ahead} {level} {behind}");
        assert!(with_ours(4.7)[0] >= 47, "6 % less is seen through 3 % of noise");
        assert!(with_ours(5.3)[2] >= 47);
    }

    #[test]
    fn the_best_peer_is_chosen_by_the_other_rounds() {
        // The second peer is lucky in the first round only: in the others' view the first one is the best.
        let figures: Vec<Vec<_>> =
            [[4.0, 4.0, 2.0], [4.0, 4.0, 5.0], [4.0, 4.0, 5.0], [4.0, 4.0, 5.0]]
                .map(|round| round.map(Some).to_vec())
                .into();
        let others = [1, 2];
        assert!((0..4).all(|round| of_round(&figures, round, &others)[0] == Some(1.0)));
        assert_eq!(of_round(&figures[..1], 0, &others)[0], Some(2.0), "of one round by itself");
        let lame = vec![vec![Some(4.0), None, Some(8.0)]; 2];
        assert_eq!(of_round(&lame, 0, &others), [Some(0.5), None, Some(1.0)]);
        let idle = vec![vec![Some(0.0), Some(0.0), None]];
        assert_eq!(of_round(&idle, 0, &others), [None; 3], "0 of 0 is no multiple");
    }

    #[test]
    fn means_are_over_the_rows_that_all_have() {
        let rows: [(&str, &[Option<f64>]); 3] = [
            ("one", &[Some(2.0), Some(1.0), Some(3.0)]),
            ("two", &[Some(4.0), Some(16.0), Some(8.0)]),
            ("three", &[Some(9.0), None, Some(1.0)]),
        ];
        let multiples = Multiples::of(&results(&["ours", "a", "b"], &rows), &TIME);
        let complete = multiples.complete_rows();
        assert_eq!(complete, [0, 1]);
        let near = |mean: Option<Multiple>, expected: f64| {
            let mean = mean.unwrap();
            assert!((mean.value - expected).abs() < 1e-9 && mean.interval.is_none(), "{mean:?}");
        };
        near(multiples.mean(&complete, 0), 1.0); // of 2 and 1/2
        near(multiples.mean(&complete, 1), 2_f64.sqrt()); // of 1 and 2
        near(multiples.mean_over(&complete, 0, 1), 0.5_f64.sqrt());
        assert!(multiples.mean(&[], 0).is_none());
    }
}

//! How far a figure can be trusted: bootstrap intervals, and what they say about an allocator.
//!
//! Rounds are drawn with replacement, each as a whole: what slows all allocators in one round slows them together in
//! each draw. The interval lies between percentiles of the draws' figures. Of few rounds plain percentiles are too
//! narrow (a mean of nine: 90 % instead of 95 %), so they are moved outwards as Hesterberg's "What Teachers Should Know
//! about the Bootstrap" (2014, section 3.3, expanded percentile) says.

use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

/// The least rounds that give an interval: of four, the extremes themselves cover the median in 88 % of all cases.
const ROUNDS_MIN: usize = 5;
/// What an interval is meant to cover.
const LEVEL: f64 = 0.95;
const DRAWS: usize = 4000;

/// Where the figure lies with a confidence of 95 %.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// What an interval of a multiple says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Less is used than 1.00 allows: the interval lies below it.
    Ahead,
    /// The interval holds 1.00.
    Level,
    /// The interval lies above.
    Behind,
}

impl Interval {
    /// How the multiple stands to 1.00.
    pub fn standing(self) -> Standing {
        match self {
            Interval { high, .. } if high < 1.0 => Standing::Ahead,
            Interval { low, .. } if low > 1.0 => Standing::Behind,
            _ => Standing::Level,
        }
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Standing::Ahead => "ahead",
            Standing::Level => "level",
            Standing::Behind => "behind",
        })
    }
}

/// The interval of `figure`, which is computed from the rounds of these numbers; none if there are too few rounds, or
/// if a draw has no figure. The same rounds give the same interval.
pub fn interval(rounds: usize, figure: impl FnMut(&[usize]) -> Option<f64>) -> Option<Interval> {
    let enough = rounds >= ROUNDS_MIN;
    let figures = enough.then(|| draws(rounds, DRAWS, figure))??;
    Some(between(&figures, tail(rounds)))
}

/// The figures of so many draws, ascending.
fn draws(
    rounds: usize,
    count: usize,
    mut figure: impl FnMut(&[usize]) -> Option<f64>,
) -> Option<Vec<f64>> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut drawn = vec![0; rounds];
    let figures = (0..count).map(|_| {
        drawn.fill_with(|| random.usize(..rounds));
        figure(&drawn)
    });
    let mut figures = figures.collect::<Option<Vec<f64>>>()?;
    figures.sort_by(f64::total_cmp);
    Some(figures)
}

/// Leaves out a share of `tail` at either end.
fn between(figures: &[f64], tail: f64) -> Interval {
    let left_out = (figures.len() as f64 * tail) as usize;
    Interval { low: figures[left_out], high: figures[figures.len() - 1 - left_out] }
}

/// The share that the expanded interval leaves out at either end.
fn tail(rounds: usize) -> f64 {
    let rounds = rounds as f64;
    let student = StudentsT::new(0.0, 1.0, rounds - 1.0).expect("at least five rounds");
    let quantile = student.inverse_cdf((1.0 + LEVEL) / 2.0);
    Normal::standard().cdf(-quantile * (rounds / (rounds - 1.0)).sqrt())
}

/// The middle of `values`; none if there are none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// About a normal distribution (Irwin and Hall): mean 0, variance 1.
    fn normal(random: &mut fastrand::Rng) -> f64 {
        (0..12).map(|_| random.f64()).sum::<f64>() - 6.0
    }

    /// Mostly 1 % of noise; one of ten times something else ran, and it took up to half as long again.
    fn spiky(random: &mut fastrand::Rng) -> f64 {
        let spike = if random.usize(..10) == 0 { 0.5 * random.f64() } else { 0.0 };
        0.01 * normal(random) + spike
    }

    /// In which share of many runs the interval that `of` gives holds the truth.
    fn coverage(mut of: impl FnMut(&mut fastrand::Rng) -> (Interval, f64)) -> f64 {
        const RUNS: usize = 400;
        let mut random = fastrand::Rng::with_seed(7);
        let held = (0..RUNS).filter(|_| {
            let (Interval { low, high }, truth) = of(&mut random);
            (low..=high).contains(&truth)
        });
        held.count() as f64 / RUNS as f64
    }

    /// [`interval`] of fewer draws, for the sake of time.
    fn quick(rounds: usize, figure: impl FnMut(&[usize]) -> Option<f64>) -> Interval {
        between(&draws(rounds, 500, figure).unwrap(), tail(rounds))
    }

    fn median_of(ratios: &[f64], rounds: &[usize]) -> Option<f64> {
        median(rounds.iter().map(|&round| ratios[round]).collect())
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0]), Some(2.5));
    }

    #[test]
    fn the_interval_of_a_median_covers_the_truth() {
        for rounds in [5, 9, 15] {
            for noise in [normal, spiky] {
                // Both sides of the ratio have the same noise: its median is the truth.
                let share = coverage(|random| {
                    let ratios: Vec<f64> = (0..rounds)
                        .map(|_| 0.95 * (0.02 * (noise(random) - noise(random))).exp())
                        .collect();
                    (quick(rounds, |drawn| median_of(&ratios, drawn)), 0.95)
                });
                assert!((0.92..0.995).contains(&share), "{rounds} rounds: {share}");
            }
        }
    }

    #[test]
    fn plain_percentiles_of_a_mean_are_too_narrow_and_expanded_ones_are_not() {
        let with = |tail: f64| {
            coverage(|random| {
                let values: Vec<f64> = (0..9).map(|_| normal(random)).collect();
                let mean =
                    |drawn: &[usize]| Some(drawn.iter().map(|&i| values[i]).sum::<f64>() / 9.0);
                (between(&draws(9, 500, mean).unwrap(), tail), 0.0)
            })
        };
        assert!(with((1.0 - LEVEL) / 2.0) < 0.92, "this test sees an interval that is too narrow");
        assert!((0.92..0.98).contains(&with(tail(9))));
    }

    #[test]
    fn the_interval_of_a_geometric_mean_covers_the_truth() {
        const ROWS: usize = 20;
        let share = coverage(|random| {
            // What a round does to all rows is in every one of its ratios.
            let rounds: Vec<[f64; ROWS]> = (0..9)
                .map(|_| {
                    let common = 0.005 * normal(random);
                    std::array::from_fn(|_| common + 0.02 * normal(random))
                })
                .collect();
            let mean = |drawn: &[usize]| {
                let of = |row| median(drawn.iter().map(|&round| rounds[round][row]).collect());
                let logs = (0..ROWS).map(of).collect::<Option<Vec<f64>>>()?;
                Some((logs.iter().sum::<f64>() / ROWS as f64).exp())
            };
            (quick(9, mean), 1.0)
        });
        assert!((0.92..0.999).contains(&share), "{share}");
    }

    #[test]
    fn rounds_are_drawn_as_a_whole() {
        // A drift of 20 % over the rounds, the same for both: the ratio has none.
        let ours: Vec<f64> = (0..9).map(|round| 2.0 * (1.0 + 0.025 * f64::from(round))).collect();
        let ratio = |drawn: &[usize]| {
            median(drawn.iter().map(|&round| ours[round] / (ours[round] / 2.0)).collect())
        };
        assert_eq!(interval(9, ratio), Some(Interval { low: 2.0, high: 2.0 }));
    }

    #[test]
    fn few_rounds_have_no_interval() {
        assert_eq!(interval(4, |_| Some(1.0)), None);
        assert!(interval(5, |_| Some(1.0)).is_some());
        assert_eq!(interval(9, |drawn| (drawn[0] > 0).then_some(1.0)), None);
    }

    #[test]
    fn an_interval_says_how_a_multiple_stands() {
        let standing = |low, high| Interval { low, high }.standing();
        assert_eq!(standing(0.90, 0.99), Standing::Ahead);
        assert_eq!(standing(0.90, 1.0), Standing::Level);
        assert_eq!(standing(0.99, 1.01), Standing::Level);
        assert_eq!(standing(1.01, 1.02), Standing::Behind);
    }
}

//! How long single calls take: `cargo lab compare --latency`.
//!
//! Runs the program `latency` of benches, which times each call. One run gives three rows: malloc, free, and nothing,
//! which is what the clock and the machine add.

use super::figures::{Figures, Metric, Row, Summary};
use super::peers::Peer;
use super::plot;
use super::report::Results;
use super::sample;
use super::suite::Suite;
use anyhow::{Context, ensure};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What is timed, in the order of the program's answer.
const CALLS: [&str; 3] = ["malloc", "free", "nothing"];

/// The loads to run.
pub struct Latency {
    program: PathBuf,
    loads: Vec<Load>,
    seconds: f64,
}

#[derive(Deserialize)]
struct Load {
    name: String,
    what: String,
}

/// What the program prints.
#[derive(Deserialize)]
struct Spread {
    calls: Vec<Times>,
}

#[derive(Deserialize)]
struct Times {
    max_ns: f64,
    buckets: Vec<(f64, u64)>,
}

/// How the times of one call were spread, in ns.
#[derive(Serialize, Deserialize)]
pub struct Sample {
    calls: u64,
    p50: f64,
    p99: f64,
    p99_9: f64,
    p99_99: f64,
    max: f64,
    /// Ascending: the longest time that a bucket can hold, and how often it was taken. Not in the
    /// CSV file, so that samples from there are in the tables, not in the curves.
    #[serde(skip)]
    buckets: Vec<(f64, u64)>,
}

impl Figures for Sample {
    const METRICS: &'static [Metric<Self>] = &[
        P99_99,
        metric("p99.9, ns", |s| s.p99_9),
        metric("p99, ns", |s| s.p99),
        metric("p50, ns", |s| s.p50),
        metric("Maximum, ns", |s| s.max),
    ];
}

/// The time that one call in 10,000 exceeds.
pub const P99_99: Metric<Sample> = metric("p99.99, ns", |s| s.p99_99);

const fn metric(title: &'static str, of: fn(&Sample) -> f64) -> Metric<Sample> {
    Metric { title, digits: 0, summary: Summary::None, plot: None, of }
}

impl Latency {
    /// The loads of these names, all if there are none.
    pub fn new(workload: &Path, names: &[String], seconds: f64) -> anyhow::Result<Latency> {
        let program = workload.with_file_name("latency");
        let list = tools::output(Command::new(&program).arg("--list"))?;
        let mut loads: Vec<Load> = serde_json::from_str(&list).context("the list of loads")?;
        let chosen = sample::select(loads.iter().map(|load| load.name.as_str()), names)?;
        loads.retain(|load| chosen.contains(&load.name));
        Ok(Latency { program, loads, seconds })
    }
}

impl Suite for Latency {
    type Sample = Sample;
    const ROWS_A_RUN: usize = CALLS.len();

    fn rows(&self) -> Vec<Row> {
        let rows = |load: &Load| {
            let what = load.what.clone();
            CALLS.map(|call| Row {
                name: format!("{} {call}", load.name),
                unit: "call".to_owned(),
                what: what.clone(),
            })
        };
        self.loads.iter().flat_map(rows).collect()
    }

    fn take(&mut self, run: usize, peer: &Peer) -> anyhow::Result<Vec<Sample>> {
        let arguments = [&self.loads[run].name, "--seconds", &self.seconds.to_string()];
        let limit = 60.0 + 10.0 * self.seconds;
        let spread: Spread = sample::ask(peer, &self.program, &arguments, limit)?;
        ensure!(spread.calls.len() == CALLS.len(), "the program timed other calls");
        spread.calls.into_iter().map(Sample::new).collect()
    }
}

impl Sample {
    fn new(times: Times) -> anyhow::Result<Sample> {
        let Times { max_ns, buckets } = times;
        let calls = buckets.iter().map(|(_, count)| count).sum();
        let at = |share| percentile(&buckets, share).context("no call was timed");
        Ok(Sample {
            calls,
            p50: at(0.5)?,
            p99: at(0.99)?,
            p99_9: at(0.999)?,
            p99_99: at(0.9999)?,
            max: max_ns,
            buckets,
        })
    }
}

/// The least time that at least `share` of all calls kept to.
fn percentile(buckets: &[(f64, u64)], share: f64) -> Option<f64> {
    let all: u64 = buckets.iter().map(|(_, count)| count).sum();
    let wanted = (all as f64 * share).ceil() as u64;
    let mut seen = 0;
    buckets.iter().find_map(|(time, count)| {
        seen += count;
        (seen >= wanted.max(1)).then_some(*time)
    })
}

/// The points of a peer's curve: a time, and how many nines of all calls took at most that.
fn curve<'a>(samples: impl Iterator<Item = &'a Sample>) -> Vec<(f64, f64)> {
    let mut all: Vec<_> = samples.flat_map(|sample| sample.buckets.iter().copied()).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let calls: u64 = all.iter().map(|(_, count)| count).sum();
    let mut above = calls;
    let points = all.into_iter().map(|(time, count)| {
        above -= count;
        (time, -((above.max(1) as f64) / calls as f64).log10())
    });
    points.collect()
}

/// Draws the curves of all rows into one file in `folder`.
pub fn draw(
    results: &Results<Sample>,
    folder: &Path,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    const NAME: &str = "latency";
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    curves(results, &folder.join(format!("{NAME}.svg"))).context("draw latency.svg")?;
    Ok(vec![(NAME, "How many calls took at most so long, in nines".to_owned())])
}

fn curves(results: &Results<Sample>, path: &Path) -> anyhow::Result<()> {
    const HEAD: u32 = 90;
    const PANEL: u32 = 330;
    let lines = results.rows.len().div_ceil(CALLS.len());
    let size = (1200, HEAD + PANEL * lines as u32);
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    let (head, body) = area.split_vertically(HEAD);
    let title = "Share of calls (90 %, 99 %, ..) that took at most so many ns";
    head.draw(&Text::new(title, (16, 12), ("sans-serif", 18)))?;
    plot::legend(&head, &results.peers)?;
    for (row, panel) in body.split_evenly((lines, CALLS.len())).iter().enumerate() {
        // From 10 ns to 0.1 s across, from one nine to seven up.
        let mut chart = ChartBuilder::on(panel)
            .margin(10)
            .caption(&results.rows[row].name, ("sans-serif", 14))
            .x_label_area_size(24)
            .y_label_area_size(60)
            .build_cartesian_2d(1.0..8.0, 0.0..7.0)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .x_labels(8)
            .y_labels(8)
            .x_label_formatter(&|exponent| format!("1e{exponent}"))
            .y_label_formatter(&|nines| share(*nines))
            .draw()?;
        let ours_last = |ours: bool| {
            (0..results.peers.len()).filter(move |&peer| results.peers[peer].ours == ours)
        };
        for peer in ours_last(false).chain(ours_last(true)) {
            let points = curve(results.samples(row, peer));
            let points = points.into_iter().map(|(time, nines)| (time.max(1.0).log10(), nines));
            let points = thinned(points);
            let width = if results.peers[peer].ours { 2 } else { 1 };
            chart.draw_series(LineSeries::new(points, plot::colour(peer).stroke_width(width)))?;
        }
    }
    area.present()?;
    plot::suit_both_schemes(path)
}

/// Without the points that no eye can tell from the one before.
fn thinned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    const NEAR: f64 = 0.05; // two pixels
    let mut kept: Vec<(f64, f64)> = Vec::new();
    for point in points {
        match kept.last() {
            Some(last) if point.0 - last.0 < NEAR && point.1 - last.1 < NEAR => {}
            _ => kept.push(point),
        }
    }
    kept
}

/// The share that has so many nines.
fn share(nines: f64) -> String {
    let digits = (nines - 2.0).max(0.0) as usize;
    format!("{:.digits$} %", 100.0 * (1.0 - 0.1_f64.powf(nines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_calls() {
        let buckets = [(10.0, 9_900), (20.0, 90), (500.0, 9), (7_000.0, 1)];
        let at = |share| percentile(&buckets, share);
        assert_eq!(
            [at(0.5), at(0.99), at(0.999), at(0.9999), at(1.0)].map(Option::unwrap),
            [10.0, 10.0, 20.0, 500.0, 7_000.0]
        );
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn shares_are_written_with_their_nines() {
        let written = [0.0, 1.0, 2.0, 3.0, 6.0].map(share);
        assert_eq!(written, ["0 %", "90 %", "99 %", "99.9 %", "99.9999 %"]);
    }

    #[test]
    fn thinning_keeps_the_shape() {
        let line = (0..10_000).map(|i| (f64::from(i) / 2000.0, f64::from(i) / 4000.0));
        let kept = thinned(line);
        assert!((90..120).contains(&kept.len()), "{}", kept.len());
        let step = thinned([(1.0, 0.0), (1.001, 0.001), (1.002, 5.0)].into_iter());
        assert_eq!(step, [(1.0, 0.0), (1.002, 5.0)]);
    }

    #[test]
    fn a_curve_joins_all_rounds() {
        let sample = |buckets: &[(f64, u64)]| {
            Sample::new(Times { max_ns: 100.0, buckets: buckets.to_vec() }).unwrap()
        };
        let rounds = [sample(&[(10.0, 45), (30.0, 5)]), sample(&[(10.0, 45), (100.0, 5)])];
        let points = curve(rounds.iter());
        assert!((points[1].1 - 1.0).abs() < 1e-9, "nine tenths took at most 10: {points:?}");
        assert_eq!(points.last().unwrap(), &(100.0, 2.0));
    }
}

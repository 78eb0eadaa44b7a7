//! Resident memory over time: sampled, fitted by a straight line and drawn.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use plotters::prelude::*;

/// A sample of a process's memory.
#[derive(Clone, Copy)]
pub struct Sample {
    /// Seconds since the start.
    pub second: u64,
    /// Bytes resident.
    pub rss: u64,
    /// Bytes of live objects, as the victim says.
    pub live: u64,
}

/// Bytes of process `pid` that are resident, exactly: `smaps_rollup` counts page tables.
pub fn of(pid: i32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .context("read the victim's memory: run as its owner")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss line")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("a number of kB")?;
    Ok(kib << 10)
}

/// A straight line fitted to the samples.
pub struct Trend {
    /// Mean bytes resident.
    pub mean: f64,
    /// Bytes that it grows by in the time of the samples.
    pub growth: f64,
    /// Standard error of that.
    pub error: f64,
}

/// The line of least squares through the samples from second `from` on.
pub fn trend(samples: &[Sample], from: u64) -> Result<Trend> {
    let points: Vec<(f64, f64)> = samples
        .iter()
        .filter(|sample| sample.second >= from)
        .map(|sample| (sample.second as f64, sample.rss as f64))
        .collect();
    ensure!(points.len() >= 5, "{} samples are too few for a line", points.len());
    let n = points.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let xx: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    let slope = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>() / xx;
    let rest: f64 = points.iter().map(|p| (p.1 - y - slope * (p.0 - x)).powi(2)).sum();
    let span = points[points.len() - 1].0 - points[0].0;
    Ok(Trend { mean: y, growth: slope * span, error: (rest / (n - 2.0) / xx).sqrt() * span })
}

/// Points of a drawing: more are not told apart.
const POINTS: usize = 300;

/// Draws the samples, thinned, into the file at `path`.
pub fn draw(samples: &[Sample], path: &Path) -> Result<()> {
    let folder = path.parent().context("a file in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let step = samples.len().div_ceil(POINTS).max(1);
    let samples: Vec<_> = samples.iter().step_by(step).copied().collect();
    plot(&samples, path).with_context(|| format!("draw {}", path.display()))
}

fn plot(samples: &[Sample], path: &Path) -> Result<()> {
    const MIB: f64 = (1 << 20) as f64;
    let end = samples.last().map_or(1.0, |sample| sample.second as f64);
    let top = samples.iter().map(|s| s.rss.max(s.live)).max().unwrap_or(1) as f64 / MIB;
    let area = SVGBackend::new(path, (900, 360)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption("Resident memory under a mixed load, MiB over seconds", ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..end, 0.0..top * 1.1)?;
    chart.configure_mesh().light_line_style(TRANSPARENT).draw()?;
    for (colour, label, value) in
        [(RED, "resident", (|s| s.rss) as fn(&Sample) -> u64), (BLUE, "live objects", |s| s.live)]
    {
        let points = samples.iter().map(|s| (s.second as f64, value(s) as f64 / MIB));
        chart
            .draw_series(LineSeries::new(points, colour))?
            .label(label)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour));
    }
    chart.configure_series_labels().border_style(BLACK).background_style(WHITE).draw()?;
    area.present()?;
    crate::compare::plot::suit_both_schemes(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(rss: impl Fn(u64) -> u64) -> Vec<Sample> {
        (0..100).map(|second| Sample { second, rss: rss(second), live: 0 }).collect()
    }

    #[test]
    fn a_line_is_found() {
        let trend = trend(&samples(|second| 1000 + second * 10 + second % 2), 10).unwrap();
        assert!((trend.growth - 890.0).abs() < 1.0, "{}", trend.growth);
        assert!((trend.mean - 1545.5).abs() < 1.0, "{}", trend.mean);
        assert!(trend.error < 1.0, "{}", trend.error);
    }

    #[test]
    fn too_few_samples_are_no_line() {
        assert!(trend(&samples(|_| 1), 97).is_err());
    }
}

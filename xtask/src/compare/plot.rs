//! The comparison drawn: for each row a dot for each allocator, at its multiple of the best peer.
//!
//! Called by `compare`; writes SVG, which needs no font on this machine.

use super::report::{Metric, PEAK, Results, TIME};
use anyhow::Context;
use plotters::prelude::*;
use std::path::Path;

const COLOURS: [RGBColor; 10] = [
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0xff, 0x98, 0x96),
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0x94, 0x67, 0xbd),
    RGBColor(0x8c, 0x56, 0x4b),
    RGBColor(0x17, 0xbe, 0xcf),
    RGBColor(0xbc, 0xbd, 0x22),
    RGBColor(0x7f, 0x7f, 0x7f),
    RGBColor(0xe3, 0x77, 0xc2),
];

/// Writes the plots of `results` into `folder`.
pub fn write(results: &Results, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    draw(results, &TIME, &folder.join("time.svg")).context("draw time.svg")?;
    draw(results, &PEAK, &folder.join("peak-rss.svg")).context("draw peak-rss.svg")
}

fn draw(results: &Results, metric: &Metric, path: &Path) -> anyhow::Result<()> {
    // One lane a row, the first on top; a dot outside 0.25 to 16 is drawn at the edge.
    const RANGE: std::ops::Range<f64> = 0.25..16.0;
    let lanes = results.rows.len();
    let area = SVGBackend::new(path, (900, 120 + 26 * lanes as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let title = format!("{}: multiple of the best peer (log scale)", metric.title);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(110)
        .build_cartesian_2d(RANGE.log_scale(), -(lanes as f64)..0.0)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().y_labels(0).draw()?;
    chart.draw_series(std::iter::once(PathElement::new(
        vec![(1.0, 0.0), (1.0, -(lanes as f64))],
        BLACK,
    )))?;
    let lane = |row: usize| -(row as f64) - 0.5;
    for (row, text) in results.rows.iter().enumerate() {
        let label = Text::new(text.name.clone(), (-104, -6), ("sans-serif", 13));
        let place = EmptyElement::at((RANGE.start, lane(row))) + label;
        chart.draw_series(std::iter::once(place))?;
    }
    for (i, peer) in results.peers.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let dots = (0..lanes).filter_map(|row| {
            let ratio = results.median(metric, row, i)? / results.best_peer(metric, row)?;
            let place = (ratio.clamp(RANGE.start, RANGE.end), lane(row));
            Some(Circle::new(place, if peer.ours { 6 } else { 4 }, colour.filled()))
        });
        chart
            .draw_series(dots)?
            .label(peer.name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    area.present()?;
    Ok(())
}

//! The comparison drawn: for each row a dot for each allocator, at its multiple of the best peer.
//!
//! Writes SVG, which needs no font on this machine.

use super::figures::{Figures, Metric};
use super::multiples::Multiples;
use super::peers::Peer;
use super::report::Results;
use anyhow::Context;
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

const COLOURS: [RGBColor; 11] = [
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
    RGBColor(0x11, 0x3a, 0x5d),
];

/// Writes a plot of each metric that has one into `folder`; their files and captions.
pub fn write<S: Figures>(
    results: &Results<S>,
    folder: &Path,
) -> anyhow::Result<Vec<(&'static str, String)>> {
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    let mut pictures = Vec::new();
    for metric in S::METRICS {
        let Some(name) = metric.plot else { continue };
        draw(results, metric, &folder.join(format!("{name}.svg")))
            .with_context(|| format!("draw {name}.svg"))?;
        pictures.push((name, caption(metric)));
    }
    Ok(pictures)
}

fn caption<S>(metric: &Metric<S>) -> String {
    format!("{}, multiple of the best peer's", metric.title)
}

fn draw<S: Figures>(results: &Results<S>, metric: &Metric<S>, path: &Path) -> anyhow::Result<()> {
    // One lane a row, the first on top; across, powers of two from 1/4 to 16. A dot outside is drawn
    // at the edge.
    const EXPONENTS: std::ops::Range<f64> = -2.0..4.0;
    const HEAD: u32 = 84;
    let lanes = results.rows.len();
    let multiples = Multiples::of(results, metric);
    let lane = |row: usize| -(row as f64) - 0.5;
    let area = SVGBackend::new(path, (900, HEAD + 60 + 24 * lanes as u32)).into_drawing_area();
    area.fill(&WHITE)?;
    let (head, body) = area.split_vertically(HEAD);
    head.draw(&Text::new(caption(metric), (16, 12), ("sans-serif", 18)))?;
    legend(&head, &results.peers)?;

    let mut chart = ChartBuilder::on(&body)
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(110)
        .build_cartesian_2d(EXPONENTS, -(lanes as f64)..0.0)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(0)
        .x_labels(7)
        .light_line_style(TRANSPARENT)
        .x_label_formatter(&|exponent| format!("{}", exponent.exp2()))
        .draw()?;
    chart.draw_series(std::iter::once(PathElement::new(
        vec![(0.0, 0.0), (0.0, -(lanes as f64))],
        BLACK,
    )))?;
    for (row, text) in results.rows.iter().enumerate() {
        let name = Text::new(text.name.clone(), (-104, -6), ("sans-serif", 13));
        let place = EmptyElement::at((EXPONENTS.start, lane(row))) + name;
        chart.draw_series(std::iter::once(place))?;
    }
    // Ours last, so that no other dot hides it.
    let mut order: Vec<_> = (0..results.peers.len()).collect();
    order.sort_by_key(|&peer| results.peers[peer].ours);
    for peer in order {
        chart.draw_series((0..lanes).filter_map(|row| {
            let ratio = multiples.of_row(row, peer)?.value;
            let exponent = ratio.log2().clamp(EXPONENTS.start, EXPONENTS.end);
            let radius = radius(results.peers[peer].ours);
            Some(Circle::new((exponent, lane(row)), radius, colour(peer).filled()))
        }))?;
    }
    area.present()?;
    suit_both_schemes(path)
}

/// Has a picture follow the light or dark scheme of the page that it is in: plotters knows no styles.
pub fn suit_both_schemes(path: &Path) -> anyhow::Result<()> {
    let context = || format!("rewrite {}", path.display());
    let picture = std::fs::read_to_string(path).with_context(context)?;
    std::fs::write(path, with_schemes(&picture)).with_context(context)
}

/// The picture with [`DARK`] behind its first tag.
fn with_schemes(picture: &str) -> String {
    match picture.split_once('>') {
        Some((tag, rest)) => format!("{tag}>\n{DARK}{rest}"),
        None => picture.to_owned(),
    }
}

/// White is the page, black the ink, and the darkest colour of a peer a light one.
const DARK: &str = r##"<style>
@media (prefers-color-scheme: dark) {
  [fill="#FFFFFF"] { fill: #0d1117 }
  [fill="#000000"] { fill: #e6edf3 }
  [stroke="#FFFFFF"] { stroke: #0d1117 }
  [stroke="#000000"] { stroke: #e6edf3 }
  [fill="#113A5D"] { fill: #f0f6fc }
  [stroke="#113A5D"] { stroke: #f0f6fc }
  [fill="#DDDDDD"] { fill: #30363d }
}
</style>"##;

/// The allocators' names beside their colours, under the title.
pub fn legend<D: DrawingBackend>(
    head: &DrawingArea<D, Shift>,
    peers: &[Peer],
) -> Result<(), DrawingAreaErrorKind<D::ErrorType>> {
    const NAMES_A_LINE: usize = 7;
    for (i, peer) in peers.iter().enumerate() {
        let (x, y) = (24 + 120 * (i % NAMES_A_LINE) as i32, 50 + 20 * (i / NAMES_A_LINE) as i32);
        head.draw(&Circle::new((x, y), radius(peer.ours), colour(i).filled()))?;
        head.draw(&Text::new(peer.name, (x + 10, y - 7), ("sans-serif", 13)))?;
    }
    Ok(())
}

/// The colour of a peer in all pictures.
pub fn colour(peer: usize) -> RGBColor {
    COLOURS[peer % COLOURS.len()]
}

fn radius(ours: bool) -> i32 {
    if ours { 6 } else { 4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_both_schemes_and_all_that_it_had() {
        let picture = "<svg width=\"1\">\n<rect fill=\"#FFFFFF\"/>\n</svg>\n";
        let both = with_schemes(picture);
        assert!(both.contains("prefers-color-scheme: dark"), "{both}");
        assert_eq!(both.replace(&format!("\n{DARK}"), ""), picture);
    }
}

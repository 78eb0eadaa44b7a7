//! Fragmentation over time: live bytes against resident ones under a load whose sizes change by phases.
//!
//! Runs the `memory` program of benches, draws one line for each allocator.

use super::{Failed, MIB, by_peer, cell};
use crate::compare::peers::Peer;
use crate::compare::{part, plot, sample};
use anyhow::{Context, anyhow};
use plotters::prelude::*;
use serde::Deserialize;
use std::path::Path;

/// A run may take so long.
const SECONDS_MAX: f64 = 300.0;
/// Live bytes below which a ratio says more about the program than about the allocator.
const LIVE_MIN: u64 = 4 << 20;

#[derive(Deserialize)]
struct Course {
    start_rss_bytes: u64,
    looks: Vec<Look>,
    idle_rss_bytes: u64,
    woken_rss_bytes: u64,
}

#[derive(Deserialize)]
struct Look {
    live_bytes: u64,
    rss_bytes: u64,
}

/// Runs the load on every peer; the table, and the plot in `folder`.
pub fn table(
    peers: &[Peer],
    rest: f64,
    folder: Option<&Path>,
    failed: &mut Failed,
) -> anyhow::Result<String> {
    let program = tools::release_dir()?.join("memory");
    let mut courses = Vec::new();
    for (index, peer) in peers.iter().enumerate() {
        eprintln!("phases on {}", peer.name);
        let arguments = ["--rest", &rest.to_string()];
        let course = sample::ask::<Course>(peer, &program, &arguments, SECONDS_MAX + rest);
        let noted = course.as_ref().map(|_| 0.0).map_err(|error| anyhow!("{}", error.root_cause()));
        cell(peers, index, "phases", noted, failed);
        courses.push(course.ok());
    }
    let row = |name: &str, of: &dyn Fn(&Course) -> f64| {
        (name.to_owned(), courses.iter().map(|course| course.as_ref().map(of)).collect())
    };
    let rows: [(String, Vec<Option<f64>>); 8] = [
        row("mean of resident over live", &mean_ratio),
        row("worst of resident over live", &worst_ratio),
        row("peak, MiB", &|c| {
            c.looks.iter().map(|look| look.rss_bytes).max().unwrap_or(0) as f64 / MIB
        }),
        row("all freed, MiB", &|c| c.looks.last().map_or(0, |look| look.rss_bytes) as f64 / MIB),
        row("all freed and idle, MiB", &|c| c.idle_rss_bytes as f64 / MIB),
        row("idle over start", &|c| c.idle_rss_bytes as f64 / c.start_rss_bytes as f64),
        row("idle and woken, MiB", &|c| c.woken_rss_bytes as f64 / MIB),
        row("woken over start", &|c| c.woken_rss_bytes as f64 / c.start_rss_bytes as f64),
    ];
    let mut text = String::from(
        "\nEight phases, each with sizes of its own (16 B to 4 MiB): fill up to 64 to 160 MiB of live objects, make half as many more in place of random \
         ones, drop nine of ten or more at random; after the last, all. Every allocator is looked at with the same \
         objects live, at 192 steps; resident bytes are without the load's own tables. Woken: after an allocation and \
         a free of each power of two from 16 B to 512 KiB. Ratios are those of the \
         steps with at least 4 MiB live, the mean is of all resident over all live bytes.\n",
    );
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        draw(peers, &courses, &folder.join("phases.svg")).context("draw the phases")?;
        let folder = part::MEMORY_PHASES.folder;
        text += &format!("\n![Live and resident bytes over the phases]({folder}/phases.svg)\n");
    }
    Ok(text + &by_peer("over the phases", peers, &rows, 2))
}

fn counted(course: &Course) -> impl Iterator<Item = &Look> {
    course.looks.iter().filter(|look| look.live_bytes >= LIVE_MIN)
}

fn mean_ratio(course: &Course) -> f64 {
    let sum = |of: fn(&Look) -> u64| counted(course).map(of).sum::<u64>() as f64;
    sum(|look| look.rss_bytes) / sum(|look| look.live_bytes)
}

fn worst_ratio(course: &Course) -> f64 {
    counted(course).map(|look| look.rss_bytes as f64 / look.live_bytes as f64).fold(0.0, f64::max)
}

fn draw(peers: &[Peer], courses: &[Option<Course>], path: &Path) -> anyhow::Result<()> {
    const HEAD: u32 = 84;
    let all = || courses.iter().flatten().flat_map(|course| &course.looks);
    let top = all().map(|look| look.rss_bytes).max().unwrap_or(1) as f64 / MIB;
    let first = courses.iter().flatten().next().context("no allocator came through")?;
    let end = first.looks.len() as f64;
    let area = SVGBackend::new(path, (1000, HEAD + 440)).into_drawing_area();
    area.fill(&WHITE)?;
    let (head, body) = area.split_vertically(HEAD);
    let title = "Resident MiB at each look of the phases (grey: live)";
    head.draw(&Text::new(title, (16, 12), ("sans-serif", 18)))?;
    plot::legend(&head, peers)?;
    let mut chart = ChartBuilder::on(&body)
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..end, 0.0..top * 1.05)?;
    chart.configure_mesh().light_line_style(TRANSPARENT).draw()?;
    let live = first.looks.iter().enumerate().map(|(at, l)| (at as f64, l.live_bytes as f64 / MIB));
    chart.draw_series(AreaSeries::new(live, 0.0, RGBColor(0xdd, 0xdd, 0xdd)))?;
    // Ours last, so that no other line hides it.
    let mut order: Vec<_> = (0..peers.len()).collect();
    order.sort_by_key(|&peer| peers[peer].ours);
    for peer in order {
        let Some(course) = &courses[peer] else { continue };
        let points = course
            .looks
            .iter()
            .enumerate()
            .map(|(at, look)| (at as f64, look.rss_bytes as f64 / MIB));
        let style = plot::colour(peer).stroke_width(if peers[peer].ours { 2 } else { 1 });
        chart.draw_series(LineSeries::new(points, style))?;
    }
    area.present()?;
    plot::suit_both_schemes(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_leave_out_small_heaps() {
        let look = |live_bytes, rss_bytes| Look { live_bytes, rss_bytes };
        let looks = vec![look(1, 100 << 20), look(10 << 20, 20 << 20), look(30 << 20, 40 << 20)];
        let course = Course { start_rss_bytes: 1, looks, idle_rss_bytes: 1, woken_rss_bytes: 1 };
        assert_eq!(mean_ratio(&course), 1.5);
        assert_eq!(worst_ratio(&course), 2.0);
    }
}

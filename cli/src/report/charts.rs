//! Drawings of sums: one bar for the whole heap, and areas over time.

use super::story::Look;
use super::words::percent;
use crate::series::Sample;
use crate::text::human;
use maud::{Markup, html};
use rsalloc_core::Stats;
use std::fmt::Write;

/// A part of the heap's sums: label, class of its colour, bytes.
pub type Share = (&'static str, &'static str, fn(&Stats) -> u64);

/// What may be resident of a heap, from below.
pub const SHARES: [Share; 7] = [
    ("small objects held", "p-512", |s| s.live_bytes.saturating_sub(s.large_bytes) as u64),
    ("large objects held", "p-large", |s| s.large_bytes as u64),
    ("cached", "p-cached", |s| s.cached_bytes as u64),
    // What is kept for sampled objects is slabs of its own.
    ("free in slabs", "p-free", |s| (s.slab_free_bytes + s.sampled_free_bytes) as u64),
    ("ends of slabs", "p-tail", |s| s.slab_tail_bytes as u64),
    ("free pages, dirty", "p-dirty", |s| s.dirty_bytes as u64),
    ("metadata", "p-meta", |s| (s.metadata_bytes + s.guarded_bytes) as u64),
];

/// One bar with all that may be resident, and its legend.
pub fn overview(look: &Look) -> Markup {
    let stats = &look.counts.stats;
    let mut parts = SHARES.map(|(label, class, bytes)| (label, class, bytes(stats))).to_vec();
    parts.push(("not of the heap", "p-outside", look.outside_bytes()));
    parts.retain(|(_, _, bytes)| *bytes > 0);
    let all: u64 = parts.iter().map(|(_, _, bytes)| bytes).sum();
    html! {
        figure {
            (bar(&parts, all, 1024.0, 34.0))
            ul class="legend" {
                @for (label, class, bytes) in &parts {
                    li { (key(class, label)) " " strong { (human(*bytes)) } " " (percent(*bytes, all)) }
                }
            }
        }
    }
}

/// A square of a colour, and what it means.
pub fn key(class: &str, label: &str) -> Markup {
    html! {
        svg class="key" viewBox="0 0 12 12" aria-hidden="true" { rect class=(class) width="12" height="12" {} }
        (label)
    }
}

/// Parts beside each other, in a bar that is `width` long if they are `all`.
pub fn bar(parts: &[(&str, &str, u64)], all: u64, width: f64, height: f64) -> Markup {
    let scale = |bytes: u64| width * bytes as f64 / all.max(1) as f64;
    let placed = parts.iter().scan(0, |end, (label, class, bytes)| {
        *end += bytes;
        Some((label, class, scale(*end - bytes), *bytes))
    });
    html! {
        svg class="bar" viewBox=(format!("0 0 {width} {height}")) preserveAspectRatio="none" role="img" aria-label="A bar; the numbers stand beside it" {
            @for (label, class, x, bytes) in placed.filter(|(.., bytes)| *bytes > 0) {
                rect class=(class) x=(format!("{x:.2}")) width=(format!("{:.2}", scale(bytes))) height=(height) {
                    title { (label) ": " (human(bytes)) }
                }
            }
        }
    }
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 66.0;
const BELOW: f64 = 24.0;

/// The heap's sums over time, one area on the other, and the process's resident memory as a line.
pub fn over_time(samples: &[Sample]) -> Markup {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return html! {} };
    let span = (last.at - first.at).as_secs_f64().max(1e-9);
    let top = samples
        .iter()
        .map(|sample| sample.touched_bytes().max(sample.resident.map_or(0, |r| r.bytes)))
        .max()
        .unwrap_or(0)
        .max(1);
    let step = tick(top);
    let top = top.div_ceil(step) * step;
    let x =
        |sample: &Sample| LEFT + (WIDTH - LEFT - 8.0) * (sample.at - first.at).as_secs_f64() / span;
    let y = |bytes: u64| (HEIGHT - BELOW) - (HEIGHT - BELOW - 10.0) * bytes as f64 / top as f64;
    let below = |sample: &Sample, number: usize| -> u64 {
        SHARES[..number].iter().map(|(_, _, bytes)| bytes(&sample.stats)).sum()
    };
    let area = |number: usize| {
        let mut path = String::new();
        for (index, sample) in samples.iter().enumerate() {
            let _ = write!(
                path,
                "{}{:.1} {:.1}",
                if index == 0 { 'M' } else { 'L' },
                x(sample),
                y(below(sample, number + 1))
            );
        }
        for sample in samples.iter().rev() {
            let _ = write!(path, "L{:.1} {:.1}", x(sample), y(below(sample, number)));
        }
        path + "z"
    };
    let mut line = String::new();
    for sample in samples {
        if let Some(resident) = sample.resident {
            let _ = write!(
                line,
                "{}{:.1} {:.1}",
                if line.is_empty() { 'M' } else { 'L' },
                x(sample),
                y(resident.bytes)
            );
        }
    }
    html! {
        svg class="time" viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-label="Memory over time; the table below has the numbers" {
            @for number in 0..=top / step {
                @let at = y(number * step);
                path class="grid" d=(format!("M{LEFT} {at:.1}H{}", WIDTH - 8.0)) {}
                text x=(LEFT - 6.0) y=(format!("{:.1}", at + 4.0)) text-anchor="end" { (human(number * step)) }
            }
            @for (number, (label, class, _)) in SHARES.iter().enumerate() {
                path class=(class) d=(area(number)) { title { (label) } }
            }
            @if !line.is_empty() { path class="resident" d=(line) { title { "resident, the whole process" } } }
            text x=(LEFT) y=(HEIGHT - 6.0) { (format!("{:.1} s", first.at.as_secs_f64())) }
            text x=(WIDTH - 8.0) y=(HEIGHT - 6.0) text-anchor="end" { (format!("{:.1} s", last.at.as_secs_f64())) }
        }
    }
}

/// A distance of lines: a power of two, or three of it, that has three to six of them below `top`.
fn tick(top: u64) -> u64 {
    let step = (top / 4).max(1).next_power_of_two();
    if top / step < 2 { step / 2 } else { step }.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few_and_round() {
        for top in [1, 5, 1000, 1 << 20, (1 << 20) + 1, 100 << 30, u64::MAX / 4] {
            let lines = top.div_ceil(tick(top));
            assert!((1..=9).contains(&lines), "{top}: {lines}");
            assert!(tick(top).is_power_of_two(), "{top}");
        }
    }
}

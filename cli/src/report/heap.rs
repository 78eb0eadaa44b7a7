//! The heap drawn by address: cells that fill from below with what they hold.

use super::charts::key;
use super::words::{bytes, percent};
use crate::read::picture::{Cell, Contents, Part, Picture};
use crate::text::{grouped, human};
use maud::{Markup, html};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Cells of a row.
const COLUMNS: usize = 64;
/// Side of a cell, and the distance to the next one.
const SIDE: f64 = 13.0;
const STEP: f64 = 16.0;
/// The least height of objects.
const SEEN: f64 = 1.5;
/// Segments that are drawn one by one; more become one drawing.
const DRAWINGS_MAX: usize = 8;
/// Huge spans that are drawn and listed one by one.
const HUGE_MAX: usize = 60;
/// Rows of the table of segments.
const ROWS_MAX: usize = 128;

/// Label and class of each part, in the order in which a cell fills.
pub const PARTS: [(Part, &str, &str); 11] = [
    (Part::To64, "objects up to 64 B", "p-64"),
    (Part::To512, "to 512 B", "p-512"),
    (Part::To4K, "to 4 KiB", "p-4k"),
    (Part::To32K, "to 32 KiB", "p-32k"),
    (Part::To256K, "to 256 KiB", "p-256k"),
    (Part::Large, "larger", "p-large"),
    (Part::FreeInSlabs, "free in slabs", "p-free"),
    (Part::Tail, "ends of slabs", "p-tail"),
    (Part::Dirty, "free pages, dirty", "p-dirty"),
    (Part::Clean, "free pages, clean", "p-clean"),
    (Part::Unsettled, "being given back or read in a change", "p-unsettled"),
];

/// The section.
pub fn section(picture: &Picture) -> Markup {
    html! {
        p {
            "Each square is " (bytes("cell_bytes", picture.cell_bytes)) " of address space, in order. It fills from below: objects handed out "
            "(by the program or to the caches) by their size, then what is free. " (picture.segments.len())
            @if picture.segments.len() == 1 { " segment" } @else { " segments" } " of up to " (human(picture.segment_bytes)) "."
        }
        (legend(&picture.total))
        @for group in groups(picture) {
            figure class="heap" {
                figcaption { (caption(picture, group)) }
                (drawing(group))
            }
        }
        (huge(picture))
        details {
            summary { "The segments as a table" }
            (table(picture))
        }
    }
}

/// Cells that are drawn together: those of a segment where these are few and large, else all.
fn groups(picture: &Picture) -> Vec<&[Cell]> {
    let is_rows = picture.segment_bytes / picture.cell_bytes.max(1) >= COLUMNS as u64;
    match is_rows && picture.segments.len() <= DRAWINGS_MAX {
        true => picture.cells.chunk_by(|a, b| a.segment == b.segment).collect(),
        false => vec![&picture.cells],
    }
}

fn caption(picture: &Picture, group: &[Cell]) -> String {
    let (Some(first), Some(last)) = (group.first(), group.last()) else { return String::new() };
    let segments = &picture.segments[first.segment..=last.segment];
    let mapped: u64 = segments.iter().map(|segment| segment.contents.total()).sum();
    let used: u64 = segments.iter().map(|segment| segment.contents.used()).sum();
    let name = match segments.len() {
        1 => format!("Segment {} at {:#x}", first.segment, segments[0].address),
        count => format!("{count} segments from {:#x}", segments[0].address),
    };
    format!("{name}: {} mapped, {} handed out", human(mapped), percent(used, mapped))
}

/// What the colours mean, with the sums.
fn legend(total: &Contents) -> Markup {
    html! {
        ul class="legend" {
            @for (part, label, class) in PARTS.iter().filter(|(part, ..)| total.of(*part) > 0) {
                li {
                    (key(class, label)) " "
                    data class=(format!("picture_{part:?}")) value=(total.of(*part)) { (human(total.of(*part))) }
                }
            }
        }
    }
}

fn drawing(cells: &[Cell]) -> Markup {
    let rows = cells.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS as f64 * STEP, rows as f64 * STEP);
    let mut paths: BTreeMap<usize, String> = BTreeMap::new();
    let mut outline = String::new();
    let mut tips = String::new();
    for (index, cell) in cells.iter().enumerate() {
        let (x, y) = ((index % COLUMNS) as f64 * STEP, (index / COLUMNS) as f64 * STEP);
        let _ = write!(outline, "M{x} {y}h{SIDE}v{SIDE}h-{SIDE}z");
        fill(&cell.contents, x, y, &mut paths);
        // Numbers and fixed words only: nothing in them has to be escaped.
        let _ = write!(
            tips,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{STEP}\" height=\"{STEP}\"><title>{}</title></rect>",
            tip(cell)
        );
    }
    html! {
        svg viewBox=(format!("-1 -1 {} {}", width, height)) role="img" aria-label="Squares, each a part of the heap; the table below has the numbers" {
            path class="cell" d=(outline) {}
            @for (part, path) in &paths {
                path class=(PARTS[*part].2) d=(path) {}
            }
            g class="tips" { (maud::PreEscaped(tips)) }
        }
    }
}

/// Draws what a cell holds, from below. Objects are seen even if they are few; what lies above them gives way.
fn fill(contents: &Contents, x: f64, y: f64, paths: &mut BTreeMap<usize, String>) {
    let total = contents.total().max(1) as f64;
    let mut below = y + SIDE;
    for (index, (part, ..)) in
        PARTS.iter().enumerate().filter(|(_, (part, ..))| *part != Part::Clean)
    {
        let bytes = contents.of(*part);
        let least = if *part as usize <= Part::Large as usize { SEEN } else { 0.0 };
        let height = (SIDE * bytes as f64 / total).max(least).min(below - y);
        if bytes == 0 || height < 0.05 {
            continue;
        }
        below -= height;
        let path = paths.entry(index).or_default();
        let _ = write!(path, "M{x} {below:.1}h{SIDE}v{height:.1}h-{SIDE}z");
    }
}

fn tip(cell: &Cell) -> String {
    let mut tip = format!("{:#x}", cell.address);
    if let Some(slab) = &cell.slab {
        let _ = write!(
            tip,
            ": a slab of {} objects, {} of {} handed out",
            human(slab.size),
            grouped(slab.handed_out),
            grouped(slab.objects)
        );
        return tip;
    }
    let mut separator = ": ";
    for (part, label, _) in PARTS.iter().filter(|(part, ..)| cell.contents.of(*part) > 0) {
        let _ = write!(tip, "{separator}{} {label}", human(cell.contents.of(*part)));
        separator = ", ";
    }
    tip
}

/// Objects in mappings of their own.
fn huge(picture: &Picture) -> Markup {
    let all: u64 = picture.huge.iter().map(|span| span.len).sum();
    let shown = &picture.huge[..picture.huge.len().min(HUGE_MAX)];
    let rest = all - shown.iter().map(|span| span.len).sum::<u64>();
    let scale = |bytes: u64| 1022.0 * bytes as f64 / all.max(1) as f64;
    let mut x = 0.0;
    let places: Vec<_> = shown
        .iter()
        .map(|span| {
            x += scale(span.len);
            (x - scale(span.len), span)
        })
        .collect();
    html! {
        @if all > 0 {
            figure class="heap" {
                figcaption {
                    "Huge objects, above 32 MiB, each in a mapping of its own: " (grouped(picture.huge.len() as u64)) ", together "
                    (human(all)) ", drawn by length"
                }
                svg viewBox="-1 -1 1024 36" role="img" aria-label="Bars, one for each huge object; the table below has the numbers" {
                    @for (x, span) in &places {
                        rect class="p-large huge" x=(format!("{x:.1}")) y="0" width=(format!("{:.1}", scale(span.len).max(0.5))) height="32" {
                            title { (format!("{:#x}: {}", span.address, human(span.len))) }
                        }
                    }
                    @if rest > 0 {
                        rect class="p-large huge rest" x=(format!("{x:.1}")) y="0" width=(format!("{:.1}", scale(rest))) height="32" {
                            title { "all others: " (human(rest)) }
                        }
                    }
                }
            }
            details {
                summary { "The huge objects as a table" }
                div class="wide" tabindex="0" { table {
                    thead { tr { th scope="col" { "address" } th scope="col" { "size" } } }
                    tbody {
                        @for span in shown {
                            tr { th scope="row" { (format!("{:#x}", span.address)) } td { (human(span.len)) } }
                        }
                        @if rest > 0 {
                            tr {
                                th scope="row" { (grouped((picture.huge.len() - shown.len()) as u64)) " others" }
                                td { (human(rest)) }
                            }
                        }
                    }
                } }
            }
        }
    }
}

fn table(picture: &Picture) -> Markup {
    let together = picture.segments.len().div_ceil(ROWS_MAX).max(1);
    let parts: Vec<_> = PARTS.iter().filter(|(part, ..)| picture.total.of(*part) > 0).collect();
    html! {
        div class="wide" tabindex="0" { table {
            thead { tr {
                th scope="col" { "segments from" } th scope="col" { "mapped" } th scope="col" { "handed out" }
                @for (_, label, _) in &parts { th scope="col" { (label) } }
            } }
            tbody {
                @for segments in picture.segments.chunks(together) {
                    @let sum = |part: Part| segments.iter().map(|segment| segment.contents.of(part)).sum::<u64>();
                    @let mapped = segments.iter().map(|segment| segment.contents.total()).sum::<u64>();
                    @let used = segments.iter().map(|segment| segment.contents.used()).sum::<u64>();
                    tr {
                        th scope="row" { (format!("{:#x}", segments[0].address)) @if together > 1 { " (" (segments.len()) ")" } }
                        td { (human(mapped)) } td { (percent(used, mapped)) }
                        @for (part, ..) in &parts { td { (human(sum(*part))) } }
                    }
                }
            }
        } }
    }
}

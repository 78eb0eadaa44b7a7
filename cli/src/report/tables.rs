//! The tables: size classes, shards, time, settings.

use super::charts::{self, SHARES, key};
use super::story::{Look, Story};
use super::words::percent;
use crate::read::picture::Occupancy;
use crate::series::Sample;
use crate::text::{grouped, human, moved};
use maud::{Markup, html};
use rsalloc_core::internals::sums::ClassCounts;

/// Classes that are shown first.
const LARGEST: usize = 12;
/// Rows of the table of time.
const ROWS_MAX: usize = 40;

/// The size classes that have slabs: the largest first, and all.
pub fn classes(look: &Look) -> Markup {
    let mut classes: Vec<_> =
        look.counts.classes.iter().enumerate().filter(|(_, class)| class.slabs > 0).collect();
    classes.sort_by_key(|(_, class)| std::cmp::Reverse(class.slab_bytes));
    let most = classes.first().map_or(0, |(_, class)| class.slab_bytes as u64);
    let largest = &classes[..classes.len().min(LARGEST)];
    let row = |&(number, class): &(usize, &ClassCounts)| class_row(look, number, class, most);
    let head = html! {
        thead { tr {
            th scope="col" { "size" } th scope="col" class="drawn" { "slabs" } th scope="col" { "bytes" }
            th scope="col" { "live" } th scope="col" { "in shards" } th scope="col" { "in depot" }
            th scope="col" { "free" } th scope="col" { "in use" } th scope="col" { "refilled" } th scope="col" { "flushed" } th scope="col" class="drawn" { "slabs by fullness" }
        } }
    };
    html! {
        p {
            "The bar shows the slabs’ bytes: " (key("p-512", "live")) ", " (key("p-cached", "cached")) ", " (key("p-free", "free"))
            ". The small columns count slabs by fullness, from empty on the left to full on the right: columns on the left are slabs that few objects keep."
        }
        div class="wide" tabindex="0" { table class="classes" { (head) tbody { @for class in largest { (row(class)) } } } }
        @if classes.len() > largest.len() {
            details {
                summary { "All " (classes.len()) " classes that have slabs, by size" }
                @let by_size = { classes.sort_by_key(|(number, _)| *number); &classes };
                div class="wide" tabindex="0" { table class="classes" { (head) tbody { @for class in by_size { (row(class)) } } } }
            }
        }
    }
}

fn class_row(look: &Look, number: usize, class: &ClassCounts, most: u64) -> Markup {
    let of = |objects: usize| (objects * class.size) as u64;
    let parts = [
        ("live", "p-512", of(class.live())),
        ("cached", "p-cached", of(class.cached())),
        ("free in slabs", "p-free", of(class.free_in_slabs())),
        ("ends of slabs", "p-tail", class.tail_bytes() as u64),
    ];
    let occupancy = look.picture.as_ref().and_then(|picture| picture.occupancy.get(number));
    html! {
        tr {
            th scope="row" { (human(class.size as u64)) }
            td class="drawn" { (charts::bar(&parts, most, 160.0, 14.0)) }
            td { (human(class.slab_bytes as u64)) }
            td { (grouped(class.live() as u64)) } td { (grouped(class.in_shards as u64)) }
            td { (grouped(class.in_depot as u64)) } td { (grouped(class.free_in_slabs() as u64)) }
            td { (percent(of(class.live()), class.slab_bytes as u64)) }
            td { (moved(class.transferred, |each| each.refilled)) } td { (moved(class.transferred, |each| each.flushed)) }
            td class="drawn" { @if let Some(occupancy) = occupancy { (fullness(occupancy)) } }
        }
    }
}

/// Slabs by tenths of fullness, as columns.
fn fullness(occupancy: &Occupancy) -> Markup {
    let most = occupancy.tenths.iter().max().copied().unwrap_or(0).max(1);
    let label = |tenth: usize| match tenth {
        0 => "empty".to_owned(),
        _ => format!("{} to {} % full", 10 * (tenth - 1), 10 * tenth),
    };
    html! {
        svg class="bar" viewBox="0 0 110 16" preserveAspectRatio="none" role="img" aria-label={
            "slabs " @for (tenth, slabs) in occupancy.tenths.iter().enumerate().filter(|(_, slabs)| **slabs > 0) {
                (label(tenth)) ": " (slabs) "; "
            }
        } {
            path class="grid" d="M0 15.5H110" {}
            @for (tenth, slabs) in occupancy.tenths.iter().enumerate().filter(|(_, slabs)| **slabs > 0) {
                @let high = (14.0 * *slabs as f64 / most as f64).max(1.0);
                rect class="p-512" x=(10 * tenth) width="9" y=(format!("{:.1}", 15.0 - high)) height=(format!("{high:.1}")) {
                    title { (label(tenth)) ": " (grouped(*slabs)) " slabs" }
                }
            }
        }
    }
}

/// The shards.
pub fn shards(look: &Look) -> Markup {
    let most = look.counts.shards.iter().map(|shard| shard.bytes as u64).max().unwrap_or(0);
    html! {
        div class="wide" tabindex="0" { table {
            thead { tr {
                th scope="col" { "shard" } th scope="col" class="drawn" { "cached" } th scope="col" { "bytes" }
                th scope="col" { "objects" } th scope="col" { "refills" } th scope="col" { "flushes" } th scope="col" { "aborts" }
                th scope="col" { "objects refilled" } th scope="col" { "objects flushed" }
            } }
            tbody {
                @for shard in &look.counts.shards {
                    tr {
                        th scope="row" { (shard.kind.word().replace('_', " ")) " " (shard.index) }
                        td class="drawn" { (charts::bar(&[("cached", "p-cached", shard.bytes as u64)], most, 160.0, 14.0)) }
                        td { (human(shard.bytes as u64)) } td { (grouped(shard.objects as u64)) }
                        td { (grouped(shard.refills as u64)) } td { (grouped(shard.flushes as u64)) } td { (grouped(shard.aborts as u64)) }
                        td { (moved(shard.transferred, |each| each.refilled)) } td { (moved(shard.transferred, |each| each.flushed)) }
                    }
                }
            }
        } }
        p class="note" {
            "A refill or flush is a call that a shard could not serve, and moves as many objects as the columns behind say; calls that it serves are not counted, because that would make each of them slower."
        }
    }
}

/// Memory over time, as a table of at most [`ROWS_MAX`] rows.
pub fn time(samples: &[Sample]) -> Markup {
    let step = samples.len().div_ceil(ROWS_MAX).max(1);
    html! {
        div class="wide" tabindex="0" { table {
            thead { tr {
                th scope="col" { "time" } th scope="col" { "resident" }
                @for (label, ..) in SHARES { th scope="col" { (label) } }
            } }
            tbody {
                @for sample in samples.iter().step_by(step) {
                    tr {
                        th scope="row" { (format!("{:.1} s", sample.at.as_secs_f64())) }
                        td { (sample.resident.map_or("-".into(), |resident| human(resident.bytes))) }
                        @for (_, _, bytes) in SHARES { td { (human(bytes(&sample.stats))) } }
                    }
                }
            }
        } }
    }
}

/// The settings, and where they come from.
pub fn settings(story: &Story) -> Markup {
    html! {
        @match &story.settings {
            None => p { "The process has another version of rsalloc, whose settings cannot be read from outside." },
            Some(settings) => div class="wide" tabindex="0" { table {
                thead { tr { th scope="col" { "key" } th scope="col" { "value" } th scope="col" { "from" } th scope="col" class="words" { "what it does" } } }
                tbody {
                    @for setting in settings {
                        tr {
                            th scope="row" { code { (setting.key) } }
                            td { (setting.value) } td { (setting.origin) } td class="words" { (setting.help) }
                        }
                    }
                }
            } }
        }
    }
}

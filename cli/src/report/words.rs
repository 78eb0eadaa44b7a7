//! The answer in words: sentences that are computed from the numbers.

use super::story::{Look, Story};
use crate::series::touched_bytes;
use crate::text::{grouped, human};
use maud::{Markup, html};
use rsalloc_core::internals::sums::ClassCounts;
use rsalloc_core::{Setting, Value};

/// A number of bytes, which a program that reads the page finds by its name.
pub fn bytes(name: &str, value: u64) -> Markup {
    html! { data class=(name) value=(value) title={ (grouped(value)) " bytes" } { (human(value)) } }
}

/// A number, in the same way.
pub fn count(name: &str, value: u64) -> Markup {
    html! { data class=(name) value=(value) { (grouped(value)) } }
}

/// `part` in percent of `whole`.
pub fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => "0 %".into(),
        _ => format!("{:.0} %", 100.0 * part as f64 / whole as f64),
    }
}

/// Where most of the memory is, in a sentence.
pub fn verdict(story: &Story) -> Markup {
    let look = &story.shown;
    let stats = &look.counts.stats;
    let outside = look.outside_bytes();
    let all = touched_bytes(stats) + outside;
    let (live, cached) = (stats.live_bytes as u64, stats.cached_bytes as u64);
    let (free, dirty) = (stats.slab_free_bytes as u64, stats.dirty_bytes as u64);
    let most = [live, cached, free, dirty, outside].into_iter().max().unwrap_or(0);
    let part = html! { (human(most)) " of " (human(all)) " (" (percent(most, all)) ")" };
    html! {
        @if most == live {
            "Most of it is held by " (story.program) " itself: " strong { (part) } " are objects that it has not freed."
        } @else if most == outside {
            "Most of it is not the heap’s: " strong { (part) } " are program files, stacks and other mappings."
        } @else if most == free {
            "Most of it is fragmentation: " strong { (part) } " are free objects between objects that are still held."
        } @else if most == dirty {
            "Most of it is free: " strong { (part) } " are whole free pages that were not given back to the system yet."
        } @else {
            "Most of it is in caches: " strong { (part) } " are free objects that rsalloc keeps for the next allocations."
        }
    }
}

/// The sentences behind the verdict, each about one part.
pub fn sentences(story: &Story) -> Vec<Markup> {
    let look = &story.shown;
    let mut all = vec![held(story), cached(look), free(look)];
    all.extend(sparse(look));
    all.push(inside(look));
    all.push(pages(story));
    all.push(release(look));
    all.extend(outside(look));
    all.push(limits(story));
    all
}

fn held(story: &Story) -> Markup {
    let stats = &story.shown.counts.stats;
    let (live, large) = (stats.live_bytes as u64, stats.large_bytes as u64);
    let live_of = |class: &ClassCounts| class.live() * class.size;
    let top = story.shown.counts.classes.iter().max_by_key(|class| live_of(class));
    html! {
        strong { "Held by the program: " } (bytes("live_bytes", live)) ". "
        @if large > 0 {
            (count("large_count", stats.large_count as u64))
            @if stats.large_count == 1 { " object above 256 KiB has " } @else { " objects above 256 KiB have " }
            (bytes("large_bytes", large)) " of it"
            @if stats.huge_count > 0 {
                ", of which those above 32 MiB, each in a mapping of its own (" (count("huge_count", stats.huge_count as u64)) "), have "
                (bytes("huge_bytes", stats.huge_bytes as u64))
            }
            ". "
        }
        @if let Some(top) = top.filter(|class| live_of(class) > 0) {
            "Among the smaller ones, those of " (human(top.size as u64)) " weigh most: "
            (grouped(top.live() as u64)) ", " (human(live_of(top) as u64)) "."
        }
    }
}

fn cached(look: &Look) -> Markup {
    let stats = &look.counts.stats;
    let shards = look.counts.shards.len();
    html! {
        strong { "Cached by rsalloc: " } (bytes("cached_bytes", stats.cached_bytes as u64))
        " of free objects that the next allocations take: "
        (bytes("shard_cached_bytes", stats.shard_cached_bytes as u64)) " in "
        (shards) @if shards == 1 { " shard and " } @else { " shards and " }
        (bytes("depot_cached_bytes", stats.depot_cached_bytes as u64)) " in the depot behind them."
    }
}

fn free(look: &Look) -> Markup {
    let stats = &look.counts.stats;
    let free_of = |class: &ClassCounts| class.free_in_slabs() * class.size;
    let top = look.counts.classes.iter().max_by_key(|class| free_of(class));
    html! {
        strong { "Free between live objects (external fragmentation): " }
        (bytes("slab_free_bytes", stats.slab_free_bytes as u64)) ", "
        (percent(stats.slab_free_bytes as u64, stats.slab_bytes as u64)) " of the "
        (bytes("slab_bytes", stats.slab_bytes as u64)) " in slabs. "
        "Only objects of the same size class can use it"
        @if let Some(top) = top.filter(|class| free_of(class) > 0) {
            "; most of it is in the class of " (human(top.size as u64)) ": " (human(free_of(top) as u64))
            " in " (grouped(top.slabs as u64)) " slabs"
        }
        "."
    }
}

/// Slabs that few objects keep.
fn sparse(look: &Look) -> Option<Markup> {
    let picture = look.picture.as_ref()?;
    let classes = &picture.occupancy;
    let sum = |number: fn(&crate::read::picture::Occupancy) -> u64| {
        classes.iter().map(number).sum::<u64>()
    };
    let (slabs, used, all) = (
        sum(|class| class.sparse_slabs),
        sum(|class| class.sparse_used_bytes),
        sum(|class| class.sparse_bytes),
    );
    (slabs > 0).then(|| {
        html! {
            (count("sparse_slabs", slabs)) @if slabs == 1 { " slab is" } @else { " slabs are" }
            " at most a quarter full: " (bytes("sparse_used_bytes", used)) " of objects keep "
            (bytes("sparse_bytes", all)) " from going back to the system. They return when these objects are freed."
        }
    })
}

fn inside(look: &Look) -> Markup {
    let tails = look.counts.stats.slab_tail_bytes as u64;
    html! {
        strong { "Lost to rounding (internal fragmentation): " } (bytes("slab_tail_bytes", tails))
        " at the ends of slabs, where no object fits. What objects are larger than what was asked for is not recorded: at "
        "most 15 B each up to 128 B, and a ninth above."
    }
}

fn pages(story: &Story) -> Markup {
    let stats = &story.shown.counts.stats;
    let dirty = story.settings.iter().flatten().find(|setting| setting.key == "dirty");
    html! {
        strong { "Whole free pages: " } (bytes("dirty_bytes", stats.dirty_bytes as u64))
        " may still be resident, for the next allocations"
        @if let Some(dirty) = dirty {
            " (a quarter of what is in use may stay, at least " (human(dirty_bytes(dirty))) ")"
        }
        "; " (bytes("clean_bytes", stats.clean_bytes as u64))
        " are address space without memory, which costs nothing. "
        (bytes("purged_bytes_total", stats.purged_bytes_total as u64)) " were given back since the start."
    }
}

fn dirty_bytes(setting: &Setting) -> u64 {
    if let Value::Number(bytes) = setting.value { bytes as u64 } else { 0 }
}

fn release(look: &Look) -> Markup {
    let stats = &look.counts.stats;
    let empty = look.picture.as_ref().map_or(0, |picture| picture.empty_slab_bytes());
    let least = stats.dirty_bytes as u64 + empty;
    let most = least + look.counts.classes.iter().map(in_slabs_of_cached).sum::<u64>();
    html! {
        strong { "A release (malloc_trim) would give back " } (bytes("release_least_bytes", least))
        @if most > least {
            " for certain, and up to " (bytes("release_most_bytes", most)) " if the cached objects are the last ones of their slabs"
        }
        "."
    }
}

/// The bytes of a class's slabs that may become empty when its cached objects come back: as many slabs as there are such objects, and
/// no more than the live ones leave.
fn in_slabs_of_cached(class: &ClassCounts) -> u64 {
    if class.slabs == 0 {
        return 0;
    }
    let in_a_slab = (class.objects / class.slabs).max(1);
    let may_be_empty = class.slabs.saturating_sub(class.live().div_ceil(in_a_slab));
    (class.slab_bytes / class.slabs * may_be_empty.min(class.cached())) as u64
}

fn outside(look: &Look) -> Option<Markup> {
    let resident = look.resident?;
    let held = touched_bytes(&look.counts.stats);
    Some(html! {
        strong { "The kernel counts " } (bytes("resident_bytes", resident.bytes)) " resident for the whole process, "
        (bytes("resident_peak_bytes", resident.peak_bytes)) " at its peak"
        @if resident.swapped_bytes > 0 { ", and " (bytes("swapped_bytes", resident.swapped_bytes)) " swapped out" }
        ". The heap, with " (bytes("metadata_bytes", look.counts.stats.metadata_bytes as u64))
        " of its own metadata, explains at most " (bytes("touched_bytes", held))
        @if look.outside_bytes() > 0 {
            "; the other " (bytes("outside_bytes", look.outside_bytes())) " are program files, stacks and other mappings"
        } @else {
            "; what is missing was never touched"
        }
        "."
    })
}

fn limits(story: &Story) -> Markup {
    html! {
        strong { "Limits: " }
        @if story.limits.is_empty() { "no control group and no ulimit bounds its memory." }
        @for (index, (what, limit)) in story.limits.iter().enumerate() {
            @if index > 0 { "; " }
            (what) " allows " (human(*limit))
        }
        @if !story.limits.is_empty() { "." }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cached_object_may_keep_a_slab() {
        let class = |handed_out, in_depot| ClassCounts {
            size: 1024,
            slabs: 10,
            objects: 640,
            slab_bytes: 10 << 16,
            handed_out,
            in_depot,
            ..ClassCounts::NONE
        };
        // Each of 10 slabs is kept by one object.
        assert_eq!(in_slabs_of_cached(&class(10, 10)), 10 << 16);
        assert_eq!(in_slabs_of_cached(&class(10, 3)), 3 << 16);
        // 65 live ones leave 8 slabs at best, and there are 100 cached.
        assert_eq!(in_slabs_of_cached(&class(165, 100)), 8 << 16);
        assert_eq!(in_slabs_of_cached(&ClassCounts::NONE), 0);
    }
}

//! The page: sections in the order of the questions that a reader has.

use super::story::{Moment, Story};
use super::{charts, heap, tables, words};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The whole page.
pub fn render(story: &Story) -> Markup {
    let look = &story.shown;
    let title = format!("Memory of {} ({})", story.program, story.target);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                // No request for an icon.
                link rel="icon" href="data:,";
                title { (title) }
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                (patterns())
                header {
                    h1 { (title) }
                    p class="note" { (moment(story)) }
                    (contents(story))
                }
                main {
                    section id="answer" {
                        h2 { "Where is my memory?" }
                        p class="verdict" { (words::verdict(story)) }
                        (charts::overview(look))
                        ul class="words" { @for sentence in words::sentences(story) { li { (sentence) } } }
                    }
                    section id="heap" {
                        h2 { "The heap by address" }
                        @match &look.picture {
                            Some(picture) => (heap::section(picture)),
                            None => p { "The process has a version of rsalloc that does not say where its pages are." },
                        }
                    }
                    @if is_timed(story) {
                        section id="time" {
                            h2 { "Memory over time" }
                            p { "What may be resident of the heap, in the colours of the bar above. The line is what the kernel counts for the whole process." }
                            figure { (charts::over_time(story.series.samples())) }
                            details { summary { "The same as a table" } (tables::time(story.series.samples())) }
                        }
                    }
                    @if let Some((graph, sites)) = &story.flame {
                        section id="profile" {
                            h2 { "What holds it" }
                            p { "Live bytes by stack, estimated from sampled allocations." }
                            figure class="flame" { (PreEscaped(graph)) }
                            details { summary { "The same as a list of sites" } pre tabindex="0" { (sites) } }
                        }
                    }
                    section id="classes" { h2 { "Size classes" } (tables::classes(look)) }
                    section id="shards" { h2 { "Caches of the CPUs" } (tables::shards(look)) }
                    section id="mode" {
                        h2 { "Mode and settings" }
                        pre tabindex="0" { (story.report) }
                        (tables::settings(story))
                    }
                }
                footer class="note" {
                    "Read from outside by rsalloc " (env!("CARGO_PKG_VERSION")) ", library " code { (story.file.display()) }
                    ". While the process works, each number is right for some instant, their sums nearly. "
                    code { "rsalloc stats --json" } " has the same numbers for programs."
                }
            }
        }
    }
}

fn is_timed(story: &Story) -> bool {
    story.series.samples().len() > 1
}

/// Which moment the page shows.
fn moment(story: &Story) -> Markup {
    let look = &story.shown;
    let at = format!("{:.1} s", look.at.as_secs_f64());
    html! {
        (story.report.mode)
        @if !story.report.reason.text().is_empty() { ": " (story.report.reason.text()) }
        ". "
        @match (story.moment, is_timed(story)) {
            (Moment::Largest, _) => { "Seen at " (look.clock) ", when most of its heap could be resident: after " (at) "." }
            (Moment::Last, true) => { "Seen at " (look.clock) ", after " (at) " of watching." }
            (Moment::Last, false) => { "Seen at " (look.clock) "." }
        }
    }
}

fn contents(story: &Story) -> Markup {
    html! {
        nav aria-label="Contents" {
            a href="#answer" { "Answer" } " "
            a href="#heap" { "Heap" } " "
            @if is_timed(story) { a href="#time" { "Time" } " " }
            @if story.flame.is_some() { a href="#profile" { "Profile" } " " }
            a href="#classes" { "Classes" } " "
            a href="#shards" { "Shards" } " "
            a href="#mode" { "Mode and settings" }
        }
    }
}

/// Textures, so that free memory is told from objects without colours as well.
fn patterns() -> Markup {
    html! {
        svg class="patterns" width="0" height="0" aria-hidden="true" {
            defs {
                pattern id="stripes" width="4" height="4" patternUnits="userSpaceOnUse" patternTransform="rotate(45)" {
                    rect class="pattern-back" width="4" height="4" {} rect class="pattern-line" width="1.4" height="4" {}
                }
                pattern id="dots" width="4" height="4" patternUnits="userSpaceOnUse" {
                    rect class="dots-back" width="4" height="4" {} circle class="dots-dot" cx="2" cy="2" r="0.9" {}
                }
            }
        }
    }
}

//! A flame graph as SVG: the outermost frame on top, widths as bytes or objects.
//!
//! Promises that the picture needs no script and no other file: names are text that can be selected and searched for, each
//! frame says on hover what it is, widths follow the page, and colours follow its light or dark scheme. It may stand in a page
//! of its own or inside another one, whose style it leaves alone.

use super::frames;
use crate::text::human;
use rsalloc_pprof::{Measure, Profile};
use std::collections::BTreeMap;
use std::fmt::Write;

const ROW: usize = 19;
const HEAD: usize = 42;
const MARGIN: usize = 8;
/// Narrower frames are left out: a fiftieth of a percent of the whole is half a pixel on a wide page.
const SHARE_MIN: f64 = 0.0005;
const TEXT_SHARE_MIN: f64 = 0.015;
const DEPTH_MAX: usize = 400;
/// Colours, which the style gives: hues apart enough that neighbours differ.
const HUES: [u16; 10] = [4, 20, 34, 48, 64, 90, 150, 190, 215, 265];

/// The picture of what `measure` says of `profile`.
pub fn svg(profile: &Profile, measure: Measure, heading: &str) -> String {
    let mut root = Node::default();
    if let Some(value) = frames::index_of(profile, measure) {
        for sample in &profile.samples {
            root.add(profile, sample, sample.values[value].max(0) as u64);
        }
    }
    let mut picture = Picture { total: root.value.max(1), measure, body: String::new(), depth: 0 };
    picture.frame("all", &Node::default(), root.value, 0.0, 0);
    picture.children(&root, 0.0, 1);
    let height = HEAD + (picture.depth + 1) * ROW + MARGIN;
    let total = amount(root.value, measure);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"rsalloc-flame\" width=\"100%\" height=\"{height}\">\n\
         <title>{heading}</title>\n<style>{style}</style>\n\
         <rect class=\"page\" width=\"100%\" height=\"100%\"/>\n\
         <text class=\"head\" x=\"0.8%\" y=\"18\">{heading}</text>\n\
         <text class=\"note\" x=\"0.8%\" y=\"34\">{total}, {what}; callers above, callees below; hover for details</text>\n\
         <svg x=\"0.8%\" y=\"{HEAD}\" width=\"98.4%\" height=\"100%\">\n{body}</svg>\n</svg>\n",
        heading = escaped(heading),
        what = what(measure),
        style = style(),
        body = picture.body,
    )
}

fn what(measure: Measure) -> &'static str {
    match measure {
        Measure::AllocatedObjects => "all that were allocated",
        Measure::AllocatedBytes => "all that was allocated",
        Measure::LiveObjects => "those that are not freed",
        Measure::LiveBytes => "what is not freed",
    }
}

fn amount(value: u64, measure: Measure) -> String {
    match measure {
        Measure::AllocatedBytes | Measure::LiveBytes => human(value),
        Measure::AllocatedObjects | Measure::LiveObjects => crate::text::objects(value),
    }
}

/// A frame in the tree of all stacks, and what was measured in it and below.
#[derive(Default)]
struct Node {
    value: u64,
    /// Where in the sources, or in which library; the first of the places that were seen.
    place: String,
    module: String,
    children: BTreeMap<String, Node>,
}

impl Node {
    fn add(&mut self, profile: &Profile, sample: &rsalloc_pprof::Sample, value: u64) {
        if value == 0 {
            return;
        }
        self.value += value;
        let mut node = self;
        for frame in frames::of(profile, sample).iter().rev().take(DEPTH_MAX) {
            node = node.children.entry(frame.name.clone().into_owned()).or_default();
            node.value += value;
            if node.value == value {
                (node.place, node.module) = (frame.place(), frame.module.to_owned());
            }
        }
    }
}

struct Picture {
    total: u64,
    measure: Measure,
    body: String,
    depth: usize,
}

impl Picture {
    /// The children of `node`, which begins at `x` of the whole, by their names: a frame's place does not depend on sizes, so
    /// that two pictures can be compared.
    fn children(&mut self, node: &Node, mut x: f64, depth: usize) {
        for (name, child) in &node.children {
            let share = child.value as f64 / self.total as f64;
            if share >= SHARE_MIN {
                self.frame(name, child, child.value, x, depth);
                self.children(child, x, depth + 1);
            }
            x += share;
        }
    }

    fn frame(&mut self, name: &str, node: &Node, value: u64, x: f64, depth: usize) {
        self.depth = self.depth.max(depth);
        let share = value as f64 / self.total as f64;
        let shown = amount(value, self.measure);
        let name = escaped(name);
        let place = match node.place.as_str() {
            "" => String::new(),
            place if place == node.module => format!("\n{}", escaped(place)),
            place => format!("\n{} in {}", escaped(place), escaped(&node.module)),
        };
        // A picture in the picture: it cuts the text off at the frame's edge, at any width of the page.
        let _ = writeln!(
            self.body,
            "<svg x=\"{:.3}%\" y=\"{}\" width=\"{:.3}%\" height=\"{}\"><g class=\"f h{}\">\
             <title>{name}{place}\n{shown}, {:.1} %</title>\
             <rect width=\"100%\" height=\"100%\" rx=\"2\"/><text x=\"4\" y=\"13\">{}</text></g></svg>",
            100.0 * x,
            depth * ROW,
            100.0 * share,
            ROW - 1,
            hue(&name),
            100.0 * share,
            // Letters that are cut off say nothing; the title has the name.
            if share < TEXT_SHARE_MIN { "" } else { &name },
        );
    }
}

/// The same colour for the same function, in all pictures.
fn hue(name: &str) -> usize {
    let hash = name
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 8) as usize % HUES.len()
}

/// Every rule names the picture's class, so that a page around it keeps its own style.
fn style() -> String {
    let mut style = String::from(
        "\n.rsalloc-flame{font:12px/1 ui-monospace,'DejaVu Sans Mono',Consolas,monospace;color-scheme:light dark}\
         \n.rsalloc-flame text{fill:#1a1a1a}\n.rsalloc-flame .head{font-weight:bold;font-size:14px}\
         \n.rsalloc-flame .note{fill:#555}\n.rsalloc-flame .page{fill:#fff}\
         \n.rsalloc-flame .f:hover rect{stroke:#000;stroke-width:2}\n",
    );
    let hues = |style: &mut String, saturation: u8, lightness: u8| {
        for (index, hue) in HUES.iter().enumerate() {
            let _ = writeln!(
                style,
                ".rsalloc-flame .h{index} rect{{fill:hsl({hue} {saturation}% {lightness}%)}}"
            );
        }
    };
    hues(&mut style, 78, 76);
    style += "@media (prefers-color-scheme:dark){\n.rsalloc-flame text{fill:#f0f0f0}\n.rsalloc-flame .note{fill:#aaa}\
              \n.rsalloc-flame .page{fill:#16181c}\n.rsalloc-flame .f:hover rect{stroke:#fff}\n";
    hues(&mut style, 45, 31);
    style + "}\n"
}

/// Text as it may stand in SVG.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            char if char.is_control() => escaped.push(' '),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use rsalloc_pprof::{Amount, HeapProfile, HeapSample};

    fn picture() -> String {
        let sample = |stack: &[u64], bytes| HeapSample {
            stack: stack.to_vec(),
            allocated: Amount { objects: 1, bytes },
            live: Amount { objects: 1, bytes },
        };
        let samples = vec![sample(&[2, 9], 3 << 20), sample(&[4, 9], 1 << 20), sample(&[6, 9], 1)];
        let mut profile = HeapProfile { samples, ..HeapProfile::default() }.to_pprof();
        for (index, name) in ["Vec<T>::push", "serve", "parse & copy", "tiny"].iter().enumerate() {
            profile.functions.push(rsalloc_pprof::Function {
                name: (*name).into(),
                file: "/src/a.rs".into(),
                ..Default::default()
            });
            let line = rsalloc_pprof::Line { function: index, line: 7 };
            profile.locations[index].lines.push(line);
        }
        svg(&profile, Measure::LiveBytes, "a < b")
    }

    #[test]
    fn frames_are_as_wide_as_their_bytes_and_say_what_they_are() {
        let svg = picture();
        let frame = |name: &str| {
            let lines: Vec<_> =
                svg.lines().filter(|l| l.contains(&format!("<title>{name}"))).collect();
            assert_eq!(lines.len(), 1, "{name} in {svg}");
            lines[0].to_owned()
        };
        assert!(frame("serve").starts_with("<svg x=\"0.000%\" y=\"19\" width=\"100.000%\""));
        assert!(frame("Vec&lt;T&gt;::push").contains("y=\"38\" width=\"75.000%\""));
        assert!(
            frame("parse &amp; copy").starts_with("<svg x=\"75.000%\" y=\"38\" width=\"25.000%\"")
        );
        assert!(svg.contains("a.rs:7"), "{svg}");
        assert!(svg.contains("\n3.0 MiB, 75.0 %</title>"), "{svg}");
        assert!(!svg.contains("tiny"), "half a pixel is not drawn");
        assert!(svg.contains(">a &lt; b</text>"), "the heading is text");
    }

    #[test]
    fn the_picture_stands_alone() {
        let svg = picture();
        assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\""));
        assert!(!svg.contains("<script") && !svg.contains("href") && !svg.contains("url("));
        assert!(svg.contains("prefers-color-scheme:dark"));
        let (style, _) = svg.split_once("<style>").unwrap().1.split_once("</style>").unwrap();
        let rules = style.lines().filter(|line| line.contains('{') && !line.starts_with('@'));
        for rule in rules {
            assert!(rule.starts_with(".rsalloc-flame"), "{rule} would reach a page around it");
        }
        let count = |text: &str| svg.matches(text).count();
        assert_eq!(count("<svg"), count("</svg>"));
        assert_eq!(count("<title>"), count("</title>"));
    }
}

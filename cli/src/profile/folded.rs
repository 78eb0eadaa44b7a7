//! Folded stacks: a line for each stack, from the outermost frame to the innermost, and its value. Flame graph tools and
//! speedscope read them.

use super::frames;
use rsalloc_pprof::{Measure, Profile};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The stacks of `profile` with what `measure` says of each, where that is not 0.
pub fn folded(profile: &Profile, measure: Measure) -> String {
    let mut sums: BTreeMap<String, i64> = BTreeMap::new();
    let Some(value) = frames::index_of(profile, measure) else { return String::new() };
    for sample in profile.samples.iter().filter(|sample| sample.values[value] != 0) {
        let frames = frames::of(profile, sample);
        // The form's own separators cannot stand in a name.
        let names: Vec<_> = frames
            .iter()
            .rev()
            .map(|frame| frame.name.replace(|c: char| c == ';' || c.is_control(), ":"))
            .collect();
        *sums.entry(names.join(";")).or_default() += sample.values[value];
    }
    let mut text = String::new();
    for (stack, sum) in sums {
        let _ = writeln!(text, "{stack} {sum}");
    }
    text
}

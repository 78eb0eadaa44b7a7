//! The list of the sites that hold or allocated the most.

use super::frames::{self, Frame};
use crate::text::{grouped, human};
use rsalloc_pprof::{MEASURES, Measure, Profile};
use std::collections::HashMap;
use std::fmt::Write;

/// Rows of the list.
const ROWS: usize = 30;
/// Frames of a site that are shown: callers tell which use of a general function it is.
const CALLERS: usize = 4;

/// A site with its callers, and what the measures of [`MEASURES`] estimate for it.
type Site<'a> = (Vec<Frame<'a>>, [i64; 4]);

/// The sites of `profile` with their estimates, the largest by `measure` first.
pub fn top(profile: &Profile, measure: Measure) -> String {
    let (sites, by) = sites_of(profile, measure);
    let totals: [i64; 4] = std::array::from_fn(|at| sites.iter().map(|(_, sums)| sums[at]).sum());
    table(&sites, totals, by)
}

/// Of the first `most` sites by `measure`: how much, and where.
pub fn sites(profile: &Profile, measure: Measure, most: usize) -> Vec<(u64, String)> {
    let (sites, by) = sites_of(profile, measure);
    let largest = sites.iter().filter(|(_, sums)| sums[by] > 0).take(most);
    largest.map(|(site, sums)| (sums[by].max(0) as u64, name(site))).collect()
}

fn sites_of(profile: &Profile, measure: Measure) -> (Vec<Site<'_>>, usize) {
    let indices = MEASURES.map(|measure| frames::index_of(profile, measure));
    let mut sites: HashMap<Vec<Frame<'_>>, [i64; 4]> = HashMap::new();
    for sample in &profile.samples {
        let mut site = frames::of(profile, sample);
        let inside = site.iter().take_while(|frame| is_allocator(&frame.name)).count();
        site.drain(..inside.min(site.len().saturating_sub(1)));
        site.truncate(CALLERS);
        let sums = sites.entry(site).or_default();
        for (sum, index) in sums.iter_mut().zip(indices) {
            *sum += index.map_or(0, |index| sample.values[index]);
        }
    }
    let by = MEASURES.iter().position(|known| *known == measure).unwrap_or(0);
    let mut sites: Vec<_> = sites.into_iter().collect();
    sites.sort_by(|(a, sums), (b, others)| {
        others[by].cmp(&sums[by]).then_with(|| name(a).cmp(&name(b)))
    });
    (sites, by)
}

fn table(sites: &[Site<'_>], totals: [i64; 4], by: usize) -> String {
    let bytes = |value: i64| human(value.max(0) as u64);
    let count = |value: i64| grouped(value.max(0) as u64);
    let mut text = format!(
        "{:>8}{:>12}{:>14}{:>13}{:>14}  site, and its callers\n",
        "share", "live", "objects", "allocated", "objects"
    );
    let mut row =
        |share: &str, [allocated, allocated_bytes, live, live_bytes]: [i64; 4], site: &str| {
            let line = format!(
                "{share:>8}{:>12}{:>14}{:>13}{:>14}  {site}",
                bytes(live_bytes),
                count(live),
                bytes(allocated_bytes),
                count(allocated)
            );
            let _ = writeln!(text, "{}", line.trim_end());
        };
    row("100.0 %", totals, "all");
    let shown = sites.iter().filter(|(_, sums)| sums[by] > 0).take(ROWS);
    for (site, sums) in shown {
        let share = 100.0 * sums[by] as f64 / totals[by].max(1) as f64;
        row(&format!("{share:.1} %"), *sums, &name(site));
    }
    text
}

/// `read_request (server.c:17) < serve < main`.
fn name(site: &[Frame<'_>]) -> String {
    let mut name = String::new();
    for (at, frame) in site.iter().enumerate() {
        match at {
            0 if frame.name.starts_with(frame.module) && frame.file.is_empty() => {
                name += &frame.name
            }
            0 => name += &format!("{} ({})", frame.name, frame.place()),
            _ => name += &format!(" < {}", frame.name),
        }
    }
    name
}

/// Whether a function hands out memory for its caller: the site is what called it.
pub fn is_allocator(name: &str) -> bool {
    const NAMES: &[&str] = &[
        "malloc",
        "calloc",
        "realloc",
        "reallocarray",
        "aligned_alloc",
        "memalign",
        "posix_memalign",
        "strdup",
        "strndup",
        "__strdup",
        "__rust_alloc",
        "__rust_alloc_zeroed",
        "__rust_realloc",
        "__rustc::__rust_alloc",
        "__rustc::__rust_alloc_zeroed",
        "__rustc::__rust_realloc",
        "alloc::alloc::alloc",
        "alloc::alloc::alloc_zeroed",
        "alloc::alloc::realloc",
        "alloc::alloc::exchange_malloc",
    ];
    const PREFIXES: &[&str] = &[
        "operator new",
        "<rsalloc::",
        "rsalloc::",
        "rsalloc_core::",
        "alloc::alloc::Global",
        "<alloc::alloc::Global",
        "alloc::raw_vec::",
        "<alloc::raw_vec::",
        "std::__new_allocator",
        "__gnu_cxx::new_allocator",
        "std::allocator_traits",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

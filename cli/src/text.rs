//! Statistics as text: units that people read, columns that line up.

use crate::read::{Counts, Resident};
use rsalloc_core::internals::sums::Transferred;
use std::fmt::Write;

/// Numbers by their names, of this version or of another.
pub type Numbers<'a> = &'a dyn Fn(&str) -> Option<u64>;

/// `31876112` as `30.4 MiB`.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        // What would be shown as 1024.0 belongs to the next unit.
        if value < 1023.95 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// `31876112` as `30.4M`: at most seven columns.
pub fn short(bytes: u64) -> String {
    let text = human(bytes);
    text.strip_suffix("iB").unwrap_or(text.trim_end_matches(" B")).replace(' ', "")
}

/// `31876112` as `31,876,112`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 object`, `2 objects`.
pub fn objects(count: u64) -> String {
    format!("{} object{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// The local time, as strftime(3) writes it.
pub fn now(format: &str) -> String {
    // SAFETY: no preconditions.
    clock(format, unsafe { libc::time(std::ptr::null_mut()) })
}

/// A time, in seconds since 1970, as local time.
pub fn clock(format: &str, seconds: i64) -> String {
    let format = std::ffi::CString::new(format).unwrap_or_default();
    let mut text = [0u8; 64];
    // SAFETY: live structs; a text of that length, and a format that ends with a zero.
    let len = unsafe {
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const seconds, &raw mut parts);
        libc::strftime(text.as_mut_ptr().cast(), text.len(), format.as_ptr(), &raw const parts)
    };
    String::from_utf8_lossy(&text[..len]).into_owned()
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".into() } else { format!("{:.1} %", 100.0 * part as f64 / whole as f64) }
}

/// The rows of [`summary`]: depth, label, name of the number, name of the number of objects.
const ROWS: [(usize, &str, &str, &str); 19] = [
    (0, "mapped", "mapped_bytes", ""),
    (1, "live", "live_bytes", ""),
    (2, "large", "large_bytes", "large_count"),
    (3, "huge", "huge_bytes", "huge_count"),
    (2, "sampled", "sampled_bytes", "sampled_count"),
    (1, "cached", "cached_bytes", ""),
    (2, "in shards", "shard_cached_bytes", ""),
    (2, "in the depot", "depot_cached_bytes", ""),
    (1, "free in slabs", "slab_free_bytes", ""),
    (1, "ends of slabs", "slab_tail_bytes", ""),
    (1, "free, for samples", "sampled_free_bytes", ""),
    (1, "free, dirty", "dirty_bytes", ""),
    (1, "free, clean", "clean_bytes", ""),
    (0, "metadata", "metadata_bytes", ""),
    (0, "guarded", "guarded_bytes", "guarded_count"),
    (0, "held at the most", "held_peak_bytes", ""),
    (0, "touched at the most", "touched_peak_bytes", ""),
    (0, "huge at the most", "huge_peak_bytes", ""),
    (0, "given back so far", "purged_bytes_total", ""),
];

/// What is held, where, and how often the slow paths ran.
pub fn summary(numbers: Numbers<'_>) -> String {
    let mut text = format!("{:<22}{:>12}{:>20}{:>12}\n", "", "size", "bytes", "of mapped");
    let mapped = numbers("mapped_bytes").unwrap_or(0);
    for (depth, label, name, count) in ROWS {
        let Some(bytes) = numbers(name) else { continue };
        let indent = 2 * depth;
        let part = if depth > 0 { percent(bytes, mapped) } else { String::new() };
        let _ = write!(text, "{:indent$}{label:<width$}", "", width = 22 - indent);
        let _ = write!(text, "{:>12}{:>20}{part:>12}", human(bytes), grouped(bytes));
        match numbers(count) {
            Some(count) => text += &format!("   {}\n", objects(count)),
            None => text.push('\n'),
        }
    }
    text += &limits(numbers);
    text += &fragmentation(numbers);
    for (label, name) in [
        ("refills of shards", "refills"),
        ("  objects refilled", "refilled_objects"),
        ("flushes of shards", "flushes"),
        ("  objects flushed", "flushed_objects"),
        ("aborted sections", "aborts"),
        ("atomic operations", "atomic_ops"),
    ] {
        let Some(number) = numbers(name) else { continue };
        let _ = writeln!(text, "{label:<22}{:>32}", grouped(number));
    }
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

/// The limits of memory that hold, and how much of each the heap has.
fn limits(numbers: Numbers<'_>) -> String {
    let mut text = String::new();
    let used = numbers("limited_bytes").unwrap_or(0);
    for (label, name) in [
        ("limit", "limit_bytes"),
        ("limit, hard", "limit_hard_bytes"),
        ("container's limit", "container_limit_bytes"),
    ] {
        let Some(bound) = numbers(name).filter(|&bound| bound > 0) else { continue };
        let (human, bytes) = (human(bound), grouped(bound));
        let _ =
            writeln!(text, "{label:<22}{human:>12}{bytes:>20}{:>12}   used", percent(used, bound));
    }
    text
}

/// Parts of the memory that nothing uses. What programs did not ask for of their objects is not known.
pub fn fragmentation(numbers: Numbers<'_>) -> String {
    let mut text = String::new();
    let mut row = |label: &str, unused: Option<u64>, of: Option<u64>, what: &str| {
        if let (Some(unused), Some(of)) = (unused, of) {
            let _ =
                writeln!(text, "{label:<22}{:>44}   of {} {what}", percent(unused, of), human(of));
        }
    };
    row("unused in slabs", numbers("slab_free_bytes"), numbers("slab_bytes"), "in slabs");
    let held = numbers("mapped_bytes").zip(numbers("clean_bytes"));
    let touched = held.map(|(mapped, clean)| mapped.saturating_sub(clean));
    let unused =
        touched.zip(numbers("live_bytes")).map(|(touched, live)| touched.saturating_sub(live));
    row("unused of all", unused, touched, "that may be resident");
    text
}

/// What the kernel says.
pub fn resident(resident: &Resident) -> String {
    let mut text = String::new();
    for (label, bytes) in [
        ("process, resident", resident.bytes),
        ("  of no file", resident.anonymous_bytes),
        ("  at the most", resident.peak_bytes),
        ("  swapped out", resident.swapped_bytes),
    ] {
        let _ = writeln!(text, "{label:<22}{:>12}{:>20}", human(bytes), grouped(bytes));
    }
    text
}

/// A table of the classes that have slabs.
pub fn classes(counts: &Counts) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\n{:>6}{:>10}{:>12}{:>12}{:>12}{:>12}{:>12}{:>10}{:>12}{:>9}{:>16}{:>16}",
        "class",
        "size",
        "live",
        "in shards",
        "in depot",
        "in slabs",
        "live bytes",
        "slabs",
        "slab bytes",
        "in use",
        "refilled",
        "flushed"
    );
    for (class, counts) in counts.classes.iter().enumerate().filter(|(_, counts)| counts.slabs > 0)
    {
        let live_bytes = (counts.live() * counts.size) as u64;
        let _ = writeln!(
            text,
            "{class:>6}{:>10}{:>12}{:>12}{:>12}{:>12}{:>12}{:>10}{:>12}{:>9}{:>16}{:>16}",
            counts.size,
            grouped(counts.live() as u64),
            grouped(counts.in_shards as u64),
            grouped(counts.in_depot as u64),
            grouped(counts.free_in_slabs() as u64),
            human(live_bytes),
            grouped(counts.slabs as u64),
            human(counts.slab_bytes as u64),
            percent(live_bytes, counts.slab_bytes as u64),
            moved(counts.transferred, |each| each.refilled),
            moved(counts.transferred, |each| each.flushed),
        );
    }
    text
}

/// A number of objects that moved; a dash if the process does not count it.
pub fn moved(transferred: Option<Transferred>, number: fn(Transferred) -> usize) -> String {
    transferred.map_or("-".into(), |each| grouped(number(each) as u64))
}

/// A table of the shards.
pub fn shards(counts: &Counts) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "\n{:<8}{:>6}{:>12}{:>12}{:>14}{:>14}{:>14}{:>16}{:>16}",
        "shard", "", "objects", "bytes", "refills", "flushes", "aborts", "refilled", "flushed"
    );
    for shard in &counts.shards {
        let _ = writeln!(
            text,
            "{:<8}{:>6}{:>12}{:>12}{:>14}{:>14}{:>14}{:>16}{:>16}",
            shard.kind.word(),
            shard.index,
            grouped(shard.objects as u64),
            human(shard.bytes as u64),
            grouped(shard.refills as u64),
            grouped(shard.flushes as u64),
            grouped(shard.aborts as u64),
            moved(shard.transferred, |each| each.refilled),
            moved(shard.transferred, |each| each.flushed),
        );
    }
    text
}

/// The head of the rows of [`watched`].
pub fn watched_head() -> String {
    let columns = [
        "live", "cached", "in slabs", "dirty", "clean", "mapped", "resident", "refills", "flushes",
    ];
    let mut text = format!("{:<9}", "time");
    for column in columns {
        let _ = write!(text, "{column:>11}");
    }
    text + "\n"
}

/// A row of `--watch`: the sums, and what the slow paths did since the row before.
pub fn watched(
    time: &str,
    counts: &Counts,
    before: Option<&Counts>,
    resident: Option<Resident>,
) -> String {
    let stats = &counts.stats;
    let mut text = format!("{time:<9}");
    for bytes in [
        stats.live_bytes,
        stats.cached_bytes,
        stats.slab_free_bytes,
        stats.dirty_bytes,
        stats.clean_bytes,
        stats.mapped_bytes,
    ] {
        let _ = write!(text, "{:>11}", human(bytes as u64));
    }
    let _ = write!(text, "{:>11}", resident.map_or("-".into(), |resident| human(resident.bytes)));
    for number in [|counts: &Counts| counts.stats.refills, |counts: &Counts| counts.stats.flushes] {
        let since = before.map(|before| number(counts).saturating_sub(number(before)));
        let _ = write!(text, "{:>11}", since.map_or("-".into(), |since| grouped(since as u64)));
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        let all = [0, 1023, 1024, 1_048_524, 1_048_575, 31_876_112, u64::MAX].map(human);
        assert_eq!(
            all,
            ["0 B", "1023 B", "1.0 KiB", "1023.9 KiB", "1.0 MiB", "30.4 MiB", "16.0 EiB"]
        );
        let all = [0, 1023, 1024, 31_876_112].map(short);
        assert_eq!(all, ["0", "1023", "1.0K", "30.4M"]);
        let all = [0, 999, 1000, 31_876_112].map(grouped);
        assert_eq!(all, ["0", "999", "1,000", "31,876,112"]);
        assert_eq!((percent(1, 3), percent(1, 0)), ("33.3 %".into(), "-".into()));
    }

    #[test]
    fn what_a_version_does_not_have_is_left_out() {
        let numbers = |name: &str| (name == "live_bytes").then_some(5 << 20);
        let text = summary(&numbers);
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.lines().nth(1).unwrap().starts_with("  live "), "{text}");
    }
}

//! What the process says when memory is short: why, and what has it, a line each on standard error.
//!
//! Named are the kinds of objects that have the most, and while a heap profile runs, the call stacks.
//!
//! Promises: once for each burst, which ends when ten seconds have passed; without allocating, in signal handlers as well. A
//! request that the system refuses is told of if it is no larger than the heap: else what the heap holds is not the reason, as
//! when a program tries how much it can get.
#![forbid(unsafe_code)]

use super::large;
use super::request::Request;
use crate::atomic::{AtomicUsize, Ordering};
use crate::fail::Line;
use crate::os;
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::huge::HUGE;
use crate::profile;
use crate::size_class::{CLASS, CLASSES};
use crate::slab::SLABS;
use crate::sync::is_barred;

/// A burst is told of once in so many seconds.
const BURST_SECONDS: usize = 10;
/// Kinds of objects that are named, and call stacks if a heap profile runs.
const NAMED: usize = 4;
/// Frames of a stack that are named, as far as a line has space for them.
const FRAMES: usize = 8;

/// The second in which the last burst was told of, 0 if none was.
static REFUSED_AT: AtomicUsize = AtomicUsize::new(0);
static EXCEEDED_AT: AtomicUsize = AtomicUsize::new(0);

/// Says that a request could not be served.
#[cold]
pub(super) fn tell_of_refusal(request: Request) {
    let used = PAGE_HEAP.used_bytes();
    // Other threads may have freed since.
    let is_near = |hard: usize| used.saturating_add(request.size) > hard - hard / 8;
    let hard = PAGE_HEAP.bounds().hard.filter(|&hard| is_near(hard));
    // A barred thread may have failed for want of a lock.
    if is_barred() || (hard.is_none() && request.size > used) || !begins(&REFUSED_AT) {
        return;
    }
    let mut line = Line::new();
    line.text("rsalloc: out of memory: ").decimal(request.size).text(" bytes refused by ");
    match hard {
        Some(hard) => size(line.text("limit_hard, which leaves the heap "), hard),
        None => line.text("the system"),
    };
    size(line.text("; it has "), used).text("\n").write_to_stderr();
    name_largest();
}

/// Says that the soft limit is exceeded, by memory that the program holds.
#[cold]
pub(super) fn tell_of_limit() {
    let Some(soft) = PAGE_HEAP.bounds().soft.filter(|_| begins(&EXCEEDED_AT)) else { return };
    let mut line = Line::new();
    size(line.text("rsalloc: the heap has "), PAGE_HEAP.used_bytes());
    size(line.text(" that it cannot give back, above limit, which leaves it "), soft);
    line.text("\n").write_to_stderr();
    name_largest();
}

/// Whether a burst begins now.
fn begins(at: &AtomicUsize) -> bool {
    let now = os::seconds().max(1);
    // Ordering: Relaxed, the exchange confirms it.
    let last = at.load(Ordering::Relaxed);
    (last == 0 || now.wrapping_sub(last) >= BURST_SECONDS)
        // Ordering: Relaxed, it carries nothing: one thread tells.
        && at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

/// Objects of a kind.
#[derive(Clone, Copy, Default)]
struct Kind {
    bytes: usize,
    count: usize,
    /// Size of each; 0: of large objects, which have many.
    size: usize,
}

/// A line for each of the kinds that have the most bytes. Objects in caches count as live; most caches are empty by now.
fn name_largest() {
    let mut largest = [Kind::default(); NAMED];
    let mut add = |kind: Kind| {
        let place = largest.iter().position(|other| kind.bytes > other.bytes);
        if let Some(place) = place {
            largest[place..].rotate_right(1);
            largest[place] = kind;
        }
    };
    for class in 1..CLASSES {
        let (count, size) = (SLABS[class].totals().1, CLASS[class].size);
        add(Kind { bytes: count * size, count, size });
    }
    let [bytes, count] = large::counters();
    // Ordering: Relaxed, statistics.
    let [bytes, count] = [bytes, count].map(|word| word.load(Ordering::Relaxed));
    add(Kind { bytes: bytes + HUGE.bytes(), count: count + HUGE.live(), size: 0 });
    for kind in largest.iter().filter(|kind| kind.bytes > 0) {
        let mut line = Line::new();
        size(line.text("rsalloc:   "), kind.bytes).text(" in ").decimal(kind.count);
        let objects = if kind.count == 1 { " object" } else { " objects" };
        match kind.size {
            0 => line.text(objects).text(" above 256 KiB"),
            size => line.text(objects).text(" of ").decimal(size).text(" bytes"),
        };
        line.text("\n").write_to_stderr();
    }
    if profile::is_on() {
        name_sites();
    }
}

/// A line for each of the stacks that hold the most, as far as a heap profile has seen. Not inlined, for its frames.
#[inline(never)]
fn name_sites() {
    for (bytes, stack) in profile::largest::<NAMED>().into_iter().filter(|&(bytes, _)| bytes > 0) {
        let mut frames = [0; FRAMES];
        let count = profile::frames_of(stack, &mut frames);
        let mut line = Line::new();
        size(line.text("rsalloc:   "), bytes).text(", by samples, from ");
        match count {
            0 => {
                line.text("stacks that could not be kept");
            }
            count => profile::unwind::name_places(&mut line, &frames[..count]),
        }
        line.end().write_to_stderr();
    }
}

/// Appends a size in MiB, with a tenth.
#[inline(never)]
fn size(line: &mut Line, bytes: usize) -> &mut Line {
    let tenths = bytes / ((1 << 20) / 10);
    line.decimal(tenths / 10).text(".").decimal(tenths % 10).text(" MiB")
}

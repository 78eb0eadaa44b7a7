//! What was counted between two calls of the program, as a line of JSON; with the feature `counters` only.

use core::fmt::Write;
use core::sync::atomic::{AtomicUsize, Ordering};
use rsalloc_core::internals::counters;
use rsalloc_core::internals::print::to_fd;
use rsalloc_core::internals::sources::{PARTS, by_part};
use rsalloc_core::stats;

static REFILLS: AtomicUsize = AtomicUsize::new(0);
static FLUSHES: AtomicUsize = AtomicUsize::new(0);

/// Begins to count.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_counters_begin() {
    let stats = stats();
    // Ordering: Relaxed, for the thread that ends it.
    REFILLS.store(stats.refills, Ordering::Relaxed);
    FLUSHES.store(stats.flushes, Ordering::Relaxed); // Ordering: Relaxed, as above.
    counters::begin();
}

/// Ends that and prints the line to standard output.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_counters_end() {
    let totals = counters::end();
    let stats = stats();
    // Ordering: Relaxed, stored by this thread.
    let refills = stats.refills - REFILLS.load(Ordering::Relaxed);
    let flushes = stats.flushes - FLUSHES.load(Ordering::Relaxed); // Ordering: Relaxed, as above.
    let (locked, contended, untracked) = (totals.locked, totals.contended, totals.untracked);
    let mut out = to_fd(libc::STDOUT_FILENO);
    let _ = write!(
        out,
        "{{\"refills\":{refills},\"flushes\":{flushes},\"locked\":{locked},\
         \"contended\":{contended},\"untracked\":{untracked},\"parts\":{{"
    );
    for (index, (name, (writes, moves))) in PARTS.iter().zip(by_part()).enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(out, "{comma}\"{name}\":[{writes},{moves}]");
    }
    let _ = writeln!(out, "}}}}");
}

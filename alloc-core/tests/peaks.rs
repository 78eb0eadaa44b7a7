//! The peaks of the statistics: what was held stays known when it has been freed and given back. A program of its own: other tests
//! would hold more.

use rsalloc_core::{Stats, allocate, free, release, stats};

const LARGE: usize = 20 << 20;
const HUGE: usize = 48 << 20;

fn held(stats: &Stats) -> usize {
    stats.slab_bytes + stats.large_bytes - stats.huge_bytes
}

#[test]
fn what_was_held_at_the_most_stays_known() {
    let before = stats();
    assert_eq!(before.huge_peak_bytes, 0);
    let objects = [allocate(LARGE), allocate(HUGE), allocate(HUGE)];
    assert!(objects.iter().all(|object| !object.is_null()));
    let full = stats();
    // Not freed yet, and seen all the same.
    assert_eq!(full.held_peak_bytes, held(&full).max(before.held_peak_bytes));
    assert_eq!((full.huge_peak_bytes, full.huge_bytes), (2 * HUGE, 2 * HUGE));
    // SAFETY: allocated above, freed once.
    objects.into_iter().for_each(|object| unsafe { free(object) });
    release();
    let after = stats();
    assert!(held(&after) <= held(&full) - LARGE, "the peak is of what is no longer held");
    assert_eq!(after.held_peak_bytes, full.held_peak_bytes);
    assert_eq!((after.huge_peak_bytes, after.huge_bytes), (2 * HUGE, 0));
    assert!(after.touched_peak_bytes >= after.held_peak_bytes, "{after}");
    assert!(after.touched_peak_bytes > held(&after) + after.dirty_bytes, "{after}");
    // SAFETY: allocated here, freed once.
    unsafe { free(allocate(LARGE / 2)) };
    assert_eq!(stats().held_peak_bytes, full.held_peak_bytes, "less than before is no peak");
}

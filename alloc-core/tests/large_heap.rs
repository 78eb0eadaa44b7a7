//! A large heap may cache more than a small one, unless a budget is configured.

use rsalloc_core::{allocate, free, stats};

const HELD: usize = 4000;
const OBJECT: usize = 256 << 10;

fn swing() {
    for _ in 0..8 {
        for size in (40 << 10..=OBJECT).step_by(8 << 10) {
            let objects: Vec<_> = (0..16).map(|_| allocate(size)).collect();
            // SAFETY: live objects from above.
            objects.into_iter().for_each(|object| unsafe { free(object) });
        }
    }
}

#[test]
fn caches_grow_with_the_heap() {
    rsalloc_core::release();
    swing();
    let small = stats().cached_bytes;
    // Never touched, so only addresses.
    let held: Vec<_> = (0..HELD).map(|_| allocate(OBJECT)).collect();
    swing();
    let large = stats().cached_bytes;
    assert!(large > small + small / 4, "{small} before, {large} with {} held", HELD * OBJECT);
    assert!(large < HELD * OBJECT / 4, "{large} cached");
    // SAFETY: live objects from above.
    held.into_iter().for_each(|object| unsafe { free(object) });
    assert_eq!(rsalloc_core::check(), Ok(()));
}

//! Guarded slots at rest: what was freed stays out of reach for half a turn of the pool, so that a late touch
//! faults; then its slot comes into use again.

use rsalloc_core::internals::guard::{self, SLOTS};

const SIZE: usize = 40;

fn page_of(object: usize) -> usize {
    object & !(rsalloc_core::internals::os::page_bytes() - 1)
}

/// One object at a time, so that each look at a slot, but for that of the test's object, is an allocation.
fn allocate() -> usize {
    guard::allocate(SIZE, 8).expect("a slot").address()
}

/// Page of an object that was freed so many looks before the pool comes to its slot again.
fn freed_before_its_turn(ahead: usize) -> usize {
    let object = allocate();
    for _ in ahead + 1..SLOTS {
        // SAFETY: just allocated.
        unsafe { guard::free(allocate()) };
    }
    // SAFETY: live.
    unsafe { guard::free(object) };
    page_of(object)
}

/// One test, since the pool is the process's.
#[test]
fn a_guarded_slot_rests_for_half_a_round() {
    rsalloc_core::allocate(1);
    assert!(guard::sample(1), "the OS has memory for the pool");
    for ahead in [0, 1, SLOTS / 8, SLOTS / 3, SLOTS / 2 - 1, SLOTS / 2, SLOTS - 1] {
        let page = freed_before_its_turn(ahead);
        let back = (1..=2 * SLOTS).find(|_| {
            let object = allocate();
            // SAFETY: just allocated.
            unsafe { guard::free(object) };
            page_of(object) == page
        });
        let back = back.expect("a slot that has rested is used again");
        assert!(back > SLOTS / 2, "freed {ahead} looks ahead: used again by allocation {back}");
    }
}

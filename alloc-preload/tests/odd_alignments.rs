//! Alignments that are no powers of two, which memalign and aligned_alloc round up: a sized free that is told the
//! same two numbers comes to the same class, and no request is served too short an object afterwards.

mod common;

use common::{c, on_rsalloc};

const ALIGNS: [usize; 8] = [3, 24, 48, 100, 1000, 3000, 5000, 40_000];
const SIZES: [usize; 11] = [0, 1, 20, 30, 47, 90, 300, 2500, 9000, 50_000, 300_000];

in_each_mode! {
    fn a_sized_free_takes_an_alignment_as_it_was_asked_for() {
        let Some(aligned) = c::free_aligned_sized() else {
            assert!(!on_rsalloc(), "librsalloc.so exports it");
            common::note("free_aligned_sized on plain glibc, which has it from 2.43");
            return;
        };
        for align in ALIGNS {
            for size in SIZES {
                // SAFETY: objects of its own, live until they are freed.
                unsafe {
                    let object = c::aligned_alloc(align, size);
                    assert!((object as usize).is_multiple_of(align.next_power_of_two()));
                    c::fill(object, size, 1);
                    aligned(object, align, size);
                    // What a wrong class would have been computed from.
                    for next in [size, size.next_multiple_of(align), size.next_multiple_of(align) + 1] {
                        let object = c::malloc(next);
                        let usable = c::malloc_usable_size(object);
                        assert!(usable >= next, "{align}, {size}: {usable} B for {next}");
                        c::free(object);
                    }
                }
            }
        }
        // SAFETY: takes a number.
        unsafe { c::malloc_trim(0) };
    }
}

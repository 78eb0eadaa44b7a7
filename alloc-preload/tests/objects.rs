//! The objects themselves: alignment, contents, zeroes, usable bytes.

mod common;

use common::c;
use std::ptr::null_mut;

/// Around every size class boundary one can think of, and large ones.
fn sizes() -> impl Iterator<Item = usize> {
    let powers = (4..25).flat_map(|s| [(1 << s) - 1, 1 << s, (1 << s) + 1, 3 << (s - 1)]);
    (0..300).chain(powers)
}

in_each_mode! {
    fn objects_are_aligned_for_any_type_that_fits() {
        for size in sizes() {
            let natural = if size <= 8 { 8 } else { 16 };
            // SAFETY: live objects of its own, filled and read no further than they are long.
            unsafe {
                let resized = c::realloc(c::malloc(size / 2 + 1), size.max(1));
                for p in [c::malloc(size), c::calloc(1, size), resized] {
                    assert_eq!(p as usize % natural, 0, "{size} bytes at {p:?}");
                    c::free(p);
                }
            }
        }
    }

    fn every_alignment_up_to_1_gib() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            for shift in 3..=30 {
                let align = 1usize << shift;
                let sizes = [0, 1, 8, 24, 100, 4096, 100_000, 5 << 20];
                let mut live = Vec::new();
                for size in sizes {
                    let mut out = null_mut();
                    assert_eq!(c::posix_memalign(&mut out, align, size), 0, "{size} by {align}");
                    for p in [out, c::memalign(align, size), c::aligned_alloc(align, size)] {
                        assert!(!p.is_null() && (p as usize).is_multiple_of(align), "{size} by {align}");
                        assert!(c::malloc_usable_size(p) >= size);
                        let seed = live.len() as u8;
                        c::fill(p, size, seed);
                        live.push((p, size, seed));
                    }
                }
                for (p, size, seed) in live {
                    c::assert_filled(p, size, seed);
                    c::free(p);
                }
            }
        }
    }

    fn objects_do_not_overlap() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            let mut live: Vec<_> = sizes()
                .filter(|&size| size < 1 << 21)
                .flat_map(|size| std::iter::repeat_n(size, 3))
                .map(|size| (c::malloc(size), size))
                .collect();
            for (i, &(p, size)) in live.iter().enumerate() {
                c::fill(p, size, i as u8);
            }
            for (i, &(p, size)) in live.iter().enumerate() {
                c::assert_filled(p, size, i as u8);
            }
            live.sort();
            for pair in live.windows(2) {
                assert!(pair[0].0 as usize + pair[0].1.max(1) <= pair[1].0 as usize, "{pair:?}");
            }
            live.into_iter().for_each(|(p, _)| c::free(p));
        }
    }

    fn every_usable_byte_may_be_written() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            let live: Vec<_> = sizes()
                .enumerate()
                .map(|(i, size)| {
                    let p = if i % 2 == 0 { c::malloc(size) } else { c::memalign(256, size) };
                    let usable = c::malloc_usable_size(p);
                    assert!(usable >= size);
                    c::fill(p, usable, i as u8);
                    (p, usable)
                })
                .collect();
            for (i, (p, usable)) in live.into_iter().enumerate() {
                assert_eq!(c::malloc_usable_size(p), usable);
                c::assert_filled(p, usable, i as u8);
                c::free(p);
            }
        }
    }

    fn calloc_clears_what_was_dirty() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            for size in sizes() {
                let dirty: Vec<_> = (0..4).map(|_| c::malloc(size)).collect();
                dirty.iter().for_each(|&p| p.cast::<u8>().write_bytes(0xA5, size));
                dirty.into_iter().for_each(|p| c::free(p));
                for _ in 0..4 {
                    let p = c::calloc(1, size);
                    let bytes = std::slice::from_raw_parts(p.cast::<u8>(), size);
                    assert!(bytes.iter().all(|&b| b == 0), "{size} bytes at {p:?}");
                    c::free(p);
                }
            }
        }
    }

    fn realloc_keeps_the_contents() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            let all: Vec<_> = sizes().filter(|&s| s > 0).step_by(5).collect();
            for &from in &all {
                for &to in &all {
                    if from.max(to) > 1 << 18 && (from + to) % 3 != 0 {
                        continue; // a third of the large pairs: time
                    }
                    let p = c::malloc(from);
                    c::fill(p, from.min(5000), 5);
                    let q = c::realloc(p, to);
                    assert!(!q.is_null() && c::malloc_usable_size(q) >= to);
                    c::assert_filled(q, from.min(to).min(5000), 5);
                    c::free(q);
                }
            }
        }
    }

    fn realloc_of_whole_large_objects() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            let mut p = c::malloc(1);
            let mut len = 1;
            c::fill(p, len, 1);
            for to in [100, 5000, 1 << 17, 1 << 20, (1 << 20) + 1, 9 << 20, 64 << 20, 30 << 20, 77] {
                p = c::reallocarray(p, 1, to);
                c::assert_filled(p, len.min(to), 1);
                c::fill(p, to, 1);
                len = to;
            }
            c::free(p);
        }
    }

    fn realloc_of_an_aligned_object() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            for align in [64, 4096, 1 << 16, 1 << 21] {
                for (from, to) in [(10, 1000), (5000, 60), (100_000, 3 << 20), (3 << 20, 100)] {
                    let p = c::memalign(align, from);
                    c::fill(p, from, 2);
                    let q = c::realloc(p, to);
                    c::assert_filled(q, from.min(to), 2);
                    c::fill(q, to, 3);
                    c::assert_filled(q, to, 3);
                    c::free(q);
                }
            }
        }
    }

    fn freed_memory_is_used_again() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            // 64 GB in all, of which never more than 1 MB at once.
            for _ in 0..64 << 10 {
                let p = c::malloc(1 << 20);
                assert!(!p.is_null());
                p.cast::<u8>().write_volatile(1);
                c::free(p);
            }
            let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
            let resident: usize = pages.split(' ').nth(1).unwrap().parse().unwrap();
            assert!(resident < (256 << 20) / 4096, "{resident} pages resident");
        }
    }
}

//! Each function against its manual page: results, errno, corner cases.

mod common;

use common::{c, on_rsalloc};
use libc::{EINVAL, ENOMEM};
use std::ptr::null_mut;

const PTRDIFF_MAX: usize = isize::MAX as usize;
/// Sizes that overflow every sum made of them.
const TOO_LARGE: [usize; 5] =
    [PTRDIFF_MAX + 1, PTRDIFF_MAX + 4096, usize::MAX - 4096, usize::MAX - 1, usize::MAX];
const PAGE: usize = 4096;

in_each_mode! {
    fn the_library_serves_this_process_or_not_as_the_mode_says() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        assert_eq!(maps.contains("librsalloc.so"), on_rsalloc());
        let home = image_of(c::look_up(c"malloc"));
        assert_eq!(home.ends_with("/librsalloc.so"), on_rsalloc(), "malloc is {home}'s");
    }

    fn malloc_of_too_much_is_enomem() {
        for size in TOO_LARGE {
            // SAFETY: takes numbers alone.
            c::assert_null_with(ENOMEM, || unsafe { c::malloc(size) });
        }
        // Allowed by the limit, but more than an address space holds.
        // SAFETY: takes numbers alone.
        c::assert_null_with(ENOMEM, || unsafe { c::malloc(PTRDIFF_MAX) });
    }

    fn zero_sizes_give_unique_objects() {
        // SAFETY: frees what it has just been given; `out` is its own.
        unsafe {
            let mut seen = std::collections::BTreeSet::new();
            let mut out = null_mut();
            for _ in 0..100 {
                assert!(seen.insert(c::malloc(0)));
                assert!(seen.insert(c::calloc(0, 8)));
                assert!(seen.insert(c::calloc(8, 0)));
                assert!(seen.insert(c::realloc(null_mut(), 0)));
                assert!(seen.insert(c::reallocarray(null_mut(), 0, 9)));
                assert!(seen.insert(c::memalign(64, 0)));
                assert!(seen.insert(c::aligned_alloc(64, 0)));
                assert!(seen.insert(c::valloc(0)));
                assert!(seen.insert(c::pvalloc(0)));
                assert_eq!(c::posix_memalign(&mut out, 64, 0), 0);
                assert!(seen.insert(out));
            }
            assert!(!seen.contains(&null_mut()));
            seen.into_iter().for_each(|p| c::free(p));
        }
    }

    fn free_of_null_does_nothing() {
        // SAFETY: free of null is allowed.
        unsafe { c::free(null_mut()) }
    }

    fn free_keeps_errno() {
        // SAFETY: frees what it has just been given, each once.
        unsafe {
            for size in [0, 1, 100, 5000, 40_000, 300_000, 5 << 20, 100 << 20] {
                let ptrs = [c::malloc(size), c::calloc(1, size), c::memalign(1024, size)];
                for p in ptrs {
                    assert!(!p.is_null());
                    c::set_errno(1234);
                    c::free(p);
                    assert_eq!(c::errno(), 1234, "{size} bytes");
                }
                let p = c::malloc(size);
                c::set_errno(1234);
                assert!(c::realloc(p, 0).is_null());
                assert_eq!(c::errno(), 1234, "realloc to 0 of {size} bytes");
            }
        }
    }

    fn calloc_overflow_is_enomem() {
        let half = 1 << (usize::BITS / 2);
        for (count, size) in
            [(usize::MAX, 2), (2, usize::MAX), (half, half), (usize::MAX, usize::MAX)]
        {
            // SAFETY: takes numbers alone.
            c::assert_null_with(ENOMEM, || unsafe { c::calloc(count, size) });
        }
        for size in TOO_LARGE {
            // SAFETY: takes numbers alone.
            c::assert_null_with(ENOMEM, || unsafe { c::calloc(1, size) });
            // SAFETY: takes numbers alone.
            c::assert_null_with(ENOMEM, || unsafe { c::calloc(size, 1) });
        }
    }

    /// Each length that the entry clears by itself, and those that it leaves to memset, on dirty objects.
    fn calloc_clears_every_length() {
        for size in 0..=1100 {
            // SAFETY: live objects of its own, filled and read no further than they are long.
            unsafe {
                let dirty = c::malloc(size).cast::<u8>();
                dirty.write_bytes(0xA5, size);
                c::free(dirty.cast());
                let (count, each) = if size % 3 == 0 { (3, size / 3) } else { (1, size) };
                let p = c::calloc(count, each).cast::<u8>();
                assert!((0..size).all(|at| *p.add(at) == 0), "calloc({count}, {each})");
                c::free(p.cast());
            }
        }
    }

    fn realloc_of_null_is_malloc() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            let p = c::realloc(null_mut(), 100);
            c::fill(p, 100, 7);
            c::assert_filled(p, 100, 7);
            c::free(p);
            let p = c::reallocarray(null_mut(), 10, 10);
            c::fill(p, 100, 8);
            c::assert_filled(p, 100, 8);
            c::free(p);
        }
    }

    fn realloc_to_zero_frees_and_gives_null() {
        // SAFETY: resizes what it has just been given, which is free afterwards.
        unsafe {
            c::set_errno(0);
            assert!(c::realloc(c::malloc(100), 0).is_null());
            assert!(c::reallocarray(c::malloc(100), 0, 5).is_null());
            assert!(c::reallocarray(c::malloc(100), 5, 0).is_null());
            assert_eq!(c::errno(), 0, "not an error");
            for size in [100, 10_000, 1 << 20] {
                let before = live(&c::mallinfo2());
                for _ in 0..1000 {
                    assert!(c::realloc(c::malloc(size), 0).is_null());
                }
                let grown = live(&c::mallinfo2()).saturating_sub(before);
                assert!(grown < 100 * size, "{grown} bytes more: not freed");
            }
        }
    }

    fn a_failed_realloc_leaves_the_object_alone() {
        // SAFETY: a live object of its own: a refused call leaves it alone.
        unsafe {
            for len in [1, 100, 5000, 300_000, 3 << 20] {
                let p = c::malloc(len);
                c::fill(p, len, 3);
                for size in TOO_LARGE {
                    c::assert_null_with(ENOMEM, || c::realloc(p, size));
                    c::assert_null_with(ENOMEM, || c::reallocarray(p, 1, size));
                }
                c::assert_null_with(ENOMEM, || c::realloc(p, PTRDIFF_MAX));
                c::assert_null_with(ENOMEM, || c::reallocarray(p, usize::MAX, 2));
                c::assert_null_with(ENOMEM, || c::reallocarray(p, 1 << 32, 1 << 32));
                c::assert_filled(p, len, 3);
                c::free(p);
            }
        }
    }

    fn posix_memalign_refuses_bad_alignments_and_touches_nothing() {
        // SAFETY: `out` is its own; what is refused writes nothing.
        unsafe {
            let mark = 0x5555usize as c::Ptr;
            let mut out = mark;
            c::set_errno(1234);
            for align in [0, 1, 2, 4, 3, 7, 9, 12, 24, 48, 100, 4095, usize::MAX, (1 << 63) + 8] {
                assert_eq!(c::posix_memalign(&mut out, align, 16), EINVAL, "alignment {align}");
                assert_eq!((out, c::errno()), (mark, 1234), "alignment {align}");
            }
            for size in TOO_LARGE {
                assert_eq!(c::posix_memalign(&mut out, 64, size), ENOMEM, "size {size}");
                assert_eq!(out, mark);
                assert_eq!(c::errno(), ENOMEM, "as glibc, against its manual");
            }
            c::set_errno(1234);
            assert_eq!(c::posix_memalign(&mut out, 1 << 63, 1), ENOMEM);
            assert_eq!(out, mark);
            // Twice: the second time from a cache.
            let sizes = [0, 1, 8, 9, 100, 1024, 1025, 5000, 32 << 10, (32 << 10) + 1, 70_000];
            for (shift, size) in (3..22).flat_map(|shift| [sizes, sizes].concat().into_iter().map(move |size| (shift, size))) {
                c::set_errno(1234);
                assert_eq!(c::posix_memalign(&mut out, 1 << shift, size), 0);
                assert_eq!((out as usize % (1 << shift), c::errno()), (0, 1234), "{size} at 2^{shift}");
                c::fill(out, size, 1);
                c::free(out);
            }
        }
    }

    fn memalign_and_aligned_alloc_round_a_bad_alignment_up() {
        // glibc 2.36; from 2.38 aligned_alloc refuses what is no power of two, as C17 lets it.
        for align in [memalign as Aligned, aligned_alloc] {
            for (asked, given) in
                [(0, 16), (1, 16), (3, 16), (24, 32), (33, 64), (100, 128), (4097, 8192)]
            {
                let p = align(asked, 200);
                assert!(!p.is_null());
                assert_eq!(p as usize % given, 0, "alignment {asked}");
                // SAFETY: live objects of its own, filled and read no further than they are long.
                unsafe {
                    c::fill(p, 200, 1);
                    c::free(p);
                }
            }
            for asked in [(1 << 63) + 1, usize::MAX] {
                c::assert_null_with(EINVAL, || align(asked, 1));
            }
            c::assert_null_with(ENOMEM, || align(1 << 63, 1));
            c::assert_null_with(ENOMEM, || align(1 << 62, 1));
            for size in TOO_LARGE {
                c::assert_null_with(ENOMEM, || align(64, size));
                c::assert_null_with(ENOMEM, || align(8, size));
            }
            c::assert_null_with(ENOMEM, || align(64, PTRDIFF_MAX));
            // C11 wanted a multiple of the alignment; glibc never did.
            let p = align(256, 100);
            assert_eq!((p.is_null(), p as usize % 256), (false, 0));
            // SAFETY: live objects of its own, filled and read no further than they are long.
            unsafe { c::free(p) };
        }
    }

    fn valloc_and_pvalloc_give_pages() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            for size in [1, 100, PAGE - 1, PAGE, PAGE + 1, 10 * PAGE + 5, 1 << 20] {
                let p = c::valloc(size);
                let q = c::pvalloc(size);
                assert_eq!((p as usize % PAGE, q as usize % PAGE), (0, 0));
                assert!(c::malloc_usable_size(p) >= size);
                let rounded = size.next_multiple_of(PAGE);
                assert!(c::malloc_usable_size(q) >= rounded);
                c::fill(p, size, 1);
                c::fill(q, rounded, 2);
                c::assert_filled(p, size, 1);
                c::assert_filled(q, rounded, 2);
                c::free(p);
                c::free(q);
            }
            for size in TOO_LARGE {
                c::assert_null_with(ENOMEM, || c::valloc(size));
                c::assert_null_with(ENOMEM, || c::pvalloc(size));
            }
        }
    }

    fn usable_size_of_null_is_zero() {
        // SAFETY: takes no object.
        assert_eq!(unsafe { c::malloc_usable_size(null_mut()) }, 0);
    }

    fn free_sized_and_free_aligned_sized() {
        let (Some(sized), Some(aligned)) = (c::free_sized(), c::free_aligned_sized()) else {
            assert!(!on_rsalloc(), "librsalloc.so exports both");
            common::note("C23's sized frees on plain glibc, which has them from 2.43");
            return;
        };
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            sized(null_mut(), 8);
            aligned(null_mut(), 64, 8);
            // 100 rounds: an object filed under a wrong class comes back too short.
            for round in 0..100u8 {
                for size in (0..600).step_by(7).chain([4096, 5000, 40_000, 300_000, 3 << 20]) {
                    let ptrs = [c::malloc(size), c::calloc(size, 1), c::realloc(null_mut(), size)];
                    ptrs.into_iter().for_each(|p| c::fill(p, size, round));
                    ptrs.into_iter().for_each(|p| c::assert_filled(p, size, round));
                    c::set_errno(1234);
                    ptrs.into_iter().for_each(|p| sized(p, size));
                    assert_eq!(c::errno(), 1234);
                    if round > 10 {
                        continue;
                    }
                    for align in [1, 2, 8, 16, 64, 512, 4096, 65536] {
                        let p = c::aligned_alloc(align, size);
                        c::fill(p, size, round);
                        c::set_errno(1234);
                        aligned(p, align, size);
                        assert_eq!(c::errno(), 1234);
                    }
                }
            }
        }
    }

    fn free_sized_after_realloc() {
        let Some(sized) = c::free_sized() else {
            assert!(!on_rsalloc());
            common::note("free_sized after realloc on plain glibc, which has it from 2.43");
            return;
        };
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            for round in 0..50u8 {
                for (from, to) in [(10, 100), (1000, 10), (100, 99), (70_000, 50), (50, 70_000),
                    (300_000, 290_000), (3 << 20, 1000), (1000, 3 << 20), (3 << 20, 5 << 20)]
                {
                    let p = c::realloc(c::malloc(from), to);
                    c::fill(p, to, round);
                    sized(p, to);
                    let q = [c::malloc(to), c::malloc(from)];
                    c::fill(q[0], to, 1);
                    c::fill(q[1], from, 2);
                    c::assert_filled(q[0], to, 1);
                    c::assert_filled(q[1], from, 2);
                    q.into_iter().for_each(|p| c::free(p));
                }
            }
        }
    }

    fn glibcs_other_names_share_the_heap() {
        // SAFETY: the functions have these types; live objects of its own.
        unsafe {
            let malloc: Size1 = std::mem::transmute(c::look_up(c"__libc_malloc"));
            let free: unsafe extern "C" fn(c::Ptr) = std::mem::transmute(c::look_up(c"__libc_free"));
            let realloc: Resize = std::mem::transmute(c::look_up(c"__libc_realloc"));
            let calloc: Sizes2 = std::mem::transmute(c::look_up(c"__libc_calloc"));
            let memalign: Sizes2 = std::mem::transmute(c::look_up(c"__libc_memalign"));
            for p in [malloc(100), calloc(10, 10), memalign(64, 100), realloc(malloc(5), 100)] {
                c::fill(p, 100, 1);
                let q = c::realloc(p, 50_000);
                c::assert_filled(q, 100, 1);
                c::free(q);
            }
            free(c::malloc(100));
            free(c::memalign(4096, 100));
        }
    }

    fn malloc_trim_answers_0_or_1_and_harms_nothing() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            let kept: Vec<_> = (0..1000).map(|i| (c::malloc(i * 40), i * 40)).collect();
            let dropped: Vec<_> = (0..1000).map(|_| c::malloc(10_000)).collect();
            kept.iter().for_each(|&(p, len)| c::fill(p, len, 9));
            dropped.iter().for_each(|&p| c::fill(p, 10_000, 9));
            dropped.iter().for_each(|&p| c::free(p));
            c::set_errno(1234);
            assert!([0, 1].contains(&c::malloc_trim(0)));
            assert_eq!(c::errno(), 1234);
            for (p, len) in kept {
                c::assert_filled(p, len, 9);
                c::free(p);
            }
        }
    }

    fn mallinfo_adds_up() {
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            let before = c::mallinfo2();
            let small: Vec<_> = (0..10_000).map(|_| c::malloc(1000)).collect();
            let large = c::malloc(50 << 20);
            let after = c::mallinfo2();
            let grown = live(&after) - live(&before);
            assert!(grown >= 10_000_000 + (50 << 20), "{grown} bytes more");
            assert!(grown < 13_000_000 + (52 << 20), "{grown} bytes more");
            assert!(after.hblks > before.hblks && after.hblkhd >= 50 << 20);
            assert_eq!(after.arena, after.uordblks + after.fordblks);
            let ints = c::mallinfo();
            assert_eq!(ints.arena, ints.uordblks + ints.fordblks);
            assert!(ints.hblkhd >= 50 << 20);
            c::free(large);
            small.into_iter().for_each(|p| c::free(p));
            assert!(live(&c::mallinfo2()) < live(&after) - (50 << 20));
        }
    }

    fn malloc_info_writes_xml_and_refuses_options() {
        // SAFETY: the stream and its text are its own.
        unsafe {
            let (mut text, mut len) = (null_mut(), 0);
            let stream = libc::open_memstream(&mut text, &mut len);
            assert_ne!(c::malloc_info(1, stream), 0, "no option is defined");
            assert_eq!(c::malloc_info(0, stream), 0);
            libc::fclose(stream);
            let xml = std::slice::from_raw_parts(text.cast::<u8>(), len);
            let xml = std::str::from_utf8(xml).unwrap();
            assert!(xml.starts_with("<malloc version=\""), "{xml}");
            assert!(xml.ends_with("</malloc>\n"), "{xml}");
            c::free(text.cast());
        }
    }

    fn malloc_stats_writes_to_stderr() {
        // SAFETY: descriptors and a buffer of its own.
        unsafe {
            let mut ends = [0; 2];
            assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
            let stderr = libc::dup(2);
            libc::dup2(ends[1], 2);
            c::malloc_stats();
            libc::dup2(stderr, 2);
            libc::close(ends[1]);
            let mut buffer = [0u8; 8192];
            let n = libc::read(ends[0], buffer.as_mut_ptr().cast(), buffer.len());
            let text = String::from_utf8_lossy(&buffer[..n.max(0) as usize]).into_owned();
            let word = if on_rsalloc() { "live_bytes" } else { "in use bytes" };
            assert!(text.contains(word), "{text}");
        }
    }
}

type Aligned = fn(usize, usize) -> c::Ptr;
type Size1 = unsafe extern "C" fn(usize) -> c::Ptr;
type Resize = unsafe extern "C" fn(c::Ptr, usize) -> c::Ptr;
type Sizes2 = unsafe extern "C" fn(usize, usize) -> c::Ptr;

/// Bytes that the program holds.
fn live(m: &libc::mallinfo2) -> usize {
    m.uordblks + m.hblkhd
}

fn memalign(align: usize, size: usize) -> c::Ptr {
    // SAFETY: takes numbers alone.
    unsafe { c::memalign(align, size) }
}

fn aligned_alloc(align: usize, size: usize) -> c::Ptr {
    // SAFETY: takes numbers alone.
    unsafe { c::aligned_alloc(align, size) }
}

fn image_of(address: c::Ptr) -> String {
    // SAFETY: `info` is its own; the name lives as long as the library.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        assert_ne!(libc::dladdr(address, &mut info), 0);
        std::ffi::CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned()
    }
}

//! What programs take from glibc beyond the manual pages: each body runs on glibc too.

mod common;

use common::{c, mode};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

const M_MXFAST: c_int = 1;
const M_TRIM_THRESHOLD: c_int = -1;
const M_TOP_PAD: c_int = -2;
const M_MMAP_THRESHOLD: c_int = -3;
const M_MMAP_MAX: c_int = -4;
const M_CHECK_ACTION: c_int = -5;
const M_PERTURB: c_int = -6;
const M_ARENA_TEST: c_int = -7;
const M_ARENA_MAX: c_int = -8;

in_each_mode! {
    /// All that may be used of an object, which programs find by malloc_usable_size, on a heap full of old data.
    fn calloc_clears_all_that_may_be_used() {
        let sizes = (0..=4096).chain((4096..70_000).step_by(911)).chain((70_000..1_200_000).step_by(39_313));
        // Above 32 MiB: mappings of their own.
        let sizes: Vec<usize> = sizes.chain([(32 << 20) + 1, 40_000_000]).collect();
        let mut checked = 0;
        for size in sizes {
            // SAFETY: live objects of its own, written and read no further than may be used.
            unsafe {
                let rounds = if size < 300_000 { 3 } else { 1 };
                let dirty: Vec<_> = (0..rounds).map(|_| fill_all(c::malloc(size))).collect();
                dirty.into_iter().for_each(|p| c::free(p));
                let (count, each) = if size % 3 == 0 { (3, size / 3) } else { (1, size) };
                let live: Vec<_> = (0..rounds).map(|_| c::calloc(count, each)).collect();
                for p in live {
                    let usable = c::malloc_usable_size(p);
                    assert!(usable >= size);
                    let bytes = std::slice::from_raw_parts(p.cast::<u8>(), usable);
                    let first = bytes.iter().position(|&byte| byte != 0);
                    assert_eq!(first, None, "calloc({count}, {each}), {usable} bytes may be used");
                    checked += usable - size;
                    // Hardened objects end where the request ends, and `realloc` to 0 frees.
                    if usable == 0 {
                        c::free(p);
                        continue;
                    }
                    // Grown in place, it is still clear.
                    let grown = c::realloc(p, usable).cast::<u8>();
                    let bytes = std::slice::from_raw_parts(grown, usable);
                    assert!(bytes.iter().all(|&byte| byte == 0), "{size} to {usable} bytes");
                    c::free(fill_all(grown.cast()));
                }
            }
        }
        assert!(checked > 0 || mode() == Some(common::Mode::Hardened), "nothing more could be used");
    }

    fn mallopt_takes_every_parameter_and_changes_no_result() {
        let accepted = [
            (M_MXFAST, 0), (M_MXFAST, 64), (M_TRIM_THRESHOLD, 128 << 10), (M_TRIM_THRESHOLD, -1),
            (M_TOP_PAD, 64 << 10), (M_MMAP_THRESHOLD, 64 << 10), (M_MMAP_MAX, 64 << 10), (M_MMAP_MAX, 0),
            (M_CHECK_ACTION, 1), (M_PERTURB, 0), (M_ARENA_TEST, 1), (M_ARENA_MAX, 1), (M_ARENA_MAX, 0),
            // Unknown parameters.
            (77, 1), (c_int::MAX, -1), (-99, 5),
        ];
        for (parameter, value) in accepted {
            c::set_errno(1234);
            // SAFETY: takes no object.
            assert_eq!(unsafe { c::mallopt(parameter, value) }, 1, "{parameter}, {value}");
            assert_eq!(c::errno(), 1234, "{parameter}, {value}");
        }
        // Beyond its maximum of 160.
        // SAFETY: takes no object.
        unsafe {
            assert_eq!(c::mallopt(M_MXFAST, 161), 0);
            assert_eq!(c::mallopt(M_MXFAST, -1), 0);
            assert_eq!(c::mallopt(M_MXFAST, 160), 1);
            let p = c::malloc(1000);
            c::fill(p, 1000, 3);
            c::assert_filled(p, 1000, 3);
            c::free(p);
        }
    }

    fn posix_memalign_out_of_memory_sets_errno_too() {
        for (align, size) in [(64, usize::MAX), (64, 1 << 62), (1 << 62, 8), (8, isize::MAX as usize)] {
            let mut out = 0x5555 as c::Ptr;
            c::set_errno(1234);
            // SAFETY: `out` is its own.
            let code = unsafe { c::posix_memalign(&mut out, align, size) };
            assert_eq!((code, c::errno(), out as usize), (libc::ENOMEM, libc::ENOMEM, 0x5555), "{size} by {align}");
        }
    }

    /// A request to cancel stays pending over it, as in glibc, and acts at the next cancellation point.
    fn malloc_stats_is_no_cancellation_point() {
        // SAFETY: descriptors, a buffer and a thread of its own.
        unsafe {
            let mut ends = [0; 2];
            assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
            let stderr = libc::dup(2);
            libc::dup2(ends[1], 2);
            let mut thread = 0;
            let mut past = 0usize;
            let arg = (&raw mut past).cast();
            assert_eq!(libc::pthread_create(&mut thread, std::ptr::null(), cancelled, arg), 0);
            let mut result = null_mut();
            assert_eq!(libc::pthread_join(thread, &mut result), 0);
            libc::dup2(stderr, 2);
            libc::close(ends[1]);
            let mut buffer = [0u8; 8192];
            let n = libc::read(ends[0], buffer.as_mut_ptr().cast(), buffer.len());
            let text = String::from_utf8_lossy(&buffer[..n.max(0) as usize]).into_owned();
            assert_eq!(past, 1, "malloc_stats did not come back");
            assert_eq!(result as isize, -1, "PTHREAD_CANCELED: the request was still pending");
            assert!(text.lines().count() > 3, "{text}");
        }
    }

    /// The elements that parsers of glibc's document read, and their numbers.
    fn malloc_info_has_glibcs_elements() {
        // SAFETY: live objects, a stream and a text of its own.
        unsafe {
            let small: Vec<_> = (0..3000).map(|_| c::malloc(1000)).collect();
            let large = fill_all(c::malloc(50 << 20));
            let held = info();
            // Each third stays, so that its neighbours do not join it.
            let (kept, freed): (Vec<_>, Vec<_>) = small.into_iter().enumerate().partition(|(i, _)| i % 3 == 0);
            freed.into_iter().for_each(|(_, p)| c::free(p));
            let fewer = info();
            c::free(large);
            let after = info();
            kept.into_iter().for_each(|(_, p)| c::free(p));
            for (when, text) in [("held", &held), ("fewer", &fewer), ("after", &after)] {
                let lines: Vec<_> = text.lines().collect();
                assert_eq!(lines.first(), Some(&"<malloc version=\"1\">"), "{when}");
                assert_eq!(lines.last(), Some(&"</malloc>"), "{when}");
                assert_eq!(lines.iter().filter(|line| **line == "<heap nr=\"0\">").count(), 1);
                let (system, max) = (number(text, "system", "current", "size"), number(text, "system", "max", "size"));
                assert!(max >= system && system > 0, "{text}");
                for (element, kind) in [("aspace", "total"), ("aspace", "mprotect")] {
                    assert!(number(text, element, kind, "size") >= system, "{text}");
                }
                let free = number(text, "total", "fast", "size") + number(text, "total", "rest", "size");
                assert!(free <= system, "{text}");
                // The sizes are those of the totals, but for glibc's top, which has no size.
                let sizes = text.lines().map(str::trim_start);
                let sizes = sizes.filter(|line| line.starts_with("<size ") || line.starts_with("<unsorted ")).map(|line| {
                    assert!(attribute(line, "to") >= attribute(line, "from"), "{line}");
                    attribute(line, "total")
                });
                let sizes: usize = sizes.sum();
                assert!(sizes <= free && (sizes == free || mode() == Some(common::Mode::Glibc)), "{sizes}, {text}");
            }
            let free = |text: &str| number(text, "total", "fast", "size") + number(text, "total", "rest", "size");
            // 2,000 objects of 1,000 bytes, less what a full slab gave back.
            assert!(free(&fewer) >= free(&held) + 1_000_000, "{held}{fewer}");
            let mapped = |text: &str| number(text, "total", "mmap", "size");
            assert!(mapped(&held) >= mapped(&after) + (50 << 20), "{held}{after}");
            let count = |text: &str| number(text, "total", "mmap", "count");
            assert_eq!(count(&held), count(&after) + 1);
        }
    }
}

#[test]
fn a_trim_threshold_is_a_dirty_limit_unless_the_environment_has_one() {
    let source = r#"
        #include <dlfcn.h>
        #include <malloc.h>
        int main(void) {
            void (*print)(int) = dlsym(RTLD_DEFAULT, "rsalloc_print_settings");
            if (!print || mallopt(M_TRIM_THRESHOLD, 3 << 20) != 1) return 1;
            print(1);
            return 0;
        }
    "#;
    let program = common::compile("cc", "glibc-trim", source, &["-w", "-ldl"]).unwrap();
    for (conf, value) in [("", "3145728\tcall"), ("dirty:5000000", "5000000\tRSALLOC_CONF")] {
        let mut command = std::process::Command::new(&program);
        common::in_mode(&mut command, common::Mode::Rseq);
        let output = command.env("RSALLOC_CONF", conf).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.starts_with("dirty\t")).expect(&text);
        assert!(line.starts_with(&format!("dirty\t{value}\t")), "{line}");
    }
}

extern "C" fn cancelled(past: *mut c_void) -> *mut c_void {
    // SAFETY: asks for its own cancellation; `past` is the starter's, which waits.
    unsafe {
        assert_eq!(pthread_cancel(libc::pthread_self()), 0);
        c::malloc_stats();
        past.cast::<usize>().write(1);
        pthread_testcancel();
    }
    null_mut()
}

unsafe extern "C" {
    fn pthread_cancel(thread: libc::pthread_t) -> c_int;
    fn pthread_testcancel();
}

/// Writes to all that may be used.
///
/// # Safety
/// 1. `p` is a live object.
unsafe fn fill_all(p: c::Ptr) -> c::Ptr {
    assert!(!p.is_null());
    // SAFETY: duty 1.
    unsafe { p.cast::<u8>().write_bytes(0xA5, c::malloc_usable_size(p)) };
    p
}

fn info() -> String {
    // SAFETY: the stream and its text are its own.
    unsafe {
        let (mut text, mut len) = (null_mut(), 0);
        let stream = libc::open_memstream(&mut text, &mut len);
        assert_eq!(c::malloc_info(0, stream), 0);
        libc::fclose(stream);
        let xml = std::slice::from_raw_parts(text.cast::<u8>(), len);
        let xml = std::str::from_utf8(xml).unwrap().to_owned();
        c::free(text.cast());
        xml
    }
}

/// The number of the last element of this kind: that of the whole process.
fn number(text: &str, element: &str, kind: &str, name: &str) -> usize {
    let start = format!("<{element} type=\"{kind}\" ");
    let line = text.lines().rfind(|line| line.starts_with(&start));
    attribute(line.unwrap_or_else(|| panic!("no {start}> in {text}")), name)
}

fn attribute(line: &str, name: &str) -> usize {
    let (_, rest) =
        line.split_once(&format!(" {name}=\"")).unwrap_or_else(|| panic!("no {name} in {line}"));
    rest.split('"').next().unwrap().parse().unwrap()
}

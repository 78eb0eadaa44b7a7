//! The heap profile against an exact trace: allocated and live bytes of known sites; and what must not happen beside it.

use rsalloc_core::internals::profile::{self, read};
use std::collections::HashMap;

/// Mean interval of the tests: many samples in little time.
const INTERVAL: usize = 16 << 10;

/// What a site has allocated, and what of it is live: by the trace, or by the profile.
#[derive(Clone, Copy, Default, Debug)]
struct Totals {
    allocated: f64,
    live: f64,
    samples: f64,
}

/// The totals of the profile by site: the first frame that lies in one of `sites`, which are sorted starts of functions.
fn by_site(sites: &[(usize, &'static str)]) -> HashMap<&'static str, Totals> {
    let header = profile::own_header();
    let mut found: HashMap<&'static str, Totals> = HashMap::new();
    let shown = read::for_each_stack(&header, &profile::OwnMemory, |_, stack| {
        let frames = read::frames(&header, stack, &profile::OwnMemory);
        let site = frames.filter_map(|frame| site_of(sites, frame as usize)).next();
        let totals = found.entry(site.unwrap_or("(none)")).or_default();
        totals.allocated += stack.allocated_bytes as f64;
        totals.live += stack.allocated_bytes as f64 - stack.freed_bytes as f64;
        totals.samples += stack.samples as f64;
    });
    assert_eq!(shown, Some(()));
    found
}

fn site_of(sites: &[(usize, &'static str)], frame: usize) -> Option<&'static str> {
    let at = sites.partition_point(|&(start, _)| start < frame);
    let (start, name) = sites[at.checked_sub(1)?];
    (frame - start < 2048).then_some(name)
}

macro_rules! sites {
    ($($name:ident($size:expr, $allocate:expr);)*) => {
        $(#[inline(never)]
        fn $name() -> *mut u8 {
            let size: usize = $size;
            std::hint::black_box($allocate(size))
        })*

        fn sites() -> Vec<(usize, &'static str, usize, fn() -> *mut u8)> {
            let mut sites = vec![$(($name as *const () as usize, stringify!($name), $size, $name as fn() -> *mut u8)),*];
            sites.sort();
            sites
        }
    };
}

sites! {
    tiny(16, rsalloc_core::allocate);
    odd(100, rsalloc_core::allocate);
    cleared(200, |size| rsalloc_core::allocate_zeroed(size, 8));
    aligned(1000, |size| rsalloc_core::allocate_aligned(size, 64));
    medium(5000, rsalloc_core::allocate);
    single(100_000, rsalloc_core::allocate);
    large(1 << 20, rsalloc_core::allocate);
    large_cleared(600_000, |size| rsalloc_core::allocate_zeroed(size, 8));
}

#[test]
fn sites_have_their_bytes_within_the_statistical_error() {
    let sites = sites();
    let names: Vec<_> = sites.iter().map(|&(start, name, ..)| (start, name)).collect();
    profile::start(INTERVAL).unwrap();
    let mut exact: HashMap<&str, Totals> = HashMap::new();
    let mut kept = Vec::new();
    for &(_, name, size, allocate) in &sites {
        // 64 MiB of each site; every third object stays.
        let count = (64 << 20) / size;
        for number in 0..count {
            let object = allocate();
            assert!(!object.is_null());
            // SAFETY: a live object of that size.
            unsafe { object.write_bytes(number as u8, size.min(64)) };
            let totals = exact.entry(name).or_default();
            totals.allocated += size as f64;
            if number % 3 == 0 {
                totals.live += size as f64;
                kept.push((object, size, number as u8));
            } else {
                // SAFETY: allocated above.
                unsafe { rsalloc_core::free(object) };
            }
        }
    }
    profile::stop().unwrap();
    let found = by_site(&names);
    for (name, exact) in &exact {
        let totals = found.get(name).copied().unwrap_or_default();
        assert_close(name, "allocated", totals.allocated, exact.allocated, totals.samples);
        assert_close(name, "live", totals.live, exact.live, totals.samples / 3.0);
    }
    let header = profile::own_header();
    assert_eq!((header.dropped_samples, header.dropped_stacks), (0, 0));
    let mut live = 0;
    read::for_each_sample(&header, &profile::OwnMemory, |_| live += 1).unwrap();
    assert!(live > 1000, "{live} live samples");
    for (object, size, byte) in kept {
        // SAFETY: live objects with these bytes, sampled or not.
        unsafe {
            assert!(rsalloc_core::usable_size(object) >= size);
            assert!((0..size.min(64)).all(|at| *object.add(at) == byte));
            rsalloc_core::free_sized(object, size, 8);
        }
    }
    assert_eq!(rsalloc_core::check(), Ok(()));
}

/// Five standard deviations of a sum of so many samples.
fn assert_close(site: &str, what: &str, found: f64, exact: f64, samples: f64) {
    let error = (found - exact).abs() / exact;
    let allowed = 5.0 / samples.max(1.0).sqrt() + 0.001;
    assert!(error < allowed, "{site}: {what} {found}, exactly {exact}: {error:.4} of {allowed:.4}");
    eprintln!(
        "{site:14} {what:9} {found:12.0} exactly {exact:12.0} error {error:.4} of {allowed:.4}"
    );
}

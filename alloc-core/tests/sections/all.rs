//! See the file above: by the descriptors, and by the code of an architecture.

#[allow(dead_code)]
#[path = "../support/cpus.rs"]
mod cpus;

use super::code::{ANNOUNCE, COMMITS, store_slowly};
use cpus::Cpus;
use rsalloc_core::internals::cpu_cache::exclusive::{self, Stopped};
use rsalloc_core::internals::cpu_cache::shard::{self, percpu};
use rsalloc_core::internals::domain::Domain;
use rsalloc_core::internals::object::Batch;
use rsalloc_core::internals::region::Region;
use rsalloc_core::internals::rseq::abi::{CriticalSection, SIGNATURE, membarrier};
use rsalloc_core::internals::rseq::{Sections, registration};
use rsalloc_core::internals::size_class::{Class, class_of};
use rsalloc_core::internals::sync::Backoff;
use rsalloc_core::internals::units::MAGAZINE_MAX;
use rsalloc_core::internals::{rseq, slab};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

unsafe extern "C" {
    // The linker's names for the bounds of the section of descriptors.
    #[link_name = "__start___rseq_cs"]
    static FIRST: CriticalSection;
    #[link_name = "__stop___rseq_cs"]
    static END: CriticalSection;
}

fn descriptors() -> &'static [CriticalSection] {
    let (first, end) = (&raw const FIRST, &raw const END);
    // SAFETY: the linker puts nothing but descriptors between the two.
    unsafe { std::slice::from_raw_parts(first, end.offset_from(first) as usize) }
}

/// The `len` bytes of code that end at `address`.
fn code_before(address: u64, len: usize) -> &'static [u8] {
    // SAFETY: inside the program's code: each section is preceded by instructions.
    unsafe { std::slice::from_raw_parts((address as usize - len) as *const u8, len) }
}

#[test]
fn every_descriptor_is_valid_for_the_kernel() {
    assert!(!rsalloc_core::allocate(1).is_null());
    // Two indices, six sections; and the entries.
    assert!(descriptors().len() >= 12 + 2, "{} descriptors", descriptors().len());
    for section in descriptors() {
        let (start, len) = (section.start_ip, section.post_commit_offset);
        let end = start + len;
        assert_eq!((section.version, section.flags), (0, 0), "{section:x?}");
        assert!(len > 0 && len < 256, "{section:x?}");
        assert!(!(start..end).contains(&section.abort_ip), "{section:x?}");
        assert_eq!(code_before(section.abort_ip, 4), SIGNATURE.to_ne_bytes(), "{section:x?}");
        assert_eq!(
            code_before(start, ANNOUNCE.len()),
            ANNOUNCE,
            "not announced last: {section:x?}"
        );
        let commits = |store: &&[u8]| code_before(end, store.len()) == *store;
        assert!(COMMITS.iter().any(commits), "does not end in its commit: {section:x?}");
        let stores = COMMITS.iter().map(|store| {
            code_before(end, len as usize).windows(store.len()).filter(|code| code == store).count()
        });
        assert_eq!(stores.sum::<usize>(), 1, "commits twice: {section:x?}");
    }
}

/// After that long what has not happened does not happen.
const LATE: Duration = Duration::from_secs(200);

/// Each of the tests that want two CPUs gets them.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Stops the other thread of a test, also when this one panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How often the shards are stopped: fewer in a guest, where a stop takes some thirty times as long.
fn stops_wanted() -> usize {
    let wanted = std::env::var("RSALLOC_TEST_STOPS").ok();
    wanted.map_or(5_000, |text| text.parse().expect("a number"))
}

/// Adds what the shard has of `class` to `batch`; whether it popped something.
fn pop(sections: Sections, class: Class, batch: &mut Batch) -> bool {
    let before = batch.len();
    // SAFETY: what the shard pops was the shard's.
    unsafe {
        batch.receive_slots(MAGAZINE_MAX, |out| sections.pop_batch(class, out).max(0) as usize);
    }
    batch.len() > before
}

/// From the stop on, no section changes a region, also none that had its address already.
#[test]
fn a_stopped_region_does_not_change() {
    let _alone = alone();
    assert!(!rsalloc_core::allocate(1).is_null());
    let sections = registration::sections().expect("this test needs rseq");
    let cpus = Cpus::allowed();
    cpus.move_to(0);
    let class = class_of(64);
    let over = AtomicBool::new(false);
    let moved = AtomicUsize::new(0);
    thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            cpus.move_to(1);
            let mut held = Batch::new();
            // Long sections: a magazine in, a magazine out.
            while !over.load(Ordering::Relaxed) {
                let pushed = sections.push_batch(class, held.addresses()).max(0) as usize;
                held.forget_last(pushed);
                if pushed > 0 {
                    moved.fetch_add(1, Ordering::Relaxed);
                }
                if !pop(sections, class, &mut held) && pushed == 0 {
                    // Stopped, or no capacity yet, or all in one place. The policy gives some capacity to
                    // a thread that frees and allocates.
                    // SAFETY: live.
                    unsafe { rsalloc_core::free(rsalloc_core::allocate(64)) };
                    slab::put(&mut held);
                    pop(sections, class, &mut held);
                    slab::put(&mut held);
                    slab::take(class, Domain::FIRST, &mut held, MAGAZINE_MAX).expect("no handler");
                    assert!(!held.is_empty());
                }
            }
            slab::put(&mut held);
            assert!(held.is_empty());
        });
        let begin = Instant::now();
        let mut stops = 0;
        let goal = stops_wanted();
        // On a busy machine the other thread may be late.
        while stops < goal || moved.load(Ordering::Relaxed) < 100 {
            if stops % 100 == 0 {
                // Its turn, however long it takes: where CPUs are emulated, those that stop get all the time.
                let before = moved.load(Ordering::Relaxed);
                while moved.load(Ordering::Relaxed) == before {
                    assert!(begin.elapsed() < LATE, "nothing is in flight");
                    thread::sleep(Duration::from_micros(100));
                }
            }
            stops += 1;
            exclusive::stop_all(&mut Backoff::usual(), |regions| {
                // All at once, as soon as possible: what is in flight now lands soon.
                let tops = |regions: &mut dyn Iterator<Item = &'static Region>| {
                    let mut tops = [0; 64];
                    for (top, region) in tops.iter_mut().zip(regions) {
                        *top = region.heads[class].top.load(Ordering::Acquire);
                    }
                    tops
                };
                let first = tops(&mut regions.map(Stopped::region));
                (0..20).for_each(|_| std::hint::spin_loop());
                assert_eq!(tops(&mut percpu::regions()), first, "a commit to a stopped region");
            })
            .expect("the kernel has the fence");
        }
    });
    assert_eq!(rsalloc_core::check(), Ok(()));
}

/// What a stop rests on: the fence aborts the sections that are running, on every CPU.
#[test]
fn the_fence_aborts_sections_in_flight() {
    let _alone = alone();
    assert!(!rsalloc_core::allocate(1).is_null());
    registration::sections().expect("this test needs rseq");
    let (word, begun, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let mut in_flight = 0;
    let cpus = Cpus::allowed();
    cpus.move_to(0);
    thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            // Registers the thread, where libc does not.
            assert!(!rsalloc_core::allocate(1).is_null());
            cpus.move_to(1);
            for attempt in 1.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                begun.store(attempt, Ordering::SeqCst);
                // SAFETY: the word lives; about 0.3 ms.
                unsafe { store_slowly(&word, attempt, 500_000) };
            }
        });
        let (begin, mut fences) = (Instant::now(), 0);
        // In a guest the other thread may be late, or stand still for a while.
        while fences < 300 || in_flight <= 10 && begin.elapsed() < LATE {
            fences += 1;
            let last = begun.load(Ordering::SeqCst);
            assert!(membarrier::fence(None), "the kernel has the fence");
            let before = word.load(Ordering::SeqCst);
            in_flight += usize::from(before < last);
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(1) {
                let now = word.load(Ordering::SeqCst);
                assert!(now == before || now > last, "attempt {now} committed behind the fence");
            }
        }
    });
    assert!(in_flight > 10, "nothing was in flight");
}

/// A policy that looked at one shard must not set the end of another.
#[test]
fn an_end_is_set_only_in_the_expected_region() {
    let sections = loop {
        assert!(!rsalloc_core::allocate(64).is_null());
        let sections = registration::sections().expect("this test needs rseq");
        if percpu::open_or_create(sections) {
            break sections;
        }
    };
    let class = class_of(64);
    let other = shard::create_region().expect("memory");
    for region in percpu::regions() {
        let seen = region.bounds(class);
        for _ in 0..100 {
            let status = sections.set_bounds(class, other, seen, seen.with_capacity(class, 1));
            assert!([rseq::CHANGED, rseq::ABORTED].contains(&status), "{status}");
        }
    }
}

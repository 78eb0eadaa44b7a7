//! Forks while other threads allocate without pause, in each mode: every child has a complete heap.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;
#[path = "support/objects.rs"]
#[allow(dead_code, reason = "as above")]
mod objects;

use modes::{ModeCase, in_each_mode};
use objects::{Random, expect, work};
use rsalloc_core::internals::page_heap::PAGE_HEAP;
use rsalloc_core::internals::page_heap::segment::{HEADER_PAGES, Segment};
use rsalloc_core::internals::units::SEGMENT_PAGES;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long each mode forks at least, how often (`forks=N`: so often), and how long it may take in all before
/// it counts as hung.
const FORKING: Duration = Duration::from_millis(1500);
const FORKS: u32 = 40;
const LIMIT: Duration = Duration::from_secs(60);
const THREADS: u64 = 3;

static STOP: AtomicBool = AtomicBool::new(false);

fn main() {
    in_each_mode(LIMIT, fork_often);
}

fn fork_often(_: &ModeCase) {
    objects::start();
    let forks = std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || work(Random(thread * 7 + 1), || STOP.load(Ordering::Relaxed)));
        }
        // Purges all the time: a fork in the middle must not cost the child the pages.
        scope.spawn(|| {
            while !STOP.load(Ordering::Relaxed) {
                let sizes = [300_000, 1_000_000, 3_000_000];
                let spans = sizes.map(|size| rsalloc_core::allocate_zeroed(size, 8));
                // SAFETY: live.
                spans.into_iter().for_each(|span| unsafe { rsalloc_core::free(span) });
                rsalloc_core::release();
            }
        });
        let begin = Instant::now();
        let mut forks = 0;
        let wanted = forks_wanted();
        while forks < wanted.unwrap_or(FORKS) || wanted.is_none() && begin.elapsed() < FORKING {
            fork_one(if forks % 4 == 0 { 2 } else { 1 });
            forks += 1;
        }
        STOP.store(true, Ordering::Relaxed);
        forks
    });
    rsalloc_core::release();
    assert_eq!(rsalloc_core::check(), Ok(()), "in the parent");
    println!("         {forks} forks");
}

/// What the command line says.
fn forks_wanted() -> Option<u32> {
    let text = std::env::args().find_map(|word| word.strip_prefix("forks=").map(str::to_owned))?;
    Some(text.parse().expect("forks=N with a number"))
}

/// Forks a child that uses the heap in every way and forks again, `depth` deep; waits for it.
fn fork_one(depth: u32) {
    // SAFETY: the child uses nothing that another thread could have left locked but the engine.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // Hung or broken: the parent sees the signal.
        // SAFETY: plain calls.
        unsafe { libc::alarm(20) };
        live_in_child(depth);
        // SAFETY: ends the child, without destructors of threads that are not there.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "child: {status:#x}");
}

fn live_in_child(depth: u32) {
    expect(rsalloc_core::check() == Ok(()), "check before\n");
    let is_purging =
        |segment: &Segment| (HEADER_PAGES..SEGMENT_PAGES).any(|page| segment.is_purging(page));
    expect(!PAGE_HEAP.segments().any(is_purging), "pages whose purge never ends\n");
    let mut rounds = 0;
    work(Random(u64::from(depth) + 99), || {
        rounds += 1;
        rounds > 200
    });
    let thread = Thread::start();
    if depth > 1 {
        fork_one(depth - 1);
    }
    thread.join();
    rsalloc_core::release();
    expect(rsalloc_core::check() == Ok(()), "check after\n");
}

/// A thread by libc alone.
struct Thread(libc::pthread_t);

impl Thread {
    fn start() -> Thread {
        extern "C" fn body(_: *mut libc::c_void) -> *mut libc::c_void {
            let mut rounds = 0;
            work(Random(4711), || {
                rounds += 1;
                rounds > 50
            });
            std::ptr::null_mut()
        }
        // SAFETY: a plain thread, joined below.
        unsafe {
            let mut thread = std::mem::zeroed();
            let status =
                libc::pthread_create(&mut thread, std::ptr::null(), body, std::ptr::null_mut());
            expect(status == 0, "pthread_create\n");
            Thread(thread)
        }
    }

    fn join(self) {
        // SAFETY: started above, joined once.
        let status = unsafe { libc::pthread_join(self.0, std::ptr::null_mut()) };
        expect(status == 0, "pthread_join\n");
    }
}

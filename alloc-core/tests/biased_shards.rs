//! The biased shards of the atomic path, from outside: which threads get one, and that shards and regions come back.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;

use modes::{ModeCase, in_modes, mode};
use rsalloc_core::internals::cpu_cache::exclusive;
use rsalloc_core::internals::cpu_cache::shard::leases;
use rsalloc_core::internals::sync::Backoff;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// More slow calls than a thread waits with asking.
const CALLS: usize = 400;

fn main() {
    in_modes(&[mode("atomic")], LIMIT, |case| {
        the_first_thread_has_a_lease(case);
        regions_are_as_many_as_processors_allow();
        ended_threads_leave_their_shards();
        an_idle_owner_loses_its_region();
        stopping_takes_all_regions();
        a_child_of_fork_has_leases();
        a_child_of_vfork_has_its_parents_shard();
        assert_eq!(rsalloc_core::check(), Ok(()));
    });
}

fn work(calls: usize) {
    for call in 0..calls {
        let objects = [16, 100, 1000].map(|size| rsalloc_core::allocate(size + call % 50));
        // SAFETY: live.
        objects.into_iter().for_each(|object| unsafe { rsalloc_core::free(object) });
    }
}

fn work_until_leased() {
    let begin = Instant::now();
    while !leases::ensure_lease() {
        assert!(begin.elapsed() < Duration::from_secs(20), "no thread gets a lease");
        work(1);
    }
}

fn regions() -> usize {
    leases::regions().count()
}

fn limit() -> usize {
    3 * thread::available_parallelism().expect("a number").get()
}

fn the_first_thread_has_a_lease(_: &ModeCase) {
    assert!(leases::own_shard().is_some() && leases::ensure_lease(), "from the start");
    assert_eq!((leases::shards_used(), regions()), (1, 1));
    let object = rsalloc_core::allocate(40);
    // SAFETY: live.
    unsafe { rsalloc_core::free(object) };
    assert_eq!(rsalloc_core::allocate(40), object, "the last one in is the first one out");
    // SAFETY: live.
    unsafe { rsalloc_core::free(object) };
}

/// All at once, each with objects in its hands.
fn regions_are_as_many_as_processors_allow() {
    let threads = 4 * limit();
    let all_work = Barrier::new(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                work(CALLS);
                all_work.wait();
                work(CALLS);
            });
        }
    });
    assert!(regions() > 1 && regions() <= limit(), "{} regions", regions());
    assert_eq!(rsalloc_core::check(), Ok(()));
}

/// Also those that allocate in a destructor that runs behind the one by which the shard is left.
fn ended_threads_leave_their_shards() {
    extern "C" fn late(_: *mut libc::c_void) {
        work(CALLS);
        assert!(leases::own_shard().is_none(), "no biased shard any more");
    }
    let mut key = 0;
    // SAFETY: a live word and a function.
    assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(late)) }, 0);
    let live_and_end = || {
        work(CALLS);
        // SAFETY: the key was made above.
        assert_eq!(unsafe { libc::pthread_setspecific(key, (&raw const key).cast()) }, 0);
    };
    let before = leases::shards_used();
    for _ in 0..300 {
        thread::scope(|scope| scope.spawn(live_and_end).join()).expect("it works");
    }
    // SAFETY: the key was made above.
    assert_eq!(unsafe { libc::pthread_key_delete(key) }, 0);
    assert!(leases::shards_used() <= before + 8, "{} shards after {before}", leases::shards_used());
    assert!(regions() <= limit());
}

/// As many owners as there are regions go to sleep, and another thread wants one.
fn an_idle_owner_loses_its_region() {
    let sleep = Barrier::new(limit() + 1);
    let end = Barrier::new(limit() + 1);
    thread::scope(|scope| {
        for _ in 0..limit() {
            scope.spawn(|| {
                work(CALLS);
                sleep.wait();
                end.wait();
                work(CALLS);
            });
        }
        sleep.wait();
        scope.spawn(work_until_leased).join().expect("it gets one");
        end.wait();
    });
    assert!(regions() <= limit());
}

fn stopping_takes_all_regions() {
    let stopped = exclusive::stop_all(&mut Backoff::usual(), |regions_stopped| {
        assert_eq!(regions_stopped.count(), regions());
        assert!(!leases::ensure_lease(), "nor the thread that stops them");
        work(1);
    });
    assert!(stopped.is_some(), "the kernel has the barrier");
    work_until_leased();
    let other = thread::spawn(|| {
        work(CALLS);
        rsalloc_core::release()
    });
    other.join().expect("no handler is involved");
    work(1);
}

fn a_child_of_fork_has_leases() {
    work_until_leased();
    // SAFETY: the child uses the engine, and threads of its own.
    match unsafe { libc::fork() } {
        0 => {
            assert!(leases::ensure_lease(), "its own");
            regions_are_as_many_as_processors_allow();
            ended_threads_leave_their_shards();
            // SAFETY: ends the child without its parent's destructors.
            unsafe { libc::_exit(0) };
        }
        child => {
            let mut status = 0;
            // SAFETY: our child.
            unsafe { libc::waitpid(child, &raw mut status, 0) };
            assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
        }
    }
}

/// It has the thread-local words of its parent, which waits: a shard that it takes is the parent's, and comes back
/// when the parent ends.
fn a_child_of_vfork_has_its_parents_shard() {
    if !children_share_memory() {
        return println!(
            "         skipped: clone(CLONE_VM) copies the memory here, as qemu-user does"
        );
    }
    extern "C" fn child(_: *mut libc::c_void) -> libc::c_int {
        work(CALLS);
        libc::c_int::from(leases::own_shard().is_none())
    }
    let used = leases::shards_used();
    (0..20).for_each(|_| work_in_a_child(child));
    assert!(leases::shards_used() <= used + 8, "{} shards after {used}", leases::shards_used());
}

fn children_share_memory() -> bool {
    static SEEN: AtomicBool = AtomicBool::new(false);
    extern "C" fn child(_: *mut libc::c_void) -> libc::c_int {
        SEEN.store(true, Ordering::Relaxed);
        0
    }
    run_child(child);
    SEEN.load(Ordering::Relaxed)
}

fn work_in_a_child(child: extern "C" fn(*mut libc::c_void) -> libc::c_int) {
    let parent = thread::spawn(move || {
        run_child(child);
        assert!(leases::own_shard().is_some());
        work_until_leased();
    });
    parent.join().expect("it works");
}

fn run_child(child: extern "C" fn(*mut libc::c_void) -> libc::c_int) {
    let mut stack = vec![0u128; 8192];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    let mut status = 0;
    // SAFETY: the child runs on a stack of its own while this thread waits for its end.
    unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        let pid = libc::clone(child, top.cast(), flags, std::ptr::null_mut());
        assert!(pid > 0 && libc::waitpid(pid, &raw mut status, 0) == pid);
    }
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{status:#x}");
}

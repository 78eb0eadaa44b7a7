//! Forks of a thread that holds a lock, as in a signal handler on top of its own allocator call, while others
//! want that lock with more in hand: the child's heap is whole, every class of it.
//!
//! Played without signals, as in `reentry`: the test holds the lock and forks. And one of a handler on top of its
//! own thread's purge, which holds no lock: a filter makes the kernel send SIGSYS in the place of the purge.

#[path = "support/trapped.rs"]
mod trapped;

use rsalloc_core::internals::domain::Domain;
use rsalloc_core::internals::object::{Batch, Contents};
use rsalloc_core::internals::page_heap::segment::{PageRun, Segment};
use rsalloc_core::internals::page_heap::{PAGE_HEAP, SpanRequest};
use rsalloc_core::internals::size_class::{CLASSES, Class, object_size};
use rsalloc_core::internals::slab::{self, SLABS};
use rsalloc_core::internals::sync::{Guard, Rank};
use rsalloc_core::internals::units::MAGAZINE_MAX;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};
use trapped::do_trapped;

/// For what comes at once or, with locks left taken, never.
const SECONDS: u32 = 20;
/// The class whose lock is held; classes below it have locks that are taken before.
const HELD: Class = 20;
const OTHER: Class = 12;

/// The heap is the process's; the tests of this file hold its locks.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    let guard = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    use_all_classes();
    guard
}

fn hold_class(class: Class) -> Guard<'static> {
    SLABS[class].raw_lock().acquire(Rank::slab(class)).expect("free")
}

/// Whether another thread has the lock of `class`.
fn is_taken(class: Class) -> bool {
    SLABS[class].raw_lock().try_acquire(Rank::slab(class)).is_none()
}

fn wait_until(is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(u64::from(SECONDS)), "it never was so");
        thread::sleep(Duration::from_millis(1));
    }
    // Into its sleep, as a rule.
    thread::sleep(Duration::from_millis(20));
}

/// As `assert`, without the allocations of a panic's message: libc's heap may be locked in a child.
fn expect(fine: bool, what: &str) {
    if !fine {
        // SAFETY: writes a text and ends the child.
        unsafe {
            libc::write(2, what.as_ptr().cast(), what.len());
            libc::abort();
        }
    }
}

/// Takes more of each class than the caches have, and gives it back.
fn use_all_classes() {
    for class in 1..CLASSES {
        let mut batches = [(); 4].map(|()| Batch::new());
        for batch in &mut batches {
            slab::take(class, Domain::FIRST, batch, MAGAZINE_MAX).expect("no handler runs");
            expect(!batch.is_empty(), "out of memory\n");
        }
        for batch in &mut batches {
            slab::put(batch);
            expect(batch.is_empty(), "a class refuses\n");
        }
        let object = rsalloc_core::allocate(object_size(class));
        expect(!object.is_null(), "out of memory\n");
        // SAFETY: live.
        unsafe { rsalloc_core::free(object) };
    }
    rsalloc_core::release();
    expect(rsalloc_core::check() == Ok(()), "check\n");
}

/// Forks; in the child the locks of `held` are given up, as when the handler is over, and all is used.
fn fork_holding(held: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child uses nothing that another thread could have left locked but the engine.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // Hung: the parent sees the signal.
        // SAFETY: a plain call.
        unsafe { libc::alarm(SECONDS) };
        held();
        use_all_classes();
        // SAFETY: ends the child, without destructors of threads that are not there.
        unsafe { libc::_exit(0) };
    }
    child
}

fn await_child(child: libc::pid_t) {
    let status = status_of(child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "child: {status:#x}");
}

fn status_of(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    status
}

/// The other fork has taken the locks below the one that it waits for.
#[test]
#[cfg_attr(
    target_env = "musl",
    ignore = "musl's fork holds a lock of its own while handlers run, so one of two forks waits for the other"
)]
fn a_fork_gives_way_to_a_fork_in_a_handler() {
    let _alone = alone();
    thread::scope(|scope| {
        let held = hold_class(HELD);
        scope.spawn(|| await_child(fork_holding(|| ())));
        wait_until(|| is_taken(OTHER));
        let mut held = Some(held);
        let begin = Instant::now();
        let child = fork_holding(|| drop(held.take()));
        let took = begin.elapsed();
        await_child(child);
        drop(held);
        assert!(took < Duration::from_secs(1), "gave way to no fork for {took:?}");
    });
    use_all_classes();
}

/// A thread with a class in hand waits for the segment that the forking one holds.
#[test]
fn a_holder_of_a_class_gives_way_to_a_fork_in_a_handler() {
    let _alone = alone();
    thread::scope(|scope| {
        let segments: Vec<_> =
            PAGE_HEAP.segments().map(|segment| segment.lock().expect("free")).collect();
        // A fresh slab for each.
        let taker = scope.spawn(|| {
            let mut batch = Batch::new();
            slab::take(OTHER, Domain::FIRST, &mut batch, MAGAZINE_MAX).expect("it need not wait");
            let taken = batch.len();
            slab::put(&mut batch);
            (taken, taken - batch.len())
        });
        wait_until(|| is_taken(OTHER));
        let mut segments = Some(segments);
        let child = fork_holding(|| segments.take().into_iter().for_each(give_up));
        await_child(child);
        segments.take().into_iter().for_each(give_up);
        let (taken, put) = taker.join().expect("no panic");
        assert!(taken > 0 && put == taken, "{taken} taken, {put} put back");
    });
    use_all_classes();
}

/// A thread that is interrupted while it takes pages goes on in the child, where they are not counted yet.
#[test]
fn a_thread_that_takes_pages_continues_after_a_fork() {
    let _alone = alone();
    let span = PAGE_HEAP.acquire(SpanRequest::large(1)).expect("memory");
    // SAFETY: just acquired. Without a purge, unlike `free`.
    unsafe { PAGE_HEAP.release(span.entry) };
    let dirty = || rsalloc_core::stats().dirty_bytes;
    let is_any = |segment: &&Segment| segment.free_pages().1 > 0;
    let segment = PAGE_HEAP.segments().find(is_any).expect("the page");
    let guard = segment.lock().expect("free");
    let (before, run) = (dirty(), segment.take_page().expect("it is free"));
    assert_eq!(run.dirty, 1);
    let mut guard = Some(guard);
    let mut put_back = || {
        expect(dirty() == before, "the count has changed\n");
        // In the child, the child's own copy of the page.
        segment.put(PageRun { ..run }, Contents::Any);
        drop(guard.take());
    };
    await_child(fork_holding(&mut put_back));
    put_back();
}

/// In the reverse order of their making.
fn give_up(mut guards: Vec<Guard<'static>>) {
    while let Some(guard) = guards.pop() {
        drop(guard);
    }
    // Libc's heap may be locked in a child.
    std::mem::forget(guards);
}

/// A check would find its own locks taken, or what the fork left half way.
#[test]
fn the_validator_gives_way_to_a_fork_in_a_handler() {
    let _alone = alone();
    thread::scope(|scope| {
        let held = hold_class(HELD);
        let checker = scope.spawn(rsalloc_core::check);
        wait_until(|| is_taken(OTHER));
        let mut held = Some(held);
        let child = fork_holding(|| drop(held.take()));
        await_child(child);
        drop(held);
        assert_eq!(checker.join().expect("no panic"), Ok(()));
    });
    use_all_classes();
}

const MEBIBYTE: usize = 1 << 20;
/// What the child's handler takes: more than the purge has in hand.
const TAKEN: usize = 24;
static BLOCKS: [AtomicUsize; TAKEN] = [const { AtomicUsize::new(0) }; TAKEN];
/// What fork returned in the handler; 1 before.
static CHILD: AtomicI32 = AtomicI32::new(1);

/// The pages that a purge has in hand are its own in the child too: the child's handler gets others, and they are
/// put back once. In a process of its own, since a thread that ends gives its stack back by the same call.
#[test]
fn a_purge_continues_after_a_fork_in_a_handler() {
    let _alone = alone();
    await_child(fork_holding(|| {
        let blocks = [(); TAKEN / 2].map(|()| rsalloc_core::allocate(MEBIBYTE));
        for block in blocks {
            expect(!block.is_null(), "out of memory\n");
            // SAFETY: live, and so long.
            unsafe { block.write_bytes(1, MEBIBYTE) };
        }
        trap_purges();
        // SAFETY: live.
        blocks.into_iter().for_each(|block| unsafe { rsalloc_core::free(block) });
        rsalloc_core::release();
        match CHILD.load(Ordering::Relaxed) {
            0 => give_back_whole(),
            child => {
                expect(child > 1, "no purge was trapped, or no fork\n");
                // A panic in a child would end its thread only.
                expect(status_of(child) == 0, "the child of the handler failed\n");
            }
        }
    }));
}

fn give_back_whole() {
    expect(is_intact(), "the purge took what the handler had been given\n");
    for block in &BLOCKS {
        // SAFETY: live.
        unsafe { rsalloc_core::free(block.load(Ordering::Relaxed) as *mut u8) };
    }
}

fn is_intact() -> bool {
    // SAFETY: live objects of the handler's, whole words of it.
    let is_whole = |block: *const usize| unsafe {
        (0..MEBIBYTE / 8).step_by(64).all(|word| *block.add(word) == block as usize)
    };
    BLOCKS.iter().all(|block| is_whole(block.load(Ordering::Relaxed) as *const usize))
}

/// In the place of the first purge: forks, and takes memory in the child. Then does the purge.
extern "C" fn on_trap(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    if CHILD.load(Ordering::Relaxed) == 1 {
        // SAFETY: as in `fork_holding`.
        CHILD.store(unsafe { libc::fork() }, Ordering::Relaxed);
        if CHILD.load(Ordering::Relaxed) == 0 {
            // SAFETY: a plain call.
            unsafe { libc::alarm(SECONDS) };
            for place in &BLOCKS {
                let block = rsalloc_core::allocate(MEBIBYTE).cast::<usize>();
                expect(!block.is_null(), "out of memory in the handler\n");
                // SAFETY: live, and so long.
                (0..MEBIBYTE / 8).for_each(|word| unsafe { block.add(word).write(block as usize) });
                place.store(block as usize, Ordering::Relaxed);
            }
        }
    }
    // SAFETY: the context of the call that was trapped: done here with a last argument that lets it pass, its
    // outcome told as the kernel tells it.
    unsafe {
        do_trapped(context, |[address, len, advice, ..]| {
            let failed = libc::syscall(libc::SYS_madvise, address, len, advice, 0, 0, PASS) != 0;
            if failed { -i64::from(libc::EINVAL) } else { 0 }
        });
    }
}

/// The sixth argument, which madvise does not have, of a call that the filter lets pass.
const PASS: u32 = 1;

/// Installs a filter (seccomp(2)) for this thread: SIGSYS in the place of `madvise(.., MADV_DONTNEED)`.
fn trap_purges() {
    let instruction =
        |code: u32, jt, jf, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, compare, leave) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    let argument =
        |number: usize| (std::mem::offset_of!(libc::seccomp_data, args) + 8 * number) as u32;
    let mut filter = [
        instruction(load, 0, 0, std::mem::offset_of!(libc::seccomp_data, nr) as u32),
        instruction(compare, 0, 5, libc::SYS_madvise as u32),
        instruction(load, 0, 0, argument(2)),
        instruction(compare, 0, 3, libc::MADV_DONTNEED as u32),
        instruction(load, 0, 0, argument(5)),
        instruction(compare, 1, 0, PASS),
        instruction(leave, 0, 0, libc::SECCOMP_RET_TRAP),
        instruction(leave, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the handler fits its flags; the program is live and well-formed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()), 0);
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
    }
}

//! Fork handlers of others that allocate, in each mode: of a library whose constructor ran before ours, so that they
//! run while the forking thread holds every lock. Each request is served as ever, and the heap stays whole on both
//! sides, while other threads work.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;
#[path = "support/objects.rs"]
#[allow(dead_code, reason = "as above")]
mod objects;

use modes::{ModeCase, in_each_mode};
use objects::{Random, expect, work};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const FORKS: usize = 6;
const THREADS: u64 = 3;
/// Requests of each handler, as in the report of the fault; every `LARGE_EVERY`th is a large one.
const REQUESTS: usize = 11_570;
const LARGE_EVERY: usize = 500;

static STOP: AtomicBool = AtomicBool::new(false);
/// The handlers do nothing before the engine runs, and in the programs that only start the others.
static ARMED: AtomicBool = AtomicBool::new(false);
static REFUSED: AtomicUsize = AtomicUsize::new(0);
static RAN: AtomicUsize = AtomicUsize::new(0);
/// What `prepare` keeps for the two others, by the number of the request.
static KEPT: [AtomicPtr<u8>; REQUESTS] = [const { AtomicPtr::new(std::ptr::null_mut()) }; REQUESTS];

/// Before all constructors, so also before the engine's. musl does not look at `.preinit_array`.
#[used]
#[cfg_attr(not(target_env = "musl"), unsafe(link_section = ".preinit_array"))]
#[cfg_attr(target_env = "musl", unsafe(link_section = ".init_array.00001"))]
static FIRST: extern "C" fn() = register_first;

extern "C" fn register_first() {
    // SAFETY: the handlers live for ever.
    let status = unsafe { libc::pthread_atfork(Some(prepare), Some(after), Some(after)) };
    expect(status == 0, "pthread_atfork\n");
}

/// Keeps each second object.
extern "C" fn prepare() {
    request_all(|number, object| match number % 2 {
        0 => KEPT[number].store(object, Ordering::Relaxed),
        // SAFETY: live.
        _ => unsafe { rsalloc_core::free(object) },
    });
}

/// Frees those, and as many new ones.
extern "C" fn after() {
    request_all(|number, object| {
        let kept = KEPT[number].swap(std::ptr::null_mut(), Ordering::Relaxed);
        // SAFETY: null or live.
        let holds = |object: *mut u8| object.is_null() || unsafe { *object } == number as u8;
        expect(holds(kept), "an object of another handler has changed\n");
        for object in [kept, object] {
            // SAFETY: null or live.
            unsafe { rsalloc_core::free(object) };
        }
    });
}

fn request_all(mut done: impl FnMut(usize, *mut u8)) {
    if !ARMED.load(Ordering::Relaxed) {
        return;
    }
    RAN.fetch_add(1, Ordering::Relaxed);
    for number in 0..REQUESTS {
        let size = match number % LARGE_EVERY {
            0 => 300_000 << (number / LARGE_EVERY % 8),
            _ => 1 + number * 17 % 33_000,
        };
        let object = rsalloc_core::allocate(size);
        if object.is_null() {
            REFUSED.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        // SAFETY: live, at least a byte long.
        unsafe { object.write(number as u8) };
        done(number, object);
    }
}

fn main() {
    in_each_mode(LIMIT, fork_with_handlers);
}

fn fork_with_handlers(_: &ModeCase) {
    objects::start();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || work(Random(thread * 7 + 1), || STOP.load(Ordering::Relaxed)));
        }
        ARMED.store(true, Ordering::Relaxed);
        (0..FORKS).for_each(|_| fork_one());
        ARMED.store(false, Ordering::Relaxed);
        STOP.store(true, Ordering::Relaxed);
    });
    assert_eq!(RAN.load(Ordering::Relaxed), 2 * FORKS, "the handlers did not run");
    assert_eq!(REFUSED.load(Ordering::Relaxed), 0, "null in a handler");
    rsalloc_core::release();
    assert_eq!(rsalloc_core::check(), Ok(()), "in the parent");
    println!("         {FORKS} forks in {:?}", begin.elapsed());
}

fn fork_one() {
    // SAFETY: the child uses nothing that another thread could have left locked but the engine.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // Hung or broken: the parent sees the signal.
        // SAFETY: plain calls.
        unsafe { libc::alarm(20) };
        expect(REFUSED.load(Ordering::Relaxed) == 0, "null in a handler, seen in the child\n");
        expect(rsalloc_core::check() == Ok(()), "check in the child\n");
        let mut rounds = 0;
        work(Random(99), || {
            rounds += 1;
            rounds > 2000
        });
        rsalloc_core::release();
        expect(rsalloc_core::check() == Ok(()), "check after work in the child\n");
        // SAFETY: ends the child, without destructors of threads that are not there.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "child: {status:#x}");
}

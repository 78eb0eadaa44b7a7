//! Conservation under everything at once: many threads, timers whose handlers allocate, migration,
//! objects that change hands, shards stopped from outside; in each mode.
//!
//! Every object is given out once (a shadow knows), keeps its contents, and comes home in the end.
//! `ms=N period_us=N threads=N handled=N checks=N` on the command line suit machines that are much slower
//! or wider.

#[path = "support/modes.rs"]
mod modes;
#[path = "support/objects.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod objects;

use modes::{ModeCase, in_each_mode};
use objects::{Object, Random};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long each mode is put under stress, and how long it may take in all before it counts as hung.
const STRESS_MS: u64 = 1500;
const LIMIT: Duration = Duration::from_secs(60);
const THREADS_PER_CPU: usize = 6;
/// Each thread's timer.
const PERIOD_US: u64 = 300;
/// Objects that a thread keeps, and slots through which objects change hands.
const KEPT: usize = 200;
const SLOTS: usize = 256;

static EXCHANGE: [AtomicU64; SLOTS] = [const { AtomicU64::new(0) }; SLOTS];
static STOP: AtomicBool = AtomicBool::new(false);
static HANDLED: AtomicU64 = AtomicU64::new(0);
static CHECKS: AtomicU64 = AtomicU64::new(0);
static SEED: AtomicU64 = AtomicU64::new(88_172_645_463_325_252);

fn main() {
    in_each_mode(LIMIT, stress);
}

fn stress(case: &ModeCase) {
    objects::start();
    rsalloc_core::release();
    let live = rsalloc_core::stats().live_bytes;
    install_handler();
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = setting("threads", (THREADS_PER_CPU * cpus) as u64);
    let period = Duration::from_micros(setting("period_us", PERIOD_US));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(move || work(period));
        }
        let observer = scope.spawn(observe);
        let least = Duration::from_millis(setting("ms", STRESS_MS));
        let most = Duration::from_millis(setting("most_ms", 10 * STRESS_MS));
        let begin = Instant::now();
        // Longer on a machine that is too busy to have shown anything.
        while begin.elapsed() < least || begin.elapsed() < most && !lacking(case).is_empty() {
            std::thread::sleep(Duration::from_millis(50));
        }
        STOP.store(true, Ordering::Relaxed);
        observer.join().expect("the observer");
    });
    for slot in &EXCHANGE {
        give_up(slot.swap(0, Ordering::AcqRel), 0);
    }
    rsalloc_core::release();
    assert_eq!(rsalloc_core::check(), Ok(()), "at the end");
    let stats = rsalloc_core::stats();
    assert_eq!(stats.live_bytes, live, "objects were lost: {stats:?}");
    let [handled, checks] = [&HANDLED, &CHECKS].map(|count| count.load(Ordering::Relaxed));
    println!("         {handled} handlers, {} aborts, {checks} checks", stats.aborts);
    assert_eq!(lacking(case), "");
}

/// What has not happened often enough to have tested anything.
fn lacking(case: &ModeCase) -> &'static str {
    let stats = rsalloc_core::stats();
    match case.has_sections() {
        _ if HANDLED.load(Ordering::Relaxed) <= setting("handled", 1000) => {
            "the timers did not fire"
        }
        _ if CHECKS.load(Ordering::Relaxed) <= setting("checks", 3) => {
            "the observer did not get through"
        }
        _ if is_file_missing() => "what happens around it did not happen often enough",
        true if stats.aborts == 0 => "no section was aborted: nothing was tested",
        false if stats.atomic_ops <= 1000 => "the atomic path was not used",
        _ => "",
    }
}

/// Whether the command line names a file to wait for, `until=PATH`, that is not there yet.
fn is_file_missing() -> bool {
    let path = std::env::args().find_map(|word| word.strip_prefix("until=").map(str::to_owned));
    path.is_some_and(|path| !std::path::Path::new(&path).exists())
}

/// The number that the command line gives `name`.
fn setting(name: &str, default: u64) -> u64 {
    let given = std::env::args().find_map(|argument| {
        argument.strip_prefix(name)?.strip_prefix('=').map(|value| value.parse())
    });
    given.map_or(default, |value| value.expect("a number"))
}

/// Allocates, frees, resizes, passes on, and moves between CPUs until told to stop.
fn work(period: Duration) {
    let timer = Timer::start(period);
    let mut random = seeded();
    let mut kept = Vec::with_capacity(KEPT);
    while !STOP.load(Ordering::Relaxed) {
        let pick = random.next();
        match pick % 16 {
            0..=6 if kept.len() < KEPT => {
                kept.push(Object::allocate(random.next()).expect("memory"))
            }
            0..=11 if !kept.is_empty() => {
                let index = pick as usize / 16 % kept.len();
                kept.swap_remove(index).free(pick >> 32);
            }
            12 if !kept.is_empty() => {
                let index = pick as usize / 16 % kept.len();
                kept[index] = kept[index].reallocate(pick >> 32);
            }
            _ => exchange(&mut random),
        }
        match pick >> 32 & 1023 {
            0 => migrate(pick >> 48),
            1..=3 => std::thread::yield_now(),
            _ => {}
        }
    }
    drop(timer);
    kept.into_iter().for_each(|object: Object| object.free(random.next()));
}

/// Puts a fresh object into a slot and frees what was there, which another thread or handler made.
fn exchange(random: &mut Random) {
    let pick = random.next();
    let fresh = Object::allocate(random.next()).expect("memory");
    give_up(EXCHANGE[pick as usize % SLOTS].swap(fresh.0, Ordering::AcqRel), pick >> 32);
}

fn give_up(word: u64, pick: u64) {
    if word != 0 {
        Object(word).free(pick);
    }
}

/// Stops the shards again and again, to drain them and to look at them.
fn observe() {
    while !STOP.load(Ordering::Relaxed) {
        assert_eq!(rsalloc_core::check(), Ok(()), "while others work");
        CHECKS.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(3));
        rsalloc_core::release();
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Goes to one CPU, or back to all.
fn migrate(pick: u64) {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
    // SAFETY: plain calls on a local set.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        match pick % 4 {
            0 => (0..libc::CPU_SETSIZE as usize).for_each(|cpu| libc::CPU_SET(cpu, &mut set)),
            _ => libc::CPU_SET(pick as usize / 4 % cpus, &mut set),
        }
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
}

/// What the timers run, on top of whatever the thread was doing.
extern "C" fn handler(_signal: i32) {
    // SAFETY: errno is the thread's own.
    let errno = unsafe { *libc::__errno_location() };
    let mut random = seeded();
    exchange(&mut random);
    let objects = [(); 3].map(|()| Object::allocate(random.next()).expect("memory in a handler"));
    objects.into_iter().for_each(|object| object.free(random.next()));
    HANDLED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

fn seeded() -> Random {
    let mut random = Random(SEED.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed) | 1);
    random.next();
    random
}

fn install_handler() {
    // SAFETY: a handler that uses nothing but the engine and atomics.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
    }
}

/// A timer that signals the thread that started it.
struct Timer(libc::timer_t);

impl Timer {
    fn start(period: Duration) -> Timer {
        // SAFETY: a timer of this thread's own.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGUSR1;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer = std::mem::zeroed();
            assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer), 0);
            let (tv_sec, tv_nsec) = (period.as_secs() as i64, period.subsec_nanos().into());
            let period = libc::timespec { tv_sec, tv_nsec };
            let setting = libc::itimerspec { it_interval: period, it_value: period };
            assert_eq!(libc::timer_settime(timer, 0, &setting, std::ptr::null_mut()), 0);
            Timer(timer)
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the thread's own timer.
        unsafe { libc::timer_delete(self.0) };
    }
}

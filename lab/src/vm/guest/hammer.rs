//! A program that hardly leaves the sections, under timers: most of its signals abort one.
//!
//! Promises that every object keeps what was written to it, and ends only after so many signals.
//! Started by a task with the library preloaded; `fixups` counts from outside what the kernel did.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Fixups;

const THREADS_PER_CPU: usize = 2;
const HELD: usize = 8;
const SIZE: usize = 48;
/// Pairs between two looks at the count of signals.
const PAIRS: usize = 500;
const PAUSE: Duration = Duration::from_millis(5);

/// How long to wait for missing aborts; the host reports those that do not come.
const LATE: Duration = Duration::from_secs(200);

static SIGNALS: AtomicU64 = AtomicU64::new(0);
static OVER: AtomicBool = AtomicBool::new(false);

/// Allocates and frees on twice as many threads as CPUs, each interrupted every `period`, until
/// `signals` have been handled and `aborts` sections were aborted.
pub fn hammer(signals: u64, period: Duration, aborts: u64) -> Result<()> {
    let (begin, fixups) = (Instant::now(), Fixups::count());
    // Aborts that can't be counted are not waited for.
    let has_aborts = || fixups.as_ref().and_then(Fixups::read).is_none_or(|count| count >= aborts);
    let handler = on_signal as extern "C" fn(i32) as usize;
    // SAFETY: the handler uses an atomic, and malloc and free, which are what is tested.
    unsafe { libc::signal(libc::SIGUSR1, handler) };
    let threads = THREADS_PER_CPU * std::thread::available_parallelism()?.get();
    let pairs = std::thread::scope(|scope| {
        let run = |seed| scope.spawn(move || work(seed, period));
        let threads: Vec<_> = (0..threads).map(run).collect();
        // Ordering: Relaxed; a signal more or less.
        while SIGNALS.load(Ordering::Relaxed) < signals || !has_aborts() && begin.elapsed() < LATE {
            std::thread::sleep(PAUSE);
            // A thread that has failed says why.
            if threads.iter().any(|thread| thread.is_finished()) {
                break;
            }
        }
        OVER.store(true, Ordering::Relaxed); // Ordering: Relaxed, a hint.
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<Result<u64>>()
    })?;
    // SAFETY: a name that ends in zero.
    let check = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"rsalloc_check".as_ptr()) };
    ensure!(!check.is_null(), "rsalloc is not in this process");
    // SAFETY: the function of that name is of this type.
    let check: extern "C" fn() -> i32 = unsafe { std::mem::transmute(check) };
    ensure!(check() == 0, "rsalloc_check found the heap broken");
    // Ordering: Relaxed; the threads have been joined.
    println!("{{\"pairs\":{pairs},\"signals\":{}}}", SIGNALS.load(Ordering::Relaxed));
    Ok(())
}

fn work(seed: usize, period: Duration) -> Result<u64> {
    let _timer = Timer::start(period)?;
    let (mut held, mut pairs) = ([std::ptr::null_mut::<usize>(); HELD], 0);
    // Ordering: Relaxed, a hint.
    while !OVER.load(Ordering::Relaxed) {
        for turn in 0..PAIRS {
            let mark = seed << 32 | turn;
            let slot = &mut held[turn % HELD];
            // SAFETY: null, or ours; the new object has the size of several words.
            unsafe {
                libc::free((*slot).cast());
                *slot = libc::malloc(SIZE).cast();
                ensure!(!slot.is_null(), "out of memory");
                slot.write_volatile(mark);
                slot.add(SIZE / 8 - 1).write_volatile(!mark);
            }
            // The one before: others had time to write to it, if it was theirs too.
            let before = held[(turn + HELD - 1) % HELD];
            if turn > 0 {
                // SAFETY: ours, written one turn ago.
                let words =
                    unsafe { [before.read_volatile(), before.add(SIZE / 8 - 1).read_volatile()] };
                ensure!(words == [mark - 1, !(mark - 1)], "an object was handed out twice");
            }
        }
        pairs += PAIRS as u64;
    }
    // SAFETY: null, or ours.
    held.iter().for_each(|&object| unsafe { libc::free(object.cast()) });
    Ok(pairs)
}

/// Takes an object of the same class on top of whatever was interrupted, and gives back what the last
/// handler took: an interrupted section that goes on has an object twice.
extern "C" fn on_signal(_: i32) {
    static KEPT: AtomicPtr<usize> = AtomicPtr::new(std::ptr::null_mut());
    // SAFETY: what malloc gives is free's; a null that it gives is not written to.
    unsafe {
        let fresh: *mut usize = libc::malloc(SIZE).cast();
        if !fresh.is_null() {
            fresh.write_volatile(usize::MAX);
        }
        // Ordering: AcqRel, the object changes hands.
        libc::free(KEPT.swap(fresh, Ordering::AcqRel).cast());
    }
    // Ordering: Relaxed; a count.
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// A timer that signals the thread that started it.
struct Timer(libc::timer_t);

impl Timer {
    fn start(period: Duration) -> Result<Timer> {
        let period = libc::timespec {
            tv_sec: period.as_secs() as i64,
            tv_nsec: period.subsec_nanos().into(),
        };
        let setting = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: values of the kernel's types, all live; all-zero ones are valid.
        let result = unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = libc::SIGUSR1;
            event.sigev_notify_thread_id = libc::gettid();
            let mut timer = std::mem::zeroed();
            match libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) {
                0 => Ok((libc::timer_settime(timer, 0, &setting, std::ptr::null_mut()), timer)),
                _ => Err(std::io::Error::last_os_error()),
            }
        };
        let (set, timer) = result.context("timer_create")?;
        ensure!(set == 0, "timer_settime: {}", std::io::Error::last_os_error());
        Ok(Timer(timer))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: the thread's own timer.
        unsafe { libc::timer_delete(self.0) };
    }
}

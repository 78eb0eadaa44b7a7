//! Classes that outgrow their short stacks, in shards that another thread empties all the time; in each mode.
//!
//! Every object is written to, and read back before it is freed. Each place of the engine where an atomic operation stands is
//! delayed for a while (feature `delays`): without that, a thread that raised a capacity by what it had seen before the shard was
//! emptied would be caught once in weeks. The line of a failed run names the group of places that was delayed.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;

use modes::{ModeCase, in_each_mode};
use rsalloc_core::internals::delays::{self, GROUPS};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(180);
/// How often the shards are emptied while one group of places is delayed.
const TIMES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(1);
/// Waves that have to be done in all.
const WAVES_MIN: usize = 1000;
const THREADS: usize = 8;
/// Of classes whose short stacks are small, and of some that have long ones from their second magazine on.
const SIZES: [usize; 10] = [16, 64, 200, 600, 1000, 1800, 2300, 2560, 2816, 3072];
/// Objects of a wave: more than a short stack, or than two.
const WAVES: [usize; 2] = [60, 150];

static IS_OVER: AtomicBool = AtomicBool::new(false);
/// The group that is delayed.
static CHOSEN: AtomicU32 = AtomicU32::new(0);
static WAVES_DONE: AtomicUsize = AtomicUsize::new(0);

fn main() {
    in_each_mode(LIMIT, empty_while_classes_grow);
}

fn empty_while_classes_grow(case: &ModeCase) {
    rsalloc_core::release();
    let live = rsalloc_core::stats().live_bytes;
    std::thread::scope(|scope| {
        for worker in 0..THREADS {
            scope.spawn(move || work(worker));
        }
        for group in 0..GROUPS {
            delay(group);
            for _ in 0..TIMES {
                rsalloc_core::release();
                std::thread::sleep(PAUSE);
            }
        }
        delay(GROUPS);
        // Longer on a machine that is too busy to have shown anything.
        while WAVES_DONE.load(Ordering::Relaxed) < WAVES_MIN {
            std::thread::sleep(PAUSE);
        }
        IS_OVER.store(true, Ordering::Relaxed);
    });
    rsalloc_core::release();
    assert_eq!(rsalloc_core::check(), Ok(()), "{}", case.name);
    assert_eq!(rsalloc_core::stats().live_bytes, live, "{}: objects were lost", case.name);
}

/// Delays the places of this group from now on.
fn delay(group: u32) {
    CHOSEN.store(group, Ordering::Relaxed);
    delays::choose(group);
}

fn work(worker: usize) {
    let mut wave = worker;
    while !IS_OVER.load(Ordering::Relaxed) {
        hold_a_wave(SIZES[wave % SIZES.len()], WAVES[wave / SIZES.len() % WAVES.len()]);
        wave += 1;
        WAVES_DONE.fetch_add(1, Ordering::Relaxed);
    }
}

/// Allocates `count` objects, then frees them, which nothing else has written to.
fn hold_a_wave(size: usize, count: usize) {
    let mut objects = [std::ptr::null_mut::<usize>(); WAVES[1]];
    for object in &mut objects[..count] {
        *object = rsalloc_core::allocate(size).cast();
        assert!(!object.is_null(), "memory");
        // SAFETY: a fresh object of at least 16 bytes.
        unsafe { object.write(object.addr()) };
    }
    for object in &objects[..count] {
        // SAFETY: allocated above, and freed once.
        unsafe {
            let group = CHOSEN.load(Ordering::Relaxed);
            assert_eq!(object.read(), object.addr(), "handed out twice: {size} B, group {group}");
            object.write(0);
            rsalloc_core::free_sized(object.cast(), size, 8);
        }
    }
}

//! A real-time thread that allocates beside others of no priority, which a third kind keeps from their processors while
//! they hold the allocator's locks. How long its longest malloc and free take is the allocator's promise: no wait for a
//! holder that does not run.

mod common;

use common::c;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const HOLDERS: usize = 4;
/// What a hog takes of each processor, and what it leaves.
const BUSY: Duration = Duration::from_millis(15);
const IDLE: Duration = Duration::from_millis(10);
/// How long is measured, and the pause between two rounds.
const MEASURED: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_micros(150);
/// Objects of a round: more than a cache has, of sizes whose slabs the holders work on.
const OBJECTS: usize = 32;
const SIZES: [usize; 4] = [8192, 16_384, 32_768, 40_000];
/// A call that takes longer waited for a thread that did not run.
const LATE: Duration = Duration::from_millis(1);
/// One in so many rounds may have such a call, and so many for each time that the machine took the processor away meanwhile.
const LATE_PARTS: usize = 2000;
const LATE_BY_PAUSE: usize = 3;
/// After a round, the machine is watched for as long as the round took, but no longer than this.
const WATCHED_MAX: Duration = Duration::from_micros(200);

static STOP: AtomicBool = AtomicBool::new(false);

fn set_priority(priority: i32) -> bool {
    let param = libc::sched_param { sched_priority: priority };
    // SAFETY: the calling thread, and a live struct.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &param) == 0 }
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, |count| count.get())
}

/// Allocates and frees so much that most of it comes from the slabs and goes back there.
fn hold() {
    while !STOP.load(Ordering::Relaxed) {
        round(4 * OBJECTS, |_| ());
    }
}

fn hog() {
    assert!(set_priority(10));
    while !STOP.load(Ordering::Relaxed) {
        let begin = Instant::now();
        while begin.elapsed() < BUSY {
            std::hint::spin_loop();
        }
        thread::sleep(IDLE);
    }
}

fn round(objects: usize, mut took: impl FnMut(Duration)) {
    let mut timed = |call: &mut dyn FnMut()| {
        let start = Instant::now();
        call();
        took(start.elapsed());
    };
    let mut kept = [std::ptr::null_mut(); 4 * OBJECTS];
    for (index, slot) in kept[..objects].iter_mut().enumerate() {
        // SAFETY: takes a number alone.
        timed(&mut || *slot = unsafe { c::malloc(SIZES[index % SIZES.len()]) });
        assert!(!slot.is_null());
    }
    for &object in &kept[..objects] {
        // SAFETY: live.
        timed(&mut || unsafe { c::free(object) });
    }
}

/// Whether the machine takes the processor away within `watched`: a virtual one may be late without any call.
fn machine_pauses(watched: Duration) -> bool {
    let begin = Instant::now();
    let (mut last, mut longest) = (begin, Duration::ZERO);
    while begin.elapsed() < watched {
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    longest.max(last.elapsed()) > LATE / 2
}

in_each_mode! {
    fn the_longest_round_of_a_real_time_thread() {
        let may = thread::spawn(|| set_priority(20)).join().unwrap();
        if !may {
            return common::note("real-time threads: this process may not have any (SCHED_FIFO)");
        }
        for _ in 0..HOLDERS {
            thread::spawn(hold);
        }
        for _ in 0..processors() {
            thread::spawn(hog);
        }
        let measured = thread::spawn(|| {
            assert!(set_priority(20));
            let (begin, mut rounds, mut late, mut pauses) = (Instant::now(), 0, 0, 0);
            let (mut longest, mut longest_round) = (Duration::ZERO, Duration::ZERO);
            while begin.elapsed() < MEASURED {
                let (start, mut slowest) = (Instant::now(), Duration::ZERO);
                round(OBJECTS, |took| slowest = slowest.max(took));
                let whole = start.elapsed();
                pauses += usize::from(machine_pauses(whole.min(WATCHED_MAX)));
                longest_round = longest_round.max(whole);
                longest = longest.max(slowest);
                late += usize::from(slowest > LATE);
                rounds += 1;
                thread::sleep(PAUSE);
            }
            println!("{rounds} rounds, {late} with a call above {LATE:?}, {pauses} pauses of the machine");
            println!("the longest call {longest:?}, round {longest_round:?}");
            (rounds, late, pauses)
        });
        let (rounds, late, pauses) = measured.join().unwrap();
        STOP.store(true, Ordering::Relaxed);
        assert!(rounds > 1000, "{rounds} rounds");
        let may_be = rounds / LATE_PARTS + LATE_BY_PAUSE * pauses;
        assert!(late <= may_be, "{late} of {rounds} rounds had a call above {LATE:?}, {pauses} pauses of the machine");
    }
}

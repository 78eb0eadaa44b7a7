//! Runs a program on the allocator of this process and says what it cost.
//!
//! Promises that a program of one thread runs on the main thread in exactly its order; that of several each runs on a
//! thread of its own, which waits (spinning, then yielding) where an object's operation before is another thread's. The
//! clock covers the operations with what they write to objects, reading the program block by block, and starting
//! threads; not freeing what is left.

use super::flat::{BLOCK, Operation, Program, Verb, WORDS};
use super::objects::{Fault, Places, argument, start_thread};
use crate::process;
use crossbeam_utils::Backoff;
use serde::Serialize;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a replay cost; the fields are those of a row of the comparison.
#[derive(Debug, Serialize)]
pub struct Cost {
    /// The allocator that served it.
    pub allocator: String,
    /// Whether its caches are per CPU, where it says so.
    pub per_cpu: Option<bool>,
    /// Calls of the allocator.
    pub operations: u64,
    /// Wall-clock nanoseconds of a call.
    pub ns_per_operation: f64,
    /// CPU seconds of all threads.
    pub cpu_seconds: f64,
    /// Resident bytes before the first call; here and below without the table of objects.
    pub start_rss_bytes: u64,
    /// The most resident bytes.
    pub peak_rss_bytes: u64,
    /// Resident bytes after all was freed.
    pub final_rss_bytes: u64,
    /// Page faults.
    pub minor_faults: u64,
    /// Objects that the program had left.
    pub left: u64,
}

struct Replay {
    program: Program,
    places: Places,
    /// Threads that have not ended.
    running: AtomicU64,
    threads: Vec<Thread>,
}

struct Thread {
    number: usize,
    replay: std::sync::OnceLock<&'static Replay>,
}

/// Runs `program`; `rest` is how long the process stays idle before its final memory is read. A fault ends
/// the process with one line.
pub fn replay(program: Program, rest: Duration) -> Cost {
    let places = Places::new(program.outline.places as usize);
    let threads = program.outline.threads.len();
    let replay = Replay {
        places,
        running: AtomicU64::new(threads as u64),
        threads: (0..threads).map(|number| Thread { number, replay: Default::default() }).collect(),
        program,
    };
    // Threads borrow it until the process ends.
    let replay: &'static Replay = Box::leak(Box::new(replay));
    replay.threads.iter().for_each(|thread| assert!(thread.replay.set(replay).is_ok(), "once"));
    let table = replay.places.bytes();
    let start_rss_bytes = process::rss_bytes() - table;
    let before = process::usage();
    let begin = Instant::now();
    replay.run(0);
    // Ordering: Acquire, pairs with the Release in `run`.
    while replay.running.load(Ordering::Acquire) > 0 {
        std::thread::sleep(Duration::from_micros(100));
    }
    let wall = begin.elapsed();
    let after = process::usage();
    let peak_rss_bytes = process::peak_rss_bytes() - table;
    let left = replay.places.free_all();
    std::thread::sleep(rest);
    let operations = replay.program.outline.calls;
    Cost {
        allocator: process::allocator(),
        per_cpu: process::per_cpu(),
        operations,
        ns_per_operation: wall.as_secs_f64() * 1e9 / operations as f64,
        cpu_seconds: after.cpu_seconds - before.cpu_seconds,
        start_rss_bytes,
        peak_rss_bytes,
        final_rss_bytes: process::rss_bytes() - table,
        minor_faults: after.minor_faults - before.minor_faults,
        left,
    }
}

impl Replay {
    /// Runs the operations of a thread.
    fn run(&'static self, thread: usize) {
        let (first, count) = (self.program.first_of(thread), self.program.outline.threads[thread]);
        let mut block = [[0; WORDS]; BLOCK];
        let mut done = 0;
        while done < count {
            let read = match self.program.read(first + done, count - done, &mut block) {
                Ok(read) => read,
                Err(_) => fail(done, thread, "the program can't be read"),
            };
            for (index, words) in block[..read].iter().enumerate() {
                self.step(*words, thread, done + index as u64);
            }
            done += read as u64;
        }
        // Ordering: Release, pairs with the Acquire in `replay`: all that this thread did has happened.
        self.running.fetch_sub(1, Ordering::Release);
    }

    #[inline(always)]
    fn step(&'static self, words: [u64; WORDS], thread: usize, number: u64) {
        let Some(operation) = Operation::of(words) else {
            fail(number, thread, "the program is damaged: there is no such operation")
        };
        if operation.verb == Verb::Start {
            return self.start(operation.place as usize, thread, number);
        }
        if !self.places.is_turn(&operation) {
            self.wait(&operation, thread, number);
        }
        if let Err(fault) = self.places.run(&operation) {
            fail_at(&operation, number, thread, fault)
        }
    }

    #[cold]
    fn start(&'static self, which: usize, thread: usize, number: u64) {
        let started = self.threads.get(which).is_some_and(|new| start_thread(run_thread, new));
        if !started {
            fail(number, thread, "a thread can't be started");
        }
    }

    #[cold]
    fn wait(&self, operation: &Operation, thread: usize, number: u64) {
        const WAIT_LIMIT: Duration = Duration::from_secs(60);
        if self.threads.len() == 1 {
            fail(number, thread, "the program is damaged: it is never this operation's turn");
        }
        let (begin, backoff) = (Instant::now(), Backoff::new());
        while !self.places.is_turn(operation) {
            backoff.snooze();
            if begin.elapsed() > WAIT_LIMIT {
                fail(number, thread, "it waits for an object that no thread makes or frees");
            }
        }
    }
}

extern "C" fn run_thread(own: *mut c_void) -> *mut c_void {
    // SAFETY: `start` gives a `Thread`.
    #[allow(unsafe_code)]
    let own: &'static Thread = unsafe { argument(own) };
    own.replay.get().into_iter().for_each(|replay| replay.run(own.number));
    std::ptr::null_mut()
}

#[cold]
fn fail_at(operation: &Operation, number: u64, thread: usize, fault: Fault) -> ! {
    let (verb, size) = (operation.verb, operation.size);
    fail(number, thread, &format!("{verb:?} of {size} B: {}", fault.words()))
}

#[cold]
fn fail(number: u64, thread: usize, why: &str) -> ! {
    eprintln!("replay: operation {number} of thread {thread}: {why}");
    std::process::exit(2)
}

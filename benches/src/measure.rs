//! Runs one row and says what it cost.
//!
//! Promises: the clock covers steps only, not building the load, nor the warm-up (a tenth of the budget), nor freeing
//! what is left; a row with one thread runs on the main thread, so a C library that is faster in single-threaded
//! programs stays so.

use crate::client::Client;
use crate::loads::Load;
use crate::process::{self, Edge};
use crate::rows::Row;
use crossbeam_utils::CachePadded;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

/// How much of a row to run.
#[derive(Clone, Copy)]
pub enum Budget {
    /// For so long.
    Time(Duration),
    /// At least so many operations, all threads together.
    Operations(u64),
    /// At least so many operations in each thread, whatever the others do. For loads whose threads all count.
    Each(u64),
}

/// What a row cost.
#[derive(Debug, Serialize)]
pub struct Measurement {
    /// The row's name.
    pub row: &'static str,
    /// What one operation is.
    pub unit: &'static str,
    /// The allocator that served it; empty until the program says so.
    pub allocator: String,
    /// Whether its caches are per CPU, where it says so.
    pub per_cpu: Option<bool>,
    /// Threads that ran at once.
    pub threads: usize,
    /// Operations within the clock.
    pub operations: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Wall-clock nanoseconds over operations of all threads.
    pub ns_per_operation: f64,
    /// CPU seconds of all threads within the clock.
    pub cpu_seconds: f64,
    /// Resident bytes before the load was built.
    pub start_rss_bytes: u64,
    /// The most resident bytes of the process.
    pub peak_rss_bytes: u64,
    /// Resident bytes after all was freed.
    pub final_rss_bytes: u64,
    /// The same after the program has woken up and made a few allocations.
    pub woken_rss_bytes: u64,
    /// Page faults from the start of the load to the end of the clock.
    pub minor_faults: u64,
    /// Sum of the tags that were written into objects and read back.
    pub checksum: u64,
}

/// Runs `row`; `rest` is how long the process stays idle before its final memory is read.
pub fn run(row: &Row, budget: Budget, rest: Duration) -> anyhow::Result<Measurement> {
    run_between(row, budget, rest, &process::counters)
}

/// As [`run`]; calls `at` where the clock starts and stops.
pub fn run_between(
    row: &Row,
    budget: Budget,
    rest: Duration,
    at: &dyn Fn(Edge),
) -> anyhow::Result<Measurement> {
    let start_rss_bytes = process::rss_bytes();
    let first_fault = process::usage().minor_faults;
    let loads = (row.loads)();
    let threads = loads.len();
    let mut outcome = match <[_; 1]>::try_from(loads) {
        Ok([mut load]) => alone(load.as_mut(), budget, at),
        Err(loads) => together(loads, budget, at),
    };
    std::thread::sleep(rest);
    let final_rss_bytes = process::rss_bytes();
    outcome.client.wake();
    let woken_rss_bytes = process::rss_bytes();
    let checksum = outcome.client.checksum().ok_or_else(|| {
        anyhow::anyhow!(
            "row {}: what was read back is not what was written: the allocator damaged an object, \
             gave it out twice, did not clear it or did not align it",
            row.name
        )
    })?;
    let seconds = outcome.wall.as_secs_f64();
    Ok(Measurement {
        row: row.name,
        unit: row.unit,
        allocator: String::new(),
        per_cpu: None,
        threads,
        operations: outcome.operations,
        seconds,
        ns_per_operation: seconds * 1e9 / outcome.operations.max(1) as f64,
        cpu_seconds: outcome.cpu_seconds,
        start_rss_bytes,
        peak_rss_bytes: process::peak_rss_bytes(),
        final_rss_bytes,
        woken_rss_bytes,
        minor_faults: outcome.last_fault - first_fault,
        checksum,
    })
}

struct Outcome {
    client: Client,
    operations: u64,
    wall: Duration,
    cpu_seconds: f64,
    last_fault: u64,
}

fn alone(load: &mut dyn Load, budget: Budget, at: &dyn Fn(Edge)) -> Outcome {
    let mut client = Client::default();
    load.start(&mut client);
    Meter::new(budget.warm_up()).steps(load, &mut client);
    let meter = Meter::new(budget);
    let before = process::usage();
    at(Edge::Begin);
    let begin = Instant::now();
    meter.steps(load, &mut client);
    let wall = begin.elapsed();
    at(Edge::End);
    let after = process::usage();
    load.finish(&mut client);
    Outcome {
        client,
        operations: meter.operations(),
        wall,
        cpu_seconds: after.cpu_seconds - before.cpu_seconds,
        last_fault: after.minor_faults,
    }
}

fn together(loads: Vec<Box<dyn Load>>, budget: Budget, at: &dyn Fn(Edge)) -> Outcome {
    // The main thread takes part in each barrier, and reads the clock between them.
    let barrier = Barrier::new(loads.len() + 1);
    let (warm_up, meter) = (Meter::new(budget.warm_up()), Meter::new(budget));
    std::thread::scope(|scope| {
        let (barrier, warm_up, meter) = (&barrier, &warm_up, &meter);
        let workers: Vec<_> = loads
            .into_iter()
            .map(|mut load| {
                scope.spawn(move || {
                    let mut client = Client::default();
                    load.start(&mut client);
                    barrier.wait();
                    warm_up.steps(load.as_mut(), &mut client);
                    barrier.wait();
                    barrier.wait();
                    meter.steps(load.as_mut(), &mut client);
                    barrier.wait();
                    barrier.wait();
                    load.finish(&mut client);
                    client
                })
            })
            .collect();
        barrier.wait();
        barrier.wait();
        let before = process::usage();
        at(Edge::Begin);
        let begin = Instant::now();
        barrier.wait();
        barrier.wait();
        let wall = begin.elapsed();
        at(Edge::End);
        let after = process::usage();
        barrier.wait();
        let mut client = Client::default();
        for worker in workers {
            client.merge(&worker.join().expect("a load panicked"));
        }
        Outcome {
            client,
            operations: meter.operations(),
            wall,
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            last_fault: after.minor_faults,
        }
    })
}

impl Budget {
    fn warm_up(self) -> Self {
        match self {
            Budget::Time(time) => Budget::Time(time / 10),
            Budget::Operations(count) => Budget::Operations(count / 10),
            Budget::Each(count) => Budget::Each(count / 10),
        }
    }
}

/// Holds all threads to one budget.
struct Meter {
    budget: Budget,
    /// When the first thread began: a thread that is scheduled late does not run on alone.
    begin: OnceLock<Instant>,
    /// Padded: every thread adds to it, and reads `begin` after each step.
    done: CachePadded<AtomicU64>,
}

impl Meter {
    fn new(budget: Budget) -> Self {
        Meter { budget, begin: OnceLock::new(), done: CachePadded::default() }
    }

    /// Steps until the budget is spent, at least once.
    fn steps(&self, load: &mut dyn Load, client: &mut Client) {
        let begin = self.begin.get_or_init(Instant::now);
        let (mut own, mut all_own) = (0, 0);
        loop {
            let operations = load.step(client);
            own += operations;
            all_own += operations;
            let spent = match self.budget {
                Budget::Time(time) => begin.elapsed() >= time,
                Budget::Operations(count) => {
                    // Ordering: Relaxed, a count that publishes nothing.
                    self.done.fetch_add(std::mem::take(&mut own), Ordering::Relaxed) + operations
                        >= count
                }
                Budget::Each(count) => all_own >= count,
            };
            if spent {
                break;
            }
        }
        // Ordering: Relaxed, read after a barrier or by the same thread.
        self.done.fetch_add(own, Ordering::Relaxed);
    }

    fn operations(&self) -> u64 {
        // Ordering: Relaxed, the barrier after the steps orders it.
        self.done.load(Ordering::Relaxed)
    }
}

//! How long single calls take: not the mean, but how the times are spread.
//!
//! Each thread replaces random objects of its table; the clock runs around each `free`, around each `malloc`, and
//! around nothing, one after the other, so that what the machine does to any short piece of code (interrupts,
//! preemption, other threads) shows in the third as it does in the first two. The first touch of an object is not in
//! the figures.

pub mod clock;
pub mod histogram;

use crate::client::Client;
use crate::loads::mixed::mixed_size;
use crate::loads::single::free_all;
use crate::rng::Rng;
use crate::slots::Slots;
use anyhow::Context;
use clock::Calibration;
use histogram::Histogram;
use serde::Serialize;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Threads that churn at once.
#[derive(Serialize)]
pub struct Load {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens, in a few words.
    pub what: &'static str,
    #[serde(skip)]
    threads: usize,
    #[serde(skip)]
    live: usize,
}

/// All loads.
pub static LOADS: &[Load] = &[
    Load {
        name: "churn-2",
        what: "2 threads, 10,000 live each, mostly to 256 B, 1 of 64 to 8 KiB, 1 of 4,096 to 256 KiB",
        threads: 2,
        live: 10_000,
    },
    Load {
        name: "churn-64",
        what: "64 threads, 1,000 live each, the same sizes",
        threads: 64,
        live: 1000,
    },
];

/// What is timed, in the order of [`Spread::calls`].
pub const CALLS: [&str; 3] = ["malloc", "free", "nothing"];

/// How the times of a load were spread.
#[derive(Serialize)]
pub struct Spread {
    /// The load.
    pub load: &'static str,
    /// The allocator that served it; empty until the program says so.
    pub allocator: String,
    /// Whether its caches are per CPU, where it says so.
    pub per_cpu: Option<bool>,
    /// One for each of [`CALLS`].
    pub calls: Vec<Times>,
}

/// The times of one call.
#[derive(Serialize)]
pub struct Times {
    /// The longest, ns.
    pub max_ns: f64,
    /// Ascending: the longest time that a bucket can hold, ns, and how often it was taken.
    pub buckets: Vec<(f64, u64)>,
}

/// Runs `load` for `time`, after a warm-up of a tenth.
pub fn run(load: &Load, time: Duration) -> anyhow::Result<Spread> {
    let calibration = Calibration::start()?;
    let barrier = Barrier::new(load.threads);
    let mut all: [Histogram; 3] = Default::default();
    let mut client = Client::default();
    std::thread::scope(|scope| {
        let barrier = &barrier;
        let threads: Vec<_> = (0..load.threads)
            .map(|seed| scope.spawn(move || churn(seed, load.live, barrier, time)))
            .collect();
        for thread in threads {
            let (own, ledger) = thread.join().expect("a load panicked");
            all.iter_mut().zip(&own).for_each(|(all, own)| all.merge(own));
            client.merge(&ledger);
        }
    });
    let ns = calibration.ns_per_tick();
    client.checksum().with_context(|| {
        format!("load {}: what was read back is not what was written", load.name)
    })?;
    let times = |histogram: &Histogram| Times {
        max_ns: histogram.max() as f64 * ns,
        buckets: histogram.buckets().map(|(last, count)| (last as f64 * ns, count)).collect(),
    };
    let calls = all.iter().map(times).collect();
    Ok(Spread { load: load.name, allocator: String::new(), per_cpu: None, calls })
}

/// One thread's work; its times and its ledger.
fn churn(seed: usize, live: usize, barrier: &Barrier, time: Duration) -> ([Histogram; 3], Client) {
    let mut client = Client::default();
    let mut rng = Rng::new(seed);
    let mut slots = Slots::new(live);
    let mut spread: [Histogram; 3] = Default::default();
    for slot in slots.iter_mut() {
        *slot = Some(client.malloc(mixed_size(&mut rng)));
    }
    barrier.wait();
    for phase in [time / 10, time] {
        spread = Default::default(); // What was recorded in the warm-up is dropped.
        let begin = Instant::now();
        while begin.elapsed() < phase {
            for _ in 0..1000 {
                let (slot, size) = (rng.below(live), mixed_size(&mut rng));
                let [malloc, free, nothing] = &mut spread;
                if let Some(old) = slots[slot].take() {
                    free.record(client.free_timed(old));
                }
                let (object, ticks) = client.malloc_timed(size);
                malloc.record(ticks);
                slots[slot] = Some(object);
                nothing.record(clock::ticks(|| std::hint::black_box(())).1);
            }
        }
    }
    free_all(slots.iter_mut(), &mut client);
    (spread, client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_timed_as_often_as_it_was_made() {
        for load in LOADS {
            let spread = run(load, Duration::from_millis(20)).expect(load.name);
            let counts: Vec<u64> =
                spread.calls.iter().map(|call| call.buckets.iter().map(|b| b.1).sum()).collect();
            assert_eq!(counts.len(), CALLS.len());
            assert!(
                counts[0] >= 1000 && counts.iter().all(|&count| count == counts[0]),
                "{counts:?}"
            );
            for call in &spread.calls {
                assert!(call.buckets.last().unwrap().0 <= call.max_ns && call.max_ns > 0.0);
            }
        }
    }
}

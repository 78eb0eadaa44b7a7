//! The rows of the comparison: name, unit, what happens, and the loads that do it, one a thread.
//!
//! Adding a line here adds a row to `cargo lab compare`.

use crate::loads::Load;
use crate::loads::handing::{Neighbour, allocating_and_freeing};
use crate::loads::mixed::{Server, ShortLived, Stress};
use crate::loads::passing::{producers_and_consumers, ring};
use crate::loads::single::{Aligned, Batch, Churn, Cleared, Doubling, Growth, Order, Same, Touch};
use crate::loads::tables::{InverseSquare, Pareto, Scratch};
use crate::loads::waves::{Ladder, Waves};
use serde::Serialize;

/// One row.
#[derive(Serialize)]
pub struct Row {
    /// Its name on the command line.
    pub name: &'static str,
    /// What one operation is.
    pub unit: &'static str,
    /// What happens, in a few words.
    pub what: &'static str,
    /// Builds the work, one load for each thread.
    #[serde(skip)]
    pub loads: fn() -> Vec<Box<dyn Load>>,
}

/// An allocation and its free.
pub const PAIR: &str = "malloc+free";

/// All rows, in the order of the table.
pub static ROWS: &[Row] = &[
    row("same-16", PAIR, "one object of 16 B in a loop", || one(Same { size: 16 })),
    row("same-64", PAIR, "one object of 64 B in a loop", || one(Same { size: 64 })),
    row("same-1024", PAIR, "one object of 1 KiB in a loop", || one(Same { size: 1024 })),
    row("same-32k", PAIR, "one object of 32 KiB in a loop", || one(Same { size: 32 << 10 })),
    row("batch-fifo", PAIR, "1,000 of 64 B, freed in the same order", || {
        one(Batch::new(1000, Order::Fifo))
    }),
    row("batch-lifo", PAIR, "1,000 of 64 B, freed last one first", || {
        one(Batch::new(1000, Order::Lifo))
    }),
    row("churn-512", PAIR, "random up to 512 B, 10,000 live", || one(Churn::new(10_000, 512, 1))),
    row("churn-8k", PAIR, "random up to 8 KiB, 10,000 live", || {
        one(Churn::new(10_000, 8 << 10, 1))
    }),
    row("churn-256k", PAIR, "random up to 256 KiB, 10,000 live", || {
        one(Churn::new(10_000, 256 << 10, 1))
    }),
    row("calloc-256", "calloc+free", "one cleared object of 256 B in a loop", || {
        one(Cleared { size: 256 })
    }),
    row("calloc-16k", "calloc+free", "one cleared object of 16 KiB in a loop", || {
        one(Cleared { size: 16 << 10 })
    }),
    row("realloc-16", "realloc", "a buffer grown by 16 B at a time to 64 KiB", || one(Growth)),
    row("vec-1g", "4 KiB", "a vector that doubles to 1 GiB, touched", || one(Doubling)),
    row("touch-1g", "4 KiB", "1 GiB mapped and touched, no allocator", || one(Touch)),
    row("aligned", PAIR, "100 random up to 2 KiB, aligned to 64 B to 4 KiB, freed", || {
        one(Aligned::new(1))
    }),
    row("pipe", PAIR, "1 thread allocates up to 256 B, 1 frees", || {
        producers_and_consumers(1, 256, 64)
    }),
    row("ring-4", PAIR, "4 threads in a ring replace and pass on up to 256 B", || ring(4, 256)),
    row("xmalloc", PAIR, "4 threads allocate up to 512 B, 4 free, one queue", || {
        producers_and_consumers(4, 512, 256)
    }),
    row("larson", PAIR, "8 server tables of 1,000, inherited by new threads", || {
        many(8, Server::new)
    }),
    row("mstress", PAIR, "8 threads, mixed sizes and lives, objects exchanged", || {
        Stress::group(8)
    }),
    row("threads-8", PAIR, "8 threads, random up to 512 B, 1,000 live each", || {
        many(8, |seed| Churn::new(1000, 512, seed))
    }),
    row("threads-64", PAIR, "64 threads, random up to 512 B, 1,000 live each", || {
        many(64, |seed| Churn::new(1000, 512, seed))
    }),
    row("threads-1000", PAIR, "1,000 threads, random up to 512 B, 100 live each", || {
        many(1000, |seed| Churn::new(100, 512, seed))
    }),
    row(
        "thread-churn",
        "thread",
        "a thread allocates 64, frees 32, ends; 32 freed outside",
        || one(ShortLived::new(1)),
    ),
    row("sh6", PAIR, "waves of 10,000 to 1,000 B, mostly small, a sixteenth kept", || {
        one(Waves::new(1))
    }),
    row("shbench", PAIR, "the same on 2 threads", || many(2, Waves::new)),
    row("sh8", PAIR, "the same on 8 threads, an eighth freed on another", || Waves::group(8)),
    row(
        "rptest",
        PAIR,
        "2 threads, 1,000 of 8 to 16,000 B each, a tenth handed over, all written",
        || Neighbour::group(2),
    ),
    row("xmalloc-64", PAIR, "2 threads allocate 64 B, 2 free, batches of 4,096", || {
        allocating_and_freeing(2, 64)
    }),
    row(
        "larson-5000",
        PAIR,
        "2 server tables of 5,000, inherited after 500,000 replacements",
        || many(2, Server::original),
    ),
    row(
        "alloc-test",
        PAIR,
        "sizes to 1 KiB and places by Pareto's rule, 32,000 live, written",
        || one(Pareto::new(1)),
    ),
    row("alloc-test-2", PAIR, "the same on 2 threads", || many(2, Pareto::new)),
    row("glibc-simple", PAIR, "25 to 1,600 of 8 to 512 B, freed in the same order", || {
        one(Ladder::new())
    }),
    row(
        "glibc-thread",
        PAIR,
        "2 threads, 4 B to 32 KiB by an inverse square, 1,024 live each",
        || many(2, InverseSquare::new),
    ),
    row(
        "cache-scratch",
        PAIR,
        "2 threads free a neighbour of the main thread's, then write to 8 B",
        || Scratch::group(2),
    ),
    row("cache-thrash", PAIR, "2 threads allocate 8 B, write 1,000 times, free", || {
        many(2, Scratch::new)
    }),
];

/// A row.
pub const fn row(
    name: &'static str,
    unit: &'static str,
    what: &'static str,
    loads: fn() -> Vec<Box<dyn Load>>,
) -> Row {
    Row { name, unit, what, loads }
}

/// The loads of a row with one thread.
pub fn one(load: impl Load + 'static) -> Vec<Box<dyn Load>> {
    vec![Box::new(load)]
}

/// The loads of a row with so many threads, each with a seed of its own.
pub fn many<L: Load + 'static>(threads: usize, build: fn(usize) -> L) -> Vec<Box<dyn Load>> {
    (0..threads).map(|seed| Box::new(build(seed)) as Box<dyn Load>).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Budget, run};
    use std::time::Duration;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
    }

    /// Each row once, in small: it ends, does what it was asked for, and every object comes back whole.
    #[test]
    fn every_row_runs_and_closes_its_ledger() {
        for row in ROWS.iter().filter(|row| !row.name.ends_with("-1g")) {
            let measured = run(row, Budget::Operations(1), Duration::ZERO).expect(row.name);
            assert!(measured.operations >= 1 && measured.checksum > 0, "{measured:?}");
        }
    }
}

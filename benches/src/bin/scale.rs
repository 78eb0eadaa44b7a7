//! `scale LOAD --threads N`: loads that grow with the machine, for the counters of a library that has some.
//! `cargo lab vm --scale` runs it in virtual machines.

use anyhow::Context;
use benches::loads::Load;
use benches::loads::mixed::{Server, Stress};
use benches::loads::passing::producers_and_consumers;
use benches::loads::single::Churn;
use benches::measure::{Budget, run};
use benches::process;
use benches::rows::{PAIR, Row, many, row};
use clap::Parser;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

#[derive(Parser)]
#[command(about = "A load on so many threads, and what a library with counters counted in it")]
struct Arguments {
    /// The load to run
    load: String,
    /// Threads, an even number
    #[arg(long)]
    threads: usize,
    /// Operations of each thread, about
    #[arg(long, default_value_t = 60_000)]
    iters: u64,
}

/// What the rows build; set once, before they do.
static THREADS: AtomicUsize = AtomicUsize::new(2);

fn threads() -> usize {
    // Ordering: Relaxed, set by the same thread.
    THREADS.load(Ordering::Relaxed)
}

static ROWS: &[Row] = &[
    row("churn-512", PAIR, "each thread: random up to 512 B, 1,000 live", || {
        many(threads(), |seed| Churn::new(1000, 512, seed))
    }),
    row("churn-8k", PAIR, "each thread: random up to 8 KiB, 1,000 live", || {
        many(threads(), |seed| Churn::new(1000, 8 << 10, seed))
    }),
    row("larson", PAIR, "server tables of 1,000, inherited by new threads", || {
        many(threads(), Server::new)
    }),
    row("pipe", PAIR, "pairs of threads: one allocates up to 256 B, one frees", || {
        let pairs = (0..threads() / 2).flat_map(|_| producers_and_consumers(1, 256, 64));
        pairs.collect::<Vec<Box<dyn Load>>>()
    }),
    row("mstress", PAIR, "mixed sizes and lives, objects exchanged", || Stress::group(threads())),
];

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    // Ordering: Relaxed, there is one thread.
    THREADS.store(arguments.threads, Ordering::Relaxed);
    let row = ROWS.iter().find(|row| row.name == arguments.load);
    let row = row.with_context(|| {
        let known: Vec<_> = ROWS.iter().map(|row| row.name).collect();
        format!("no load {}; there are: {}", arguments.load, known.join(", "))
    })?;
    let operations = arguments.iters * arguments.threads as u64;
    let mut measurement = run(row, Budget::Operations(operations), Duration::ZERO)?;
    measurement.allocator = process::allocator();
    println!("{}", serde_json::to_string(&measurement)?);
    Ok(())
}

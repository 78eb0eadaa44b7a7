//! `scale LOAD --threads N`: loads that grow with the machine, for the counters of a library that has some.
//! `cargo lab vm --scale` runs it in virtual machines.

use anyhow::Context;
use benches::client::Client;
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
    /// Threads, two for each CPU
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

/// A load whose thread stays on one CPU. Without that the kernel decides how many of a pipe's objects change CPUs.
struct OnCpu {
    cpu: usize,
    load: Box<dyn Load>,
}

impl Load for OnCpu {
    fn start(&mut self, client: &mut Client) {
        process::stay_on_cpu(self.cpu);
        self.load.start(client);
    }
    fn step(&mut self, client: &mut Client) -> u64 {
        self.load.step(client)
    }
    fn finish(&mut self, client: &mut Client) {
        self.load.finish(client);
    }
}

/// Two of the threads on each CPU, and neighbours in the list on different ones.
fn spread(loads: impl IntoIterator<Item = Box<dyn Load>>) -> Vec<Box<dyn Load>> {
    let cpus = threads() / 2;
    let on_cpu = |(thread, load)| Box::new(OnCpu { cpu: thread % cpus, load }) as Box<dyn Load>;
    loads.into_iter().enumerate().map(on_cpu).collect()
}

static ROWS: &[Row] = &[
    row("churn-512", PAIR, "each thread: random up to 512 B, 1,000 live", || {
        spread(many(threads(), |seed| Churn::new(1000, 512, seed)))
    }),
    row("churn-8k", PAIR, "each thread: random up to 8 KiB, 1,000 live", || {
        spread(many(threads(), |seed| Churn::new(1000, 8 << 10, seed)))
    }),
    row("larson", PAIR, "server tables of 1,000, inherited by new threads", || {
        spread(many(threads(), Server::new))
    }),
    row("pipe", PAIR, "pairs of threads: one allocates up to 256 B, one frees", || {
        spread((0..threads() / 2).flat_map(|_| producers_and_consumers(1, 256, 64)))
    }),
    row("mstress", PAIR, "mixed sizes and lives, objects exchanged", || {
        spread(Stress::group(threads()))
    }),
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
    // One thread of a pair counts. Elsewhere a thread that the kernel lets begin late must do as much as the first ones, its warm-up too.
    let budget = match row.name {
        "pipe" => Budget::Operations(arguments.iters * arguments.threads as u64),
        _ => Budget::Each(arguments.iters),
    };
    let mut measurement = run(row, budget, Duration::ZERO)?;
    measurement.allocator = process::allocator();
    println!("{}", serde_json::to_string(&measurement)?);
    Ok(())
}

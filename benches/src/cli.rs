//! The command line of the programs that run one row: `workload` and `front`.

use crate::measure::{Budget, run, run_between};
use crate::rows::Row;
use crate::samples::{Sampler, Samples};
use anyhow::Context;
use clap::Parser;
use serde::Serialize;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "One row of the comparison on the allocator of this process")]
struct Arguments {
    /// The row to run
    #[arg(required_unless_present = "list")]
    row: Option<String>,
    /// Print the rows as one line of JSON and stop
    #[arg(long)]
    list: bool,
    /// Seconds within the clock
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Operations within the clock, in place of seconds
    #[arg(long, conflicts_with = "seconds")]
    iters: Option<u64>,
    /// Seconds of idleness before the final memory is read
    #[arg(long, default_value_t = 0.0)]
    rest: f64,
    /// Sample where the threads are, and print that
    #[arg(long)]
    samples: bool,
}

/// What the program prints when it was asked for samples.
#[derive(Serialize)]
struct Sampled {
    allocator: String,
    per_cpu: Option<bool>,
    #[serde(flatten)]
    samples: Samples,
}

/// Runs the row that the command line asks for; `allocator` says which one served it, `per_cpu` how.
pub fn main(
    rows: &[Row],
    allocator: fn() -> String,
    per_cpu: fn() -> Option<bool>,
) -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let Some(name) = arguments.row.filter(|_| !arguments.list) else {
        println!("{}", serde_json::to_string(rows)?);
        return Ok(());
    };
    let row = rows
        .iter()
        .find(|row| row.name == name)
        .with_context(|| format!("no row {name}; `--list` names them"))?;
    let budget = match arguments.iters {
        Some(count) => Budget::Operations(count),
        None => Budget::Time(seconds(arguments.seconds)?),
    };
    if arguments.samples {
        let sampler = Sampler::new()?;
        run_between(row, budget, Duration::ZERO, &|edge| sampler.at(edge))?;
        let samples = sampler.read()?;
        let sampled = Sampled { allocator: allocator(), per_cpu: per_cpu(), samples };
        println!("{}", serde_json::to_string(&sampled)?);
        return Ok(());
    }
    let mut measurement = run(row, budget, seconds(arguments.rest)?)?;
    measurement.allocator = allocator();
    measurement.per_cpu = per_cpu();
    println!("{}", serde_json::to_string(&measurement)?);
    Ok(())
}

/// A duration of the command line.
pub fn seconds(value: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(value).with_context(|| format!("{value} is no number of seconds"))
}

//! `workload ROW`: runs one row on whatever allocator `LD_PRELOAD` put in place, and prints one
//! line of JSON. `workload --list` names the rows.

use anyhow::Context;
use benches::measure::{Budget, run};
use benches::rows::ROWS;
use clap::Parser;
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
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let Some(name) = arguments.row.filter(|_| !arguments.list) else {
        println!("{}", serde_json::to_string(&ROWS)?);
        return Ok(());
    };
    let row = ROWS
        .iter()
        .find(|row| row.name == name)
        .with_context(|| format!("no row {name}; `workload --list` names them"))?;
    let budget = match arguments.iters {
        Some(count) => Budget::Operations(count),
        None => Budget::Time(seconds(arguments.seconds)?),
    };
    let measurement = run(row, budget, seconds(arguments.rest)?)?;
    println!("{}", serde_json::to_string(&measurement)?);
    Ok(())
}

fn seconds(value: f64) -> anyhow::Result<Duration> {
    Duration::try_from_secs_f64(value).with_context(|| format!("{value} is no number of seconds"))
}

//! `memory`: the load of `phases` on whatever allocator `LD_PRELOAD` put in place, as one line of JSON.
//! `cargo lab memory` runs it on every peer.

use anyhow::Context;
use clap::Parser;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "What memory a load of changing phases takes")]
struct Arguments {
    /// Hundredths of the load's size
    #[arg(long, default_value_t = 100)]
    scale: usize,
    /// Seconds of idleness before the final memory is read
    #[arg(long, default_value_t = 10.0)]
    rest: f64,
}

fn main() -> anyhow::Result<()> {
    let Arguments { scale, rest } = Arguments::parse();
    let rest = Duration::try_from_secs_f64(rest).context("--rest is a number of seconds")?;
    println!("{}", serde_json::to_string(&benches::phases::run(scale, rest)?)?);
    Ok(())
}

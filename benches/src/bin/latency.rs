//! `latency LOAD`: times each call of a load on whatever allocator `LD_PRELOAD` put in place, and
//! prints one line of JSON. `latency --list` names the loads.

use anyhow::Context;
use benches::{cli, latency, process};
use clap::Parser;

#[derive(Parser)]
#[command(about = "How long single calls take on the allocator of this process")]
struct Arguments {
    /// The load to run
    #[arg(required_unless_present = "list")]
    load: Option<String>,
    /// Print the loads as one line of JSON and stop
    #[arg(long)]
    list: bool,
    /// Seconds within the clock
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let Some(name) = arguments.load.filter(|_| !arguments.list) else {
        println!("{}", serde_json::to_string(latency::LOADS)?);
        return Ok(());
    };
    let load = latency::LOADS
        .iter()
        .find(|load| load.name == name)
        .with_context(|| format!("no load {name}; `--list` names them"))?;
    let mut spread = latency::run(load, cli::seconds(arguments.seconds)?)?;
    spread.allocator = process::allocator();
    spread.per_cpu = process::per_cpu();
    println!("{}", serde_json::to_string(&spread)?);
    Ok(())
}

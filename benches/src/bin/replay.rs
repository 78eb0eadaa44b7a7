//! `replay`: makes a trace of `rsalloc record` into a program, and runs that on whatever allocator
//! `LD_PRELOAD` put in place. `cargo lab replay` does both.

use anyhow::Context;
use benches::trace::{compile, flat, load, replay};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "Runs a recorded program's allocator calls")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a trace into a program, and say as a line of JSON what it does
    Compile { trace: PathBuf, program: PathBuf },
    /// Run a program, and say as a line of JSON what it cost
    Run {
        program: PathBuf,
        /// Seconds of idleness before the final memory is read
        #[arg(long, default_value_t = 0.0)]
        rest: f64,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("replay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Compile { trace, program } => {
            let trace = load::load(&trace)?;
            let done = compile::compile(&trace)?;
            flat::write(&program, done.places, done.calls, &done.threads)?;
            let said = serde_json::json!({
                "name": trace.name,
                "threads": trace.threads,
                "calls": done.calls,
                "peak_bytes": done.peak_bytes,
                "peak_objects": done.peak_objects,
                "left": done.left,
                "unknown": done.unknown,
                "implied": done.implied,
                "lost": trace.lost,
                "cut": done.cut,
            });
            println!("{said}");
        }
        Command::Run { program, rest } => {
            let rest =
                Duration::try_from_secs_f64(rest).context("--rest is a number of seconds")?;
            let cost = replay::replay(flat::Program::open(&program)?, rest);
            println!("{}", serde_json::to_string(&cost)?);
        }
    }
    Ok(())
}

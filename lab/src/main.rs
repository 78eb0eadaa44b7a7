//! The measurements and the heavy tests as commands: `cargo lab --help`.

mod compare;
mod criu;
mod debian;
mod memory;
mod programs;
mod replay;
mod report;
mod storm;
mod vm;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "lab", about = "The measurements and the heavy tests of rsalloc")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs every row on every allocator, interleaved, and prints medians and ratios.
    Compare(compare::Arguments),
    /// Dumps and restores a process that hammers the allocator, again and again.
    Criu(criu::Args),
    /// Measures what memory every allocator takes over time, idle, and with many threads.
    Memory(memory::Arguments),
    /// Runs real programs on the library and compares them with the run without it.
    Programs(programs::Args),
    /// Runs recorded programs' allocator calls on every allocator, interleaved.
    Replay(replay::Arguments),
    /// Puts the process through forks, signals, crashes, refusals, many threads and hours.
    Storm(storm::Args),
    /// Boots kernels in virtual machines and runs the tests there.
    Vm(vm::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Compare(arguments) => compare::main(arguments),
        Command::Criu(args) => criu::run(args),
        Command::Memory(arguments) => memory::main(&arguments),
        Command::Programs(args) => programs::run(args),
        Command::Replay(arguments) => replay::main(arguments),
        Command::Storm(args) => storm::run(&args),
        Command::Vm(args) => vm::run(args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use tools::gates::{GATES, Tool};

    /// A gate that names a command which is gone would fail only in CI.
    #[test]
    fn every_gate_of_lab_is_a_command_with_these_arguments() {
        for gate in GATES.iter().filter(|gate| gate.tool == Tool::Lab) {
            let parsed = super::Cli::command().try_get_matches_from(gate.words());
            assert!(parsed.is_ok(), "{}: {}", gate.name, parsed.unwrap_err());
        }
    }
}

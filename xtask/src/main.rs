//! The gates and the heavy tests as commands: `cargo xtask --help`.

mod compare;
mod criu;
mod debian;
mod fuzz;
mod golden;
mod imports;
mod layers;
mod loom;
mod memory;
mod preflight;
mod programs;
mod replay;
mod storm;
mod sweep;
mod tools;
mod vm;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "The gates and the heavy tests of rsalloc")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs everything that CI runs, in the same order.
    Preflight(preflight::Arguments),
    /// Runs every row on every allocator, interleaved, and prints medians and ratios.
    Compare(compare::Arguments),
    /// Dumps and restores a process that hammers the allocator, again and again.
    Criu(criu::Args),
    /// Runs the fuzz targets; a crash is shown as a test to paste.
    Fuzz(fuzz::Arguments),
    /// Checks the instructions of the hot paths against docs/golden.md and their limits.
    Golden(golden::Arguments),
    /// Checks which functions of other libraries the exported ones can reach, against docs/imports.txt.
    Imports(imports::Arguments),
    /// Checks which code stands where: the order of docs/layers.txt, unsafe, assembly, orderings.
    Layers,
    /// Runs the lock-free protocols in every order of a few operations.
    Loom(loom::Arguments),
    /// Measures what memory every allocator takes over time, idle, and with many threads.
    Memory(memory::Arguments),
    /// Runs real programs on the library and compares them with the run without it.
    Programs(programs::Args),
    /// Runs recorded programs' allocator calls on every allocator, interleaved.
    Replay(replay::Arguments),
    /// Puts the process through forks, signals, crashes, refusals, many threads and hours.
    Storm(storm::Args),
    /// Stops a thread at every instruction of every restartable section and checks where it goes on.
    Sweep(sweep::Arguments),
    /// Boots kernels in virtual machines and runs the tests there.
    Vm(vm::Args),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Preflight(arguments) => preflight::main(&arguments),
        Command::Compare(arguments) => compare::main(arguments),
        Command::Criu(args) => criu::run(args),
        Command::Fuzz(arguments) => fuzz::main(&arguments),
        Command::Golden(arguments) => golden::main(arguments),
        Command::Imports(arguments) => imports::main(arguments),
        Command::Layers => layers::main(),
        Command::Loom(arguments) => loom::main(&arguments),
        Command::Memory(arguments) => memory::main(&arguments),
        Command::Programs(args) => programs::run(args),
        Command::Replay(arguments) => replay::main(arguments),
        Command::Storm(args) => storm::run(&args),
        Command::Sweep(arguments) => sweep::main(&arguments),
        Command::Vm(args) => vm::run(args),
    }
}

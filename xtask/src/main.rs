//! The gates as commands: `cargo xtask --help`.

mod book;
mod code;
mod dist;
mod docs;
mod fuzz;
mod golden;
mod imports;
mod install_check;
mod layers;
mod loom;
mod package;
mod parallel;
mod preflight;
mod sweep;
mod walk;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "xtask", about = "The gates of rsalloc")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs everything that CI runs, in the same order.
    Preflight(preflight::Arguments),
    /// Builds the documents as a book, in target/book, and checks its links.
    Book,
    /// Checks that the documents agree with the code: names, links, numbers, tables, words.
    Docs(docs::Arguments),
    /// Makes a release in target/dist: library, command, header, manuals and packages (docs/packaging.md).
    Dist(dist::Arguments),
    /// Runs the fuzz targets; a crash is shown as a test to paste.
    Fuzz(fuzz::Arguments),
    /// Checks the instructions of the hot paths against docs/golden.md and their limits.
    Golden(golden::Arguments),
    /// Checks which functions of other libraries the exported ones can reach, against docs/imports.txt.
    Imports(imports::Arguments),
    /// Installs, upgrades and removes the packages of a release in fresh systems (needs root).
    InstallCheck(install_check::Arguments),
    /// Checks which code stands where: the order of docs/layers.txt, unsafe, assembly, orderings.
    Layers,
    /// Runs the lock-free protocols in every order of a few operations.
    Loom(loom::Arguments),
    /// Packs the crates that are published, checks what is in the packages and that they build.
    Package,
    /// Stops a thread at every instruction of every restartable section and checks where it goes on.
    Sweep(sweep::Arguments),
    /// Walks the first ten minutes of new users, and runs the examples of the documents.
    Walk(walk::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Preflight(arguments) => preflight::main(&arguments),
        Command::Book => book::main(),
        Command::Docs(arguments) => docs::main(&arguments),
        Command::Dist(arguments) => dist::main(&arguments),
        Command::Fuzz(arguments) => fuzz::main(&arguments),
        Command::Golden(arguments) => golden::main(arguments),
        Command::Imports(arguments) => imports::main(arguments),
        Command::InstallCheck(arguments) => install_check::main(&arguments),
        Command::Layers => layers::main(),
        Command::Loom(arguments) => loom::main(&arguments),
        Command::Package => package::main(),
        Command::Sweep(arguments) => sweep::main(&arguments),
        Command::Walk(arguments) => walk::main(&arguments),
    }
}

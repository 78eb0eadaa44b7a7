//! `cargo xtask install-check`: the packages of a release in fresh systems; `xtask/install-check.sh` has the steps.

use std::process::Command;
use tools::{root, run};

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Suites of Debian (bookworm, trixie, sid: all if none is named), and `vm` for a system booted in QEMU
    words: Vec<String>,
}

/// Runs the command.
pub fn main(arguments: &Arguments) -> anyhow::Result<()> {
    run(Command::new("xtask/install-check.sh").args(&arguments.words).current_dir(root()))
}

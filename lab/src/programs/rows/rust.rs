//! Rust programs with rsalloc as `#[global_allocator]`: the examples of alloc-global.
//!
//! Each is built twice, with our allocator and without, so that the run without compares the same
//! program, and so that another library (`--lib`, the control) can be preloaded under it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Program;
use super::servers::{cache_load, free_address};
use super::wire::Cache;
use crate::programs::trial::Trial;

/// A tokio server.
pub const TOKIO: Program = Program {
    name: "rust-tokio",
    about: "a key-value server on tokio, 8 connections, every value verified",
    packages: &["gcc"],
    quick: true,
    timeout: Duration::from_secs(120),
    prepare: |inputs, _| prepare(inputs, "tokio_server"),
    run: tokio,
};

fn tokio(trial: &mut Trial) -> Result<String> {
    let address = free_address()?;
    let mut start = trial.rust_program();
    let ready = || Cache::connect(address).is_ok();
    let server = trial.serve(start.arg(address.to_string()), ready)?;
    let keys = trial.scale.pick(10_000, 1_500);
    let output = cache_load(address, keys).map_err(|error| trial.blame(&server, error))?;
    trial.stop(server, libc::SIGTERM)?;
    Ok(output)
}

/// rayon.
pub const RAYON: Program = Program {
    name: "rust-rayon",
    about: "strings made, sorted and grouped in parallel, sums compared",
    packages: &["gcc"],
    quick: true,
    timeout: Duration::from_secs(120),
    prepare: |inputs, _| prepare(inputs, "rayon_sort"),
    run: |trial| {
        let count = trial.scale.pick("2000000", "200000");
        let mut command = trial.rust_program();
        trial.run(command.arg(count))
    },
};

/// A thousand threads.
pub const THREADS: Program = Program {
    name: "rust-threads",
    about: "1,000 threads that pass objects on, every byte checked",
    packages: &["gcc"],
    quick: true,
    timeout: Duration::from_secs(120),
    prepare: |inputs, _| prepare(inputs, "thousand_threads"),
    run: |trial| {
        let rounds = trial.scale.pick("1500", "200");
        let mut command = trial.rust_program();
        trial.run(command.args(["1000", rounds]))
    },
};

fn prepare(inputs: &Path, example: &str) -> Result<()> {
    let release = tools::release_dir()?;
    for (name, to_rustc) in [("with", &[][..]), ("without", &["--cfg", "without_rsalloc"])] {
        let build = ["rustc", "--release", "--quiet", "--package", "rsalloc", "--example"];
        tools::run(tools::cargo(&build).args([example, "--"]).args(to_rustc))?;
        fs::copy(release.join("examples").join(example), inputs.join(name))?;
    }
    Ok(())
}

//! `cargo xtask dist`: the release build under its installed names, in `target/dist`.
//!
//! ```text
//! bin/rsalloc                the command, which finds the library in ../lib
//! lib/librsalloc.so
//! share/doc/rsalloc/         README, licences
//! ```
//!
//! Promises that the command in it runs a program on the library in it.

use anyhow::{Context, ensure};
use std::fs;
use std::process::Command;
use tools::{build_release, library, output, release_dir, root, run};

const DOCUMENTS: [&str; 3] = ["README.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// Runs the command.
pub fn main() -> anyhow::Result<()> {
    build_release(&["rsalloc-cli", "rsalloc-preload"])?;
    let dist = release_dir()?.with_file_name("dist");
    if dist.exists() {
        fs::remove_dir_all(&dist).with_context(|| format!("cannot empty {}", dist.display()))?;
    }
    let command = dist.join("bin/rsalloc");
    let installed = dist.join("lib/librsalloc.so");
    let mut files =
        vec![(release_dir()?.join("rsalloc"), command.clone()), (library()?, installed.clone())];
    files.extend(
        DOCUMENTS.map(|name| (root().join(name), dist.join("share/doc/rsalloc").join(name))),
    );
    for (from, to) in &files {
        let folder = to.parent().context("a file in no folder")?;
        fs::create_dir_all(folder)
            .and_then(|()| fs::copy(from, to))
            .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    }

    run(Command::new(&command).args(["run", "true"]))?;
    let environment = output(Command::new(&command).args(["run", "env"]).env_remove("LD_PRELOAD"))?;
    let line = format!("LD_PRELOAD={}", installed.display());
    ensure!(
        environment.lines().any(|seen| seen == line),
        "{} runs programs on another library than {}",
        command.display(),
        installed.display()
    );
    println!("{}: {} files; the command runs programs on the library", dist.display(), files.len());
    Ok(())
}

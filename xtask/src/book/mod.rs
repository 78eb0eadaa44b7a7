//! `cargo xtask book`: the documents as a book, in `target/book`.
//!
//! The chapters are those of docs/SUMMARY.md. Added are the documents of the root, each decision and each note of
//! experiments, and links where a text names another document in backticks. Promises that every link and picture of the
//! book leads somewhere. mdbook is installed into `target/mdbook` when it is first needed.

mod html;
mod source;

use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tools::{cargo, release_dir, root, run};

/// The version of mdbook.
const VERSION: &str = "0.4.52";

/// Runs the command.
pub fn main() -> anyhow::Result<()> {
    let target = release_dir()?.parent().context("no target folder")?.to_owned();
    let mdbook = installed(&target)?;
    let (source, book) = (target.join("book-source"), target.join("book"));
    for folder in [&source, &book] {
        if folder.exists() {
            fs::remove_dir_all(folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
    }
    source::write(root(), &source)?;
    run(Command::new(mdbook).arg("build").arg(&source).arg("--dest-dir").arg(&book))?;
    let faults = html::faults(&book)?;
    if !faults.is_empty() {
        println!("{}", faults.join("\n"));
        bail!("{} links of the book lead nowhere", faults.len());
    }
    println!("{}: every link of the book leads somewhere", book.join("index.html").display());
    Ok(())
}

/// mdbook of this version; built at the first use, which takes a few minutes.
fn installed(target: &Path) -> anyhow::Result<PathBuf> {
    let folder = target.join("mdbook").join(VERSION);
    let program = folder.join("bin/mdbook");
    if !program.exists() {
        println!("installing mdbook {VERSION} into {}", folder.display());
        let mut install =
            cargo(&["install", "mdbook", "--quiet", "--locked", "--version", VERSION]);
        install.args(["--no-default-features", "--features", "search", "--root"]).arg(&folder);
        run(&mut install).context("mdbook comes from crates.io, once")?;
    }
    Ok(program)
}

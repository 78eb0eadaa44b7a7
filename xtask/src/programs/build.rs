//! What the rows need built from this workspace, by cargo.
//!
//! Called by the command (the library) and by the Rust rows (their examples).

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Builds librsalloc.so and says where it is.
pub fn library() -> Result<PathBuf> {
    artefact(
        &["rustc", "--release", "--quiet", "--package", "alloc-preload", "--lib"],
        &[],
        "librsalloc.so",
    )
}

/// Runs `cargo rustc` and returns the artefact with that file name.
pub fn artefact(arguments: &[&str], to_rustc: &[&str], file_name: &str) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--message-format=json-render-diagnostics", "--"])
        .args(to_rustc)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .stderr(Stdio::inherit())
        .output()
        .context("cargo did not start")?;
    ensure!(output.status.success(), "cargo {} failed", arguments.join(" "));
    let messages = String::from_utf8(output.stdout)?;
    let files = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .flat_map(|message| message["filenames"].as_array().cloned().unwrap_or_default());
    files
        .filter_map(|file| Some(PathBuf::from(file.as_str()?)))
        .find(|path| path.ends_with(file_name))
        .with_context(|| format!("cargo {} made no {file_name}", arguments.join(" ")))
}

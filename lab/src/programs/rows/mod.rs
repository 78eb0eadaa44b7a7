//! The catalogue: each program, what it needs, and its exercise.
//!
//! Read by the command. An exercise starts its programs through `Trial`, checks what it can by
//! itself, and returns the text that must be equal with and without the library.

mod analysis;
mod build_tools;
mod databases;
mod languages;
pub(crate) mod loads;
mod rust;
mod servers;
mod streams;
pub(crate) mod wire;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;

use super::trial::{Scale, Trial};

/// What a row does: returns the text to compare.
pub type Exercise = fn(&mut Trial) -> Result<String>;

/// A row of the catalogue.
pub struct Program {
    /// As `--only` takes it.
    pub name: &'static str,
    /// What is done with it, for `--list`.
    pub about: &'static str,
    /// Debian packages that bring it and its clients.
    pub packages: &'static [&'static str],
    /// Whether `--quick` runs it.
    pub quick: bool,
    /// For one trial.
    pub timeout: Duration,
    /// Makes the inputs, once, without the library.
    pub prepare: fn(&Path, Scale) -> Result<()>,
    /// The exercise.
    pub run: Exercise,
}

/// All programs, in the order of the table.
pub const ALL: &[&Program] = &[
    &databases::REDIS,
    &databases::POSTGRES,
    &databases::SQLITE,
    &servers::NGINX,
    &servers::MEMCACHED,
    &languages::PYTHON,
    &languages::NODE,
    &languages::PERL,
    &languages::RUBY,
    &languages::LUA,
    &build_tools::GPP,
    &build_tools::GIT,
    &build_tools::CARGO,
    &streams::XZ,
    &streams::OPENSSL,
    &streams::FFMPEG,
    &rust::TOKIO,
    &rust::RAYON,
    &rust::THREADS,
];

fn no_inputs(_: &Path, _: Scale) -> Result<()> {
    Ok(())
}

/// A digest of files, by a tool outside the test.
fn digest(trial: &mut Trial, files: &[&Path]) -> Result<String> {
    trial.tool(Command::new("sha256sum").args(files))
}

/// Fails unless two files hold the same bytes.
fn same(left: &Path, right: &Path) -> Result<()> {
    let equal = fs::read(left)? == fs::read(right)?;
    ensure!(equal, "{} and {} differ", left.display(), right.display());
    Ok(())
}

/// Text that compresses somewhat and never repeats as a whole.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut numbers = Rng::with_seed(seed);
    let mut text = Vec::with_capacity(len + 32);
    while text.len() < len {
        let word = numbers.u64(..4096);
        text.extend_from_slice(format!("{:x}-{word} ", word.wrapping_mul(0x9e37_79b1)).as_bytes());
    }
    text.truncate(len);
    text
}

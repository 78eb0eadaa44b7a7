//! Where a profile goes: a file for tools, folded stacks, a picture, a list.
//!
//! Promises that a file that exists is replaced by a complete one or not at all.

use super::symbols::Symbols;
use super::{flame, folded, top};
use crate::output::{self, Stream, replace};
use anyhow::Result;
use rsalloc_pprof::{Mapping, Measure, Profile};
use std::path::{Path, PathBuf};

/// What is made of a profile.
#[derive(clap::Args, Clone)]
pub struct Outputs {
    /// Write the profile, for `go tool pprof` and others
    #[arg(short, long, value_name = "FILE.pb.gz")]
    pub output: Option<PathBuf>,
    /// Write folded stacks, a line each with its value (- for stdout)
    #[arg(long, value_name = "FILE")]
    folded: Option<PathBuf>,
    /// Draw a flame graph
    #[arg(long, value_name = "FILE.svg")]
    svg: Option<PathBuf>,
    /// Print the largest sites
    #[arg(long)]
    top: bool,
    /// What counts in folded stacks, flame graph and list
    #[arg(long, value_enum, default_value_t = By::Live)]
    by: By,
    /// Look for debug files here first (may be given several times)
    #[arg(long, value_name = "DIR")]
    pub debug_dir: Vec<PathBuf>,
    /// Leave addresses without symbols: they can be added later by `rsalloc symbolize`
    #[arg(long)]
    no_symbols: bool,
}

/// What a site is measured by.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Bytes that are not freed
    Live,
    /// All bytes that were allocated
    Allocated,
}

impl Outputs {
    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.output.is_none() && self.folded.is_none() && self.svg.is_none() && !self.top
    }

    /// Fails unless each file can be made or replaced: before the work, not after it.
    pub fn check_places(&self) -> Result<()> {
        self.files().try_for_each(output::check_place)
    }

    /// `: heap.pb.gz, heap.svg`, or nothing if no file is written.
    pub fn names(&self) -> String {
        let names: Vec<_> = self.files().map(|path| path.display().to_string()).collect();
        if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) }
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.output, &self.folded, &self.svg].into_iter().flatten();
        files.map(PathBuf::as_path).filter(|path| *path != Path::new("-"))
    }

    /// Adds symbols, see [`Symbols::add_to`].
    pub fn symbolize(&self, profile: &mut Profile, places: &dyn Fn(&Mapping) -> Vec<PathBuf>) {
        if !self.no_symbols {
            Symbols::new(&self.debug_dir).add_to(profile, places);
        }
    }

    /// Makes what was asked for. `heading` names the process, and when.
    pub fn put(&self, profile: &Profile, heading: &str) -> Result<()> {
        let (measure, what) = match self.by {
            By::Live => (Measure::LiveBytes, "live bytes"),
            By::Allocated => (Measure::AllocatedBytes, "allocated bytes"),
        };
        if let Some(path) = &self.output {
            let mut bytes = Vec::new();
            profile.write(&mut bytes)?;
            replace(path, &bytes)?;
        }
        if let Some(path) = &self.folded {
            replace(path, folded::folded(profile, measure).as_bytes())?;
        }
        if let Some(path) = &self.svg {
            let heading = format!("{heading}: {what}");
            replace(path, flame::svg(profile, measure, &heading).as_bytes())?;
        }
        if self.top {
            output::put(&top::top(profile, measure), None, Stream::Out)?;
        }
        Ok(())
    }
}

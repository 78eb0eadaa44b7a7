//! Where a profile goes: a file for tools, folded stacks, a picture, a list.
//!
//! Promises that a file that exists is replaced by a complete one or not at all.

use super::symbols::Symbols;
use super::{flame, folded, top};
use crate::output::{self, Stream};
use anyhow::{Context, Result, ensure};
use rsalloc_pprof::{Mapping, Measure, Profile};
use std::io::Write;
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

    /// Fails unless there is a folder for each file: before the work, not after it.
    pub fn check_folders(&self) -> Result<()> {
        for path in self.files() {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            let folder = folder.unwrap_or(Path::new("."));
            ensure!(folder.is_dir(), "there is no folder {}", folder.display());
        }
        Ok(())
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

/// Writes a file: beside its place first, then in one step.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    if path == Path::new("-") {
        return std::io::stdout().write_all(bytes).context("cannot write to standard output");
    }
    let cannot = || format!("cannot write {}", path.display());
    // A pipe or a device is written to; a link stays, and what it leads to is replaced.
    if path.metadata().is_ok_and(|meta| !meta.is_file()) {
        return std::fs::write(path, bytes).with_context(cannot);
    }
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(name);
    let done = std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, &path));
    if done.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    done.with_context(cannot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_or_stays() {
        let folder = std::env::temp_dir().join(format!("rsalloc-replace-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join("heap.pb.gz");
        replace(&file, b"first").unwrap();
        replace(&file, b"second").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"second");
        let in_way = folder.join(format!(".heap.pb.gz.{}", std::process::id()));
        std::fs::create_dir(&in_way).unwrap();
        let why = format!("{:#}", replace(&file, b"third").unwrap_err());
        assert!(why.starts_with(&format!("cannot write {}: ", file.display())), "{why}");
        assert_eq!(std::fs::read(&file).unwrap(), b"second");
        std::fs::remove_dir(&in_way).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing else is left");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

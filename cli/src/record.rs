//! `rsalloc record`: a trace of a program's allocator calls, written by librsalloc_record.so.
//!
//! Promises that the program runs on its own allocator, and an error when nothing was recorded. The
//! library (benches/record) does the work and finds the file in the environment; docs/trace.md has both.

use crate::elf::Mark;
use crate::launch::{self, Library};
use crate::{program, supervise};
use anyhow::{Result, bail, ensure};
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const LIBRARY: Library = Library {
    installed: "librsalloc_record.so",
    built: "librsalloc_record.so",
    mark: Mark::Text("RSALLOC_RECORD"),
};
/// How a trace begins, up to the numbers that are shown.
const HEADER_BYTES: usize = 40;
const MAGIC: &[u8] = b"rsalloct";

/// What is recorded, and where to.
#[derive(clap::Args)]
pub struct What {
    /// The trace (default: the program's name and .trace); with %p one for each process
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Record the first process whose program has this file name, as cc1 of gcc
    #[arg(long, value_name = "NAME")]
    only: Option<OsString>,
    /// The librsalloc_record.so to use, instead of the one beside this command
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
}

/// Runs `program` to its end and says what was recorded.
pub fn record(what: &What, program: &[OsString]) -> Result<ExitCode> {
    let usable = program::usable(&program[0])?;
    let path = &usable.path;
    let output = std::path::absolute(what.output.clone().unwrap_or_else(|| name_of(path)))?;
    let is_many = output.as_os_str().as_bytes().windows(2).any(|pair| pair == b"%p");
    if !is_many && let Err(error) = std::fs::remove_file(&output) {
        let is_fresh = error.kind() == std::io::ErrorKind::NotFound;
        ensure!(is_fresh, "cannot replace {}: {error}", output.display());
    }
    let folder = output.parent().unwrap_or(Path::new("/"));
    ensure!(folder.is_dir(), "there is no folder {}", folder.display());
    let mut command = Command::new(path);
    command.arg0(&program[0]).args(&program[1..]);
    let library = launch::library(&LIBRARY, what.lib.as_deref(), &usable)?;
    launch::preload(&mut command, &library, usable.libc)?;
    command.env("RSALLOC_RECORD", &output).env_remove("RSALLOC_RECORD_ONLY");
    if let Some(only) = &what.only {
        command.env("RSALLOC_RECORD_ONLY", only);
    }
    let (_, status) = supervise::run(&mut command)?;
    if is_many {
        crate::output::say(format_args!("one trace for each process: {}", output.display()));
    } else {
        summarize(&output, what.only.as_deref())?;
    }
    Ok(launch::exit_code(status))
}

fn name_of(program: &Path) -> PathBuf {
    let mut name = program.file_name().unwrap_or(OsStr::new("program")).to_os_string();
    name.push(".trace");
    name.into()
}

/// Prints how much was recorded, or fails if nothing was.
fn summarize(output: &Path, only: Option<&OsStr>) -> Result<()> {
    let mut header = [0; HEADER_BYTES];
    let opened = std::fs::File::open(output).and_then(|mut file| file.read_exact(&mut header));
    if opened.is_err() || !header.starts_with(MAGIC) {
        let why = match only {
            Some(name) => format!("no process of {} was started", name.to_string_lossy()),
            None => {
                format!("the program did not load the recorder or can't write {}", output.display())
            }
        };
        bail!("nothing was recorded: {why}");
    }
    let calls = u64::from_le_bytes(std::array::from_fn(|i| header[24 + i]));
    let threads = u32::from_le_bytes(std::array::from_fn(|i| header[32 + i]));
    ensure!(calls > 0, "nothing was recorded: the program made no call");
    crate::output::say(format_args!("{}: {calls} calls of {threads} threads", output.display()));
    Ok(())
}

//! CRIU's commands, and the folders of images they leave.
//!
//! Promises that a failure says what CRIU's log says.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;

use super::stats::Stats;

/// The program, with the loader and the libraries it is run through.
pub struct Criu(Vec<OsString>);

/// CRIU's 10 seconds to stop all threads are too few on a machine that is overloaded.
const SEIZE: [&str; 2] = ["--timeout", "40"];

/// Links of a chain before the last.
pub const PRE_DUMPS: usize = 3;

/// How a process is dumped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Way {
    /// In one dump, which kills it.
    Once,
    /// Like `Once`, but a signal has stopped the process before, and it is still stopped after the restore. Shows
    /// what its memory costs, without the scheduler.
    Stopped,
    /// A snapshot: the process goes on.
    LeaveRunning,
    /// [`PRE_DUMPS`] pre-dumps while it runs, then a dump of what was written since, which kills it.
    Chain,
}

impl Way {
    /// The name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().expect("none is hidden").get_name().to_owned()
    }
}

/// The outcome of a dump.
pub struct Dump {
    /// The folder to restore from.
    pub images: PathBuf,
    /// Time of the command that ends the dump.
    pub wall: Duration,
    /// What CRIU counted.
    pub stats: Stats,
    /// Threads that ran or were ready to run when the dump began: only they take time to stop.
    pub running: usize,
    /// Bytes of all the images that a restore reads.
    pub bytes: u64,
    /// Threads that CRIU found inside a section and sent to its abort handler.
    pub caught: usize,
}

impl Criu {
    /// `program`, run through `loader` with `libraries`.
    pub fn new(loader: PathBuf, libraries: PathBuf, program: PathBuf) -> Criu {
        Criu(vec![loader.into(), "--library-path".into(), libraries.into(), program.into()])
    }

    /// CRIU's own check of the kernel.
    pub fn check(&self) -> Result<()> {
        tools::output(self.command("check").arg("-v1")).map(drop)
    }

    /// Whether this kernel knows which pages were written since a dump.
    pub fn tracks_memory(&self) -> bool {
        tools::output(self.command("check").args(["--feature", "mem_dirty_track"])).is_ok()
    }

    /// The version that `criu --version` names.
    pub fn version(&self) -> Result<String> {
        let text = tools::output(&mut self.command("--version"))?;
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        version.map(str::to_owned).context("criu --version names none")
    }

    /// Pre-dump `number` (from 1) of process `pid`: the pages written since the one before. The process goes on.
    pub fn pre_dump(&self, pid: i32, scratch: &Path, number: usize) -> Result<()> {
        let images = folder(scratch, &link(number))?;
        self.stop("pre-dump", pid, &images, &since(number - 1))
    }

    /// Dumps process `pid` into a folder under `scratch`. A chain's pre-dumps are there already, and a
    /// process that is to be stopped is.
    pub fn dump(&self, pid: i32, scratch: &Path, way: Way) -> Result<Dump> {
        let options = match way {
            Way::Once | Way::Stopped => Vec::new(),
            Way::LeaveRunning => vec!["--leave-running".to_owned()],
            Way::Chain => since(PRE_DUMPS),
        };
        let images = folder(scratch, "images")?;
        let running = running(pid)?;
        let begin = Instant::now();
        self.stop("dump", pid, &images, &options)?;
        let wall = begin.elapsed();
        let log = fs::read_to_string(images.join("log")).context("CRIU left no log")?;
        let caught = log.lines().filter(|line| line.contains("in rseq critical section")).count();
        let stats = Stats::read(&images.join("stats-dump"))?;
        Ok(Dump { wall, stats, running, bytes: bytes(scratch)?, caught, images })
    }

    /// Restores what `images` holds, as a child of this process.
    pub fn restore(&self, images: &Path) -> Result<()> {
        self.run("restore", images, &["--restore-detached"])
    }

    fn stop(&self, verb: &str, pid: i32, images: &Path, options: &[String]) -> Result<()> {
        let pid = pid.to_string();
        let mut all = vec!["--tree", &pid];
        all.extend(SEIZE);
        all.extend(options.iter().map(String::as_str));
        self.run(verb, images, &all)
    }

    fn run(&self, verb: &str, images: &Path, options: &[&str]) -> Result<()> {
        let mut command = self.command(verb);
        command.args(["-v2", "--log-file", "log", "--images-dir"]).arg(images).args(options);
        tools::output(&mut command).map(drop).map_err(|error| {
            let log = fs::read_to_string(images.join("log")).unwrap_or_default();
            let lines: Vec<_> = log.lines().filter(|line| line.contains("Error")).take(4).collect();
            match lines.is_empty() {
                true => error.context(format!("criu {verb} failed")),
                false => anyhow!("criu {verb} failed: {}", lines.join("; ")),
            }
        })
    }

    fn command(&self, verb: &str) -> Command {
        // A damaged image can make it wait for ever.
        let mut command = Command::new("timeout");
        command.args(["-k", "5", "90"]).args(&self.0).arg(verb);
        command
    }
}

/// The folder of a pre-dump under the scratch folder of its chain.
pub fn link(number: usize) -> String {
    format!("pre-dump-{number}")
}

/// The options that make a dump the next link after so many.
fn since(before: usize) -> Vec<String> {
    let mut options = vec!["--track-mem".to_owned()];
    if before > 0 {
        options.extend(["--prev-images-dir".to_owned(), format!("../{}", link(before))]);
    }
    options
}

fn folder(scratch: &Path, name: &str) -> Result<PathBuf> {
    let folder = scratch.join(name);
    fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
    Ok(folder)
}

/// Whether a restore failed because a process or thread number was not free.
pub fn is_number_taken(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("Unable to create a thread: -17") || text.contains("File exists")
}

/// Flips a bit of the byte behind every `mark` in memory that lies at a multiple of `step`.
pub fn flip_behind(folder: &Path, mark: &[u8], step: usize) -> Result<()> {
    let mut flipped = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with("pages-") {
            continue;
        }
        let mut bytes = fs::read(entry.path())?;
        flipped += flip_in(&mut bytes, mark, step);
        fs::write(entry.path(), bytes)?;
    }
    ensure!(flipped > 0, "no object in the image");
    Ok(())
}

/// Flips them in `bytes`; returns how many.
pub fn flip_in(bytes: &mut [u8], mark: &[u8], step: usize) -> usize {
    let mut flipped = 0;
    for place in (0..bytes.len().saturating_sub(mark.len())).step_by(step) {
        if bytes[place..].starts_with(mark) {
            bytes[place + mark.len()] ^= 1;
            flipped += 1;
        }
    }
    flipped
}

/// Threads of `pid` that run or are ready to.
pub fn running(pid: i32) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(entry?.path().join("stat"))?;
        // The state follows the name, which may hold anything.
        count += usize::from(stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('R')));
    }
    Ok(count)
}

fn bytes(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Links lead to the images before.
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sum += bytes(&entry.path())?;
        } else if kind.is_file() && entry.file_name() != "log" {
            sum += entry.metadata()?.len();
        }
    }
    Ok(sum)
}

//! CRIU's commands, and the folders of images they leave.
//!
//! Promises that a failure says what CRIU's log says. Made by `fetch`; called by `cycle`, `redis` and `control`.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::stats;
use crate::tools;

/// The program, with the loader and the libraries it is run through.
pub struct Criu(Vec<OsString>);

/// CRIU's 10 seconds to stop all threads are too few on a machine that is overloaded.
const SEIZE: [&str; 2] = ["--timeout", "40"];

/// A signal has stopped all threads by then.
const LATE: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(1);

/// How a process is dumped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Way {
    /// In one dump, which kills it.
    Once,
    /// As once, of a process that a signal has stopped, and that is stopped when it comes back: what its
    /// memory costs, without the scheduler.
    Stopped,
    /// A snapshot: the process goes on.
    LeaveRunning,
    /// Two pre-dumps while it runs, then a dump of what has changed since.
    Chain,
}

/// A dump that was made.
pub struct Dump {
    /// The folder to restore from.
    pub images: PathBuf,
    /// Time of the command that ends the dump.
    pub wall: Duration,
    /// The part of it in which CRIU waited for the threads to stop.
    pub stopping: Duration,
    /// Threads that had a processor or waited for one when it began: the others stop at once.
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

    /// The version, as it says.
    pub fn version(&self) -> Result<String> {
        let text = tools::output(&mut self.command("--version"))?;
        let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
        version.map(str::to_owned).context("criu --version names none")
    }

    /// Dumps process `pid` into folders under `room`.
    pub fn dump(&self, pid: i32, room: &Path, way: Way) -> Result<Dump> {
        let folder = |name: &str| -> Result<PathBuf> {
            let folder = room.join(name);
            fs::create_dir(&folder).with_context(|| format!("create {}", folder.display()))?;
            Ok(folder)
        };
        let tree = ["--tree", &pid.to_string()];
        let mut options: &[&str] = &[];
        match way {
            Way::Once => (),
            Way::Stopped => stop(pid)?,
            Way::LeaveRunning => options = &["--leave-running"],
            Way::Chain => {
                let track = ["--track-mem", "--prev-images-dir"];
                self.run("pre-dump", &folder("first")?, &[&tree[..], &track[..1]].concat())?;
                let next = [&tree[..], &track, &["../first"]].concat();
                self.run("pre-dump", &folder("second")?, &next)?;
                options = &["--track-mem", "--prev-images-dir", "../second"];
            }
        }
        let images = folder("images")?;
        let running = running(pid)?;
        let begin = Instant::now();
        self.run("dump", &images, &[&tree[..], &SEIZE, options].concat())?;
        let wall = begin.elapsed();
        let log = fs::read_to_string(images.join("log")).context("CRIU left no log")?;
        let caught = log.lines().filter(|line| line.contains("in rseq critical section")).count();
        let stopping = stats::stopping(&images.join("stats-dump"))?;
        Ok(Dump { wall, stopping, running, bytes: bytes(room)?, caught, images })
    }

    /// Restores what `images` holds, as a child of this process.
    pub fn restore(&self, images: &Path) -> Result<()> {
        self.run("restore", images, &["--restore-detached"])
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
/// Flips them in these bytes, and says how many that were.
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
/// Stops all threads of `pid`.
fn stop(pid: i32) -> Result<()> {
    // SAFETY: no duties; the caller's child, which it has not waited for.
    ensure!(unsafe { libc::kill(pid, libc::SIGSTOP) } == 0, "stop {pid}");
    let begin = Instant::now();
    while running(pid)? > 0 {
        ensure!(begin.elapsed() < LATE, "{pid} does not stop");
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

fn running(pid: i32) -> Result<usize> {
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

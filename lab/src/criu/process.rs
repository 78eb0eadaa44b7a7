//! The victim as the harness sees it: started, watched, and asked what it runs on.
//!
//! Its lives are `child`'s.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::board::{Board, THREADS};
use super::child::Child;
use super::identity::Identity;
use super::images::{self, Criu, Dump, PRE_DUMPS, Way};
use super::kind::Kind;
use super::victim::Options;

/// How long all threads may take to go through their objects, on a busy machine too.
pub const WAIT_LIMIT: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(1);

/// The victim.
pub struct Process {
    /// The process, anew after each restore.
    pub child: Child,
    /// What the process reports about itself.
    pub board: Board,
}

impl Process {
    /// Starts the victim on `kind`, its files in `scratch`.
    pub fn start(kind: &Kind, scratch: &Path) -> Result<Process> {
        let process = Process::spawn(kind, scratch, std::process::id(), Options::default())?;
        process.goes_on(WAIT_LIMIT).context("before the first dump")?;
        Ok(process)
    }

    /// Like `start`, but does not wait; the victim ends when process `watcher` does.
    pub fn spawn(kind: &Kind, scratch: &Path, watcher: u32, options: Options) -> Result<Process> {
        let path = scratch.join("board");
        let board = Board::create(&path)?;
        let own = std::env::current_exe().context("where is this program?")?;
        let mut command = Command::new(own);
        command.args(["criu", "--harness", &watcher.to_string()]);
        command.args(["--shelf", &options.shelf.to_string()]);
        command.args(options.first_allocates.then_some("--first-allocates"));
        command.arg("--victim").arg(path);
        Ok(Process { child: Child::start(&mut command, kind, scratch)?, board })
    }

    /// A process that was dumped elsewhere, with its files in `scratch`.
    pub fn dumped(pid: i32, scratch: &Path) -> Result<Process> {
        let board = Board::open(&scratch.join("board"))?;
        Ok(Process { child: Child::dumped(pid, scratch), board })
    }

    /// Waits until every thread has gone through all its objects and found them right.
    pub fn goes_on(&self, limit: Duration) -> Result<()> {
        // The round that was under way when the process stopped, and a whole one.
        let goal = self.board.beats().map(|beats| beats + 2);
        let begin = Instant::now();
        loop {
            self.child.runs()?;
            ensure!(self.board.failures() == 0, "a wrong byte{}", self.child.words());
            let beats = self.board.beats();
            let late = (0..THREADS).filter(|&i| beats[i] < goal[i]).count();
            if late == 0 {
                return Ok(());
            }
            let waited = begin.elapsed();
            ensure!(waited < limit, "{late} of {THREADS} threads do not go on");
            std::thread::sleep(PAUSE);
        }
    }

    /// Dumps the process into folders under `scratch`. In a chain it goes on after each pre-dump. A process dumped
    /// by `Way::Stopped` needs a signal to go on after its restore.
    pub fn dump(&self, criu: &Criu, scratch: &Path, way: Way, limit: Duration) -> Result<Dump> {
        let before = if way == Way::Chain { PRE_DUMPS } else { 0 };
        for number in 1..=before {
            criu.pre_dump(self.child.pid(), scratch, number)?;
            let goes_on = self.goes_on(limit);
            goes_on.with_context(|| format!("after pre-dump {number}"))?;
        }
        if way == Way::Stopped {
            self.halt(limit)?;
        }
        criu.dump(self.child.pid(), scratch, way)
    }

    /// Stops all its threads.
    fn halt(&self, limit: Duration) -> Result<()> {
        self.child.signal(libc::SIGSTOP);
        let begin = Instant::now();
        while images::running(self.child.pid())? > 0 {
            ensure!(begin.elapsed() < limit, "its threads do not stop");
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// The allocator that the process runs on; an error unless it is `kind`.
    pub fn identity(&self, kind: &Kind) -> Result<Identity> {
        Identity::of(self.child.pid(), kind, THREADS)
    }

    /// Ends a process that is not judged, and forgets what it said.
    pub fn discard(&mut self) -> Result<()> {
        self.child.discard()?;
        self.board.forget_failures();
        Ok(())
    }
}

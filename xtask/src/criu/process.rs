//! The victim as the harness sees it: started, watched, reaped, and asked what it runs on.
//!
//! Promises that the process is dead and reaped when this is dropped, whichever of its lives it is
//! in: a restored process has the same number and is a child of the harness too. Called by `cycle`,
//! `control` and the command.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::board::{Board, THREADS};
use super::kind::Kind;
use super::registration::{self, Registration};
use crate::tools;

/// How long all threads may take to go through their objects, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The victim.
pub struct Process {
    pid: i32,
    alive: bool,
    /// What it says about itself.
    pub board: Board,
    stderr: PathBuf,
}

/// What must be the same in every life of a process.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The published mode; none on glibc's malloc.
    pub report: Option<serde_json::Value>,
    /// The rseq areas that the kernel knows, thread by thread.
    pub registrations: Vec<Registration>,
}

impl Process {
    /// Starts the victim on `kind`, its files in `room`.
    pub fn start(kind: &Kind, room: &Path) -> Result<Process> {
        let process = Process::spawn(kind, room, std::process::id())?;
        process.goes_on(PATIENCE).context("before the first dump")?;
        Ok(process)
    }

    /// As `start`, but waits for nothing; the victim ends when process `watcher` does.
    pub fn spawn(kind: &Kind, room: &Path, watcher: u32) -> Result<Process> {
        let (board, stderr) = (room.join("board"), room.join("stderr"));
        let page = Board::create(&board)?;
        let own = std::env::current_exe().context("where is this program?")?;
        let mut command = Command::new(own);
        command.args(["criu", "--harness", &watcher.to_string(), "--victim"]).arg(board);
        command.current_dir("/").env_clear().envs(kind.environment()?);
        // A session and files of its own: nothing that is dumped leads outside.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&stderr)?);
        // SAFETY: setsid is a bare system call, allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                Ok(())
            });
        }
        let pid = command.spawn().context("cannot start the victim")?.id() as i32;
        Ok(Process { pid, alive: true, board: page, stderr })
    }

    /// One that was dumped elsewhere, its files in `room`.
    pub fn dumped(pid: i32, room: &Path) -> Result<Process> {
        let board = Board::open(&room.join("board"))?;
        Ok(Process { pid, alive: false, board, stderr: room.join("stderr") })
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until every thread has gone through all its objects and found them right.
    pub fn goes_on(&self, patience: Duration) -> Result<()> {
        // The round that was under way when the process stopped, and a whole one.
        let goal = self.board.beats().map(|beats| beats + 2);
        let begin = Instant::now();
        loop {
            if let Some(status) = self.status(libc::WNOHANG)? {
                bail!("the process ended ({status}){}", self.words());
            }
            ensure!(self.board.failures() == 0, "a wrong byte{}", self.words());
            let beats = self.board.beats();
            let late = (0..THREADS).filter(|&i| beats[i] < goal[i]).count();
            if late == 0 {
                return Ok(());
            }
            let waited = begin.elapsed();
            ensure!(waited < patience, "{late} of {THREADS} threads do not go on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What it runs on; an error unless that is `kind`.
    pub fn identity(&self, kind: &Kind) -> Result<Identity> {
        let report = match kind.published {
            None => None,
            Some(expected) => {
                let inspector = tools::release_dir()?.join("rsalloc");
                // Its exit status is the mode; what matters is in the text.
                let answer = Command::new(inspector)
                    .args(["check", "--json", &self.pid.to_string()])
                    .output()
                    .context("cannot start rsalloc")?;
                let answer: serde_json::Value = serde_json::from_slice(&answer.stdout)
                    .with_context(|| String::from_utf8_lossy(&answer.stderr).into_owned())?;
                let report = &answer["report"];
                let found = (report["mode"].as_str(), report["shard_index"].as_str());
                let (mode, index) = expected;
                ensure!(
                    found == (Some(mode), Some(index)),
                    "mode {found:?} instead of {expected:?}"
                );
                Some(report.clone())
            }
        };
        let registrations = registration::of(self.pid)?;
        let registered = registrations.iter().filter(|found| found.is_some()).count();
        let wanted = if kind.is_registered { THREADS } else { 0 };
        ensure!(registered == wanted, "{registered} threads have rseq registered, not {wanted}");
        Ok(Identity { report, registrations })
    }

    /// Waits for the end of a process that has been dumped.
    pub fn reap(&mut self) -> Result<()> {
        match self.status(0)? {
            Some(status) if status.signal() == Some(libc::SIGKILL) => (),
            status => bail!("after the dump: ended {status:?}{}", self.words()),
        }
        self.alive = false;
        Ok(())
    }

    /// Waits for what a failed restore has left of it.
    pub fn reap_remains(&mut self) {
        let mut status = 0;
        // SAFETY: points to a live value. No such child is as good as one that was reaped.
        unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
    }

    /// Ends it.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL);
        self.reap()
    }

    /// Ends a process that is not judged, and forgets what it said.
    pub fn discard(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL);
        self.status(0)?;
        self.alive = false;
        self.board.forget_failures();
        // A restore insists on the size that the file had.
        File::create(&self.stderr).map(drop).context("empty the victim's file")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        if self.alive {
            // SAFETY: it has not been waited for, so the number is still its own.
            unsafe { libc::kill(self.pid, signal) };
        }
    }

    /// It has been restored, as a child of this process.
    pub fn has_come_back(&mut self) {
        self.alive = true;
    }

    fn status(&self, options: i32) -> Result<Option<ExitStatus>> {
        let mut status = 0;
        // SAFETY: points to a live value.
        let pid = unsafe { libc::waitpid(self.pid, &mut status, options) };
        ensure!(pid >= 0, "waitpid: {}", std::io::Error::last_os_error());
        Ok((pid == self.pid).then(|| ExitStatus::from_raw(status)))
    }

    /// What it wrote, for messages.
    fn words(&self) -> String {
        let text = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        text.lines().next().map(|line| format!(": {line}")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Also one that a failed restore has half made.
        self.signal(libc::SIGKILL);
        let _ = self.status(if self.alive { 0 } else { libc::WNOHANG });
    }
}

//! A process that is dumped and restored, as its parent sees it in each of its lives.
//!
//! Promises that the process is dead and reaped when this is dropped, whichever of its lives it is
//! in: a restored process has the same number and is a child of the harness too. Made and used by
//! `process` (the victim) and `redis`.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::kind::Kind;

/// The process.
pub struct Child {
    pid: i32,
    alive: bool,
    stderr: PathBuf,
}

/// Makes this process adopt restored processes when the CRIU that made them ends.
pub fn adopt() -> Result<()> {
    // SAFETY: no duties.
    let done = unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    ensure!(done == 0, "prctl: {}", std::io::Error::last_os_error());
    Ok(())
}

impl Child {
    /// Starts `command` on `kind`; the process writes what it says into a file in `scratch`.
    pub fn start(command: &mut Command, kind: &Kind, scratch: &Path) -> Result<Child> {
        let stderr = scratch.join("stderr");
        command.current_dir("/").env_clear().envs(kind.environment()?);
        // A session and files of its own: nothing that is dumped leads outside.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&stderr)?);
        // SAFETY: bare system calls, allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                // What the caller of this program left open, a lock for one, can't be dumped.
                match libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let name = command.get_program().display().to_string();
        let pid = command.spawn().with_context(|| format!("cannot start {name}"))?.id() as i32;
        Ok(Child { pid, alive: true, stderr })
    }

    /// A process that was dumped elsewhere; it writes what it says into a file in `scratch`.
    pub fn dumped(pid: i32, scratch: &Path) -> Child {
        Child { pid, alive: false, stderr: scratch.join("stderr") }
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// An error if the process has ended.
    pub fn runs(&self) -> Result<()> {
        match self.status(libc::WNOHANG)? {
            None => Ok(()),
            Some(status) => bail!("the process ended ({status}){}", self.words()),
        }
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

    /// Waits for what a failed restore has left of the process.
    pub fn reap_remains(&mut self) {
        let mut status = 0;
        // SAFETY: points to a live value. No such child is as good as one that was reaped.
        unsafe { libc::waitpid(self.pid, &mut status, libc::WNOHANG) };
    }

    /// Kills the process.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL);
        self.reap()
    }

    /// Ends a process that is not judged, and forgets what it said.
    pub fn discard(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL);
        self.status(0)?;
        self.alive = false;
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

    /// Notes that the process has been restored, as a child of this one.
    pub fn has_come_back(&mut self) {
        self.alive = true;
    }

    /// What the process wrote, for messages.
    pub fn words(&self) -> String {
        let text = std::fs::read_to_string(&self.stderr).unwrap_or_default();
        text.lines().next().map(|line| format!(": {line}")).unwrap_or_default()
    }

    fn status(&self, options: i32) -> Result<Option<ExitStatus>> {
        let mut status = 0;
        // SAFETY: points to a live value.
        let pid = unsafe { libc::waitpid(self.pid, &mut status, options) };
        ensure!(pid >= 0, "waitpid: {}", std::io::Error::last_os_error());
        Ok((pid == self.pid).then(|| ExitStatus::from_raw(status)))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Also one that a failed restore has half made.
        self.signal(libc::SIGKILL);
        let _ = self.status(if self.alive { 0 } else { libc::WNOHANG });
    }
}

//! A started program: its own process group, a deadline, and what it used.
//!
//! A child that is dropped before it has ended is killed with its descendants, and all die with this process, so that
//! nothing is left behind whatever fails.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::active;

/// A process that has been started.
pub struct Child {
    pid: i32,
    pidfd: OwnedFd,
    started: Instant,
    ended: bool,
    /// The command line, for messages.
    pub line: String,
    /// Where its standard output goes.
    pub stdout: PathBuf,
    /// Where its standard error goes.
    pub stderr: PathBuf,
}

/// How a process ended.
pub struct Ended {
    pub status: ExitStatus,
    /// From its start to its end.
    pub lifetime: Duration,
    /// The peak resident size of it or of one of its descendants (`wait4`).
    pub peak_rss_kib: u64,
    /// User and system time of it and of the descendants that were waited for.
    pub cpu: Duration,
    /// Their page faults that needed no disk.
    pub minor_faults: u64,
}

impl Child {
    /// Starts `command`; its output goes to `PREFIX.out` and `PREFIX.err`.
    pub fn start(command: &mut Command, line: String, prefix: &Path) -> Result<Child> {
        let (stdout, stderr) = (prefix.with_extension("out"), prefix.with_extension("err"));
        command.stdout(File::create(&stdout)?).stderr(File::create(&stderr)?).process_group(0);
        // SAFETY: prctl is a bare system call, allowed between fork and exec.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let begin = Instant::now();
        let started = command.spawn().with_context(|| format!("cannot start: {line}"))?;
        let pid = started.id() as i32;
        // SAFETY: the child has not been waited for, so the number is still its own.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as i32;
        ensure!(fd >= 0, "pidfd_open: {}; Linux 5.3 is needed", std::io::Error::last_os_error());
        // SAFETY: the kernel has just given us this descriptor.
        let pidfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Child { pid, pidfd, started: begin, ended: false, line, stdout, stderr })
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits for the end; calls `observe` now and then, often in the first moments.
    pub fn wait(&mut self, deadline: Instant, mut observe: impl FnMut(i32)) -> Result<Ended> {
        let mut pause = Duration::from_micros(500);
        while !self.has_ended(pause.min(deadline.saturating_duration_since(Instant::now())))? {
            ensure!(!is_interrupted(), "interrupted");
            if Instant::now() >= deadline {
                bail!("timed out: {}{}", self.line, self.last_words());
            }
            observe(self.pid);
            pause = (pause * 5 / 4).min(Duration::from_millis(50));
        }
        self.reap()
    }

    /// Whether it ends within `pause`.
    pub fn has_ended(&self, pause: Duration) -> Result<bool> {
        let mut poll =
            libc::pollfd { fd: self.pidfd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let pause = libc::timespec {
            tv_sec: pause.as_secs() as libc::time_t,
            tv_nsec: pause.subsec_nanos().into(),
        };
        // SAFETY: both point to live values, the count is 1, and no signal mask is given.
        Ok(unsafe { libc::ppoll(&mut poll, 1, &pause, std::ptr::null()) } == 1)
    }

    fn reap(&mut self) -> Result<Ended> {
        let mut status = 0;
        // SAFETY: all-zero is a valid rusage.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: both point to live values; the child is ours and not yet waited for.
        let pid = unsafe { libc::wait4(self.pid, &mut status, 0, &mut usage) };
        ensure!(pid == self.pid, "wait4: {}", std::io::Error::last_os_error());
        self.ended = true;
        let time = |time: libc::timeval| {
            Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
        };
        Ok(Ended {
            status: ExitStatus::from_raw(status),
            lifetime: self.started.elapsed(),
            peak_rss_kib: usage.ru_maxrss as u64,
            cpu: time(usage.ru_utime) + time(usage.ru_stime),
            minor_faults: usage.ru_minflt as u64,
        })
    }

    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: i32) {
        // SAFETY: the process has not been waited for, so the number is still its own.
        unsafe { libc::kill(self.pid, signal) };
    }

    /// The end of what it wrote to standard error (or output), for messages.
    pub fn last_words(&self) -> String {
        let read = |path| {
            let bytes = std::fs::read(path).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let tail: Vec<&str> =
                text.lines().rev().filter(|l| !l.trim().is_empty()).take(4).collect();
            tail.into_iter().rev().map(|line| format!("\n    {line}")).collect::<String>()
        };
        let said = read(&self.stderr);
        if said.is_empty() { read(&self.stdout) } else { said }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // Some servers' children leave the group (PostgreSQL's do), so the tree is walked as well.
        for pid in active::tree(self.pid) {
            // SAFETY: kill has no memory effects; the tree hangs on our unreaped child.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        // SAFETY: as above; the group is the one that the child was started in.
        unsafe { libc::kill(-self.pid, libc::SIGKILL) };
        let _ = self.reap();
    }
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C end the running program and remove the files instead of leaving both behind.
pub fn catch_interrupts() {
    extern "C" fn note(_: i32) {
        // Ordering: Relaxed, a lone flag; the reader polls it.
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { libc::signal(signal, note as extern "C" fn(i32) as libc::sighandler_t) };
    }
}

/// Whether the user has asked to stop.
pub fn is_interrupted() -> bool {
    // Ordering: Relaxed, as in the handler.
    INTERRUPTED.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(line: &str) -> Ended {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let mut shell = Command::new("sh");
        let mut child =
            Child::start(shell.args(["-c", line]), line.into(), &scratch.path().join("x")).unwrap();
        child.wait(Instant::now() + Duration::from_secs(60), |_| ()).unwrap()
    }

    /// The kernel carries the peak of what a process was before `exec` along: of a fork of this one,
    /// that is little, so that it hides no program's own.
    #[test]
    fn the_peak_is_the_programs_own() {
        let ballast = std::hint::black_box(vec![1_u8; 64 << 20]);
        let small = ended("true").peak_rss_kib;
        drop(std::hint::black_box(ballast));
        assert!(small > 60 << 10, "a fork carries what its parent holds: {small} KiB");
        // Other tests of this process hold memory too, for a while.
        let mut tries = (0..50).map(|_| {
            // SAFETY: malloc_trim has no preconditions.
            unsafe { libc::malloc_trim(0) };
            std::thread::sleep(Duration::from_millis(100));
            ended("true").peak_rss_kib
        });
        assert!(tries.any(|smaller| smaller < 16 << 10), "never little");
    }

    #[test]
    fn the_time_of_waited_for_children_counts() {
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let ended = ended(&format!("sh -c '{busy}'; :"));
        assert!(ended.cpu > Duration::from_millis(20), "{:?}", ended.cpu);
        assert!(ended.lifetime >= ended.cpu / 2 && ended.minor_faults > 50);
    }
}

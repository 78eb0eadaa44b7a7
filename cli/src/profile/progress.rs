//! Waiting for a time, with a word on how long still, until it is over, the process ends, or a signal asks to end it.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// How often the process is looked at, and the line renewed.
const STEP: Duration = Duration::from_millis(200);

/// Why a wait ended.
pub enum Wait {
    /// The time is over, or a signal asked for the end.
    Over,
    /// The process is no longer there.
    Ended,
}

/// A wait to come. From its making on, signals that ask this command to end only end the wait.
pub struct Progress {
    what: String,
    time: Duration,
    asked: libc::sigset_t,
}

impl Progress {
    /// To do `what`, for `time`.
    pub fn new(what: String, time: Duration) -> Self {
        // SAFETY: a live set.
        let asked = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&raw mut set, signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            set
        };
        Self { what, time, asked }
    }

    /// Waits as long as `is_there`.
    pub fn wait(&self, is_there: impl Fn() -> bool) -> Wait {
        let begin = Instant::now();
        let is_terminal = stderr().is_terminal();
        if !is_terminal {
            eprintln!("rsalloc: {} for {} s", self.what, self.time.as_secs_f64());
        }
        let waited = loop {
            let left = self.time.saturating_sub(begin.elapsed());
            if is_terminal {
                let (what, left) = (&self.what, left.as_secs_f64().ceil());
                eprint!("\rrsalloc: {what}: {left} s to go; Ctrl-C ends it now \x1b[K");
                let _ = stderr().flush();
            }
            if !is_there() {
                break Wait::Ended;
            }
            if left.is_zero() || self.is_asked(left.min(STEP)) {
                break Wait::Over;
            }
        };
        if is_terminal {
            eprint!("\r\x1b[K");
        }
        waited
    }

    /// Whether a signal asks for the end within `time`.
    fn is_asked(&self, time: Duration) -> bool {
        // SAFETY: live structs; no information is wanted.
        unsafe {
            let mut limit: libc::timespec = std::mem::zeroed();
            (limit.tv_sec, limit.tv_nsec) = (time.as_secs() as i64, time.subsec_nanos().into());
            libc::sigtimedwait(&raw const self.asked, std::ptr::null_mut(), &raw const limit) > 0
        }
    }
}

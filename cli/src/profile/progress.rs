//! Waiting for a time, with a word on how long still, until it is over, the process ends, or a signal asks to end it.

use crate::ends::Ends;
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

/// A wait to come. As long as this lives, signals that ask this command to end only end the wait.
pub struct Progress {
    what: String,
    time: Duration,
    ends: Ends,
}

impl Progress {
    /// To do `what`, for `time`.
    pub fn new(what: String, time: Duration) -> Self {
        Self { what, time, ends: Ends::take() }
    }

    /// Waits as long as `is_there`. `look` is called again and again meanwhile; how long until it wants to be.
    pub fn wait_and_look(
        &self,
        is_there: impl Fn() -> bool,
        mut look: impl FnMut() -> Duration,
    ) -> Wait {
        let begin = Instant::now();
        let is_terminal = stderr().is_terminal();
        if !is_terminal {
            crate::output::say(format_args!("{} for {} s", self.what, self.time.as_secs_f64()));
        }
        let mut shown = None;
        let waited = loop {
            let left = self.time.saturating_sub(begin.elapsed());
            if is_terminal && shown != Some(left.as_secs()) {
                let (what, left) = (&self.what, left.as_secs_f64().ceil());
                eprint!("\rrsalloc: {what}: {left} s to go; Ctrl-C ends it now \x1b[K");
                let _ = stderr().flush();
            }
            shown = Some(left.as_secs());
            if !is_there() {
                break Wait::Ended;
            }
            if left.is_zero() || self.ends.wait(left.min(look())) {
                break Wait::Over;
            }
        };
        if is_terminal {
            eprint!("\r\x1b[K");
        }
        waited
    }

    /// The same without looks.
    pub fn wait(&self, is_there: impl Fn() -> bool) -> Wait {
        self.wait_and_look(is_there, || STEP)
    }
}

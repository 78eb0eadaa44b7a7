//! The file for node_exporter's textfile collector: each reader sees a whole one, since a new one is renamed over the old.

use crate::output;
use anyhow::{Context, Result, ensure};
use std::path::Path;
use std::time::{Duration, Instant};

/// Writes the file once; with `every`, again and again until a signal asks this process to end, and removes it then.
pub fn keep(path: &Path, every: Option<Duration>, mut text: impl FnMut() -> String) -> Result<()> {
    ensure!(
        path.extension().is_some_and(|extension| extension == "prom"),
        "{}: node_exporter reads files whose names end in .prom",
        path.display()
    );
    let Some(every) = every else { return output::replace(path, text().as_bytes()) };
    let ends = block_ends();
    let mut next = Instant::now();
    loop {
        output::replace(path, text().as_bytes())?;
        next = (next + every).max(Instant::now());
        if wait(&ends, next) {
            // What ended processes held would stay in it as if they ran.
            return std::fs::remove_file(path)
                .with_context(|| format!("cannot remove {}", path.display()));
        }
    }
}

/// Blocks the signals by which a process is asked to end.
fn block_ends() -> libc::sigset_t {
    // SAFETY: a live set.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    }
}

/// Waits until `next`, or for one of `signals`; whether one came.
fn wait(signals: &libc::sigset_t, next: Instant) -> bool {
    loop {
        let left = next.saturating_duration_since(Instant::now());
        let time = libc::timespec {
            tv_sec: left.as_secs() as libc::time_t,
            tv_nsec: left.subsec_nanos().into(),
        };
        // SAFETY: a live set and time.
        let signal = unsafe { libc::sigtimedwait(signals, std::ptr::null_mut(), &raw const time) };
        if signal > 0 {
            return true;
        }
        if Instant::now() >= next {
            return false;
        }
    }
}

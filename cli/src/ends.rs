//! [`Ends`]: signals that ask this command to end, taken while it waits, so that it ends its work in order.

use std::time::{Duration, Instant};

/// SIGINT, SIGTERM and SIGHUP come to [`Ends::wait`] only, as long as this lives, in the thread that made it and in those that
/// it starts. As a container's first process a command would not get them otherwise: the kernel gives that process no signal
/// that it has not asked for.
pub struct Ends {
    asked: libc::sigset_t,
    before: libc::sigset_t,
}

impl Ends {
    /// From now on.
    pub fn take() -> Self {
        // SAFETY: live sets.
        unsafe {
            let (mut asked, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigemptyset(&raw mut asked);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&raw mut asked, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const asked, &raw mut before);
            Self { asked, before }
        }
    }

    /// Waits for so long; whether a signal asked for the end meanwhile.
    pub fn wait(&self, time: Duration) -> bool {
        let until = Instant::now().checked_add(time);
        loop {
            let left = until.map_or(Duration::from_secs(3600), |until| {
                until.saturating_duration_since(Instant::now())
            });
            // SAFETY: live structs; no information is wanted.
            let signal = unsafe {
                let mut limit: libc::timespec = std::mem::zeroed();
                (limit.tv_sec, limit.tv_nsec) = (left.as_secs() as i64, left.subsec_nanos().into());
                libc::sigtimedwait(&raw const self.asked, std::ptr::null_mut(), &raw const limit)
            };
            if signal > 0 || (left.is_zero() && until.is_some()) {
                return signal > 0;
            }
        }
    }
}

impl Drop for Ends {
    fn drop(&mut self) {
        // SAFETY: a live set.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocked() -> bool {
        // SAFETY: live sets; null changes nothing.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set);
            libc::sigismember(&raw const set, libc::SIGTERM) == 1
        }
    }

    #[test]
    fn a_signal_ends_the_wait_and_the_mask_is_as_it_was() {
        assert!(!blocked());
        let ends = Ends::take();
        assert!(blocked());
        assert!(!ends.wait(Duration::from_millis(20)));
        // SAFETY: a signal to this thread, where it is blocked.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGTERM) };
        assert!(ends.wait(Duration::MAX));
        drop(ends);
        assert!(!blocked());
    }
}

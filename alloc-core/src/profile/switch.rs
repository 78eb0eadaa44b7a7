//! Start and stop of the heap profile.
//!
//! Promises: any thread may switch it at any instant, in a handler too; a switch that comes while another one is made is
//! refused, never waited for. A profile that was started for a tracer at a probe ends when no tracer is attached any more.

use super::layout::{RUNNING, STOPPED};
use super::{PROFILE, countdown, is_on, pool, prepare, tables};
use crate::arch::probe;
use crate::atomic::{AtomicBool, Ordering};
use crate::hot::HOT;
use crate::os;
use crate::parts;
use crate::sync::TryLock;

/// Held while a profile is started or stopped; only tried.
static SWITCHING: TryLock = TryLock::new();

/// Whether the profile that runs was started for a tracer at a probe; it ends when none is attached any more.
static FOR_TRACER: AtomicBool = AtomicBool::new(false);
/// Set when the system gave no memory for such a profile: it is not asked again.
static TRACER_REFUSED: AtomicBool = AtomicBool::new(false);

/// Why a profile is started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reason {
    Asked,
    Tracer,
}

/// Why a profile was not started or stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ProfileError {
    /// A profile runs already.
    IsRunning,
    /// No profile runs.
    IsStopped,
    /// Another thread starts or stops one at this moment.
    IsSwitching,
    /// The interval is not in [`countdown::INTERVALS`].
    BadInterval,
    /// The system gives no memory for the records.
    OutOfMemory,
    /// The program was built without the feature `profile`.
    IsLeftOut,
}

impl ProfileError {
    /// In words.
    pub const fn text(self) -> &'static str {
        match self {
            ProfileError::IsRunning => "a heap profile runs already",
            ProfileError::IsStopped => "no heap profile runs",
            ProfileError::IsSwitching => "another thread starts or stops a heap profile",
            ProfileError::BadInterval => "the interval of a heap profile is 256 bytes to 1 GiB",
            ProfileError::OutOfMemory => "the system gives no memory for a heap profile",
            ProfileError::IsLeftOut => "this program was built without the feature profile",
        }
    }

    /// As an errno.
    pub const fn errno(self) -> i32 {
        match self {
            ProfileError::IsRunning => libc::EALREADY,
            ProfileError::IsStopped => libc::ESRCH,
            ProfileError::IsSwitching => libc::EBUSY,
            ProfileError::BadInterval => libc::EINVAL,
            ProfileError::OutOfMemory => libc::ENOMEM,
            ProfileError::IsLeftOut => libc::ENOSYS,
        }
    }
}

impl core::fmt::Display for ProfileError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}

impl core::error::Error for ProfileError {}

/// Starts a profile with a mean interval of so many bytes. Records of a former one are forgotten, and one that runs for a tracer
/// alone becomes this one. Async-signal-safe.
pub fn start(interval_bytes: usize) -> Result<(), ProfileError> {
    start_for(Reason::Asked, interval_bytes)
}

/// Starts a profile when a tracer is attached to a probe and none runs, and stops it when the tracer is gone. For slow calls.
#[inline]
pub fn follow_tracer() {
    // Ordering: Relaxed, a look.
    if parts::PROFILE && probe::is_wanted() != FOR_TRACER.load(Ordering::Relaxed) {
        follow_tracer_slow();
    }
}

#[cold]
#[inline(never)]
fn follow_tracer_slow() {
    // Ordering: Relaxed throughout, words that stand alone; the switches look again.
    let (is_own, is_refused) =
        (FOR_TRACER.load(Ordering::Relaxed), TRACER_REFUSED.load(Ordering::Relaxed));
    if !probe::is_wanted() {
        if is_own {
            stop().ok(); // Else another thread has stopped it.
        }
    } else if !is_on() && !is_refused {
        let started = start_for(Reason::Tracer, countdown::DEFAULT_INTERVAL);
        if started == Err(ProfileError::OutOfMemory) {
            TRACER_REFUSED.store(true, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
    }
}

#[inline(never)]
fn start_for(reason: Reason, interval_bytes: usize) -> Result<(), ProfileError> {
    if !parts::PROFILE {
        return Err(ProfileError::IsLeftOut);
    }
    if !countdown::INTERVALS.contains(&interval_bytes) {
        return Err(ProfileError::BadInterval);
    }
    switch(|| {
        // Ordering: Relaxed, written inside of switches only.
        if is_on() && (reason == Reason::Tracer || !FOR_TRACER.load(Ordering::Relaxed)) {
            return Err(ProfileError::IsRunning);
        }
        if !pool::open() || !prepare() {
            return Err(ProfileError::OutOfMemory);
        }
        if let Some(stacks) = tables::stacks() {
            stacks.forget_totals();
        }
        // Ordering: Relaxed throughout, published by the state.
        for count in [
            &PROFILE.dropped_stacks,
            &PROFILE.dropped_samples,
            &PROFILE.truncated_stacks,
            &PROFILE.stopped_ns,
        ] {
            count.store(0, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
        let now = os::nanoseconds_since_epoch();
        PROFILE.generation.fetch_add(1, Ordering::Relaxed); // Ordering: Relaxed, as above.
        let words = [(&PROFILE.interval_bytes, interval_bytes), (&PROFILE.started_ns, now)];
        // Ordering: Relaxed, as above.
        words.iter().for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
        FOR_TRACER.store(reason == Reason::Tracer, Ordering::Relaxed); // Ordering: Relaxed, as above.
        countdown::restart(now as u64);
        // Ordering: Release publishes all of the above.
        PROFILE.state.store(RUNNING as usize, Ordering::Release);
        HOT.hide_classes();
        Ok(())
    })
}

/// Stops the profile; its records stay until the next start. Async-signal-safe.
#[inline(never)]
pub fn stop() -> Result<(), ProfileError> {
    if !parts::PROFILE {
        return Err(ProfileError::IsStopped);
    }
    switch(|| {
        if !is_on() {
            return Err(ProfileError::IsStopped);
        }
        HOT.show_classes();
        // Ordering: Relaxed, for readers.
        PROFILE.stopped_ns.store(os::nanoseconds_since_epoch(), Ordering::Relaxed);
        // Ordering: Release, after the above; a thread that saw RUNNING records its sample still.
        PROFILE.state.store(STOPPED as usize, Ordering::Release);
        // Ordering: Relaxed, as in `start_for`. Last, for a fork in between: see `reset_in_child`.
        FOR_TRACER.store(false, Ordering::Relaxed);
        Ok(())
    })
}

fn switch(f: impl FnOnce() -> Result<(), ProfileError>) -> Result<(), ProfileError> {
    let Some(_switching) = SWITCHING.try_acquire() else { return Err(ProfileError::IsSwitching) };
    f()
}

/// In the child of a fork, by its only thread: a switch that another thread of the parent was just making has no end here. A
/// profile goes on in the child, with its parent's records.
pub fn reset_in_child() {
    if !parts::PROFILE {
        return;
    }
    tables::free_work_of_others();
    if SWITCHING.is_taken_here() {
        // Below the handler that forks, in the child too: it goes on behind that.
        return;
    }
    SWITCHING.release();
    match is_on() {
        true => HOT.hide_classes(),
        false => {
            HOT.show_classes();
            // Else no profile would ever start here for a tracer.
            FOR_TRACER.store(false, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
    }
}

/// Switches that a fork interrupts.
#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::child::holds_in_child;

    /// As a fork finds it while another thread starts a profile for a tracer.
    #[test]
    fn a_child_forgets_a_start_that_its_parent_was_just_making() {
        assert!(holds_in_child(|| {
            std::thread::spawn(begin_for_tracer).join().expect("no panic");
            reset_in_child();
            !is_on() && !is_for_tracer() && SWITCHING.try_acquire().is_some()
        }));
    }

    /// As a handler that forks finds it on top of its own thread's start.
    #[test]
    fn a_child_goes_on_with_a_start_below_its_own_fork() {
        assert!(holds_in_child(|| {
            begin_for_tracer();
            reset_in_child();
            is_for_tracer() && SWITCHING.is_taken_here()
        }));
    }

    fn begin_for_tracer() {
        TryLock::keep(SWITCHING.try_acquire().expect("no other switch"));
        // Ordering: Relaxed, one thread after the other.
        FOR_TRACER.store(true, Ordering::Relaxed);
    }

    fn is_for_tracer() -> bool {
        // Ordering: Relaxed, as above.
        FOR_TRACER.load(Ordering::Relaxed)
    }
}

//! Settings that change while the program runs: each change, by whatever way it comes, is made here.
//!
//! Promises: one change after the other, so the allocator obeys what the settings say at last, and a setting that is decided
//! stays. A change in a signal handler, or by a command, on top of another one of its thread is refused.

use super::command::Refusal;
use super::{hardened, init};
use crate::config::{self, Key, Origin, Wrong};
use crate::page_heap::PAGE_HEAP;
use crate::profile::{self, ProfileError};
use crate::publish::publish_report;
use crate::sync::{Backoff, TryLock};
use crate::units::PAGE_BYTES;

/// Held while a setting changes. Else a thread that has read the settings could have the allocator obey them after another
/// thread has changed them.
static CHANGING: TryLock = TryLock::new();
/// Waits for another thread's change, which may be preempted in it.
const ATTEMPTS: usize = 4;

/// Sets `key` and has the allocator obey it. Async-signal-safe; init is over.
pub fn change(key: Key, value: usize, origin: Origin) -> Result<(), Unchanged> {
    if !config::may_change(key, value) {
        return Err(Unchanged::Refused(Refusal::AtStartOnly));
    }
    let mut attempts = (0..ATTEMPTS).map(|_| CHANGING.acquire_with(&mut Backoff::longer()));
    let Some(_changing) = attempts.find_map(|changing| changing) else {
        return Err(Unchanged::Refused(Refusal::Busy));
    };
    let before = (config::number(key), config::origin(key));
    if origin == Origin::Call && matches!(before.1, Origin::Environment | Origin::Outside) {
        return Err(Unchanged::IsDecided);
    }
    config::set(key, value, origin);
    let obeyed = obey(key, value);
    if obeyed.is_err() {
        config::set(key, before.0, before.1);
    }
    publish_report(&init::report());
    obeyed.map_err(Unchanged::Refused)
}

/// In the child of a fork, by its only thread: a change that another thread of the parent was just making ends here.
pub fn reset_in_child() {
    let is_free = CHANGING.try_acquire().is_some();
    if is_free || CHANGING.is_taken_here() {
        return;
    }
    CHANGING.release();
    for key in [Key::Dirty, Key::Limit] {
        let _ = obey(key, config::number(key));
    }
}

/// Why no setting was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unchanged {
    /// There is no such key, or the key has no such value.
    Wrong(Wrong),
    /// `RSALLOC_CONF` or `rsalloc set` says otherwise, and stays.
    IsDecided,
    /// See [`Refusal`].
    Refused(Refusal),
}

/// Sets what `item` says, `key:value` as in `RSALLOC_CONF`, for a call of the program. Async-signal-safe.
pub fn change_by_call(item: &[u8]) -> Result<(), Unchanged> {
    if !init::ensure() {
        // A handler on top of init.
        return Err(Unchanged::Refused(Refusal::Busy));
    }
    // Before the value is read: the name of a file would be kept.
    let key = config::key_of(item).map_err(Unchanged::Wrong)?;
    if key == Key::StatsAtExit || !config::may_change(key, 0) {
        return Err(Unchanged::Refused(Refusal::AtStartOnly));
    }
    let (key, value) = config::parse_item(item).map_err(Unchanged::Wrong)?;
    change(key, value, Origin::Call)
}

fn obey(key: Key, value: usize) -> Result<(), Refusal> {
    match key {
        Key::Dirty => {
            PAGE_HEAP.set_dirty_limit(value / PAGE_BYTES);
            PAGE_HEAP.trim();
        }
        Key::Limit | Key::LimitHard => {
            PAGE_HEAP.obey_limits();
            PAGE_HEAP.trim();
        }
        Key::Guard if !hardened::obey_guard() => return Err(Refusal::NoMemory),
        Key::Profile => return obey_profile(value),
        Key::StatsAtExit => init::note_own_process(),
        // The others are read where they matter.
        _ => {}
    }
    Ok(())
}

fn obey_profile(interval: usize) -> Result<(), Refusal> {
    // One that runs with another interval ends.
    let stopped = profile::stop();
    let started = match stopped {
        Err(ProfileError::IsSwitching) => stopped,
        _ if interval == 0 => Ok(()),
        _ => profile::start(interval),
    };
    started.map_err(|error| match error {
        // By a call that is no setting.
        ProfileError::IsSwitching | ProfileError::IsRunning => Refusal::Busy,
        _ => Refusal::NoMemory,
    })
}

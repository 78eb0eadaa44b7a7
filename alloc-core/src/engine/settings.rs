//! Settings that change while the program runs: each change, by whatever way it comes, is made here.
//!
//! Promises: one change after the other, so the allocator obeys what the settings say at last, and a setting that is decided
//! stays. A change in a signal handler, or by a command, on top of another one of its thread is refused.

use super::command::Refusal;
use super::{hardened, init};
use crate::atomic::{AtomicU8, AtomicUsize, Ordering, fence};
use crate::config::{self, KEYS, Key, Origin, Wrong};
use crate::page_heap::PAGE_HEAP;
use crate::profile::{self, ProfileError};
use crate::publish::publish_report;
use crate::sync::{Backoff, TryGuard, TryLock};
use crate::units::{PAGE_BYTES, PROFILE_INTERVALS};

/// Held while a setting changes. Else a thread that has read the settings could have the allocator obey them after another
/// thread has changed them.
static CHANGING: TryLock = TryLock::new();
/// How long a change waits for another thread's at most, on a machine without a free CPU. Half of what `rsalloc set` gives its
/// command in all.
pub const WAIT_SECONDS: usize = 5;

/// What is made under `CHANGING`, for the child of a fork that comes in the middle of it.
struct UnderWay {
    /// The key's number; [`KEYS`]: none.
    key: AtomicUsize,
    value: AtomicUsize,
    origin: AtomicU8,
}

static UNDER_WAY: UnderWay =
    UnderWay { key: AtomicUsize::new(KEYS), value: AtomicUsize::new(0), origin: AtomicU8::new(0) };

impl UnderWay {
    fn begin(&self, key: Key, value: usize, origin: Origin) {
        // Ordering: Relaxed, published by the store of the key.
        self.value.store(value, Ordering::Relaxed);
        self.origin.store(origin as u8, Ordering::Relaxed); // Ordering: Relaxed, as above.
        // Ordering: Release, so that a child that finds the key finds the others.
        self.key.store(key as usize, Ordering::Release);
        // Ordering: Release: a child that finds none of it finds nothing of the change either, whose stores come behind.
        fence(Ordering::Release);
    }

    fn end(&self) {
        // Ordering: Release, behind all that the change has written.
        self.key.store(KEYS, Ordering::Release);
    }

    fn get(&self) -> Option<(Key, usize, Origin)> {
        // Ordering: Acquire pairs with the Release in `begin`.
        let key = Key::ALL.get(self.key.load(Ordering::Acquire))?;
        // Ordering: Relaxed, acquired by the key.
        let (value, origin) =
            (self.value.load(Ordering::Relaxed), self.origin.load(Ordering::Relaxed));
        Some((*key, value, config::origin_of(origin)))
    }
}

/// Sets `key` and has the allocator obey it. Waits for another thread's change for [`WAIT_SECONDS`] at most, then it is busy.
/// Async-signal-safe; init is over.
pub fn change(key: Key, value: usize, origin: Origin) -> Result<(), Unchanged> {
    if key.left_out().is_some() {
        return Err(Unchanged::Refused(Refusal::LeftOut));
    }
    if !config::may_change(key, value) {
        return Err(Unchanged::Refused(Refusal::AtStartOnly));
    }
    let Some(_changing) = CHANGING.acquire_with(&mut Backoff::within(WAIT_SECONDS)) else {
        return Err(Unchanged::Refused(Refusal::Busy));
    };
    let before = (config::number(key), config::origin(key));
    if origin == Origin::Call && matches!(before.1, Origin::Environment | Origin::Outside) {
        return Err(Unchanged::IsDecided);
    }
    UNDER_WAY.begin(key, value, origin);
    config::set(key, value, origin);
    let obeyed = obey(key, value);
    if obeyed.is_err() {
        config::set(key, before.0, before.1);
    }
    publish_report(&init::report());
    UNDER_WAY.end();
    obeyed.map_err(Unchanged::Refused)
}

/// For init: keeps other threads from changing settings, and has the child of a fork obey what `key` says now. None after
/// [`WAIT_SECONDS`].
pub fn hold(key: Key) -> Option<Held> {
    let changing = CHANGING.acquire_with(&mut Backoff::within(WAIT_SECONDS))?;
    UNDER_WAY.begin(key, config::number(key), config::origin(key));
    Some(Held { _changing: changing })
}

/// See [`hold`].
pub struct Held {
    _changing: TryGuard<'static>,
}

impl Drop for Held {
    fn drop(&mut self) {
        UNDER_WAY.end();
    }
}

/// In the child of a fork, by its only thread: what another thread of the parent was just changing is done here.
pub fn reset_in_child() {
    let is_free = CHANGING.try_acquire().is_some();
    if is_free || CHANGING.is_taken_here() {
        return;
    }
    CHANGING.release();
    let _changing = CHANGING.try_acquire();
    if let Some((key, value, origin)) = UNDER_WAY.get() {
        config::set(key, value, origin);
        if obey(key, value).is_err() {
            // Then there are no guards, or there is no profile.
            config::set(key, 0, origin);
        }
        publish_report(&init::report());
        UNDER_WAY.end();
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
    if interval != 0 && !PROFILE_INTERVALS.contains(&interval) {
        // By a command of a version with other bounds: a profile that runs goes on.
        return Err(Refusal::Unknown);
    }
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

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::child::in_child;

    /// At the instant at which another thread has begun to change a setting and nothing of it is done.
    #[test]
    fn a_child_ends_the_change_that_its_parent_had_begun() {
        in_child(|| {
            assert!(init::ensure());
            std::thread::spawn(|| {
                TryLock::keep(CHANGING.try_acquire().expect("no other change"));
                UNDER_WAY.begin(Key::Guard, 7, Origin::Outside);
            })
            .join()
            .expect("no panic");
            in_child(|| {
                assert_eq!(init::report().guard_one_in, Some(7));
                assert!(crate::guard::is_sampling());
                assert_eq!(config::origin(Key::Guard), Origin::Outside);
                assert_eq!(change(Key::Guard, 0, Origin::Outside), Ok(()));
            });
        });
    }
}

//! Settings that change while the program runs: each change, by whatever way it comes, is made here.

use super::command::Refusal;
use super::{hardened, init};
use crate::config::{self, Key, Origin, Wrong};
use crate::page_heap::PAGE_HEAP;
use crate::profile;
use crate::publish::publish_report;
use crate::units::PAGE_BYTES;

/// Sets `key` and has the allocator obey it. Async-signal-safe; init is over.
pub fn change(key: Key, value: usize, origin: Origin) -> Result<(), Refusal> {
    if !config::may_change(key, value) {
        return Err(Refusal::AtStartOnly);
    }
    let before = (config::number(key), config::origin(key));
    config::set(key, value, origin);
    let is_done = obey(key, value);
    if !is_done {
        config::set(key, before.0, before.1);
    }
    publish_report(&init::report());
    if is_done { Ok(()) } else { Err(Refusal::NoMemory) }
}

/// Why a call of the program changed no setting.
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
    if matches!(config::origin(key), Origin::Environment | Origin::Outside) {
        return Err(Unchanged::IsDecided);
    }
    change(key, value, Origin::Call).map_err(Unchanged::Refused)
}

/// Whether there was the memory that it needs.
fn obey(key: Key, value: usize) -> bool {
    match key {
        Key::Dirty => {
            PAGE_HEAP.set_dirty_limit(value / PAGE_BYTES);
            PAGE_HEAP.trim();
        }
        Key::Limit | Key::LimitHard => {
            PAGE_HEAP.obey_limits();
            PAGE_HEAP.trim();
        }
        Key::Guard => return hardened::obey_guard(),
        Key::Profile => {
            // One that runs with another interval ends.
            profile::stop_for_c();
            return value == 0 || profile::start_for_c(value) == 0;
        }
        Key::StatsAtExit => init::note_own_process(),
        // The others are read where they matter.
        _ => {}
    }
    true
}

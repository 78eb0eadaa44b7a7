//! Settings that change while the program runs: each change, by whatever way it comes, is made here.

use super::command::Refusal;
use super::{hardened, init};
use crate::config::{self, Key, Origin};
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
        // The others are read where they matter.
        _ => {}
    }
    true
}

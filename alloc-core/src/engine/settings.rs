//! Settings that change while the program runs: each change, by whatever way it comes, is made here.

use super::command::Refusal;
use super::init;
use crate::config::{self, Key, Origin};
use crate::page_heap::PAGE_HEAP;
use crate::publish::publish_report;
use crate::units::PAGE_BYTES;

/// Sets `key` and has the allocator obey it. Async-signal-safe; init is over.
pub fn change(key: Key, value: usize, origin: Origin) -> Result<(), Refusal> {
    if !config::may_change(key, value) {
        return Err(Refusal::AtStartOnly);
    }
    config::set(key, value, origin);
    obey(key, value);
    publish_report(&init::report());
    Ok(())
}

fn obey(key: Key, value: usize) {
    match key {
        Key::Dirty => {
            PAGE_HEAP.set_dirty_limit(value / PAGE_BYTES);
            PAGE_HEAP.trim();
        }
        Key::Limit | Key::LimitHard => {
            PAGE_HEAP.obey_limits();
            PAGE_HEAP.trim();
        }
        // The others are read where they matter.
        _ => {}
    }
}

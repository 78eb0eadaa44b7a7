//! Fewer CPUs at once than shards: where a quota bounds the CPUs that the process can keep busy, its threads still come to every CPU
//! and leave a shard there.
//!
//! Promises: per-CPU shards together keep what those of the usable CPUs would. A shard that has rested for a second gives back what it
//! caches, and one that has got more capacity than its part loses it, at the next slow allocation a second later. What that
//! costs is bounded, as decay is. Without a quota it costs one load where a class grows.

use super::capacity;
use crate::cpu_cache::drain;
use crate::cpu_cache::exclusive::stop_each;
use crate::cpu_cache::shard::percpu;
use crate::os;
use crate::postponed;
use crate::region::Region;
use crate::size_class::CLASSES;
use crate::sync::Backoff;

/// A shard may have this many times its part before it is emptied: parts change as shards come and rest.
const SPARE: usize = 2;

/// Empties shards that rest, and those with more than their part, as far as `may_cost` permits it for each. The caller holds no shard
/// and no lock.
#[cold]
#[inline(never)]
pub(in crate::cpu_cache) fn look(may_cost: impl Fn() -> bool) {
    if !capacity::is_scarce() {
        return;
    }
    capacity::set_idle_shards(percpu::regions().filter(|region| !region.look()).count());
    let part = capacity::budget();
    let wanted = |region: &Region| {
        let is_too_large = capacity::bytes_in(region) > SPARE * part;
        (is_too_large || region.is_idle() && holds_any(region)) && may_cost()
    };
    stop_each(&mut Backoff::none(), wanted, drain::drain_stopped);
    postponed::put_off(os::seconds());
}

fn holds_any(region: &Region) -> bool {
    (1..CLASSES).any(|class| region.capacity(class) > 0 || region.len(class) > 0)
}

//! What the caches hold, for statistics and policy: shards work on while it is read, so numbers are approximate.
#![forbid(unsafe_code)]

use super::shard::{leases, locked, percpu};
use crate::depot::DEPOT;
use crate::region::Region;
use crate::size_class::{CLASS, CLASSES, Class};

/// The regions of all shards.
pub fn regions() -> impl Iterator<Item = &'static Region> {
    percpu::regions().chain(leases::regions()).chain(locked::regions())
}

/// Objects of `class` that shards hold.
#[inline(never)]
pub(super) fn cached_in_shards(class: Class) -> usize {
    regions().map(|region| region.len(class)).sum()
}

/// Bytes in objects that shards and the depot hold.
pub fn cached_bytes() -> usize {
    let in_depot = (1..CLASSES).map(|class| DEPOT.objects(class) * CLASS[class].size);
    let in_shard = |region: &Region| {
        (1..CLASSES).map(|class| region.len(class) * CLASS[class].size).sum::<usize>()
    };
    in_depot.sum::<usize>() + regions().map(in_shard).sum::<usize>()
}

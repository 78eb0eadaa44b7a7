//! The statistics of this process: `sums`, read where `publish` says that the counters lie.
//!
//! Snapshots while others work: each number is right for some instant, their sums nearly.

use crate::engine::init::report;
use crate::metrics::Metrics;
use crate::publish;
use crate::size_class::CLASSES;
use crate::sums::{ClassCounts, Stats};

/// What the allocator holds, collected by a walk over its structures. Cheap enough to be called each second.
///
/// ```standalone_crate
/// # #[global_allocator]
/// # static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;
/// # fn main() {
/// let before = rsalloc::stats().live_bytes;
/// let held = vec![1u8; 10 << 20];
/// assert!(rsalloc::stats().live_bytes >= before + held.len());
/// # }
/// ```
pub fn stats() -> Stats {
    heap().0
}

/// What the allocator holds as metrics for Prometheus, to be served by the program at `/metrics` or handed to a library of
/// metrics as text. `rsalloc metrics` of the command says the same of processes from outside.
///
/// ```standalone_crate
/// # #[global_allocator]
/// # static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;
/// # fn main() {
/// use rsalloc::MetricsFormat;
///
/// let accept = "application/openmetrics-text;version=1.0.0"; // of the request
/// let metrics = rsalloc::metrics().in_format(MetricsFormat::of_accept(accept));
/// println!("Content-Type: {}\n\n{metrics}", metrics.content_type());
/// # assert!(metrics.to_string().contains("\nrsalloc_live_bytes "));
/// # }
/// ```
pub fn metrics() -> Metrics {
    Metrics::new(report(), stats())
}

/// The sums, and the objects of each class.
pub fn heap() -> (Stats, [ClassCounts; CLASSES]) {
    let mut classes = [ClassCounts::default(); CLASSES];
    let stats = publish::collect_own(&mut classes);
    (stats.unwrap_or_default(), classes)
}

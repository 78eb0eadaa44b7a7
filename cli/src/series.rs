//! [`Series`]: a heap's sums over time, in bounded memory.

use crate::read::{Counts, Resident};
use rsalloc_core::Stats;
use std::time::{Duration, Instant};

/// The sums at an instant.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Since the series began.
    pub at: Duration,
    /// The heap's sums.
    pub stats: Stats,
    /// What of the process is resident.
    pub resident: Option<Resident>,
}

impl Sample {
    /// Bytes of the heap that may be resident, the allocator's own included.
    pub fn touched_bytes(&self) -> u64 {
        touched_bytes(&self.stats)
    }
}

/// Bytes of the heap that may be resident, the allocator's own included.
pub fn touched_bytes(stats: &Stats) -> u64 {
    let pages = stats.mapped_bytes.saturating_sub(stats.clean_bytes);
    pages.saturating_add(stats.metadata_bytes).saturating_add(stats.guarded_bytes) as u64
}

/// Samples at nearly equal distances. When there are more than [`SAMPLES_MAX`], each second one is dropped and the distance
/// doubles.
#[derive(Debug)]
pub struct Series {
    begin: Instant,
    every: Duration,
    samples: Vec<Sample>,
}

/// See [`Series`].
pub const SAMPLES_MAX: usize = 400;

impl Series {
    /// An empty series, which begins now.
    pub fn new(every: Duration) -> Self {
        Series { begin: Instant::now(), every, samples: Vec::new() }
    }

    /// How long after the last sample the next one is due.
    pub fn every(&self) -> Duration {
        self.every
    }

    /// Since the beginning.
    pub fn age(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Adds a sample, taken now.
    pub fn push(&mut self, counts: &Counts, resident: Option<Resident>) {
        let sample = Sample { at: self.begin.elapsed(), stats: counts.stats, resident };
        self.samples.push(sample);
        if self.samples.len() > SAMPLES_MAX {
            let mut index = 0;
            self.samples.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.every *= 2;
        }
    }

    /// The samples, oldest first.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_series_keeps_its_first_sample_and_its_bound() {
        let mut series = Series::new(Duration::from_millis(10));
        let mut counts =
            Counts { stats: Stats::default(), classes: vec![], shards: vec![], renewed: None };
        for number in 0..10 * SAMPLES_MAX {
            counts.stats.live_bytes = number;
            series.push(&counts, None);
            assert!(series.samples().len() <= SAMPLES_MAX);
        }
        let live: Vec<_> = series.samples().iter().map(|sample| sample.stats.live_bytes).collect();
        assert!(live[0] == 0 && live.is_sorted(), "{live:?}");
        assert!(series.every() > Duration::from_millis(100), "{:?}", series.every());
    }
}

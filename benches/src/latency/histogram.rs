//! Counts of durations in buckets that grow with them.
//!
//! Promises that a bucket is at most 1/32 as wide as its values, that the largest value is kept as it is, and that
//! recording allocates nothing and touches no new page.

use memmap2::MmapMut;

/// Buckets for each doubling.
const STEPS: usize = 32;
const STEPS_BITS: u32 = STEPS.trailing_zeros();
/// Up to the largest `u64`.
const BUCKETS: usize = (64 - STEPS_BITS as usize + 1) * STEPS;

/// The counts; in memory of its own, outside the measured heap.
pub struct Histogram {
    memory: MmapMut,
    max: u64,
}

impl Histogram {
    /// No values yet.
    pub fn new() -> Self {
        let mut memory = MmapMut::map_anon(BUCKETS * 8).expect("no memory for a histogram");
        memory.fill(0); // Faults the pages in now, not between two readings.
        Histogram { memory, max: 0 }
    }

    /// Counts `value`.
    #[inline(always)]
    pub fn record(&mut self, value: u64) {
        let bucket = bucket(value);
        let count = &mut self.memory[bucket * 8..][..8];
        let raised = u64::from_ne_bytes(count.try_into().expect("eight bytes")) + 1;
        count.copy_from_slice(&raised.to_ne_bytes());
        self.max = self.max.max(value);
    }

    /// The largest value.
    pub fn max(&self) -> u64 {
        self.max
    }

    /// The buckets that are not empty, ascending: the largest value each can hold, and its count.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        let counts = self.memory.chunks_exact(8).enumerate();
        counts.filter_map(|(bucket, count)| {
            let count = u64::from_ne_bytes(count.try_into().expect("eight bytes"));
            (count > 0).then(|| (last_of(bucket).min(self.max), count))
        })
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Histogram) {
        for (own, other) in self.memory.chunks_exact_mut(8).zip(other.memory.chunks_exact(8)) {
            let count = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
            let sum = count(own) + count(other);
            own.copy_from_slice(&sum.to_ne_bytes());
        }
        self.max = self.max.max(other.max);
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

/// The first two doublings' worth one each, then `STEPS` for each doubling.
#[inline(always)]
fn bucket(value: u64) -> usize {
    let shift = (63 - (value | 1).leading_zeros()).saturating_sub(STEPS_BITS);
    shift as usize * STEPS + (value >> shift) as usize
}

/// The largest value of a bucket.
fn last_of(bucket: usize) -> u64 {
    let shift = (bucket / STEPS).saturating_sub(1) as u32;
    let step = (bucket - shift as usize * STEPS) as u64;
    (step << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_value_and_is_narrow() {
        for value in
            (0..70).chain((0..64).flat_map(|bit| [(1 << bit) - 1, 1 << bit, 3 << (bit / 2)]))
        {
            let last = last_of(bucket(value));
            assert!(last >= value && last - value <= value / 32, "{value}: up to {last}");
            assert!(bucket(value) < BUCKETS);
            assert_eq!(bucket(last), bucket(value));
            assert!(last == u64::MAX || bucket(last + 1) == bucket(value) + 1, "{value}: no gap");
        }
    }

    #[test]
    fn counts_add_up_and_the_largest_stays_exact() {
        let (mut one, mut two) = (Histogram::new(), Histogram::new());
        [5, 5, 1000].into_iter().for_each(|value| one.record(value));
        [5, 100_001].into_iter().for_each(|value| two.record(value));
        one.merge(&two);
        let buckets: Vec<_> = one.buckets().collect();
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 5);
        assert_eq!(buckets[0], (5, 3));
        assert_eq!((buckets.last().unwrap().0, one.max()), (100_001, 100_001));
    }
}

//! What a heap profiler sampled, and how it becomes a pprof profile.

use crate::{Location, Mapping, Profile, Sample, ValueType};
use std::collections::HashMap;

/// What was sampled, without symbols. Amounts are estimates for all allocations, not counts of samples.
#[derive(Clone, Debug, Default)]
pub struct HeapProfile {
    /// Mean distance of two samples in allocated bytes.
    pub interval_bytes: u64,
    /// When it was taken, in nanoseconds since 1970.
    pub time_nanos: i64,
    /// For how long allocations were sampled, in nanoseconds.
    pub duration_nanos: i64,
    /// What was mapped, by address. The program's own file comes first if it is known: tools take the first for it.
    pub mappings: Vec<Mapping>,
    /// What was allocated, by stack; a stack may occur more than once.
    pub samples: Vec<HeapSample>,
    /// Lines for the reader.
    pub comments: Vec<String>,
}

/// What was allocated at a stack.
#[derive(Clone, Debug, Default)]
pub struct HeapSample {
    /// Return addresses, innermost first.
    pub stack: Vec<u64>,
    /// All that was allocated there while it was sampled.
    pub allocated: Amount,
    /// Of that, what is not freed yet.
    pub live: Amount,
}

/// Objects, and their bytes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A value of each sample of a heap profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Objects that were allocated.
    AllocatedObjects,
    /// Bytes that were allocated.
    AllocatedBytes,
    /// Objects that are not freed yet.
    LiveObjects,
    /// Bytes that are not freed yet.
    LiveBytes,
}

/// The values of each sample in their order, as Go's runtime has them.
pub const MEASURES: [Measure; 4] =
    [Measure::AllocatedObjects, Measure::AllocatedBytes, Measure::LiveObjects, Measure::LiveBytes];

impl Measure {
    /// Its name in a profile.
    pub fn name(self) -> &'static str {
        match self {
            Measure::AllocatedObjects => "alloc_objects",
            Measure::AllocatedBytes => "alloc_space",
            Measure::LiveObjects => "inuse_objects",
            Measure::LiveBytes => "inuse_space",
        }
    }

    /// Its unit in a profile.
    pub fn unit(self) -> &'static str {
        match self {
            Measure::AllocatedObjects | Measure::LiveObjects => "count",
            Measure::AllocatedBytes | Measure::LiveBytes => "bytes",
        }
    }
}

impl HeapProfile {
    /// The profile in the format's own model: samples with the same stack are added up, addresses are found in mappings.
    /// Mappings that no stack leads to are left out.
    pub fn to_pprof(&self) -> Profile {
        let mut places = Places { from: &self.mappings, ..Places::default() };
        let mut samples: Vec<Sample> = Vec::new();
        let mut by_stack: HashMap<&[u64], usize> = HashMap::new();
        for sample in &self.samples {
            let index = *by_stack.entry(&sample.stack).or_insert_with(|| {
                let locations = sample.stack.iter().map(|&frame| places.locate(frame)).collect();
                samples.push(Sample { locations, values: vec![0; MEASURES.len()] });
                samples.len() - 1
            });
            let HeapSample { allocated, live, .. } = sample;
            let values = [allocated.objects, allocated.bytes, live.objects, live.bytes];
            for (sum, value) in samples[index].values.iter_mut().zip(values) {
                *sum = sum.saturating_add(i64::try_from(value).unwrap_or(i64::MAX));
            }
        }
        Profile {
            sample_types: MEASURES.map(|m| ValueType::new(m.name(), m.unit())).to_vec(),
            samples,
            mappings: places.mappings,
            locations: places.locations,
            functions: Vec::new(),
            time_nanos: self.time_nanos,
            duration_nanos: self.duration_nanos,
            period_type: ValueType::new("space", "bytes"),
            period: i64::try_from(self.interval_bytes).unwrap_or(i64::MAX),
            comments: self.comments.clone(),
            default_sample_type: Measure::LiveBytes.name().into(),
        }
    }
}

/// The locations that stacks are made of, and the mappings that they lie in.
#[derive(Default)]
struct Places<'a> {
    from: &'a [Mapping],
    mappings: Vec<Mapping>,
    /// By index in `from`, that in `mappings`.
    taken: HashMap<usize, usize>,
    locations: Vec<Location>,
    by_address: HashMap<u64, usize>,
}

impl Places<'_> {
    /// The location of the call that returns to `frame`.
    fn locate(&mut self, frame: u64) -> usize {
        // The instruction before the return address: the call may be the last one of its function.
        let address = frame.saturating_sub(1);
        if let Some(&known) = self.by_address.get(&address) {
            return known;
        }
        let found = self.from.iter().position(|m| (m.start..m.end).contains(&address));
        let mapping = found.map(|index| {
            *self.taken.entry(index).or_insert_with(|| {
                self.mappings.push(self.from[index].clone());
                self.mappings.len() - 1
            })
        });
        self.locations.push(Location { mapping, address, lines: Vec::new() });
        self.by_address.insert(address, self.locations.len() - 1);
        self.locations.len() - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(objects: u64, bytes: u64) -> Amount {
        Amount { objects, bytes }
    }

    #[test]
    fn samples_of_a_stack_are_added_up_and_addresses_lie_in_mappings() {
        let mapping = |start, end, file: &str| Mapping {
            start,
            end,
            file: file.into(),
            ..Mapping::default()
        };
        let heap = HeapProfile {
            interval_bytes: 1000,
            mappings: vec![mapping(0x1000, 0x2000, "unused"), mapping(0x2000, 0x3000, "used")],
            samples: vec![
                HeapSample {
                    stack: vec![0x2001, 0x3000],
                    allocated: amount(1, 10),
                    live: amount(1, 10),
                },
                HeapSample {
                    stack: vec![0x2001, 0x3000],
                    allocated: amount(2, 20),
                    live: amount(0, 0),
                },
                HeapSample {
                    stack: vec![0x2001, 0x3001],
                    allocated: amount(4, 40),
                    live: amount(4, 40),
                },
            ],
            ..HeapProfile::default()
        };
        let profile = heap.to_pprof();
        let values: Vec<_> = profile.samples.iter().map(|sample| sample.values.clone()).collect();
        assert_eq!(values, [[3, 30, 1, 10], [4, 40, 4, 40]]);
        // A return address behind the end of a mapping is that of a call in it.
        let places: Vec<_> = profile.locations.iter().map(|l| (l.address, l.mapping)).collect();
        assert_eq!(places, [(0x2000, Some(0)), (0x2fff, Some(0)), (0x3000, None)]);
        assert_eq!(profile.mappings.len(), 1);
        assert_eq!(profile.mappings[0].file, "used");
        assert_eq!(profile.default_sample_type, "inuse_space");
    }
}

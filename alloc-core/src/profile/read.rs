//! Reading a profile: from outside, or of this process.
//!
//! Promises to read only where header and records lead, through [`Memory`], and to give records that are whole: what changes
//! meanwhile is read again, or left out.

use super::layout::{FRAMES_MAX, Header, Sample, Stack};
use crate::sums::{HeapMap, Memory};

/// More stacks or samples than any version keeps: what a damaged header is cut to.
const RECORDS_MAX: u64 = 1 << 24;
/// How often a record that changes is read again.
const ATTEMPTS: usize = 16;

/// The header; none if the map is of a version without profiles, or it cannot be read.
pub fn header(map: &HeapMap<u64>, memory: &impl Memory) -> Option<Header<u64>> {
    if map.profile == 0 {
        return None;
    }
    Header::from_words(words(memory, map.profile, map.profile_words))
}

/// Shows the stacks that are complete, each with its number; number 0, of samples without a stack, first. None if one cannot be
/// read.
pub fn for_each_stack(
    header: &Header<u64>,
    memory: &impl Memory,
    mut f: impl FnMut(u64, &Stack<u64>),
) -> Option<()> {
    if header.stacks == 0 {
        return Some(());
    }
    for number in 0..header.stacks_used.min(RECORDS_MAX) {
        let at = header.stacks.wrapping_add(header.stack_stride.wrapping_mul(number));
        let stack = Stack::from_words(words(memory, at, header.stack_stride / 8))?;
        if number == 0 || stack.frame_count != 0 {
            f(number, &stack);
        }
    }
    Some(())
}

/// The frames of a stack, the innermost first; as many as can be read.
pub fn frames<'a>(
    header: &Header<u64>,
    stack: &Stack<u64>,
    memory: &'a impl Memory,
) -> impl Iterator<Item = u64> + 'a {
    let first = header.frames.wrapping_add(stack.first_frame.wrapping_mul(8));
    words(memory, first, stack.frame_count.min(FRAMES_MAX as u64)).map_while(|word| word)
}

/// Shows the live samples of this profile. None if one cannot be read.
pub fn for_each_sample(
    header: &Header<u64>,
    memory: &impl Memory,
    mut f: impl FnMut(&Sample<u64>),
) -> Option<()> {
    if header.samples == 0 {
        return Some(());
    }
    for number in 0..header.samples_used.min(RECORDS_MAX) {
        let at = header.samples.wrapping_add(header.sample_stride.wrapping_mul(number));
        let sample = sample_at(at, header.sample_stride / 8, memory)?;
        if let Some(sample) = sample
            && sample.address != 0
            && sample.generation == header.generation
        {
            f(&sample);
        }
    }
    Some(())
}

/// The record at `at`; none within if it does not come to rest.
fn sample_at(at: u64, count: u64, memory: &impl Memory) -> Option<Option<Sample<u64>>> {
    for _ in 0..ATTEMPTS {
        let sample = Sample::from_words(words(memory, at, count))?;
        if sample.sequence % 2 == 0 && memory.word(at)? == sample.sequence {
            return Some(Some(sample));
        }
    }
    Some(None)
}

fn words(memory: &impl Memory, at: u64, count: u64) -> impl Iterator<Item = Option<u64>> {
    (0..count.min(FRAMES_MAX as u64)).map(move |word| memory.word(at.wrapping_add(8 * word)))
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::profile::layout::{RUNNING, WEIGHT_ONE};
    use std::cell::Cell;
    use std::collections::HashMap;
    use std::vec::Vec;

    /// Words by address; the word at 0x5000 is another one at each read.
    #[derive(Default)]
    struct Words(HashMap<u64, u64>, Cell<u64>);

    impl Memory for Words {
        fn word(&self, address: u64) -> Option<u64> {
            if address == 0x5000 {
                self.1.set(self.1.get() + 2);
                return Some(self.1.get());
            }
            self.0.get(&address).copied()
        }
        fn half(&self, _: u64) -> Option<u32> {
            None
        }
    }

    impl Words {
        fn put(&mut self, at: u64, words: &[u64]) {
            self.0.extend((at..).step_by(8).zip(words.iter().copied()));
        }
    }

    fn profile() -> (Words, Header<u64>) {
        let mut memory = Words::default();
        memory.put(0x1000, &[RUNNING, 3, 512 << 10, 7, 0, 0x2000, 64, 3, 0x3000, 2, 0x4000, 64, 4]);
        memory.put(0x2000, &[0; 8]);
        memory.put(0x2040, &[0, 2, 1, 1, 5 * WEIGHT_ONE, 500, 0, 0]);
        memory.put(0x2080, &[0; 8]);
        memory.put(0x3000, &[0xa1, 0xb1]);
        memory.put(0x4000, &[2, 0x7000, 100, 5 * WEIGHT_ONE, 1, 9, 3, 0]);
        memory.put(0x4040, &[3, 0x7100, 100, 5 * WEIGHT_ONE, 1, 9, 3, 0]); // changes
        memory.put(0x4080, &[4, 0, 0, 0, 0, 0, 0, 0]); // free
        memory.put(0x40c0, &[4, 0x7200, 100, 5 * WEIGHT_ONE, 1, 9, 2, 0]); // of a former profile
        // As an older version has it: without the last words.
        let header = Header::from_words(words(&memory, 0x1000, 13)).unwrap();
        (memory, header)
    }

    #[test]
    fn whole_records_are_shown_and_others_left_out() {
        let (memory, header) = profile();
        assert_eq!((header.generation, header.truncated_stacks), (3, 0));
        let mut stacks = Vec::new();
        let shown = for_each_stack(&header, &memory, |number, stack| {
            stacks.push((number, frames(&header, stack, &memory).collect::<Vec<_>>()));
        });
        assert_eq!(shown, Some(()));
        assert_eq!(stacks, [(0, std::vec![]), (1, std::vec![0xa1, 0xb1])]);
        let mut samples = Vec::new();
        let shown = for_each_sample(&header, &memory, |sample| samples.push(sample.address));
        assert_eq!((shown, &samples[..]), (Some(()), &[0x7000][..]));
    }

    #[test]
    fn a_record_that_never_rests_is_left_out_and_memory_that_is_gone_is_said() {
        let (mut memory, header) = profile();
        memory.put(0x5008, &[0x7000, 100, 5 * WEIGHT_ONE, 1, 9, 3, 0]);
        let moved = Header { samples: 0x5000, samples_used: 1, ..header };
        let mut shown = 0;
        assert_eq!(for_each_sample(&moved, &memory, |_| shown += 1), Some(()));
        assert_eq!(shown, 0);
        let gone = Header { samples: 0x9000, ..header };
        assert_eq!(for_each_sample(&gone, &memory, |_| ()), None);
    }
}

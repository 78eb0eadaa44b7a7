//! Samples of processes that this one starts, and of their descendants.
//!
//! Records of all CPUs are sorted by time and read once: forks tell which process a process descends from, an exec ends the mappings
//! that a process had, and mappings tell what file a sample is of.

use super::buffer::{Buffer, Wanted};
use super::maps::{Files, Maps, Range};
use super::{Counts, Sample, Samples, on_each_cpu};
use crate::process::Edge;
use perf_event_open_sys::bindings;
use std::collections::HashMap;

/// Twice a millisecond, for two minutes.
const PROCESSES: Wanted = Wanted { period_ns: 500_000, bytes: 16 << 20, has_processes: true };

/// Takes samples of all processes from its start to its end.
pub struct Watch {
    buffers: Vec<Buffer>,
}

impl Watch {
    /// Begins.
    pub fn begin() -> anyhow::Result<Watch> {
        let watch = Watch { buffers: on_each_cpu(&PROCESSES)? };
        watch.buffers.iter().for_each(|buffer| buffer.switch(Edge::Begin));
        Ok(watch)
    }

    /// Ends; the samples of `roots`, which were started meanwhile, and of their descendants. An error if samples were
    /// lost.
    pub fn end(self, roots: &[u32]) -> anyhow::Result<Samples> {
        self.buffers.iter().for_each(|buffer| buffer.switch(Edge::End));
        let mut records = Vec::new();
        let mut files = Files::default();
        for buffer in &self.buffers {
            buffer.read(|record| {
                let time = match record.kind {
                    bindings::PERF_RECORD_SAMPLE => record.words.get(2),
                    _ => record.words.last(),
                };
                let event = Sample::of(record)
                    .map(Event::Sample)
                    .or_else(|| Event::of(record.kind, record.misc, record.words, &mut files));
                if let (Some(&time), Some(event)) = (time, event) {
                    records.push((time, event));
                }
            })?;
        }
        records.sort_by_key(|(time, _)| *time);
        let mut tree = Tree::new(roots);
        for (_, event) in records {
            tree.take(event, &mut files);
        }
        Ok(tree.counts.samples(files))
    }
}

enum Event {
    Sample(Sample),
    Fork { child: u32, parent: u32 },
    Exec { pid: u32 },
    Map { pid: u32, range: Range },
}

impl Event {
    /// What a record of processes says; none of others. Behind each are two words: the thread that caused it, and the time.
    fn of(kind: u32, misc: u32, words: &[u64], files: &mut Files) -> Option<Event> {
        let &first = words.first()?;
        let (low, high) = (first as u32, (first >> 32) as u32);
        match kind {
            // pid and ppid, tid and ptid, time
            bindings::PERF_RECORD_FORK if low != high => {
                Some(Event::Fork { child: low, parent: high })
            }
            bindings::PERF_RECORD_COMM if misc & bindings::PERF_RECORD_MISC_COMM_EXEC != 0 => {
                Some(Event::Exec { pid: low })
            }
            // pid and tid, address, length, offset, device, inode, its generation, protection and flags, path
            bindings::PERF_RECORD_MMAP2 => {
                let &[_, start, length, offset, _, _, _, _, ref path @ ..] = words else {
                    return None;
                };
                let path = text(path.get(..path.len().checked_sub(2)?)?);
                // Others are `//anon`, `[vdso]`, `[heap]`.
                let is_file = path.starts_with('/') && !path.starts_with("//");
                let file = is_file.then(|| files.index(&path));
                let range = Range { start, end: start + length, offset, file };
                Some(Event::Map { pid: low, range })
            }
            _ => None,
        }
    }
}

/// The bytes of `words` up to the first 0.
fn text(words: &[u64]) -> String {
    let bytes = words.iter().flat_map(|word| word.to_le_bytes());
    let bytes: Vec<_> = bytes.take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The processes so far.
struct Tree<'a> {
    roots: &'a [u32],
    /// The mappings of those that are wanted.
    wanted: HashMap<u32, Maps>,
    counts: Counts,
}

impl Tree<'_> {
    fn new(roots: &[u32]) -> Tree<'_> {
        Tree { roots, wanted: HashMap::new(), counts: Counts::default() }
    }

    fn take(&mut self, event: Event, files: &mut Files) {
        match event {
            Event::Fork { child, parent } => {
                // A number may come again: what had it before is gone.
                self.wanted.remove(&child);
                let own = self.roots.contains(&child).then(Maps::default);
                if let Some(maps) = self.wanted.get(&parent).cloned().or(own) {
                    self.wanted.insert(child, maps);
                }
            }
            Event::Exec { pid } => {
                if let Some(maps) = self.wanted.get_mut(&pid) {
                    *maps = Maps::default();
                }
            }
            Event::Map { pid, range } => {
                if let Some(maps) = self.wanted.get_mut(&pid) {
                    maps.add(range);
                }
            }
            Event::Sample(sample) => {
                if let Some(maps) = self.wanted.get(&sample.pid) {
                    self.counts.add(&sample, maps, files);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(pid: u32, ip: u64) -> Event {
        Event::Sample(Sample { pid, in_kernel: false, ip, user_ip: 0 })
    }

    fn map(pid: u32, start: u64, file: usize) -> Event {
        Event::Map { pid, range: Range { start, end: start + 0x1000, offset: 0, file: Some(file) } }
    }

    #[test]
    fn descendants_have_the_mappings_of_their_parents_until_they_execute() {
        let mut files = Files::default();
        files.index("/of another process");
        let (a, b) = (files.index("/a"), files.index("/b"));
        let mut tree = Tree::new(&[10]);
        let events = [
            map(10, 0x1000, b), // Of another that had the number before.
            Event::Fork { child: 10, parent: 1 },
            Event::Fork { child: 20, parent: 1 },
            Event::Exec { pid: 10 },
            map(10, 0x1000, a),
            sample(10, 0x1001),
            sample(20, 0x1001), // Not wanted.
            Event::Fork { child: 11, parent: 10 },
            sample(11, 0x1001),
            Event::Exec { pid: 11 },
            sample(11, 0x1001), // Nothing is mapped.
            map(11, 0x1000, b),
            sample(11, 0x1002),
            sample(10, 0x1001),
        ];
        events.into_iter().for_each(|event| tree.take(event, &mut files));
        let samples = tree.counts.samples(files);
        assert_eq!(samples.files, ["/a", "/b"]);
        assert_eq!(samples.user, [(0, 1, 3), (1, 2, 1)]);
        assert_eq!((samples.elsewhere, samples.faults), (1, 0));
    }

    #[test]
    fn records_are_read_as_the_kernel_lays_them_out() {
        let mut files = Files::default();
        let ids = |low: u64, high: u64| low | high << 32;
        let fork = [ids(7, 3), ids(7, 3), 99, ids(3, 3), 99];
        let event = Event::of(bindings::PERF_RECORD_FORK, 0, &fork, &mut files);
        assert!(matches!(event, Some(Event::Fork { child: 7, parent: 3 })));
        let thread = [ids(3, 3), ids(8, 3), 99, ids(3, 3), 99];
        assert!(Event::of(bindings::PERF_RECORD_FORK, 0, &thread, &mut files).is_none());
        let path = u64::from_le_bytes(*b"/lib/a\0\0");
        let map = [ids(7, 7), 0x1000, 0x2000, 0x500, 0, 0, 0, 0, path, ids(7, 7), 99];
        let event = Event::of(bindings::PERF_RECORD_MMAP2, 0, &map, &mut files);
        let Some(Event::Map { pid: 7, range }) = event else { panic!("a mapping") };
        assert_eq!((range.start, range.end, range.offset), (0x1000, 0x3000, 0x500));
        assert_eq!(files.names, ["/lib/a"]);
    }
}

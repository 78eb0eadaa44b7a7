//! The heap profile of a target, as its records in memory have it.

use super::memory::Paged;
use super::{Heap, mapped};
use anyhow::{Context, Result, bail};
use rsalloc_core::internals::profile::layout::{self, Header};
use rsalloc_core::internals::profile::read;
use rsalloc_pprof::{Amount, HeapProfile, HeapSample, Mapping};
use std::time::{SystemTime, UNIX_EPOCH};

/// Whether allocations are sampled in a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// They never were.
    Never,
    /// They are, one in about so many bytes.
    Running(u64),
    /// They were; the records are kept.
    Stopped,
}

impl Heap {
    /// Whether allocations are sampled now.
    pub fn sampling(&self) -> Result<Sampling> {
        let header = self.profile_header()?;
        Ok(match header.state {
            layout::NEVER_STARTED => Sampling::Never,
            layout::RUNNING => Sampling::Running(header.interval_bytes),
            _ => Sampling::Stopped,
        })
    }

    /// What was sampled so far, and what is mapped.
    pub fn sampled(&self) -> Result<HeapProfile> {
        let header = self.profile_header()?;
        let memory = Paged::new(&*self.source);
        let mut samples = Vec::new();
        let read = read::for_each_stack(&header, &memory, |_, stack| {
            let amount = |(objects, bytes)| Amount { objects, bytes };
            let [allocated, live] = stack.amounts().map(amount);
            if allocated != Amount::default() {
                let frames = read::frames(&header, stack, &memory).collect();
                samples.push(HeapSample { stack: frames, allocated, live });
            }
        });
        if read.is_none() {
            bail!("{}", self.source.why_unreadable());
        }
        let now = self.source.time_ns();
        let end = if header.state == layout::RUNNING { now } else { header.stopped_ns };
        Ok(HeapProfile {
            interval_bytes: header.interval_bytes,
            time_nanos: end as i64,
            duration_nanos: end.saturating_sub(header.started_ns) as i64,
            mappings: self.code_mappings(),
            samples,
            comments: self.comments(&header),
        })
    }

    /// Bytes of the target's memory; as many as can be read.
    pub fn bytes(&self, start: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let read = self.source.read(start, &mut bytes);
        bytes.truncate(read);
        bytes
    }

    fn profile_header(&self) -> Result<Header<u64>> {
        if self.published.is_some() {
            bail!("{} has no heap profile: name the process", self.file.display());
        }
        let map = self.seen.map.as_ref();
        let header = map
            .filter(|map| map.profile != 0)
            .map(|map| read::header(map, &Paged::new(&*self.source)))
            .with_context(|| {
                format!(
                    "{} is of an older version, which has no heap profile; restart the program with this version",
                    self.file.display()
                )
            })?;
        header.with_context(|| self.source.why_unreadable())
    }

    /// What is mapped with code; the program's own file first, as tools expect it.
    fn code_mappings(&self) -> Vec<Mapping> {
        let all = self.source.mapped();
        let mut code: Vec<_> = all.iter().filter(|mapped| mapped.is_code).collect();
        code.sort_by_key(|mapped| {
            self.source.executable().is_none_or(|path| path.as_os_str() != mapped.name.as_str())
        });
        let mappings = code.into_iter().map(|mapped| Mapping {
            start: mapped.start,
            end: mapped.end,
            file_offset: mapped.offset,
            file: mapped.name.clone(),
            build_id: mapped::build_id(&*self.source, &all, mapped),
            ..Mapping::default()
        });
        mappings.collect()
    }

    fn comments(&self, header: &Header<u64>) -> Vec<String> {
        let pid = self.pid.map_or(String::new(), |pid| format!(", process {pid}"));
        let mut comments = vec![
            format!("{}{pid}", self.program),
            format!("rsalloc, {}", self.report().mode.text()),
        ];
        for (count, what) in [
            (header.dropped_stacks, "samples have no stack: no more stacks could be kept"),
            (
                header.dropped_samples,
                "samples are missing in the live values: no more records could be kept",
            ),
            (header.truncated_stacks, "stacks are cut off: they are deeper than is kept"),
        ] {
            if count != 0 {
                comments.push(format!("{count} {what}"));
            }
        }
        comments
    }
}

/// Nanoseconds since 1970.
pub fn unix_time_ns(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
}

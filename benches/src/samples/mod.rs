//! Samples of where processes spend CPU time, taken by the kernel at fixed intervals on each CPU.
//!
//! [`Sampler`] samples this process while a clock runs, [`Watch`] the processes that this one starts. Both promise that
//! nothing is allocated for them in what is sampled: the kernel writes into buffers mapped before, one for each CPU,
//! which are read afterwards. All that runs on a CPU is sampled, and what is not wanted is left out: an event of a
//! thread would never see threads that end within an interval. The event is the kernel's `cpu-clock`, which needs no
//! hardware counters. Layouts: perf_event_open(2).
#![allow(unsafe_code)]

mod buffer;
mod maps;
mod watch;

pub use watch::Watch;

use crate::process::Edge;
use anyhow::ensure;
use buffer::{Buffer, Record, Wanted};
use maps::{Files, Maps};
use perf_event_open_sys::bindings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Every 250 us, for up to 6 s.
const OWN: Wanted = Wanted { period_ns: 250_000, bytes: 1 << 20, has_processes: false };

/// What was sampled.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Samples {
    /// The files of `user`.
    pub files: Vec<String>,
    /// In the program and its libraries: index of the file, offset in it, number of samples.
    pub user: Vec<(usize, u64, u64)>,
    /// In the kernel, in a system call of the program.
    pub system_calls: u64,
    /// In the kernel, but not in a system call: page faults, and a few interrupts.
    pub faults: u64,
    /// In code that belongs to no file (the kernel's vdso, code made at run time).
    pub elsewhere: u64,
}

/// Takes samples of this process.
pub struct Sampler {
    buffers: Vec<Buffer>,
}

impl Sampler {
    /// A sampler that is switched off.
    pub fn new() -> anyhow::Result<Sampler> {
        Ok(Sampler { buffers: on_each_cpu(&OWN)? })
    }

    /// Switches it on at the beginning, off at the end.
    pub fn at(&self, edge: Edge) {
        self.buffers.iter().for_each(|buffer| buffer.switch(edge));
    }

    /// What was sampled while it was on. An error if samples were lost.
    pub fn read(&self) -> anyhow::Result<Samples> {
        let mut files = Files::default();
        let maps = Maps::of_this_process(&mut files)?;
        let mut counts = Counts::default();
        for buffer in &self.buffers {
            buffer.read(|record| {
                if let Some(sample) = Sample::of(record)
                    && sample.pid == std::process::id()
                {
                    counts.add(&sample, &maps, &mut files);
                }
            })?;
        }
        Ok(counts.samples(files))
    }
}

/// A buffer for each CPU that is online.
fn on_each_cpu(wanted: &Wanted) -> anyhow::Result<Vec<Buffer>> {
    ensure!(cfg!(target_arch = "x86_64"), "samples are taken on x86-64 only");
    // SAFETY: sysconf has no preconditions.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) } as i32;
    let buffers = (0..cpus).filter_map(|cpu| Buffer::new(cpu, wanted).transpose());
    let buffers = buffers.collect::<anyhow::Result<Vec<_>>>()?;
    ensure!(!buffers.is_empty(), "no CPU can be sampled");
    Ok(buffers)
}

/// Where a CPU was.
struct Sample {
    pid: u32,
    in_kernel: bool,
    ip: u64,
    /// Where the program was when it entered the kernel.
    user_ip: u64,
}

impl Sample {
    /// None of a record of something else.
    fn of(record: &Record<'_>) -> Option<Sample> {
        // ip, pid and tid, time, abi (0: no registers), the register
        let &[ip, ids, _, ref registers @ ..] = record.words else { return None };
        let is_sample = record.kind == bindings::PERF_RECORD_SAMPLE;
        is_sample.then(|| Sample {
            pid: ids as u32,
            in_kernel: record.misc & bindings::PERF_RECORD_MISC_CPUMODE_MASK
                == bindings::PERF_RECORD_MISC_KERNEL,
            ip,
            user_ip: registers.get(1).copied().unwrap_or(0),
        })
    }
}

/// Samples by where they are.
#[derive(Default)]
struct Counts {
    places: BTreeMap<(usize, u64), u64>,
    system_calls: u64,
    faults: u64,
    elsewhere: u64,
}

impl Counts {
    fn add(&mut self, sample: &Sample, maps: &Maps, files: &mut Files) {
        match (sample.in_kernel, maps.place(sample.ip)) {
            (true, _) if maps.follows_system_call(sample.user_ip, files) => self.system_calls += 1,
            (true, _) => self.faults += 1,
            (false, Some(place)) => *self.places.entry(place).or_insert(0) += 1,
            (false, None) => self.elsewhere += 1,
        }
    }

    /// Names only the files that samples are of.
    fn samples(self, files: Files) -> Samples {
        let Counts { places, system_calls, faults, elsewhere } = self;
        let mut samples = Samples { system_calls, faults, elsewhere, ..Samples::default() };
        let mut latest = None;
        for ((file, at), count) in places {
            if latest != Some(file) {
                samples.files.push(files.names[file].clone());
                latest = Some(file);
            }
            samples.user.push((samples.files.len() - 1, at, count));
        }
        samples
    }
}

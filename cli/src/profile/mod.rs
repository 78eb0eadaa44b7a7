//! `rsalloc profile`: what a process allocates and holds, by stack, sampled.
//!
//! Promises to leave the process as it was: sampling that was off is off again afterwards, on whichever way the command ends,
//! but for a signal that cannot be caught; sampling that was on is only read.

mod files;
pub mod flame;
mod folded;
mod frames;
mod outputs;
mod progress;
mod symbols;
mod top;

pub use outputs::Outputs;
pub use progress::Progress;
pub use symbols::Symbols;

use crate::launch::{self, How};
use crate::read::{self, Heap, Sampling, Target};
use crate::{remote, supervise, text};
use anyhow::{Context, Result, anyhow, bail, ensure};
use files::Files;
use progress::Wait;
use rsalloc_core::internals::engine::command::Operation;
use rsalloc_pprof::{Measure, Profile};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How a process is profiled.
#[derive(clap::Args)]
pub struct What {
    /// Sample one in so many allocated bytes, on average
    #[arg(long, value_name = "BYTES", default_value = "512k", value_parser = bytes)]
    interval: usize,
    /// Read the profile after so many seconds (of a program: at its end, if that comes first)
    #[arg(long, value_name = "N", value_parser = crate::seconds::parse)]
    seconds: Option<Duration>,
    #[command(flatten)]
    outputs: Outputs,
}

/// A process is profiled for so long unless another time is asked for.
const SECONDS: Duration = Duration::from_secs(10);
/// Where the profile goes unless another place is named.
const OUTPUT: &str = "heap.pb.gz";

/// Profiles a process for a time, or reads what a process or a core file has sampled.
pub fn of_target(target: &Target, what: &What) -> Result<ExitCode> {
    let outputs = what.checked_outputs()?;
    let Some(heap) = read::find(target)? else { bail!("rsalloc is not active in {target}") };
    let sampling = heap.sampling()?;
    let (profile, files) = match (target, sampling) {
        (Target::Core(_), Sampling::Never) => {
            bail!("{target} has no heap profile: nothing was sampled in that process")
        }
        (Target::Core(_), _) => taken(&heap)?,
        (Target::Process(_), Sampling::Running(interval)) => {
            if let Some(time) = what.seconds {
                let progress = Progress::new(format!("{target} is sampled already"), time);
                progress.wait(|| heap.is_there());
            }
            crate::output::say(format_args!(
                "{target} is sampled already, one in {}: read, and left on",
                text::human(interval)
            ));
            taken(&heap)?
        }
        (Target::Process(_) | Target::Published(_), _) => sampled_for_a_time(target, &heap, what)?,
    };
    finish(profile, &files, &outputs)
}

/// Switches sampling on, waits, switches it off, and reads.
fn sampled_for_a_time(target: &Target, heap: &Heap, what: &What) -> Result<(Profile, Files)> {
    let time = what.seconds.unwrap_or(SECONDS);
    let progress = Progress::new(format!("sampling {target}"), time);
    command(heap, Operation::StartProfile, what.interval)?;
    let waited = progress.wait(|| heap.is_there());
    if let Wait::Ended = waited {
        bail!("{target} ended, or started another program, before its profile was read");
    }
    // First off, then read: nothing changes any more but what is freed.
    let stopped = command(heap, Operation::StopProfile, 0);
    let taken = taken(heap)?;
    stopped.with_context(|| format!("{target} is still sampled"))?;
    Ok(taken)
}

fn command(heap: &Heap, operation: Operation, argument: usize) -> Result<()> {
    let (pid, place) = heap.command_place()?;
    match remote::command(pid, &place, operation, argument)? {
        0 => Ok(()),
        errno => Err(anyhow!(
            "process {pid} cannot be sampled: {}",
            std::io::Error::from_raw_os_error(errno as i32)
        )),
    }
}

/// Runs a program that is sampled from its start, and reads the profile at its end or after a time.
pub fn of_program(how: &How, program: &[OsString], what: &What) -> Result<ExitCode> {
    let outputs = what.checked_outputs()?;
    let mut conf = how.conf.clone();
    conf.push(format!("profile:{}", what.interval));
    let how = How { conf, ..how.clone() };
    let mut taken_at_end = None;
    let mut last_look = |pid| {
        let heap = read::find(&Target::Process(pid));
        taken_at_end = Some(heap.and_then(|heap| match heap {
            Some(heap) if heap.is_active() => match heap.sampling()? {
                Sampling::Never => Err(anyhow!("nothing was sampled in it")),
                _ => taken(&heap),
            },
            _ => Err(anyhow!("rsalloc is not active in it")),
        }));
    };
    let mut command = launch::command(&how, program)?;
    let (_, status) = supervise::run_and_look(&mut command, what.seconds, &mut last_look)?;
    let done = match taken_at_end {
        Some(taken) => taken.and_then(|(profile, files)| finish(profile, &files, &outputs)),
        None => Err(anyhow!("it ended before it could be read ({status})")),
    };
    if let Err(why) = done {
        crate::output::say(format_args!("no profile of the program: {why:#}"));
    }
    Ok(launch::exit_code(status))
}

impl What {
    fn checked_outputs(&self) -> Result<Outputs> {
        let mut outputs = self.outputs.clone();
        if outputs.is_empty() {
            outputs.output = Some(PathBuf::from(OUTPUT));
        }
        for dir in &outputs.debug_dir {
            ensure!(dir.is_dir(), "there is no folder {}", dir.display());
        }
        outputs.check_places()?;
        Ok(outputs)
    }
}

/// The profile of a heap, and the files that its addresses lie in: they may be gone when symbols are looked up.
fn taken(heap: &Heap) -> Result<(Profile, Files)> {
    let profile = heap.sampled()?.to_pprof();
    let files = Files::open(heap, &profile);
    Ok((profile, files))
}

/// See [`Taken::largest_sites`].
const STACKS_FOR_EACH_SITE: usize = 8;

/// A profile whose symbols are still to be looked up.
pub struct Taken(Profile, Files);

impl Taken {
    /// What `heap` has sampled; none if there is nothing.
    pub fn of(heap: &Heap) -> Option<Taken> {
        match heap.sampling() {
            Err(_) | Ok(Sampling::Never) => None,
            Ok(_) => taken(heap).ok().map(|(profile, files)| Taken(profile, files)),
        }
        .filter(|taken| !taken.0.samples.is_empty())
    }

    /// The sites that hold the most now, and how much: of a process that is sampled. Looks at its largest stacks only, since symbols
    /// cost more than all else.
    pub fn largest_sites(heap: &Heap, most: usize) -> Vec<(u64, String)> {
        if !matches!(heap.sampling(), Ok(Sampling::Running(_))) {
            return Vec::new();
        }
        let Ok(mut sampled) = heap.sampled() else { return Vec::new() };
        sampled.samples.sort_by_key(|sample| std::cmp::Reverse(sample.live.bytes));
        sampled.samples.truncate(STACKS_FOR_EACH_SITE * most);
        let mut profile = sampled.to_pprof();
        let files = Files::open(heap, &profile);
        Symbols::new(&[]).add_to(&mut profile, &|mapping| files.of(mapping));
        top::sites(&profile, Measure::LiveBytes, most)
    }

    /// The flame graph of what is live, and its sites as a table.
    pub fn shown(mut self, heading: &str) -> (String, String) {
        Symbols::new(&[]).add_to(&mut self.0, &|mapping| self.1.of(mapping));
        let live = Measure::LiveBytes;
        (flame::svg(&self.0, live, heading), top::top(&self.0, live))
    }
}

/// Adds symbols, writes what was asked for, and says what there is.
fn finish(mut profile: Profile, files: &Files, outputs: &Outputs) -> Result<ExitCode> {
    outputs.symbolize(&mut profile, &|mapping| files.of(mapping));
    let program = profile.comments.first().map_or("", String::as_str);
    let heading = format!("{program}, {}", text::now("%Y-%m-%d %H:%M:%S"));
    outputs.put(&profile, &heading)?;
    let total = |measure| {
        let value = frames::index_of(&profile, measure);
        profile.samples.iter().map(|s| value.map_or(0, |at| s.values[at].max(0) as u64)).sum()
    };
    crate::output::say(format_args!(
        "{} allocated and {} live at {} stacks, in {:.1} s{}",
        text::human(total(Measure::AllocatedBytes)),
        text::human(total(Measure::LiveBytes)),
        text::grouped(profile.samples.len() as u64),
        profile.duration_nanos as f64 / 1e9,
        outputs.names(),
    ));
    Ok(ExitCode::SUCCESS)
}

/// `512k` as 524288.
fn bytes(text: &str) -> Result<usize, String> {
    let (digits, shift) = match text.to_ascii_lowercase().strip_suffix(['k', 'm', 'g']) {
        Some(digits) => (
            digits.to_owned(),
            match text.as_bytes()[text.len() - 1] | 0x20 {
                b'k' => 10,
                b'm' => 20,
                _ => 30,
            },
        ),
        None => (text.to_owned(), 0),
    };
    let number: Option<usize> = digits.parse().ok().and_then(|n: usize| n.checked_mul(1 << shift));
    number.filter(|bytes| INTERVALS.contains(bytes)).ok_or_else(|| {
        "a number of bytes from 256 to 1g, with k, m or g behind it or not".to_owned()
    })
}

/// What the allocator takes.
use rsalloc_core::internals::units::PROFILE_INTERVALS as INTERVALS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_numbers_with_units() {
        for (text, number) in [("512k", 512 << 10), ("256", 256), ("2M", 2 << 20), ("1g", 1 << 30)]
        {
            assert_eq!(bytes(text), Ok(number), "{text}");
        }
        for wrong in ["", "k", "0", "255", "-1", "1t", "2g", "99999999999999999999", "1.5m"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}

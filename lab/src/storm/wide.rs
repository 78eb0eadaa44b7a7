//! The row of many threads: those that have allocated and freed cost no more than those that never did.
//!
//! What a thread costs is the difference between many and a tenth of them, so that what the process has once is not in
//! it; what the allocator costs is the difference between threads that have allocated and idle ones, on the same
//! allocator.

use anyhow::{Context, Result, ensure};

use super::victim::Line;
use super::{Trial, rss};
use crate::criu::kind::{GLIBC, Kind};

/// The most bytes that a thread may cost: far below the size of any thread-local cache.
const BYTES_MAX: f64 = 64.0;
/// Bytes by which two runs of the same process differ, whatever the number of threads: what lies in the
/// caches of a CPU, up to what they may hold, depends on which thread ran when; a trim empties them.
const CPU_NOISE: f64 = (2 << 20) as f64;
const TRIMMED_NOISE: f64 = (256 << 10) as f64;
/// Long stacks of the atomic path's eight shards, before a trim: 1.3 MiB where 150 threads have 0.2 (`docs/adr/0036`).
const LONG_STACKS: f64 = (2 << 20) as f64;

/// Resident memory with all threads asleep, and after a trim.
struct Seen {
    asleep: f64,
    trimmed: f64,
}

/// Measures the library, and glibc's malloc beside it.
pub fn judge(trial: &Trial) -> Result<String> {
    ensure!(trial.amount >= 1000, "fewer than 1000 threads would show nothing");
    let ours = cost(trial, trial.kind)?;
    let mut text = format!(
        "{} threads; a thread costs {:.1} B, after a trim {:.1} B",
        trial.amount, ours.asleep, ours.trimmed
    );
    if trial.kind.name == "libc" {
        let glibc = cost(trial, &GLIBC).context("on glibc's malloc")?;
        text += &format!("; on glibc {:.1} B, after a trim {:.1} B", glibc.asleep, glibc.trimmed);
    }
    let cpus = std::thread::available_parallelism()?.get() as f64;
    let most = |noise| BYTES_MAX + noise / (trial.amount - trial.amount / 10) as f64;
    let asleep = match trial.kind.name {
        "atomic" => CPU_NOISE * cpus + LONG_STACKS,
        _ => CPU_NOISE * cpus,
    };
    let is_little = ours.asleep < most(asleep) && ours.trimmed < most(TRIMMED_NOISE);
    ensure!(is_little, "threads cost memory: {text}");
    Ok(text)
}

/// What a thread costs because it has allocated.
fn cost(trial: &Trial, kind: &'static Kind) -> Result<Seen> {
    let few = trial.amount / 10;
    let slope = |extra| -> Result<Seen> {
        let many = measure(trial, kind, trial.amount, extra)?;
        let some = measure(trial, kind, few, extra)?;
        let threads = (trial.amount - few) as f64;
        Ok(Seen {
            asleep: (many.asleep - some.asleep) / threads,
            trimmed: (many.trimmed - some.trimmed) / threads,
        })
    };
    let (busy, idle) = (slope(None)?, slope(Some("idle"))?);
    Ok(Seen { asleep: busy.asleep - idle.asleep, trimmed: busy.trimmed - idle.trimmed })
}

fn measure(
    trial: &Trial,
    kind: &'static Kind,
    amount: u64,
    extra: Option<&'static str>,
) -> Result<Seen> {
    let mut seen = Seen { asleep: 0.0, trimmed: 0.0 };
    let mut run = trial.settings();
    (run.kind, run.amount, run.extra) = (kind, amount, extra);
    run.published = kind.published;
    trial.victim.run(&run, |pid, line| {
        match line {
            Line::At(_, "asleep") => seen.asleep = rss::of(pid)? as f64,
            Line::At(_, "trimmed") => seen.trimmed = rss::of(pid)? as f64,
            _ => {}
        }
        Ok(())
    })?;
    ensure!(seen.asleep > 0.0 && seen.trimmed > 0.0, "the memory was not read");
    Ok(seen)
}

//! [`Story`]: what a report tells: facts of the process, its sums over time, and looks at the whole heap.
//!
//! Promises to use at most about a twentieth of a CPU for looking, however large the heap is.

use crate::profile::Taken;
use crate::read::picture::Picture;
use crate::read::{Counts, Heap, Resident, Target};
use crate::series::{Series, touched_bytes};
use anyhow::Result;
use rsalloc_core::internals::config;
use rsalloc_core::{Report, Setting};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Everything that was seen at an instant.
pub struct Look {
    /// Since the story began.
    pub at: Duration,
    /// The local time.
    pub clock: String,
    /// Sums, classes, shards.
    pub counts: Counts,
    /// The heap by address; none if the process has a version of rsalloc that does not say.
    pub picture: Option<Picture>,
    /// What the kernel says.
    pub resident: Option<Resident>,
    /// Its heap profile, if allocations are sampled.
    profile: Option<Taken>,
}

impl Look {
    /// Resident bytes that cannot be the heap's; 0 if they are not known.
    pub fn outside_bytes(&self) -> u64 {
        let held = touched_bytes(&self.counts.stats);
        self.resident.map_or(0, |resident| resident.bytes.saturating_sub(held))
    }
}

/// Which look the report shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// The last one.
    Last,
    /// The one at which most may have been resident.
    Largest,
}

/// See the module.
pub struct Story {
    /// What was looked at.
    pub target: Target,
    /// Name of the program.
    pub program: String,
    /// The file that holds rsalloc.
    pub file: PathBuf,
    /// Mode, and why.
    pub report: Report,
    /// None of a process with another version of rsalloc.
    pub settings: Option<Vec<Setting>>,
    /// Bounds that the system sets: what, and how many bytes.
    pub limits: Vec<(String, u64)>,
    /// Sums over time.
    pub series: Series,
    /// What the report shows.
    pub shown: Look,
    /// The flame graph of that look, and its sites as text.
    pub flame: Option<(String, String)>,
    /// Which look that is.
    pub moment: Moment,
    /// How long a look takes, and how long ago the last one began.
    cost: Duration,
    looked_at: Instant,
    sample_cost: Duration,
}

/// Looking takes at most one of so many parts of the time.
const PARTS: u32 = 20;

impl Story {
    /// Begins with a look. Samples are wanted at distances of `every`.
    pub fn begin(target: &Target, heap: &Heap, every: Duration, moment: Moment) -> Result<Story> {
        let looked_at = Instant::now();
        let mut series = Series::new(every);
        let shown = look(heap, Duration::ZERO)?;
        series.push(&shown.counts, shown.resident);
        let settings = heap.settings().map(|raw| config::settings_of(raw).collect());
        Ok(Story {
            target: target.clone(),
            program: heap.program.clone(),
            file: heap.file.clone(),
            report: heap.report(),
            settings,
            limits: limits(target),
            series,
            shown,
            flame: None,
            moment,
            cost: looked_at.elapsed(),
            looked_at,
            sample_cost: Duration::ZERO,
        })
    }

    /// Since it began.
    pub fn age(&self) -> Duration {
        self.series.age()
    }

    /// How long to wait before the next sample.
    pub fn pause(&self) -> Duration {
        self.series.every().max(self.sample_cost * PARTS)
    }

    /// Adds a sample, and looks at the whole heap if that would be shown and a look is due.
    pub fn sample(&mut self, heap: &Heap) -> Result<()> {
        let begin = Instant::now();
        let counts = heap.counts()?;
        self.series.push(&counts, heap.resident());
        self.sample_cost = begin.elapsed();
        let is_due = self.looked_at.elapsed() >= self.cost * PARTS;
        let is_wanted = match self.moment {
            Moment::Last => true,
            Moment::Largest => {
                touched_bytes(&counts.stats) > touched_bytes(&self.shown.counts.stats)
            }
        };
        if is_due && is_wanted { self.look(heap) } else { Ok(()) }
    }

    /// Looks up the symbols of what is shown.
    pub fn symbolize(&mut self) {
        let heading = format!("{} ({}): live bytes by stack", self.program, self.target);
        self.flame = self.shown.profile.take().map(|taken| taken.shown(&heading));
    }

    /// Looks at the whole heap, to show it.
    pub fn look(&mut self, heap: &Heap) -> Result<()> {
        self.looked_at = Instant::now();
        self.shown = look(heap, self.age())?;
        self.cost = self.looked_at.elapsed();
        Ok(())
    }
}

fn look(heap: &Heap, at: Duration) -> Result<Look> {
    let counts = heap.counts()?;
    Ok(Look {
        at,
        clock: crate::text::now("%Y-%m-%d %H:%M:%S"),
        counts,
        picture: heap.picture(),
        resident: heap.resident(),
        profile: Taken::of(heap),
    })
}

/// The bounds that the kernel holds against the process, the tightest control group first.
fn limits(target: &Target) -> Vec<(String, u64)> {
    let Target::Process(pid) = target else { return Vec::new() };
    let mut found: Vec<_> = cgroup_limit(*pid).into_iter().collect();
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    for (name, what) in [("Max address space", "ulimit -v"), ("Max data size", "ulimit -d")] {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let soft = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        found.extend(soft.map(|bytes| (what.to_owned(), bytes)));
    }
    found
}

/// The lowest `memory.max` of the process's group and those above it (cgroup v2).
fn cgroup_limit(pid: u32) -> Option<(String, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let group = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let root = std::path::Path::new("/sys/fs/cgroup");
    let own = root.join(group.trim_start_matches('/'));
    own.ancestors()
        .take_while(|folder| folder.starts_with(root))
        .filter_map(|folder| {
            let text = std::fs::read_to_string(folder.join("memory.max")).ok()?;
            Some((format!("control group {}", folder.display()), text.trim().parse().ok()?))
        })
        .min_by_key(|(_, bytes)| *bytes)
}

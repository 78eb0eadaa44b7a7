//! A heap read from outside: that of a process, running, idle or stopped, of a core file, or what a process publishes of it.
//!
//! Promises to find rsalloc in a library (renamed or deleted, in any mount namespace) and in a program that has it built in,
//! stripped or not, and to write nothing. What is summed is `rsalloc_core::internals::sums`', for the process itself too.

mod block;
mod core_file;
mod mapped;
mod memory;
pub mod picture;
mod process;
mod published;
mod sampled;

pub use process::Resident;
pub use published::{Renewed, Writer};
pub use sampled::Sampling;

use crate::remote::Place;
use anyhow::{Result, bail};
use block::Found;
use core_file::CoreFile;
use mapped::Mapped;
use memory::Paged;
use picture::Picture;
use process::Process;
use published::PublishedFile;
use rsalloc_core::internals::publish::{self, Snapshot, purge_method_of};
use rsalloc_core::internals::sums::{
    self, CLASSES_MAX, ClassCounts, HeapMap, Memory, ShardCounts, Transferred,
};
use rsalloc_core::{Mode, Report, Stats};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// What is looked into.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// A process, by its id.
    Process(u32),
    /// A core file.
    Core(PathBuf),
    /// A file in which a process publishes its statistics.
    Published(PathBuf),
}

impl FromStr for Target {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.parse() {
            Ok(pid) => Target::Process(pid),
            Err(_) if PublishedFile::is_at(Path::new(text)) => Target::Published(text.into()),
            Err(_) => Target::Core(text.into()),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Target::Process(pid) => write!(f, "process {pid}"),
            Target::Core(path) => write!(f, "core file {}", path.display()),
            Target::Published(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A part of a target's memory that a file was mapped to, and that the program may write to.
pub struct Range {
    /// Its first address.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The file.
    pub path: PathBuf,
}

/// The memory of a target, of either kind.
trait Source: Send {
    /// Reads bytes; how many, which is 0 where nothing can be read.
    fn read(&self, address: u64, bytes: &mut [u8]) -> usize;
    /// Where a block may be.
    fn ranges(&self) -> &[Range];
    /// The parts of a range that hold what the program, or its loader, has written; none if that is not known. A read of what else is in
    /// it would make a process larger.
    fn written(&self, _range: &Range) -> Option<Vec<std::ops::Range<u64>>> {
        None
    }
    /// Id of the process and name of its program, as far as they are known.
    fn program(&self) -> (Option<u32>, String);
    /// The file of the program.
    fn executable(&self) -> Option<&Path>;
    /// What of the process is resident; none of a core file.
    fn resident(&self) -> Option<Resident>;
    /// What is mapped now.
    fn mapped(&self) -> Vec<Mapped>;
    /// The instant whose memory is read, in nanoseconds since 1970.
    fn time_ns(&self) -> u64;
    /// Why memory cannot be read that the block says is there.
    fn why_unreadable(&self) -> String;
}

/// rsalloc in a target.
pub struct Heap {
    source: Box<dyn Source>,
    /// What is read instead of memory, of which there is none then.
    published: Option<PublishedFile>,
    address: u64,
    seen: Snapshot,
    /// The file that holds rsalloc: the library, or the program itself; or the published one.
    pub file: PathBuf,
    /// What it is the heap of.
    pub target: Target,
    /// Id of the process, as far as it is known; by its own namespace, of a published file.
    pub pid: Option<u32>,
    /// Name of the program.
    pub program: String,
}

/// `text` without characters that a terminal would obey: names of programs, files and functions may hold them. Those in `kept` stay.
pub fn printable(text: &str, kept: &str) -> String {
    text.replace(|c: char| c.is_control() && !kept.contains(c), "?")
}

/// Everything that is counted in a heap.
pub struct Counts {
    /// The sums.
    pub stats: Stats,
    /// By class.
    pub classes: Vec<ClassCounts>,
    /// The shards that exist.
    pub shards: Vec<ShardCounts>,
    /// When that was true; none if it is now.
    pub renewed: Option<Renewed>,
}

impl Counts {
    /// The sums by name, without those that the process's version does not count.
    pub fn numbers(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let is_known = |name: &str| !TRANSFERRED.contains(&name) || self.transferred().is_some();
        let all = self.stats.entries().filter(move |(name, _)| is_known(name));
        all.map(|(name, value)| (name, value as u64))
    }

    /// Objects that moved, of all classes; none if the process's version does not count them.
    pub fn transferred(&self) -> Option<Transferred> {
        let is_known = self.classes.iter().any(|class| class.transferred.is_some());
        let Stats { refilled_objects, flushed_objects, .. } = self.stats;
        is_known.then_some(Transferred { refilled: refilled_objects, flushed: flushed_objects })
    }
}

/// Sums that older versions do not count, and that are 0 in [`Stats`] then.
const TRANSFERRED: [&str; 2] = ["refilled_objects", "flushed_objects"];

/// The heap of `target`; none if rsalloc does not serve it.
pub fn find(target: &Target) -> Result<Option<Heap>> {
    if let Target::Published(path) = target {
        return open_published(path).map(Some);
    }
    for _ in 0..ATTEMPTS {
        let source = open(target)?;
        match block::find(&*source) {
            Ok(Some(Found { address, seen, file })) => {
                let (pid, program) = source.program();
                // A process may have any name; a terminal obeys what is no text.
                let program = printable(&program, "");
                let (target, published) = (target.clone(), None);
                return Ok(Some(Heap {
                    source,
                    published,
                    address,
                    seen,
                    file,
                    target,
                    pid,
                    program,
                }));
            }
            Ok(None) if is_readable(&*source) => return Ok(None),
            // It ended meanwhile, which the next attempt says, or started another program.
            Ok(None) => {}
            Err((file, refused)) => bail!("{target}, {}: {refused}", file.display()),
        }
    }
    bail!("{target} starts one program after the other: none could be read")
}

fn open_published(path: &Path) -> Result<Heap> {
    let (published, words) = PublishedFile::open(path)?;
    let (pid, program) = words.program()?;
    Ok(Heap {
        source: Box::new(published.clone()),
        published: Some(published),
        address: 0,
        seen: Snapshot { report: words.report()?, map: None },
        file: path.to_owned(),
        target: Target::Published(path.to_owned()),
        pid: Some(pid),
        program,
    })
}

/// Whether a process has published its statistics in the file at `path`.
pub fn is_published(path: &Path) -> bool {
    PublishedFile::is_at(path)
}

/// A process that starts so many programs in this time is not read.
const ATTEMPTS: usize = 3;

fn open(target: &Target) -> Result<Box<dyn Source>> {
    Ok(match target {
        Target::Process(pid) => Box::new(Process::open(*pid)?),
        Target::Core(path) => Box::new(CoreFile::open(path)?),
        Target::Published(path) => Box::new(PublishedFile::open(path)?.0),
    })
}

/// Whether what is said to be in the target's memory is there still.
fn is_readable(source: &dyn Source) -> bool {
    let first = |range: &Range| match source.written(range) {
        Some(parts) => Some(parts.first()?.start),
        None => Some(range.start),
    };
    let mut addresses = source.ranges().iter().filter_map(first);
    addresses.next().is_none_or(|address| source.read(address, &mut [0; 8]) == 8)
}

impl Heap {
    /// How allocations are served there.
    pub fn report(&self) -> Report {
        if let Some(published) = &self.published {
            let now = published.words().and_then(|words| words.report());
            return now.unwrap_or(self.seen.report);
        }
        let mut report = self.seen.report;
        let memory = Paged::new(&*self.source);
        if let Some(map) = &self.seen.map {
            let shards = sums::percpu_shards(map, &memory).unwrap_or(0);
            let method = sums::purge_method(map, &memory).and_then(purge_method_of);
            report.shards = report.shards.max(shards);
            report.purge_method = method.or(report.purge_method);
        }
        report
    }

    /// The version of rsalloc there; `unknown` if it is too old to say.
    pub fn version(&self) -> String {
        let version = match &self.published {
            Some(published) => published.words().and_then(|words| words.library_version()).ok(),
            None => self.seen.map.map(|map| map.library_version),
        };
        let version = version.and_then(publish::version_of);
        version.map_or("unknown".into(), |[major, minor, patch]| format!("{major}.{minor}.{patch}"))
    }

    /// Whether rsalloc has served an allocation there.
    pub fn is_active(&self) -> bool {
        self.seen.report.mode != Mode::Unset
    }

    /// Reads and sums the counters, as they are now.
    pub fn counts(&self) -> Result<Counts> {
        if let Some(published) = &self.published {
            return published.words()?.counts();
        }
        let Some(map) = &self.seen.map else {
            bail!(
                "{} is of an older version, whose statistics cannot be read from outside; \
                 restart the program with this version",
                self.file.display()
            )
        };
        let memory = Paged::new(&*self.source);
        match collect(map, &memory) {
            Some(counts) => Ok(counts),
            None => bail!("{}", self.source.why_unreadable()),
        }
    }

    /// What each part of the heap's address space holds; none if the process has a version of rsalloc that does not say, or
    /// has ended.
    pub fn picture(&self) -> Option<Picture> {
        Picture::read(self.seen.map.as_ref()?, &*self.source)
    }

    /// Values and origins of the settings, see `rsalloc_core::internals::config::settings_of`.
    pub fn settings(&self) -> Option<Vec<(usize, u8)>> {
        if let Some(published) = &self.published {
            return published.words().and_then(|words| words.settings()).ok();
        }
        publish::settings(self.seen.map.as_ref()?, &Paged::new(&*self.source))
            .map(Iterator::collect)
    }

    /// The settings, or why they cannot be read.
    pub fn settings_or_why(&self) -> Result<Vec<(usize, u8)>> {
        let target = &self.target;
        match self.settings() {
            Some(settings) => Ok(settings),
            None if self.is_there() => bail!(
                "{target} has another version of rsalloc, whose settings cannot be read from outside"
            ),
            None => bail!("{target} ended, or started another program, while it was read"),
        }
    }

    /// Id of the process that is read; none of a core file.
    pub fn process(&self) -> Option<u32> {
        self.pid.filter(|_| matches!(self.target, Target::Process(_)))
    }

    /// Where the process runs commands. `Err` says in words why it cannot.
    pub fn command_place(&self) -> Result<(u32, Place)> {
        let Some(pid) = self.process() else {
            bail!("a file cannot be commanded: name the process")
        };
        if !self.is_active() {
            bail!("process {pid} has not allocated yet: there is nothing to command")
        }
        let map = self.seen.map.filter(|map| map.command_area != 0);
        let Some(map) = map else {
            bail!("process {pid} runs an older version of rsalloc, which takes no commands")
        };
        if map.command_entry == 0 {
            bail!(
                "process {pid}: rsalloc takes commands on x86-64 and aarch64 only (and not as portable)"
            )
        }
        let place = Place {
            entry: map.command_entry,
            entry_bytes: map.command_entry_bytes,
            area: map.command_area,
            frame: map.command_frame,
            frame_bytes: map.command_frame_bytes,
        };
        Ok((pid, place))
    }

    /// Whether the process still runs the same program on the same heap.
    pub fn is_there(&self) -> bool {
        if let Some(published) = &self.published {
            return published.is_there();
        }
        block::read_at(&*self.source, self.address).is_ok_and(|seen| seen.map == self.seen.map)
    }

    /// What of the process is resident; none of a core file, or of a process that has ended.
    pub fn resident(&self) -> Option<Resident> {
        self.source.resident()
    }
}

fn collect(map: &HeapMap<u64>, memory: &impl Memory) -> Option<Counts> {
    let mut classes = vec![ClassCounts::default(); CLASSES_MAX.min(map.classes as usize)];
    let mut shards = Vec::new();
    let stats = sums::collect(map, memory, &mut classes, &mut |shard| shards.push(*shard))?;
    Some(Counts { stats, classes, shards, renewed: None })
}

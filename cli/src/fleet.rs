//! [`Fleet`]: the processes that rsalloc serves, found again at each visit: by their ids, or by what they publish.

use crate::read::{self, Heap, Target};
use anyhow::{Result, bail, ensure};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A process without rsalloc is looked at again after this time, which doubles each time up to the other: it may not have
/// allocated yet, or run another program.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(30);

/// Processes, and what is known of them.
pub struct Fleet {
    wanted: Option<Vec<Target>>,
    known: HashMap<Target, Known>,
}

/// What was found at a process's id.
struct Known {
    /// Start of the process and its program: the same id may become another's.
    identity: (u64, Option<PathBuf>),
    found: Found,
    looked_at: Instant,
    look_again: Duration,
}

enum Found {
    Heap(Box<Heap>),
    /// rsalloc does not serve it, or it has ended.
    Nothing,
    /// Its rsalloc is of a version that this command does not read, or something forbids it.
    Unreadable,
    /// It is another user's: whether rsalloc serves it is not known.
    Refused,
}

impl Fleet {
    /// All processes of the machine.
    pub fn all() -> Fleet {
        Fleet { wanted: None, known: HashMap::new() }
    }

    /// These processes and published files, which rsalloc serves now. A folder stands for the published files in it, those that
    /// come later included.
    pub fn of(targets: &[Target]) -> Result<Fleet> {
        let mut fleet = Fleet { wanted: Some(targets.to_vec()), known: HashMap::new() };
        for target in targets {
            if folder(target).is_some() {
                continue;
            }
            ensure!(
                matches!(target, Target::Process(_) | Target::Published(_)),
                "{target} is no process, no published file and no folder of such files"
            );
            let Some(heap) = read::find(target)? else {
                bail!("rsalloc is not active in {target}")
            };
            heap.counts()?;
            if let Some(identity) = identity(target) {
                let found = Found::Heap(Box::new(heap));
                fleet.known.insert(target.clone(), Known::now(identity, found, LOOK_AGAIN));
            }
        }
        Ok(fleet)
    }

    /// Shows each process that rsalloc serves to `read`, which says whether it could be read; how many could not.
    pub fn visit(&mut self, mut read: impl FnMut(&Heap) -> bool) -> usize {
        let mut unread = 0;
        let targets: Vec<(Target, bool)> = match &self.wanted {
            None => processes().map(|target| (target, false)).collect(),
            Some(wanted) => wanted
                .iter()
                .flat_map(|target| match folder(target) {
                    Some(folder) => published_in(folder).map(|file| (file, false)).collect(),
                    None => vec![(target.clone(), true)],
                })
                .collect(),
        };
        let mut known = std::mem::take(&mut self.known);
        for (target, is_named) in targets {
            let Some(identity) = identity(&target) else { continue };
            let before = known.remove(&target).filter(|known| known.identity == identity);
            let mut now = match before {
                Some(known) if !known.is_stale() => known,
                // An id that was named and is another process's by now.
                None if is_named => continue,
                before => {
                    let waited = before.map_or(Duration::ZERO, |known| known.look_again);
                    let look_again = (2 * waited).clamp(LOOK_AGAIN, LOOK_AGAIN_MAX);
                    Known::now(identity, look(&target), look_again)
                }
            };
            match &now.found {
                Found::Heap(heap) if heap.is_there() && read(heap) => {}
                // What is left of a process that did not remove it.
                Found::Heap(_) if matches!(target, Target::Published(_)) => continue,
                // It ended while it was read, or something forbids to read it by now.
                Found::Heap(_) if self::identity(&target).as_ref() == Some(&now.identity) => {
                    unread += 1;
                    if !is_named {
                        now.found = Found::Nothing;
                    }
                }
                Found::Heap(_) => continue,
                Found::Nothing | Found::Refused => {}
                Found::Unreadable => unread += 1,
            }
            self.known.insert(target, now);
        }
        unread
    }

    /// Processes that may not be looked into, as of the last visit: other users'.
    pub fn refused(&self) -> usize {
        self.known.values().filter(|known| matches!(known.found, Found::Refused)).count()
    }
}

impl Known {
    fn now(identity: (u64, Option<PathBuf>), found: Found, look_again: Duration) -> Known {
        Known { identity, found, looked_at: Instant::now(), look_again }
    }

    fn is_stale(&self) -> bool {
        !matches!(self.found, Found::Heap(_)) && self.looked_at.elapsed() > self.look_again
    }
}

fn look(target: &Target) -> Found {
    match read::find(target) {
        Ok(Some(heap)) if heap.is_active() => match heap.counts() {
            // It has the allocator in it and allocates by another, as this command does.
            Ok(counts) if counts.stats.mapped_bytes == 0 => Found::Nothing,
            Ok(_) => Found::Heap(Box::new(heap)),
            Err(_) => Found::Unreadable,
        },
        Ok(_) => Found::Nothing,
        Err(_) if is_forbidden(target) => Found::Refused,
        Err(_) => Found::Nothing,
    }
}

fn is_forbidden(target: &Target) -> bool {
    let Target::Process(pid) = target else { return false };
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"));
    maps.is_err_and(|why| why.kind() == std::io::ErrorKind::PermissionDenied)
}

/// All processes.
fn processes() -> impl Iterator<Item = Target> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids.into_iter().map(Target::Process)
}

fn folder(target: &Target) -> Option<&Path> {
    match target {
        Target::Core(path) if path.is_dir() => Some(path),
        _ => None,
    }
}

/// The published files in a folder.
fn published_in(folder: &Path) -> impl Iterator<Item = Target> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort_unstable();
    paths.into_iter().filter(|path| read::is_published(path)).map(Target::Published)
}

/// What tells a target from another one that is there later: of a process when it began and its program, of a file its number.
/// None if there is none any more.
fn identity(target: &Target) -> Option<(u64, Option<PathBuf>)> {
    match target {
        Target::Process(pid) => process_identity(*pid),
        Target::Core(path) | Target::Published(path) => Some((path.metadata().ok()?.ino(), None)),
    }
}

/// When the process began, in ticks since the machine started, and its program; none if there is no such process, or it has
/// ended.
fn process_identity(pid: u32) -> Option<(u64, Option<PathBuf>)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name before may hold anything (proc_pid_stat(5)): the 22nd field is the 20th behind it.
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[name_end + 1..]).ok()?.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let start = fields.nth(18)?.parse().ok()?;
    Some((start, std::fs::read_link(format!("/proc/{pid}/exe")).ok()))
}

//! [`Fleet`]: the processes that rsalloc serves, found again at each visit.

use crate::read::{self, Heap, Target};
use anyhow::{Result, bail};
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A process without rsalloc is looked at again after this time, which doubles each time up to the other: it may not have
/// allocated yet, or run another program.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_secs(30);

/// Processes, and what is known of them.
pub struct Fleet {
    wanted: Option<Vec<u32>>,
    known: HashMap<u32, Known>,
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

    /// These processes, which rsalloc serves now.
    pub fn of(pids: &[u32]) -> Result<Fleet> {
        let mut fleet = Fleet { wanted: Some(pids.to_vec()), known: HashMap::new() };
        for &pid in pids {
            let target = Target::Process(pid);
            let Some(heap) = read::find(&target)? else {
                bail!("rsalloc is not active in {target}")
            };
            heap.counts()?;
            if let Some(identity) = identity(pid) {
                let found = Found::Heap(Box::new(heap));
                fleet.known.insert(pid, Known::now(identity, found, LOOK_AGAIN));
            }
        }
        Ok(fleet)
    }

    /// Shows each process that rsalloc serves to `read`, which says whether it could be read; how many could not.
    pub fn visit(&mut self, mut read: impl FnMut(u32, &Heap) -> bool) -> usize {
        let mut unread = 0;
        let pids = self.wanted.clone().unwrap_or_else(processes);
        let mut known = std::mem::take(&mut self.known);
        for pid in pids {
            let Some(identity) = identity(pid) else { continue };
            let before = known.remove(&pid).filter(|known| known.identity == identity);
            let is_named = self.wanted.is_some();
            let mut now = match before {
                Some(known) if !known.is_stale() => known,
                // An id that was named and is another process's by now.
                None if is_named => continue,
                before => {
                    let waited = before.map_or(Duration::ZERO, |known| known.look_again);
                    let look_again = (2 * waited).clamp(LOOK_AGAIN, LOOK_AGAIN_MAX);
                    Known::now(identity, look(pid), look_again)
                }
            };
            match &now.found {
                Found::Heap(heap) if heap.is_there() && read(pid, heap) => {}
                // It ended while it was read, or something forbids to read it by now.
                Found::Heap(_) if self::identity(pid).as_ref() == Some(&now.identity) => {
                    unread += 1;
                    if !is_named {
                        now.found = Found::Nothing;
                    }
                }
                Found::Heap(_) => continue,
                Found::Nothing | Found::Refused => {}
                Found::Unreadable => unread += 1,
            }
            self.known.insert(pid, now);
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

fn look(pid: u32) -> Found {
    match read::find(&Target::Process(pid)) {
        Ok(Some(heap)) if heap.is_active() => match heap.counts() {
            // It has the allocator in it and allocates by another, as this command does.
            Ok(counts) if counts.stats.mapped_bytes == 0 => Found::Nothing,
            Ok(_) => Found::Heap(Box::new(heap)),
            Err(_) => Found::Unreadable,
        },
        Ok(_) => Found::Nothing,
        Err(_) if is_forbidden(pid) => Found::Refused,
        Err(_) => Found::Nothing,
    }
}

fn is_forbidden(pid: u32) -> bool {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"));
    maps.is_err_and(|why| why.kind() == std::io::ErrorKind::PermissionDenied)
}

/// The ids of all processes.
fn processes() -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// When the process began, in ticks since the machine started, and its program; none if there is no such process, or it has
/// ended.
fn identity(pid: u32) -> Option<(u64, Option<PathBuf>)> {
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

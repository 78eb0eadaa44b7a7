//! A process as /proc shows it. Nothing is asked of it and nothing is written to it: it may be idle, or stopped.

use super::mapped::{self, Mapped};
use super::sampled::unix_time_ns;
use super::{Range, Source};
use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// What the kernel says of a process's memory, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Resident {
    /// In memory now.
    pub bytes: u64,
    /// Of these, those of no file: heap and stacks.
    pub anonymous_bytes: u64,
    /// The most that were in memory at once.
    pub peak_bytes: u64,
    /// Swapped out.
    pub swapped_bytes: u64,
}

/// A process, opened to be read.
pub struct Process {
    pid: u32,
    memory: File,
    ranges: Vec<Range>,
    executable: Option<PathBuf>,
    name: String,
}

impl Process {
    /// Opens process `pid`.
    pub fn open(pid: u32) -> Result<Self> {
        let maps = match std::fs::read_to_string(format!("/proc/{pid}/maps")) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => refuse(pid)?,
            Err(e) if !is_gone(&e) => {
                return Err(e).with_context(|| format!("cannot read /proc/{pid}/maps"));
            }
            maps => maps.unwrap_or_default(),
        };
        let Some(status) = status(pid) else { bail!("there is no process {pid}") };
        if maps.is_empty() {
            if field(&status, "State").is_some_and(|state| state.starts_with('Z')) {
                bail!("process {pid} has ended; only its exit status is left (a zombie)");
            }
            if is_kernel_thread(pid) {
                bail!("process {pid} has no memory of its own (a thread of the kernel)");
            }
            // Its memory goes some time before it is a zombie.
            bail!("{}", has_ended(pid));
        }
        let memory = match File::open(format!("/proc/{pid}/mem")) {
            Err(e) if e.kind() == ErrorKind::PermissionDenied => refuse(pid)?,
            Err(e) if is_gone(&e) => bail!("{}", has_ended(pid)),
            opened => opened.with_context(|| format!("cannot read process {pid}'s memory"))?,
        };
        Ok(Process {
            pid,
            memory,
            ranges: maps.lines().filter_map(parse).collect(),
            executable: std::fs::read_link(format!("/proc/{pid}/exe")).ok(),
            name: field(&status, "Name").unwrap_or_default().to_owned(),
        })
    }
}

/// What of process `pid` is resident, which any user may ask.
pub fn resident_of(pid: u32) -> Option<Resident> {
    let status = status(pid)?;
    let bytes = |name: &str| {
        let kib = field(&status, name)?.split_whitespace().next()?;
        Some(kib.parse::<u64>().ok()? << 10)
    };
    Some(Resident {
        bytes: bytes("VmRSS")?,
        anonymous_bytes: bytes("RssAnon").unwrap_or(0),
        peak_bytes: bytes("VmHWM")?,
        swapped_bytes: bytes("VmSwap").unwrap_or(0),
    })
}

fn refuse<T>(pid: u32) -> Result<T> {
    bail!("may not look into process {pid}: ask as its user or as root (ptrace rules)")
}

fn is_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn has_ended(pid: u32) -> String {
    format!("process {pid} ended while it was read")
}

fn status(pid: u32) -> Option<String> {
    std::fs::read(format!("/proc/{pid}/status"))
        .ok()
        .map(|text| String::from_utf8_lossy(&text).into_owned())
}

/// By the flags in /proc/PID/stat, the ninth field (proc_pid_stat(5)); the second one is a name in brackets, which may hold brackets.
fn is_kernel_thread(pid: u32) -> bool {
    /// `PF_KTHREAD` of the kernel's include/linux/sched.h.
    const KERNEL_THREAD: u32 = 0x0020_0000;
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    let stat = String::from_utf8_lossy(&stat);
    let flags =
        stat.rsplit(')').next().and_then(|fields| fields.split_whitespace().nth(6)?.parse().ok());
    flags.is_some_and(|flags: u32| flags & KERNEL_THREAD != 0)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// A line of /proc/PID/maps that has a file, and memory that the program may write to for itself.
fn parse(line: &str) -> Option<Range> {
    // start-end perms offset dev inode path, where the path may hold spaces.
    let (head, path) = line.split_at(line.find('/')?);
    let mut fields = head.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?.as_bytes();
    let [start, end] = [start, end].map(|number| u64::from_str_radix(number, 16).ok());
    let (start, end) = (start?, end?);
    let is_own = permissions.get(..2) == Some(b"rw") && permissions.get(3) == Some(&b'p');
    is_own.then(|| Range { start, len: end - start, path: path.into() })
}

/// By /proc/PID/pagemap (the kernel's Documentation/admin-guide/mm/pagemap.rst): the pages of `range` that are no longer the file's.
fn written(pid: u32, range: &Range) -> std::io::Result<Vec<std::ops::Range<u64>>> {
    const ENTRY_BYTES: usize = 8;
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const OF_FILE: u64 = 1 << 61;
    let page = rsalloc_core::internals::os::page_bytes() as u64;
    let mut entries = vec![0; (range.len / page) as usize * ENTRY_BYTES];
    File::open(format!("/proc/{pid}/pagemap"))?
        .read_exact_at(&mut entries, range.start / page * ENTRY_BYTES as u64)?;
    let mut parts: Vec<std::ops::Range<u64>> = Vec::new();
    for (entry, start) in
        entries.chunks_exact(ENTRY_BYTES).zip((range.start..).step_by(page as usize))
    {
        let entry = u64::from_ne_bytes(entry.try_into().expect("8 bytes"));
        if entry & SWAPPED == 0 && entry & (PRESENT | OF_FILE) != PRESENT {
            continue;
        }
        match parts.last_mut().filter(|part| part.end == start) {
            Some(part) => part.end += page,
            None => parts.push(start..start + page),
        }
    }
    Ok(parts)
}

impl Source for Process {
    fn read(&self, address: u64, bytes: &mut [u8]) -> usize {
        // Of a range of which a part is not there, the kernel reads the first part.
        let mut done = 0;
        while done < bytes.len() {
            match self.memory.read_at(&mut bytes[done..], address + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        done
    }

    fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    fn written(&self, range: &Range) -> Option<Vec<std::ops::Range<u64>>> {
        let parts = written(self.pid, range).ok()?;
        // A running process has written something, so one without such a page is not described, as in some sandboxes.
        let is_any = |range| written(self.pid, range).is_ok_and(|parts| !parts.is_empty());
        (!parts.is_empty() || self.ranges.iter().any(is_any)).then_some(parts)
    }

    fn program(&self) -> (Option<u32>, String) {
        (Some(self.pid), self.name.clone())
    }

    fn executable(&self) -> Option<&Path> {
        self.executable.as_deref()
    }

    fn resident(&self) -> Option<Resident> {
        resident_of(self.pid)
    }

    fn mapped(&self) -> Vec<Mapped> {
        let maps = std::fs::read(format!("/proc/{}/maps", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&maps).lines().filter_map(mapped::parse).collect()
    }

    fn time_ns(&self) -> u64 {
        unix_time_ns(SystemTime::now())
    }

    fn why_unreadable(&self) -> String {
        let pid = self.pid;
        match std::fs::read_to_string(format!("/proc/{pid}/maps")) {
            Ok(maps) if !maps.is_empty() => format!(
                "process {pid}: the counters cannot be read; it may have started another program"
            ),
            _ => has_ended(pid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_that_a_program_writes_to_are_found() {
        let range = |line: &str| parse(line).map(|range| (range.start, range.len, range.path));
        let line = "7f0000000000-7f0000002000 rw-p 00001000 08:01 42   /opt/a folder/librsalloc.so (deleted)";
        let path = PathBuf::from("/opt/a folder/librsalloc.so (deleted)");
        assert_eq!(range(line), Some((0x7f00_0000_0000, 0x2000, path)));
        for other in ["r--p", "r-xp", "rw-s", "---p"] {
            assert_eq!(range(&line.replace("rw-p", other)), None, "{other}");
        }
        assert_eq!(range("7f0000000000-7f0000002000 rw-p 00000000 00:00 0      [heap]"), None);
        assert_eq!(range("7f0000000000-7f0000002000 rw-p 00000000 00:00 0"), None);
    }
}

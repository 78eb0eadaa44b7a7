//! A published file (`publish:PATH`): statistics that a process keeps for readers which may not trace it.
//!
//! Promises to say of when the numbers are, and what is known of the process that wrote them: the file of one that has ended,
//! or that was restored from an image and has not renewed it yet, is never taken for one of this moment. An exec is not seen.

use super::mapped::Mapped;
use super::process::resident_of;
use super::{Counts, Range, Resident, Source, printable};
use anyhow::{Context, Result, bail, ensure};
use rsalloc_core::Report;
use rsalloc_core::internals::publish::words::{MAGIC, Published, WORDS};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// What is known of the process that wrote a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writer {
    /// It runs.
    Runs,
    /// It has ended, or has not renewed the file since it was restored from an image.
    Gone,
    /// Its id is of another namespace, as that of a container.
    Elsewhere,
}

/// When the numbers of a file were true.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renewed {
    /// In milliseconds since 1970.
    pub at_ms: u64,
    /// The process that wrote them.
    pub writer: Writer,
}

/// A published file that was opened once.
#[derive(Clone)]
pub struct PublishedFile {
    path: PathBuf,
    /// The process that wrote it then, and its namespace.
    writer: (u32, u64),
}

/// What a file said at an instant.
pub struct Words {
    path: PathBuf,
    words: Vec<u64>,
}

impl PublishedFile {
    /// Whether the file at `path` is one.
    pub fn is_at(path: &Path) -> bool {
        let mut begin = [0; 8];
        let is_file = path.metadata().is_ok_and(|meta| meta.is_file());
        is_file
            && File::open(path).and_then(|mut file| file.read_exact(&mut begin)).is_ok()
            && u64::from_ne_bytes(begin) == MAGIC
    }

    /// Opens the file at `path`.
    pub fn open(path: &Path) -> Result<(Self, Words)> {
        let words = read(path)?;
        let writer = words.parsed()?.process();
        Ok((PublishedFile { path: path.to_owned(), writer }, words))
    }

    /// What the file says now. `Err` says in words that another process has it by now, or none.
    pub fn words(&self) -> Result<Words> {
        let words = read(&self.path)?;
        let path = self.path.display();
        ensure!(words.parsed()?.process() == self.writer, "{path} is another process's by now");
        Ok(words)
    }

    /// Id of the process, as this command sees it; none of a process that is gone, or of another namespace.
    pub fn process(&self) -> Option<u32> {
        let renewed = self.words().ok()?.renewed().ok()?;
        (renewed.writer == Writer::Runs).then_some(self.writer.0)
    }

    /// Whether the process still publishes there, as far as can be told.
    pub fn is_there(&self) -> bool {
        let words = self.words();
        words.and_then(|words| words.renewed()).is_ok_and(|renewed| renewed.writer != Writer::Gone)
    }
}

impl Words {
    fn parsed(&self) -> Result<Published<'_>> {
        Published::parse(&self.words).with_context(|| {
            let path = self.path.display();
            format!("{path} is no published file that this version of rsalloc reads")
        })
    }

    /// When it was true.
    pub fn renewed(&self) -> Result<Renewed> {
        let published = self.parsed()?;
        let (at_ms, _) = published.renewed_ms();
        Ok(Renewed { at_ms, writer: writer(published.process(), at_ms) })
    }

    /// Sums, classes and shards.
    pub fn counts(&self) -> Result<Counts> {
        let published = self.parsed()?;
        Ok(Counts {
            stats: published.stats(),
            classes: published.classes().collect(),
            shards: published.shards().collect(),
            renewed: Some(self.renewed()?),
        })
    }

    /// How allocations are served.
    pub fn report(&self) -> Result<Report> {
        let report = self.parsed()?.report();
        report.with_context(|| format!("{} is damaged", self.path.display()))
    }

    /// Values and origins of the settings.
    pub fn settings(&self) -> Result<Vec<(usize, u8)>> {
        Ok(self.parsed()?.settings().collect())
    }

    /// The process's id and the name of its program.
    pub fn program(&self) -> Result<(u32, String)> {
        let published = self.parsed()?;
        let name = published.program();
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        // Another user may have written it; a terminal obeys what is no text.
        let text = printable(&String::from_utf8_lossy(&name[..end]), "");
        Ok((published.process().0, text))
    }

    /// The version of rsalloc, as a map has it.
    pub fn library_version(&self) -> Result<u64> {
        Ok(self.parsed()?.library_version())
    }
}

/// A process that renews the file as fast as this command reads it is not read.
const ATTEMPTS: usize = 8;

fn read(path: &Path) -> Result<Words> {
    let cannot = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(cannot)?;
    for _ in 0..ATTEMPTS {
        let before = words_of(&file, 16).with_context(cannot)?;
        let words = words_of(&file, WORDS).with_context(cannot)?;
        let after = words_of(&file, 16).with_context(cannot)?;
        let generation = |head: &[u64]| {
            let mut padded = head.to_vec();
            padded.resize(WORDS, 0);
            Published::generation(&padded)
        };
        if generation(&before) == generation(&after) {
            return Ok(Words { path: path.to_owned(), words });
        }
    }
    bail!("{} changes while it is read", path.display())
}

fn words_of(file: &File, words: usize) -> std::io::Result<Vec<u64>> {
    let mut bytes = vec![0; words * 8];
    let mut len = 0;
    while len < bytes.len() {
        match file.read_at(&mut bytes[len..], len as u64)? {
            0 => break,
            read => len += read,
        }
    }
    let words = bytes[..len].chunks_exact(8);
    Ok(words.map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default())).collect())
}

/// What is known of the process `pid` of a namespace, which wrote at `at_ms`.
fn writer((pid, namespace): (u32, u64), at_ms: u64) -> Writer {
    let own = Path::new("/proc/self/ns/pid").metadata().map_or(0, |meta| meta.ino());
    if namespace != 0 && own != 0 && namespace != own {
        return Writer::Elsewhere;
    }
    // SAFETY: no signal is sent.
    let answer = unsafe { libc::kill(pid as i32, 0) };
    let is_refused = std::io::Error::last_os_error().raw_os_error() == Some(libc::EPERM);
    if answer != 0 && !is_refused {
        return Writer::Gone;
    }
    // Hidden from this user (hidepid): then only its id is known to be in use.
    let Ok(stat) = std::fs::read(format!("/proc/{pid}/stat")) else { return Writer::Runs };
    let started = started_ms(&stat);
    // Seconds are as exact as the machine's start is known.
    match started {
        Some(started) if started <= at_ms + 2_000 => Writer::Runs,
        None if !is_zombie(&stat) => Writer::Runs,
        _ => Writer::Gone,
    }
}

fn fields(stat: &[u8]) -> impl Iterator<Item = &str> {
    // The name before may hold anything (proc_pid_stat(5)).
    let end = stat.iter().rposition(|&byte| byte == b')').map_or(stat.len(), |end| end + 1);
    std::str::from_utf8(&stat[end..]).unwrap_or_default().split_ascii_whitespace()
}

fn is_zombie(stat: &[u8]) -> bool {
    fields(stat).next().is_some_and(|state| matches!(state, "Z" | "X"))
}

/// When a process began, in milliseconds since 1970; none of one that has ended.
fn started_ms(stat: &[u8]) -> Option<u64> {
    if is_zombie(stat) {
        return None;
    }
    let ticks: u64 = fields(stat).nth(19)?.parse().ok()?;
    let machine = std::fs::read_to_string("/proc/stat").ok()?;
    let booted: u64 =
        machine.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    // SAFETY: no preconditions.
    let per_second = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).ok()?.max(1);
    Some(booted * 1000 + ticks * 1000 / per_second)
}

/// The file has no memory to read.
impl Source for PublishedFile {
    fn read(&self, _address: u64, _bytes: &mut [u8]) -> usize {
        0
    }

    fn ranges(&self) -> &[Range] {
        &[]
    }

    fn program(&self) -> (Option<u32>, String) {
        (Some(self.writer.0), String::new())
    }

    fn executable(&self) -> Option<&Path> {
        None
    }

    fn resident(&self) -> Option<Resident> {
        resident_of(self.process()?)
    }

    fn mapped(&self) -> Vec<Mapped> {
        Vec::new()
    }

    fn time_ns(&self) -> u64 {
        let renewed = self.words().and_then(|words| words.renewed());
        renewed.map_or(0, |renewed| renewed.at_ms * 1_000_000)
    }

    fn why_unreadable(&self) -> String {
        format!("{} has statistics only", self.path.display())
    }
}

//! A running process, read from outside: finds rsalloc's published block in it.
//!
//! Promises to find the block in librsalloc.so (in any folder, deleted, or in another mount namespace) and in
//! programs that have rsalloc built in, stripped or not. `rsalloc_core::internals::publish` defines the block's layout.

use crate::elf;
use anyhow::{Context, Result, bail};
use rsalloc_core::Mode;
use rsalloc_core::internals::publish::{
    BLOCK_BYTES, REQUEST_OFFSET, SECTION, Snapshot, WHOLE_BYTES,
};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// rsalloc inside a process.
pub struct Block {
    memory: File,
    address: u64,
    /// The file that holds rsalloc: the library, or the program itself.
    pub file: PathBuf,
}

/// The block of a process; `None` if rsalloc does not serve it.
pub fn find(pid: u32) -> Result<Option<Block>> {
    let maps = match std::fs::read_to_string(format!("/proc/{pid}/maps")) {
        Err(e) if e.kind() == ErrorKind::NotFound => bail!("there is no process {pid}"),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => {
            bail!("may not look into process {pid}: ask as its user or as root (ptrace rules)")
        }
        maps => maps.with_context(|| format!("cannot read /proc/{pid}/maps"))?,
    };
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let starts = || maps.lines().filter_map(Mapping::parse).filter(|m| m.offset == 0);
    let libraries = starts().filter(|m| m.is_library());
    let programs = starts().filter(|m| Path::new(m.path) == program);
    for mapping in libraries.chain(programs) {
        let unreadable = || format!("cannot read {}, which process {pid} uses", mapping.path);
        let file = match mapping.open(pid) {
            Err(_) if !mapping.is_library() => continue,
            opened => opened.with_context(unreadable)?,
        };
        let Some(offset) = elf::section_offset(&file, SECTION) else { continue };
        let block = Block {
            memory: memory_of(pid)?,
            address: mapping.start + offset,
            file: mapping.path.into(),
        };
        // A program that only knows the block's layout (this command) is not served by it.
        if block.read()?.report.mode != Mode::Unset || mapping.is_library() {
            return Ok(Some(block));
        }
    }
    Ok(None)
}

impl Block {
    /// What the process published.
    pub fn read(&self) -> Result<Snapshot> {
        let mut bytes = [0; WHOLE_BYTES];
        self.memory
            .read_exact_at(&mut bytes[..BLOCK_BYTES], self.address)
            .context("cannot read the process's memory (it may have ended)")?;
        // An older process has less; its block says so.
        let behind = self.address + BLOCK_BYTES as u64;
        let _ = self.memory.read_exact_at(&mut bytes[BLOCK_BYTES..], behind);
        Snapshot::parse(&bytes)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("{} holds rsalloc", self.file.display()))
    }

    /// Asks the process to publish its statistics at its next slow path.
    pub fn request_stats(&self) -> Result<()> {
        self.memory
            .write_all_at(&1u32.to_ne_bytes(), self.address + REQUEST_OFFSET as u64)
            .context("cannot write to the process's memory")
    }
}

fn memory_of(pid: u32) -> Result<File> {
    File::options().read(true).write(true).open(format!("/proc/{pid}/mem")).with_context(|| {
        format!("may not look into process {pid}: ask as its user or as root (ptrace rules)")
    })
}

/// A line of /proc/PID/maps that has a file.
struct Mapping<'a> {
    range: &'a str,
    start: u64,
    offset: u64,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        // start-end perms offset dev inode path, where the path may hold spaces.
        let (head, path) = line.split_at(line.find('/')?);
        let mut fields = head.split_ascii_whitespace();
        let range = fields.next()?;
        let start = u64::from_str_radix(range.split_once('-')?.0, 16).ok()?;
        let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
        Some(Self { range, start, offset, path })
    }

    fn is_library(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.starts_with("librsalloc") && name.contains(".so")
    }

    /// Opens the very file that is mapped, which root may even if it is deleted; else the path as
    /// the process sees it.
    fn open(&self, pid: u32) -> std::io::Result<File> {
        File::open(format!("/proc/{pid}/map_files/{}", self.range))
            .or_else(|_| File::open(format!("/proc/{pid}/root{}", self.path)))
    }
}

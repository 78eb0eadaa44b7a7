//! A core file: the memory of a process that the kernel, or a debugger, wrote down.

use super::mapped::Mapped;
use super::sampled::unix_time_ns;
use super::{Range, Resident, Source};
use anyhow::{Context, Result, bail};
use memmap2::Mmap;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, elf};
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// A core file, opened to be read.
pub struct CoreFile {
    path: PathBuf,
    bytes: Mmap,
    segments: Vec<Segment>,
    ranges: Vec<Range>,
    files: Vec<MappedFile>,
    pid: Option<u32>,
    name: String,
}

/// A range of memory that is in the file, or should be.
struct Segment {
    address: u64,
    len: u64,
    offset: u64,
    /// Of the memory, which may be more than what is in the file.
    memory_len: u64,
    is_writable: bool,
    is_code: bool,
}

impl CoreFile {
    /// Opens the core file at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| {
            format!("{} is neither the id of a process nor a core file", path.display())
        })?;
        // SAFETY: the bytes are only read. If the file were cut short meanwhile, this command would end by SIGBUS; it holds
        // nothing that could be lost.
        let bytes = unsafe { Mmap::map(&file) };
        let bytes = bytes.with_context(|| format!("cannot read {}", path.display()))?;
        let mut core = CoreFile {
            path: path.to_owned(),
            bytes,
            segments: Vec::new(),
            ranges: Vec::new(),
            files: Vec::new(),
            pid: None,
            name: String::new(),
        };
        if core.read_headers().is_none() {
            bail!("{} is no core file of this machine", path.display());
        }
        Ok(core)
    }

    fn read_headers(&mut self) -> Option<()> {
        let bytes = &*self.bytes;
        let header = elf::FileHeader64::<Endianness>::parse(bytes).ok()?;
        let endian = header.endian().ok()?;
        if header.e_type(endian) != elf::ET_CORE {
            return None;
        }
        let headers = header.program_headers(endian, bytes).ok()?;
        for header in headers.iter().filter(|header| header.p_type(endian) == elf::PT_LOAD) {
            self.segments.push(Segment {
                address: header.p_vaddr(endian),
                len: header.p_filesz(endian),
                offset: header.p_offset(endian),
                memory_len: header.p_memsz(endian),
                is_writable: header.p_flags(endian) & elf::PF_W != 0,
                is_code: header.p_flags(endian) & elf::PF_X != 0,
            });
        }
        let mut files = Vec::new();
        for header in headers {
            let Ok(Some(mut notes)) = header.notes(endian, bytes) else { continue };
            while let Ok(Some(note)) = notes.next() {
                match note.n_type(endian) {
                    elf::NT_PRPSINFO => {
                        let (pid, name) = program(note.desc());
                        (self.pid, self.name) = (pid, name.unwrap_or_default());
                    }
                    elf::NT_FILE => files = mapped_files(note.desc()).unwrap_or_default(),
                    _ => {}
                }
            }
        }
        let own = self.segments.iter().filter(|segment| segment.is_writable && segment.len > 0);
        self.ranges = own
            .filter_map(|segment| {
                let path = files
                    .iter()
                    .find(|file| file.start <= segment.address && segment.address < file.end);
                // A writer that says nothing of files has each of them looked at.
                let path = match path {
                    None if files.is_empty() => {
                        PathBuf::from("a file that the core file does not name")
                    }
                    path => path?.path.clone(),
                };
                Some(Range { start: segment.address, len: segment.len, path })
            })
            .collect();
        self.files = files;
        Some(())
    }
}

/// Process id and program of a `struct elf_prpsinfo`, of 64-bit Linux.
fn program(bytes: &[u8]) -> (Option<u32>, Option<String>) {
    let pid = bytes.get(24..28).and_then(|pid| Some(u32::from_ne_bytes(pid.try_into().ok()?)));
    let name = bytes.get(40..56).map(|name| {
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        String::from_utf8_lossy(&name[..end]).into_owned()
    });
    (pid, name)
}

struct MappedFile {
    start: u64,
    end: u64,
    /// In bytes.
    offset: u64,
    path: PathBuf,
}

/// The entries of an NT_FILE note: a count, the unit of offsets, triples of start, end and offset, then the names.
fn mapped_files(bytes: &[u8]) -> Option<Vec<MappedFile>> {
    let word = |index: usize| Some(u64::from_ne_bytes(*bytes.get(8 * index..)?.first_chunk()?));
    let unit = word(1)?;
    let count = usize::try_from(word(0)?).ok().filter(|count| *count <= bytes.len() / 24)?;
    let names = bytes.get(16 + 24 * count..)?.split(|&byte| byte == 0);
    let entries = names.take(count).enumerate().map(|(index, name)| {
        let (start, end) = (word(2 + 3 * index)?, word(3 + 3 * index)?);
        let offset = word(4 + 3 * index)?.wrapping_mul(unit);
        Some(MappedFile { start, end, offset, path: OsStr::from_bytes(name).into() })
    });
    entries.collect()
}

impl Source for CoreFile {
    fn read(&self, address: u64, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let at = address.wrapping_add(done as u64);
            let holds = |segment: &&Segment| at.wrapping_sub(segment.address) < segment.len;
            let Some(segment) = self.segments.iter().find(holds) else { break };
            let inside = at - segment.address;
            let len = (segment.len - inside).min((bytes.len() - done) as u64) as usize;
            let from = segment.offset.saturating_add(inside);
            let Some(found) = self.bytes.get(from as usize..) else { break };
            let len = len.min(found.len());
            bytes[done..done + len].copy_from_slice(&found[..len]);
            done += len;
            if len == 0 {
                break;
            }
        }
        done
    }

    fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    fn program(&self) -> (Option<u32>, String) {
        (self.pid, self.name.clone())
    }

    fn executable(&self) -> Option<&Path> {
        None
    }

    fn resident(&self) -> Option<Resident> {
        None
    }

    fn mapped(&self) -> Vec<Mapped> {
        let segment = |address: u64| {
            self.segments.iter().find(|s| address.wrapping_sub(s.address) < s.memory_len)
        };
        let files = self.files.iter().map(|file| Mapped {
            start: file.start,
            end: file.end,
            offset: file.offset,
            name: file.path.to_string_lossy().into(),
            // A debugger leaves out what is in the file, and with it what it may be used for.
            is_code: segment(file.start).is_none_or(|segment| segment.is_code),
        });
        files.collect()
    }

    fn time_ns(&self) -> u64 {
        let written = self.path.metadata().and_then(|meta| meta.modified());
        written.map_or(0, unix_time_ns)
    }

    fn why_unreadable(&self) -> String {
        let path = self.path.display();
        let end =
            self.segments.iter().map(|segment| segment.offset.saturating_add(segment.len)).max();
        match end.is_some_and(|end| end > self.bytes.len() as u64) {
            true => format!("core file {path} is cut short: raise its limit (ulimit -c unlimited)"),
            false => format!("core file {path} lacks the counters: see coredump_filter in core(5)"),
        }
    }
}

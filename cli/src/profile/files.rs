//! The files that are mapped into a process, held open: they may be deleted, in another mount namespace, or in no file system.

use crate::read::Heap;
use rsalloc_pprof::{Mapping, Profile};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Files by the first address of their mappings.
#[derive(Default)]
pub struct Files(Vec<(u64, File)>);

/// The kernel's code in each process; it has no file.
const VDSO: &str = "[vdso]";

impl Files {
    /// Opens what the mappings of `profile` are of, as far as it can be had: by the kernel's link to what is mapped, or by its
    /// name as the process sees it.
    pub fn open(heap: &Heap, profile: &Profile) -> Self {
        let files = profile.mappings.iter().filter_map(|mapping| {
            let Mapping { start, end, file: name, .. } = mapping;
            let file = match (&**name, heap.process()) {
                (VDSO, _) => in_memory(&heap.bytes(*start, (end - start) as usize)),
                (_, Some(pid)) if name.starts_with('/') => {
                    let link = format!("/proc/{pid}/map_files/{start:x}-{end:x}");
                    let named = Path::new(name).strip_prefix("/").unwrap_or(Path::new(name));
                    let inside = PathBuf::from(format!("/proc/{pid}/root")).join(named);
                    open(link).or_else(|_| open(inside)).ok()
                }
                _ => None,
            };
            Some((*start, file?))
        });
        Self(files.collect())
    }

    /// Where the file of a mapping can be opened.
    pub fn of(&self, mapping: &Mapping) -> Vec<PathBuf> {
        let own = self.0.iter().filter(|(start, _)| *start == mapping.start);
        own.map(|(_, file)| format!("/proc/self/fd/{}", file.as_raw_fd()).into()).collect()
    }
}

/// Opens a file to read. Never waits: a pipe may lie where the file was.
fn open(path: impl AsRef<Path>) -> std::io::Result<File> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let is_file = file.metadata()?.is_file();
    if is_file { Ok(file) } else { Err(std::io::ErrorKind::InvalidInput.into()) }
}

/// A file that holds `bytes`, in memory.
fn in_memory(bytes: &[u8]) -> Option<File> {
    // SAFETY: the name ends with a zero; the descriptor is new and the file's own.
    let mut file = unsafe {
        let fd = libc::memfd_create(c"rsalloc-vdso".as_ptr(), libc::MFD_CLOEXEC);
        (fd >= 0).then(|| File::from_raw_fd(fd))?
    };
    file.write_all(bytes).ok()?;
    Some(file)
}

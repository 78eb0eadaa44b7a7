//! Files that the allocator writes: the statistics at exit, and those that are published.

use super::mapping::advise;
use super::{Errno, address_of, outcome, unmap, write};
use crate::arch::syscall;
use crate::atomic::AtomicU64;
use core::ffi::CStr;
use core::mem::MaybeUninit;

/// A file that was opened here, and is closed when the value is dropped.
pub struct File(i32);

impl File {
    /// Opens `path` to write, empty; a new file can be read by all.
    pub fn create(path: &CStr) -> Option<File> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC;
        open(path, flags).ok().map(|fd| File(fd as i32))
    }

    /// The file's descriptor, open as long as this value lives.
    pub const fn descriptor(&self) -> i32 {
        self.0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        close(self.0 as usize);
    }
}

/// openat(2), with close-on-exec. libc's function, as its `close`, would be a cancellation point.
fn open(path: &CStr, flags: i32) -> Result<usize, Errno> {
    let at = libc::AT_FDCWD as isize as usize;
    let args = [at, path.as_ptr() as usize, (flags | libc::O_CLOEXEC) as usize, MODE, 0, 0];
    // SAFETY: a NUL-terminated path.
    outcome(unsafe { syscall(libc::SYS_openat as usize, args) })
}

fn close(fd: usize) {
    // SAFETY: each caller has opened it, and closes it once.
    unsafe { syscall(libc::SYS_close as usize, [fd, 0, 0, 0, 0, 0]) };
}

/// Bytes that a file may have; a write behind them raises SIGXFSZ.
pub fn file_size_limit() -> u64 {
    let mut limit = MaybeUninit::<libc::rlimit>::uninit();
    let args = [0, libc::RLIMIT_FSIZE as usize, 0, limit.as_mut_ptr() as usize, 0, 0];
    // SAFETY: fills in a live struct.
    let answer = unsafe { syscall(libc::SYS_prlimit64 as usize, args) };
    // SAFETY: the call succeeded.
    if outcome(answer).is_ok() { unsafe { limit.assume_init() }.rlim_cur } else { u64::MAX }
}

/// What tells a file from all others, as long as it exists: its device and its inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The device.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

impl Identity {
    const fn of(status: &libc::stat) -> Self {
        Identity { device: status.st_dev, inode: status.st_ino }
    }
}

/// Which file `path` names; a symbolic link names itself.
pub fn identity_of(path: &CStr) -> Option<Identity> {
    let status = status(libc::AT_FDCWD as isize as usize, path, libc::AT_SYMLINK_NOFOLLOW);
    status.ok().map(|status| Identity::of(&status))
}

/// newfstatat(2), whose struct is libc's on 64-bit Linux.
fn status(at: usize, path: &CStr, flags: i32) -> Result<libc::stat, Errno> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    let args = [at, path.as_ptr() as usize, status.as_mut_ptr() as usize, flags as usize, 0, 0];
    // SAFETY: a NUL-terminated path; fills in a live struct.
    outcome(unsafe { syscall(libc::SYS_newfstatat as usize, args) })?;
    // SAFETY: the call succeeded.
    Ok(unsafe { status.assume_init() })
}

/// Whether the descriptor is open, and of this file. libc's function needs glibc 2.33.
pub fn is_file(fd: i32, device: u64, inode: u64) -> bool {
    identity_of_descriptor(fd) == Some(Identity { device, inode })
}

/// Which file a descriptor is open for; none if it is closed.
pub fn identity_of_descriptor(fd: i32) -> Option<Identity> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    let args = [fd as usize, status.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: fills in a live struct, which on 64-bit Linux is the kernel's.
    outcome(unsafe { syscall(libc::SYS_fstat as usize, args) }).ok()?;
    // SAFETY: the call succeeded.
    Some(Identity::of(&unsafe { status.assume_init() }))
}

/// Words of a file, as it and its readers have them. Any process that may write to the file may change them.
pub type Shared = &'static [AtomicU64];

/// Makes a file of `words` words that begins with `head`, which any user may read, and maps it for as long as the process
/// lives. Forked children do not have the mapping. By system calls only: async-signal-safe.
///
/// What is there before must be a regular file that is no longer, and that `replaced` says may be removed; it is asked with what
/// the file begins with, as much as `head`. Anything else is left alone, and neither waited for nor read.
///
/// All of the file is written once, so that a store finds it on a disk that is full by then. If another process cuts the
/// file short, a store ends this one by SIGBUS.
pub fn share<const HEAD: usize>(
    path: &CStr,
    head: &[u64; HEAD],
    words: usize,
    replaced: impl Fn(&[u64]) -> Result<(), Errno>,
) -> Result<(Shared, Identity), Errno> {
    let len = words * size_of::<u64>();
    if file_size_limit() < len as u64 {
        return Err(libc::EFBIG);
    }
    let mut begin = [0; HEAD];
    if let Some(begin) = begin_of(path, len, &mut begin)? {
        replaced(begin)?;
        unlink(path);
    }
    let fd = open(path, libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW)?;
    let made = fill(fd, head, len).and_then(|()| {
        let identity = Identity::of(&status(fd, c"", libc::AT_EMPTY_PATH)?);
        Ok((map_file(fd, len)?, identity))
    });
    // The mapping stays.
    close(fd);
    let (address, identity) = made.inspect_err(|_| unlink(path))?;
    // SAFETY: a mapping of at least so many words, of which any value is valid, never unmapped.
    Ok((unsafe { core::slice::from_raw_parts(address as *const AtomicU64, words) }, identity))
}

/// The whole words, up to as many as `begin`, that the regular file at `path` begins with; none if nothing is there.
fn begin_of<'a>(
    path: &CStr,
    max_len: usize,
    begin: &'a mut [u64],
) -> Result<Option<&'a [u64]>, Errno> {
    let is_ours = |status: &libc::stat| {
        status.st_mode & libc::S_IFMT == libc::S_IFREG && status.st_size as u64 <= max_len as u64
    };
    let found = match status(libc::AT_FDCWD as isize as usize, path, libc::AT_SYMLINK_NOFOLLOW) {
        Err(libc::ENOENT) => return Ok(None),
        found => found?,
    };
    if !is_ours(&found) {
        return Err(libc::EEXIST);
    }
    // The file may have become another one by now.
    let fd = open(path, libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY)?;
    let read = status(fd, c"", libc::AT_EMPTY_PATH).and_then(|opened| {
        if !is_ours(&opened) || Identity::of(&opened) != Identity::of(&found) {
            return Err(libc::EEXIST);
        }
        let args = [fd, begin.as_mut_ptr() as usize, size_of_val::<[u64]>(begin), 0, 0, 0];
        // SAFETY: the kernel writes at most so many bytes, and any bytes are valid words.
        outcome(unsafe { syscall(libc::SYS_read as usize, args) })
    });
    close(fd);
    Ok(Some(&begin[..read? / size_of::<u64>()]))
}

/// Every user may read what is published, whatever the umask says.
const MODE: usize = 0o644;

/// Makes the file `len` bytes long, readable by all where the file system has modes. The head comes by one write.
fn fill<const HEAD: usize>(fd: usize, head: &[u64; HEAD], len: usize) -> Result<(), Errno> {
    // SAFETY: changes a file that was just made. On vfat, and on FUSE, it may be refused.
    unsafe { syscall(libc::SYS_fchmod as usize, [fd, MODE, 0, 0, 0, 0]) };
    let head = head.map(u64::to_ne_bytes);
    let head = head.as_flattened();
    let mut done = 0;
    while done < len {
        let bytes = if done < head.len() { &head[done..] } else { &[0; 512] };
        match write(fd as i32, &bytes[..bytes.len().min(len - done)]) {
            Ok(0) => return Err(libc::EIO),
            Ok(written) => done += written,
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn map_file(fd: usize, len: usize) -> Result<usize, Errno> {
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    // SAFETY: a new mapping replaces nothing.
    let address = address_of(unsafe {
        syscall(libc::SYS_mmap as usize, [0, len, prot, libc::MAP_SHARED as usize, fd, 0])
    })?;
    // SAFETY: the range was just mapped; a child that lacks it does not know it.
    match unsafe { advise(address, len, libc::MADV_DONTFORK) } {
        Ok(()) => Ok(address),
        Err(errno) => {
            // SAFETY: mapped above, known to no other code.
            unsafe { unmap(address, len) };
            Err(errno)
        }
    }
}

/// Removes a file, if it can be removed.
pub fn unlink(path: &CStr) {
    let at = libc::AT_FDCWD as isize as usize;
    // SAFETY: a NUL-terminated path.
    unsafe { syscall(libc::SYS_unlinkat as usize, [at, path.as_ptr() as usize, 0, 0, 0, 0]) };
}

/// The number of the namespace that the process's id belongs to; 0 if the kernel does not say.
pub fn pid_namespace() -> u64 {
    let status = status(libc::AT_FDCWD as isize as usize, c"/proc/self/ns/pid", 0);
    status.map_or(0, |status| status.st_ino)
}

/// Whether a process of this id runs, or has ended and is not collected yet.
pub fn is_process(pid: i32) -> bool {
    // SAFETY: sends no signal.
    let answer = unsafe { syscall(libc::SYS_kill as usize, [pid as usize, 0, 0, 0, 0, 0]) };
    outcome(answer) != Err(libc::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::Ordering;
    use crate::os::read_file;

    #[test]
    fn a_shared_file_has_what_is_stored_and_replaces_its_like_only() {
        let path = c"/tmp/rsalloc-shared-file";
        unlink(path);
        let share = |path, words| {
            share(path, &[7, 8], words, |begin| {
                if begin.first() == Some(&7) { Ok(()) } else { Err(libc::EPERM) }
            })
        };
        let (words, first) = share(path, 1000).unwrap();
        assert_eq!(identity_of(path), Some(first));
        words[999].store(9, Ordering::Relaxed);
        let mut bytes = [0; 9000];
        let bytes = read_file(path.to_bytes_with_nul(), &mut bytes).unwrap();
        let (read, rest) = bytes.as_chunks();
        let word = |at: usize| u64::from_ne_bytes(read[at]);
        assert_eq!((read.len(), rest.len(), word(0), word(1), word(999)), (1000, 0, 7, 8, 9));
        assert!((2..999).all(|at| word(at) == 0));
        assert_eq!(share(path, 10).map(drop), Err(libc::EEXIST), "a longer file");
        let (fresh, second) = share(path, 1000).unwrap();
        assert_eq!(
            (fresh[999].load(Ordering::Relaxed), words[999].load(Ordering::Relaxed)),
            (0, 9)
        );
        assert_ne!(first, second);
        fresh[0].store(6, Ordering::Relaxed);
        assert_eq!(share(path, 1000).map(drop), Err(libc::EPERM), "another's file");
        assert_eq!(share(c"/nowhere/file", 10).map(drop), Err(libc::ENOENT));
        for other in [c"/tmp", c"/dev/null", c"/proc/self/exe"] {
            assert_eq!(share(other, 10).map(drop), Err(libc::EEXIST), "{other:?}");
        }
        unlink(path);
        assert!(pid_namespace() != 0 || read_file(b"/proc/self/stat\0", &mut [0; 8]).is_none());
        assert!(is_process(1) && !is_process(i32::MAX));
    }
}

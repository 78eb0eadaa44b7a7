//! Files that the allocator writes: the statistics at exit, and those that are published.

use super::{Errno, address_of, advise, outcome, read_file, unmap, write};
use crate::arch::syscall;
use crate::atomic::AtomicU64;
use core::ffi::CStr;
use core::mem::MaybeUninit;

/// A file that was opened here, and is closed when the value is dropped.
pub struct File(i32);

impl File {
    /// Opens `path` to write, empty; a new file can be read by all.
    pub fn create(path: &CStr) -> Option<File> {
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
        // SAFETY: a NUL-terminated path; the flags ask for the mode that follows.
        let fd = unsafe { libc::open(path.as_ptr(), flags, 0o644) };
        (fd >= 0).then_some(File(fd))
    }

    /// The file's descriptor, open as long as this value lives.
    pub const fn descriptor(&self) -> i32 {
        self.0
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: opened by `create`, closed once.
        unsafe { libc::close(self.0) };
    }
}

/// Whether the descriptor is open, and of this file. libc's function needs glibc 2.33.
pub fn is_file(fd: i32, device: u64, inode: u64) -> bool {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    let args = [fd as usize, status.as_mut_ptr() as usize, 0, 0, 0, 0];
    // SAFETY: fills in a live struct, which on 64-bit Linux is the kernel's.
    if outcome(unsafe { syscall(libc::SYS_fstat as usize, args) }).is_err() {
        return false;
    }
    // SAFETY: the call succeeded.
    let status = unsafe { status.assume_init() };
    (status.st_dev, status.st_ino) == (device, inode)
}

/// Words of a file, as it and its readers have them. Any process that may write to the file may change them.
pub type Shared = &'static [AtomicU64];

/// Makes a file of `words` words, which any user may read, in the place of one that begins as `replaced` says, and maps it for
/// as long as the process lives. Forked children do not have the mapping. By system calls only: async-signal-safe.
///
/// All of the file is written once, so that a store finds it on a disk that is full by then. If another process cuts the
/// file short, a store ends this one by SIGBUS.
pub fn share(path: &CStr, words: usize, replaced: impl Fn(&[u8]) -> bool) -> Result<Shared, Errno> {
    let mut begin = [0; 64];
    if let Some(begin) = read_file(path.to_bytes_with_nul(), &mut begin)
        && !replaced(begin)
    {
        return Err(libc::EEXIST);
    }
    unlink(path);
    let at = libc::AT_FDCWD as isize as usize;
    let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    let args = [at, path.as_ptr() as usize, flags as usize, MODE, 0, 0];
    // SAFETY: a NUL-terminated path; the descriptor is closed below.
    let fd = outcome(unsafe { syscall(libc::SYS_openat as usize, args) })?;
    let mapped = fill(fd, words).and_then(|len| map_file(fd, len));
    // SAFETY: opened above, closed once; the mapping stays.
    unsafe { syscall(libc::SYS_close as usize, [fd, 0, 0, 0, 0, 0]) };
    let address = mapped.inspect_err(|_| unlink(path))?;
    // SAFETY: a mapping of at least so many words, of which any value is valid, never unmapped.
    Ok(unsafe { core::slice::from_raw_parts(address as *const AtomicU64, words) })
}

/// Every user may read what is published, whatever the umask says.
const MODE: usize = 0o644;

/// Makes the file as long as `words` words, readable by all; its length.
fn fill(fd: usize, words: usize) -> Result<usize, Errno> {
    // SAFETY: changes a file that was just made.
    outcome(unsafe { syscall(libc::SYS_fchmod as usize, [fd, MODE, 0, 0, 0, 0]) })?;
    let len = words * size_of::<u64>();
    let mut left = len;
    while left > 0 {
        match write(fd as i32, &[0; 512][..left.min(512)]) {
            Ok(0) => return Err(libc::EIO),
            Ok(written) => left -= written,
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(len)
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
    let mut status = MaybeUninit::<libc::stat>::uninit();
    let (at, path) = (libc::AT_FDCWD as isize as usize, c"/proc/self/ns/pid".as_ptr() as usize);
    let args = [at, path, status.as_mut_ptr() as usize, 0, 0, 0];
    // SAFETY: fills in a live struct, which on 64-bit Linux is the kernel's.
    let answer = unsafe { syscall(libc::SYS_newfstatat as usize, args) };
    // SAFETY: the call succeeded.
    if outcome(answer).is_ok() { unsafe { status.assume_init() }.st_ino } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::atomic::Ordering;

    #[test]
    fn a_shared_file_has_what_is_stored_and_replaces_its_like_only() {
        let path = c"/tmp/rsalloc-shared-file";
        unlink(path);
        let is_ours = |begin: &[u8]| begin.first_chunk() == Some(&7_u64.to_ne_bytes());
        let words = share(path, 1000, is_ours).unwrap();
        words[0].store(7, Ordering::Relaxed);
        words[999].store(9, Ordering::Relaxed);
        let mut bytes = [0; 9000];
        let bytes = read_file(path.to_bytes_with_nul(), &mut bytes).unwrap();
        assert_eq!((bytes.len(), bytes[0], bytes[8 * 999]), (8000, 7, 9));
        let fresh = share(path, 10, is_ours).unwrap();
        assert_eq!((fresh[0].load(Ordering::Relaxed), words[0].load(Ordering::Relaxed)), (0, 7));
        assert_eq!(share(path, 10, is_ours).map(drop), Err(libc::EEXIST), "another's file");
        assert_eq!(share(c"/nowhere/file", 10, is_ours).map(drop), Err(libc::ENOENT));
        assert_eq!(share(c"/tmp", 10, is_ours).map(drop), Err(libc::EEXIST));
        unlink(path);
        assert!(pid_namespace() != 0 || read_file(b"/proc/self/stat\0", &mut [0; 8]).is_none());
    }
}

//! Standard error, and what is written there or to files without harm to the process.
//!
//! Promises that a reader that has gone away ends no process: SIGPIPE of a write here is taken back before the program gets it.

use super::{Errno, file, outcome};
use crate::arch::syscall;
use crate::atomic::{AtomicU32, AtomicU64, Ordering};
use core::ptr;

/// Another descriptor of what standard error was when it was kept; 0: none.
static KEPT: AtomicU32 = AtomicU32::new(0);
/// Its file, by device and inode: the number may be the program's own by the end.
static KEPT_FILE: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Numbers of kept descriptors begin here, beyond those that programs and shells choose themselves; or lower, where the limit of
/// open files is.
const FIRST_KEPT: [usize; 2] = [200, 10];

/// Writes to standard error, as far as it goes.
pub fn write_stderr(bytes: &[u8]) {
    let _ = write(libc::STDERR_FILENO, bytes);
}

/// write(2), but that a pipe or socket without a reader gives EPIPE and no signal. How many bytes were written. libc's function
/// would be a cancellation point.
#[inline(never)]
pub fn write(fd: i32, bytes: &[u8]) -> Result<usize, Errno> {
    let before = change_mask(libc::SIG_BLOCK, SIGPIPE);
    let args = [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0];
    // SAFETY: reads `bytes` only.
    let written = outcome(unsafe { syscall(libc::SYS_write as usize, args) });
    if let Ok(before) = before {
        // The program's own, if it blocks the signal itself.
        if written == Err(libc::EPIPE) && before & SIGPIPE == 0 {
            take_sigpipe();
        }
        let _ = change_mask(libc::SIG_SETMASK, before);
    }
    written
}

/// The kernel's set of signals with SIGPIPE alone.
const SIGPIPE: u64 = 1 << (libc::SIGPIPE - 1);
/// Bytes of such a set.
const SET_BYTES: usize = size_of::<u64>();

/// rt_sigprocmask(2): the mask before.
fn change_mask(how: i32, set: u64) -> Result<u64, Errno> {
    let mut before = 0u64;
    let args = [how as usize, &raw const set as usize, &raw mut before as usize, SET_BYTES, 0, 0];
    // SAFETY: reads and fills in live words.
    outcome(unsafe { syscall(libc::SYS_rt_sigprocmask as usize, args) }).map(|_| before)
}

/// Takes the SIGPIPE that this thread has just got and blocks; none if the program ignores it.
fn take_sigpipe() {
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let (set, now) = (&raw const SIGPIPE_SET as usize, &raw const now as usize);
    let args = [set, ptr::null::<u8>().addr(), now, SET_BYTES, 0, 0];
    // SAFETY: reads live words.
    while outcome(unsafe { syscall(libc::SYS_rt_sigtimedwait as usize, args) }) == Err(libc::EINTR)
    {
    }
}
static SIGPIPE_SET: u64 = SIGPIPE;

/// Keeps what standard error is now, for a program that closes it before it ends. In a forked child as well, if the program has
/// used the number since.
pub fn keep_stderr() {
    if kept().is_some() {
        return;
    }
    let Some(identity) = file::identity_of_descriptor(libc::STDERR_FILENO) else { return };
    let duplicate = |first: &usize| {
        let args = [libc::STDERR_FILENO as usize, libc::F_DUPFD_CLOEXEC as usize, *first, 0, 0, 0];
        // SAFETY: makes a descriptor, which is this module's.
        outcome(unsafe { syscall(libc::SYS_fcntl as usize, args) }).ok()
    };
    let Some(fd) = FIRST_KEPT.iter().find_map(duplicate) else { return };
    for (word, value) in KEPT_FILE.iter().zip([identity.device, identity.inode]) {
        word.store(value, Ordering::Relaxed); // Ordering: Relaxed, checked against the file when it is used.
    }
    KEPT.store(fd as u32, Ordering::Relaxed); // Ordering: Relaxed, as above.
}

fn kept() -> Option<i32> {
    // Ordering: Relaxed throughout, as in `keep_stderr`.
    let [device, inode] = [0, 1].map(|at: usize| KEPT_FILE[at].load(Ordering::Relaxed));
    let fd = KEPT.load(Ordering::Relaxed) as i32; // Ordering: Relaxed, as above.
    (fd != 0 && file::is_file(fd, device, inode)).then_some(fd)
}

/// Standard error, or what was kept of it if the program has closed it.
pub fn stderr_or_kept() -> i32 {
    match file::identity_of_descriptor(libc::STDERR_FILENO) {
        Some(_) => libc::STDERR_FILENO,
        None => kept().unwrap_or(libc::STDERR_FILENO),
    }
}

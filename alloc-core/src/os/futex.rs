//! Sleep until a word changes.

use crate::arch::syscall;
use crate::atomic::AtomicUsize;

/// Sleeps while the low half of `word` is `expected`, for at most so many microseconds; may wake for no reason.
#[inline(never)]
pub fn futex_wait(word: &AtomicUsize, expected: u32, longest_us: usize) {
    let op = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let longest = libc::timespec {
        tv_sec: (longest_us / 1_000_000) as _,
        tv_nsec: (longest_us % 1_000_000 * 1_000) as libc::c_long,
    };
    let until = (&raw const longest) as usize;
    // SAFETY: the word is live for the length of the borrow, and so is the time.
    unsafe {
        let args = [low_half(word), op, expected as usize, until, 0, 0];
        syscall(libc::SYS_futex as usize, args);
    }
}

/// Wakes one sleeper on `word`.
pub fn futex_wake(word: &AtomicUsize) {
    wake(word, 1);
}

/// Wakes all sleepers on `word`.
pub fn futex_wake_all(word: &AtomicUsize) {
    wake(word, i32::MAX as usize);
}

#[inline(never)]
fn wake(word: &AtomicUsize, count: usize) {
    let op = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
    // SAFETY: wakes only.
    unsafe {
        syscall(libc::SYS_futex as usize, [low_half(word), op, count, 0, 0, 0]);
    }
}

/// Address of the half of a word that a futex watches: the one with the lowest bits.
fn low_half(word: &AtomicUsize) -> usize {
    let half = if cfg!(target_endian = "big") { size_of::<usize>() - size_of::<u32>() } else { 0 };
    word.as_ptr() as usize + half
}

//! Whether a stopped thread is inside a restartable sequence, and where it goes on then.

use super::calls::ptrace;
use super::tracee::Tracee;
use anyhow::Result;

const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;

/// struct ptrace_rseq_configuration.
#[repr(C)]
#[derive(Default)]
struct RseqConfiguration {
    area: u64,
    area_bytes: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

/// Where the thread is to go on: at the abort handler if it is inside a restartable sequence, since the kernel will look for
/// that only where the thread goes on next, which is the command. None if the kernel does not say and the thread might be in one.
///
/// `is_outside`: the thread is known to be in none.
pub fn continuation(tracee: &Tracee, ip: u64, is_outside: bool) -> Result<Option<u64>> {
    let mut area = RseqConfiguration::default();
    let len = size_of::<RseqConfiguration>();
    if ptrace(PTRACE_GET_RSEQ_CONFIGURATION, tracee.tid, len, (&raw mut area) as usize).is_err() {
        return Ok(is_outside.then_some(ip));
    }
    if area.area == 0 {
        return Ok(Some(ip));
    }
    let mut descriptor = [0; 8];
    tracee.read(area.area + 8, &mut descriptor)?;
    let descriptor = u64::from_ne_bytes(descriptor);
    // version and flags, start, length, abort handler.
    let mut words = [0; 32];
    if descriptor == 0 || tracee.read(descriptor, &mut words).is_err() {
        return Ok(Some(ip));
    }
    let word = |index: usize| u64::from_ne_bytes(std::array::from_fn(|i| words[8 * index + i]));
    let (start, len, abort) = (word(1), word(2), word(3));
    if ip.wrapping_sub(start) >= len || sections::is_ignored() {
        return Ok(Some(ip));
    }
    Ok(Some(abort))
}

/// For tests of the tests: has sections ignored, and counts those that were not.
#[cfg(test)]
pub mod sections {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    pub static IGNORED: AtomicBool = AtomicBool::new(false);
    pub static FOUND: AtomicUsize = AtomicUsize::new(0);

    pub fn is_ignored() -> bool {
        // Ordering: Relaxed, numbers that stand alone.
        FOUND.fetch_add(1, Ordering::Relaxed);
        IGNORED.load(Ordering::Relaxed) // Ordering: Relaxed, as above.
    }
}

#[cfg(not(test))]
mod sections {
    pub fn is_ignored() -> bool {
        false
    }
}

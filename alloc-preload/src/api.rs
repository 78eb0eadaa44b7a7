//! rsalloc's own C functions, as `include/rsalloc.h` declares them: statistics, release, check, profile, settings.
//!
//! Promises: each may be called by any thread at any time, allocates nothing, and keeps errno. What `rsalloc.h` says of a
//! function holds for every version with the soname `librsalloc.so.0`: functions and fields are added, at the ends, and none
//! is taken away or changed. `tests/header.rs` compares the header with what is here.

use crate::errno::keeping;
use core::ffi::{CStr, c_char, c_int};
use core::fmt::{self, Write};
use rsalloc_core::internals::config::Wrong;
use rsalloc_core::internals::describe;
use rsalloc_core::internals::engine::command::Refusal;
use rsalloc_core::internals::engine::settings::{Unchanged, change_by_call};
use rsalloc_core::internals::print::{all_json, all_text, to_fd};
use rsalloc_core::{MetricsFormat, Mode, ProfileError};

/// The version as a text, such as `0.1.0`.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_version() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// 1 if the caches are per CPU, by restartable sequences; 0 on the atomic path.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_is_per_cpu() -> c_int {
    let mode = keeping(|| rsalloc_core::report().mode);
    c_int::from(matches!(mode, Mode::RseqLibc | Mode::RseqOwn))
}

/// Fills in `struct rsalloc_stats`, of which the caller knows the first `bytes`; what this version does not know is 0. The
/// bytes that this version knows.
///
/// # Safety
/// 1. `stats` has `bytes` bytes, aligned as a `size_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsalloc_read_stats(stats: *mut usize, bytes: usize) -> usize {
    let read = keeping(rsalloc_core::stats);
    let entries = read.entries();
    let known = entries.len() * size_of::<usize>();
    let values = entries.map(|(_, value)| value).chain(core::iter::repeat(0));
    for (index, value) in values.take(bytes / size_of::<usize>()).enumerate() {
        // SAFETY: duty 1.
        unsafe { stats.add(index).write(value) };
    }
    known
}

/// Writes mode and statistics to a file descriptor: as text (0), JSON (1), in Prometheus' format (2) or as OpenMetrics (3).
/// 0, or EINVAL for another format.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_print_stats(fd: c_int, format: c_int) -> c_int {
    let mut out = to_fd(fd);
    let metrics = |format| rsalloc_core::metrics().in_format(format);
    keeping(|| {
        match format {
            0 => all_text(&mut out),
            1 => all_json(&mut out),
            2 => text(&mut out, &metrics(MetricsFormat::Prometheus)),
            3 => text(&mut out, &metrics(MetricsFormat::OpenMetrics)),
            _ => return libc::EINVAL,
        }
        drop(out);
        0
    })
}

fn text(out: &mut impl Write, text: &impl fmt::Display) {
    // An error of writing has no place to be told.
    let _ = write!(out, "{text}");
}

/// Gives all cached and free memory back to the OS; the number of bytes. Async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_release() -> usize {
    keeping(rsalloc_core::release)
}

/// Validates the whole heap; 0 if it is sound, 1 if not. Stops the shards meanwhile, so it is for tests and debuggers, and
/// not for signal handlers.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_check() -> c_int {
    c_int::from(keeping(rsalloc_core::check).is_err())
}

/// Starts a sampled heap profile, with one sample in so many bytes on average, 0 for 512 KiB. 0, or an errno:
/// EALREADY if one runs, EINVAL if the interval is below 256 or above 1 GiB, ENOMEM, EBUSY. Async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_profile_start(interval_bytes: usize) -> c_int {
    keeping(|| rsalloc_core::start_profile(interval_bytes)).map_or_else(ProfileError::errno, |()| 0)
}

/// Stops the profile, whose records stay. 0, or an errno: ESRCH if none runs, EBUSY. Async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_profile_stop() -> c_int {
    keeping(rsalloc_core::stop_profile).map_or_else(ProfileError::errno, |()| 0)
}

/// Changes a setting, `key:value` as in `RSALLOC_CONF`. 0, or an errno: ENOENT for an unknown key, EINVAL for a bad value,
/// EPERM if the key takes effect at the start only, EACCES if `RSALLOC_CONF` or `rsalloc set` has set it, ENOMEM, EBUSY,
/// ENOSYS if the part is left out of the build. Async-signal-safe.
///
/// # Safety
/// 1. `setting` is a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsalloc_set(setting: *const c_char) -> c_int {
    // SAFETY: duty 1.
    let item = unsafe { CStr::from_ptr(setting) }.to_bytes();
    match keeping(|| change_by_call(item)) {
        Ok(()) => 0,
        Err(Unchanged::Wrong(Wrong::Key)) => libc::ENOENT,
        Err(Unchanged::Wrong(Wrong::Value)) => libc::EINVAL,
        Err(Unchanged::IsDecided) => libc::EACCES,
        Err(Unchanged::Refused(Refusal::AtStartOnly)) => libc::EPERM,
        Err(Unchanged::Refused(Refusal::NoMemory)) => libc::ENOMEM,
        Err(Unchanged::Refused(Refusal::LeftOut)) => libc::ENOSYS,
        Err(Unchanged::Refused(Refusal::Busy | Refusal::Unknown)) => libc::EBUSY,
    }
}

/// Writes the effective value of a key as a string of at most `bytes`, its zero included. The length of the whole value, or
/// -1 for an unknown key.
///
/// # Safety
/// 1. `key` is a string. 2. `value` has `bytes` bytes; it may be null if they are 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rsalloc_get(
    key: *const c_char,
    value: *mut c_char,
    bytes: usize,
) -> c_int {
    // SAFETY: duty 1.
    let key = unsafe { CStr::from_ptr(key) }.to_bytes();
    let Some(setting) = rsalloc_core::settings().find(|setting| setting.key.as_bytes() == key)
    else {
        return -1;
    };
    let mut out = Limited { start: value.cast(), space: bytes.saturating_sub(1), len: 0 };
    let _ = write!(out, "{}", setting.value);
    if bytes > 0 {
        // SAFETY: duty 2: below `bytes`.
        unsafe { out.start.add(out.len.min(out.space)).write(0) };
    }
    out.len as c_int
}

/// Writes the effective settings to a file descriptor, a line each: key, value, origin, help, with tabs between.
#[unsafe(no_mangle)]
pub extern "C" fn rsalloc_print_settings(fd: c_int) {
    // An error of writing has no place to be told.
    let _ = keeping(|| describe::settings_lines(&mut to_fd(fd), rsalloc_core::settings()));
}

/// A place for the first `space` bytes of a text, which counts them all. `start` has as many.
struct Limited {
    start: *mut u8,
    space: usize,
    len: usize,
}

impl Write for Limited {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.len < self.space {
                // SAFETY: `start` has `space` bytes.
                unsafe { self.start.add(self.len).write(byte) };
            }
            self.len += 1;
        }
        Ok(())
    }
}

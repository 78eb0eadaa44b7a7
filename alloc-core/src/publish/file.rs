//! The published file (`publish:PATH`): the statistics, for readers that may not trace the process.
//!
//! Promises: no thread and no timer keeps it. Slow calls renew it, at most each [`EVERY_MIN_MS`] and so seldom that it takes
//! at most one part in [`COST_PARTS`] of the time of the thread that comes first. A reader sees whole statistics and when
//! they were true. A forked child never writes to its parent's file: one that comes to a slow call opens its own if the
//! path has `%p`, else it publishes nothing. Async-signal-safe; no lock that a thread waits for, no allocation.
//!
//! ```text
//! head: magic, version, ... generation | slot 0 | slot 1        a word is 8 bytes
//!                           ^ the slot that is whole: its lowest bit
//! ```
//!
//! Invariants:
//! I1. The slot that the generation names is whole. A writer fills the other one, then raises the generation; a writer that
//!     dies half way changes nothing for readers.
//! I2. One thread at a time writes: the one that has set `busy`.
//! I3. `State` reads as zero in a forked child, where the kernel can do that (Linux 4.14); else its process id is the
//!     parent's there, and nothing is written.

use super::snapshot::words_of;
use super::words::{
    CLASS_WORDS, MAGIC, SETTING_WORDS, SHARD_WORDS, SHARDS_MAX, VERSION, WORDS, class_row, head,
    shard_row, slot,
};
use super::{LIBRARY_VERSION, collect_own_shards};
use crate::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, UnsafeCell};
use crate::config::{self, KEYS};
use crate::engine::init;
use crate::fail::Line;
use crate::object::Link;
use crate::os::{self, Errno, Identity, Place, Shared};
use crate::print::Path;
use crate::size_class::CLASSES;
use crate::sums::{ClassCounts, Stats};
use core::ffi::CStr;

/// The file is renewed no more often.
pub const EVERY_MIN_MS: usize = 100;
/// And is due after this time, whatever the clock says: a restored process may have one that went back.
const EVERY_MAX_MS: usize = 10_000;
/// See the module.
const COST_PARTS: usize = 200;

/// What this process has; see I3.
struct State {
    /// The process that opened the file; 0 in a forked child.
    pid: AtomicU32,
    busy: AtomicU32,
    /// By the clock of `os::milliseconds`.
    due_ms: AtomicUsize,
    every_ms: AtomicUsize,
    /// The file's [`Identity`].
    device: AtomicU64,
    inode: AtomicU64,
    file: Link<[AtomicU64; WORDS]>,
    /// The classes of a renewal: too large for the stack of a handler.
    classes: UnsafeCell<[ClassCounts; CLASSES]>,
}

// SAFETY: `classes` is used by the thread that has set `busy` (I2).
unsafe impl Sync for State {}

static STATE: Link<State> = Link::none();

/// Whether the process goes on publishing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Publishing {
    /// It does, if anything came of it.
    Continues,
    /// It does not, from now on.
    Stopped,
}

/// Opens the file that the setting `publish` names, if it does. A line says so if that cannot be done. For init, once.
pub fn open() -> Publishing {
    let Some(name) = config::publish_path() else { return Publishing::Stopped };
    match make_state().and_then(|state| open_file(state, name)) {
        Ok(()) => Publishing::Continues,
        Err(errno) => {
            let mut line = Line::new();
            line.text("rsalloc: cannot publish to ").shown(&name.as_bytes()[..name.len().min(160)]);
            line.text(": ");
            match reason(errno) {
                Some(text) => line.text(text),
                None => line.text("errno ").decimal(errno as usize),
            };
            line.text("\n").write_to_stderr();
            Publishing::Stopped
        }
    }
}

/// Renews the file if it is due. At a slow call of a process that publishes.
#[cold]
pub fn tick() -> Publishing {
    let Some(state) = STATE.get() else { return Publishing::Stopped };
    let now = os::milliseconds();
    // Ordering: Relaxed, a hint that the exchange below confirms.
    let due = state.due_ms.load(Ordering::Relaxed);
    let is_due = now >= due || due - now > EVERY_MAX_MS;
    // Ordering: Relaxed, for both: the thread that succeeds goes on, and `busy` guards what it does.
    let (won, lost) = (Ordering::Relaxed, Ordering::Relaxed);
    if !is_due || state.due_ms.compare_exchange(due, now + EVERY_MIN_MS, won, lost).is_err() {
        return Publishing::Continues;
    }
    // Ordering: Acquire pairs with the Release below: what the former writer did is whole.
    if state.busy.swap(1, Ordering::Acquire) != 0 {
        return Publishing::Continues;
    }
    // Ordering: Relaxed, written by this process, or wiped.
    let publishing = match state.pid.load(Ordering::Relaxed) {
        0 => open_in_child(state),
        pid => {
            // Else a child on this memory, which its parent goes on with, or one that the kernel did not wipe.
            if pid == os::process_id() {
                renew(state, now);
            }
            Publishing::Continues
        }
    };
    // Ordering: Release, see above.
    state.busy.store(0, Ordering::Release);
    publishing
}

/// Removes the file, at the end of the process that opened it. One that has taken its place stays.
pub fn end() {
    let Some(state) = STATE.get() else { return };
    // Ordering: Relaxed, as in `tick`.
    if state.pid.load(Ordering::Relaxed) != os::process_id() {
        return;
    }
    let mut path = Path::default();
    let Some(path) = config::publish_path().and_then(|name| path.expanded(name)) else { return };
    // Ordering: Relaxed, for both: stored before the id.
    let (device, inode) = (&state.device, &state.inode);
    let (device, inode) = (device.load(Ordering::Relaxed), inode.load(Ordering::Relaxed));
    if os::identity_of(path) == Some(Identity { device, inode }) {
        os::unlink(path);
    }
}

fn open_in_child(state: &'static State) -> Publishing {
    // Without a line: a child that may not, such as one that gave up its rights, says nothing.
    let opened = config::publish_path()
        .filter(|name| name.contains("%p"))
        .is_some_and(|name| open_file(state, name).is_ok());
    if opened { Publishing::Continues } else { Publishing::Stopped }
}

fn make_state() -> Result<&'static State, Errno> {
    let len = os::whole_pages(size_of::<State>());
    let address = os::map(Place::Anywhere, len)?;
    os::wipe_in_children(address, len);
    // SAFETY: fresh memory of that size, never unmapped, for which zero is valid.
    let state = unsafe { &*core::ptr::with_exposed_provenance::<State>(address) };
    STATE.set(Some(state));
    Ok(state)
}

/// Opens the file of this process, and fills it.
fn open_file(state: &State, name: &str) -> Result<(), Errno> {
    if !name.starts_with('/') {
        return Err(libc::EINVAL);
    }
    let mut path = Path::default();
    let path: &CStr = path.expanded(name).ok_or(libc::ENAMETOOLONG)?;
    let (pid, namespace) = (os::process_id(), os::pid_namespace());
    let is_left = |begin: &[u64]| may_be_replaced(begin, pid, namespace);
    let (file, identity): (Shared, _) = os::share(path, &head_of(pid, namespace), WORDS, is_left)?;
    let file = <&[AtomicU64; WORDS]>::try_from(file).map_err(|_| libc::EIO)?;
    state.file.set(Some(file));
    // Ordering: Relaxed, as below.
    state.device.store(identity.device, Ordering::Relaxed);
    state.inode.store(identity.inode, Ordering::Relaxed); // Ordering: Relaxed, as below.
    // Ordering: Relaxed; what reads it runs in this thread, holds `busy`, or ends the process.
    state.pid.store(pid, Ordering::Relaxed);
    renew(state, os::milliseconds());
    Ok(())
}

fn head_of(pid: u32, namespace: u64) -> [u64; head::WORDS] {
    let mut program = [0; 16];
    os::read_file(b"/proc/self/comm\0", &mut program);
    let program = program.map(|byte| if byte == b'\n' { 0 } else { byte });
    let mut words = [0; head::WORDS];
    words[head::MAGIC] = MAGIC;
    words[head::VERSION] = VERSION;
    words[head::PID] = u64::from(pid);
    words[head::NAMESPACE] = namespace;
    words[head::LIBRARY_VERSION] = LIBRARY_VERSION as u64;
    for (at, bytes) in program.chunks_exact(8).enumerate() {
        words[head::PROGRAM + at] = u64::from_ne_bytes(core::array::from_fn(|i| bytes[i]));
    }
    words
}

/// Whether the process `pid` may put its file in the place of one that begins so: it must be a published one, which this process
/// left before an exec, or one that is gone. Of a process of another namespace that cannot be told.
fn may_be_replaced(begin: &[u64], pid: u32, namespace: u64) -> Result<(), Errno> {
    let word = |at| begin.get(at).copied().unwrap_or(0);
    if word(head::MAGIC) != MAGIC {
        return Err(libc::EEXIST);
    }
    let (writer, elsewhere) = (word(head::PID), word(head::NAMESPACE));
    let is_known = elsewhere == namespace || elsewhere == 0 || namespace == 0;
    let is_gone =
        || i32::try_from(writer).is_ok_and(|writer| writer <= 0 || !os::is_process(writer));
    if is_known && (writer == u64::from(pid) || is_gone()) { Ok(()) } else { Err(libc::EBUSY) }
}

/// Writes the statistics of this moment. The caller has set `busy`, or is init.
fn renew(state: &State, now: usize) {
    let Some(file) = state.file.get() else { return };
    let begin = os::microseconds();
    // Ordering: Relaxed, written under `busy`.
    let generation = file[head::GENERATION].load(Ordering::Relaxed).wrapping_add(1);
    let first = head::WORDS + (generation as usize & 1) * slot::WORDS;
    fill_slot(state, &file[first..first + slot::WORDS]);
    // Ordering: Release: a reader that sees it sees the slot (I1).
    file[head::GENERATION].store(generation, Ordering::Release);
    let cost_ms = os::microseconds().wrapping_sub(begin) * COST_PARTS / 1000;
    let every = cost_ms.clamp(EVERY_MIN_MS, EVERY_MAX_MS);
    // Ordering: Relaxed, for both: hints.
    state.every_ms.store(every, Ordering::Relaxed);
    state.due_ms.store(now + every, Ordering::Relaxed); // Ordering: Relaxed, as above.
}

fn fill_slot(state: &State, words: &[AtomicU64]) {
    put(words, slot::RENEWED_MS, os::unix_time_ms());
    // Ordering: Relaxed, a hint.
    let every = state.every_ms.load(Ordering::Relaxed).max(EVERY_MIN_MS);
    put(words, slot::EVERY_MS, every as u64);
    for (at, word) in words_of(&init::report()).into_iter().enumerate() {
        put(words, slot::REPORT + at, u64::from(word));
    }
    for (key, (value, origin)) in config::raw().into_iter().enumerate() {
        put(words, slot::FIRST_SETTING + SETTING_WORDS * key, value as u64);
        put(words, slot::FIRST_SETTING + SETTING_WORDS * key + 1, u64::from(origin));
    }
    put(words, slot::SETTINGS, KEYS as u64);
    // SAFETY: I2.
    let classes = unsafe { &mut *state.classes.get() };
    let mut shards = 0;
    let stats = collect_own_shards(classes, &mut |shard| {
        if shards < SHARDS_MAX {
            put_row(words, slot::FIRST_SHARD + SHARD_WORDS * shards, &shard_row(shard));
        }
        shards += 1;
    });
    for (at, (_, value)) in stats.unwrap_or_default().entries().enumerate() {
        put(words, slot::FIRST_STAT + at, value as u64);
    }
    for (class, counts) in classes.iter().enumerate() {
        put_row(words, slot::FIRST_CLASS + CLASS_WORDS * class, &class_row(counts));
    }
    put(words, slot::STATS, Stats::KINDS.len() as u64);
    put(words, slot::CLASSES, CLASSES as u64);
    put(words, slot::SHARDS, shards.min(SHARDS_MAX) as u64);
    put(words, slot::SHARDS_LEFT_OUT, shards.saturating_sub(SHARDS_MAX) as u64);
}

#[inline(never)]
fn put(words: &[AtomicU64], at: usize, value: u64) {
    // Ordering: Relaxed: the generation, or the magic, publishes it.
    words[at].store(value, Ordering::Relaxed);
}

fn put_row(words: &[AtomicU64], first: usize, row: &[usize]) {
    row.iter().enumerate().for_each(|(at, value)| put(words, first + at, *value as u64));
}

fn reason(errno: Errno) -> Option<&'static str> {
    Some(match errno {
        libc::EROFS => "the file system is read-only",
        libc::EACCES | libc::EPERM => "no permission",
        libc::ENOENT => "there is no such folder",
        libc::ENOSPC | libc::EDQUOT => "no space is left",
        libc::EEXIST => "there is another file, or a folder",
        libc::EBUSY => "another process publishes there; see %p",
        libc::EFBIG => "the limit of a file's size (ulimit -f) is too small",
        libc::EINVAL => "the path does not begin with /",
        libc::ENAMETOOLONG => "the path is too long",
        libc::ENOMEM => "out of memory",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::words::Published;
    use super::*;
    extern crate std;
    use crate::engine::api;
    use std::vec::Vec;

    #[test]
    fn what_is_written_is_what_a_reader_parses() {
        let held = api::allocate(1000);
        assert!(init::ensure());
        let state = make_state().unwrap();
        let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        let loaded = || -> Vec<u64> {
            // Ordering: Relaxed, one thread.
            words.iter().map(|word| word.load(Ordering::Relaxed)).collect()
        };
        put(&words, head::VERSION, VERSION);
        put(&words, head::PID, 7);
        assert!(Published::parse(&loaded()).is_none(), "nothing is published yet");
        put(&words, head::MAGIC, MAGIC);
        assert!(Published::parse(&loaded()).is_none(), "no slot is whole yet");
        for generation in 1..=3 {
            let first = head::WORDS + (generation as usize & 1) * slot::WORDS;
            fill_slot(state, &words[first..first + slot::WORDS]);
            put(&words, head::GENERATION, generation);
            let words = loaded();
            let seen = Published::parse(&words).unwrap();
            assert_eq!((seen.process(), seen.report()), ((7, 0), Some(init::report())));
            assert!(seen.settings().eq(config::raw()));
            assert_eq!(seen.classes().count(), CLASSES);
            let live = seen.classes().map(|class| class.live() * class.size).sum::<usize>();
            assert!(live >= 1000 && seen.stats().live_bytes >= live, "{live}");
            let cached = seen.shards().map(|shard| shard.bytes).sum::<usize>();
            assert_eq!((cached, seen.shards_left_out()), (seen.stats().shard_cached_bytes, 0));
        }
        let mut other = loaded();
        other[head::VERSION] += 1;
        assert!(Published::parse(&other).is_none() && Published::parse(&other[..100]).is_none());
        // SAFETY: a live object, given up.
        unsafe { api::free(held) };
    }
}

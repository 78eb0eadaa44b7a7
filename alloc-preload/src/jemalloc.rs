//! What programs ask jemalloc about itself: `mallctl` and its relatives, jemalloc(3).
//!
//! A program that is linked with jemalloc (Debian's redis-server) would otherwise ask a jemalloc that serves nothing. Promises
//! a true answer for each name in [`NAMES`], as of the call, and ENOENT, "no such name", for all others: what rsalloc
//! does not have. Functions that allocate are in `mallocx.rs`.

use crate::errno;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt::Write;
use core::sync::atomic::{AtomicU64, Ordering};
use rsalloc_core::Stats;
use rsalloc_core::internals::print::{Buffered, all_text};
use rsalloc_core::internals::units::PAGE_BYTES;

/// What a name stands for.
#[derive(Clone, Copy)]
enum Node {
    /// A number of bytes, from the statistics.
    Bytes(fn(&Stats) -> usize),
    /// A `size_t` that never changes.
    Size(usize),
    /// An `unsigned` that never changes.
    Unsigned(u32),
    /// A `bool` that never changes.
    Bool(bool),
    /// A `const char *`.
    Text(&'static CStr),
    /// A `uint64_t`, counted up when it is written to. The numbers are always of now, so nothing else happens.
    Epoch,
    /// Gives memory back; has no value.
    Purge,
    /// Does nothing; has no value.
    Nothing,
    /// Takes an `unsigned` and does nothing.
    Takes,
}

/// The names, `i` for the number of an arena.
const NAMES: [(&str, Node); 27] = [
    ("version", Node::Text(VERSION)),
    ("epoch", Node::Epoch),
    ("config.stats", Node::Bool(true)),
    ("config.prof", Node::Bool(false)),
    ("stats.allocated", Node::Bytes(|stats| stats.live_bytes)),
    ("stats.active", Node::Bytes(active)),
    ("stats.metadata", Node::Bytes(|stats| stats.metadata_bytes)),
    (
        "stats.resident",
        Node::Bytes(|stats| stats.mapped_bytes - clean(stats) + stats.metadata_bytes),
    ),
    ("stats.mapped", Node::Bytes(|stats| stats.mapped_bytes - clean(stats))),
    ("stats.retained", Node::Bytes(|stats| stats.clean_bytes)),
    ("arenas.narenas", Node::Unsigned(1)),
    ("arenas.page", Node::Size(PAGE_BYTES)),
    ("arenas.quantum", Node::Size(16)),
    // What redis reads by arena; no bin is told of.
    ("arenas.nbins", Node::Unsigned(0)),
    ("stats.arenas.i.pactive", Node::Bytes(|stats| active(stats).div_ceil(PAGE_BYTES))),
    ("stats.arenas.i.pmuzzy", Node::Size(0)),
    ("stats.arenas.i.small.allocated", Node::Bytes(|stats| stats.live_bytes - large(stats))),
    ("stats.arenas.i.large.allocated", Node::Bytes(large)),
    ("stats.arenas.i.small.resident", Node::Bytes(|stats| active(stats) - large(stats))),
    ("arena.i.purge", Node::Purge),
    ("arena.i.decay", Node::Purge),
    // No thread has a cache.
    ("thread.tcache.enabled", Node::Bool(false)),
    ("thread.tcache.flush", Node::Nothing),
    // What redis makes for its scripts: numbers for flags that have no meaning here.
    ("arenas.create", Node::Unsigned(CREATED as u32)),
    ("tcache.create", Node::Unsigned(0)),
    ("tcache.flush", Node::Takes),
    ("tcache.destroy", Node::Takes),
];

/// Pages in which objects may be.
fn active(stats: &Stats) -> usize {
    stats.slab_bytes + stats.large_bytes + stats.sampled_bytes
}

/// Of those the large objects, never more than what is live.
fn large(stats: &Stats) -> usize {
    stats.large_bytes.min(stats.live_bytes)
}

fn clean(stats: &Stats) -> usize {
    stats.clean_bytes.min(stats.mapped_bytes)
}

const VERSION: &CStr = match CStr::from_bytes_with_nul(
    concat!("rsalloc-", env!("CARGO_PKG_VERSION"), "\0").as_bytes(),
) {
    Ok(text) => text,
    Err(_) => panic!("the version has a zero"),
};

/// Arenas by number: ours, jemalloc's number for all (MALLCTL_ARENAS_ALL), and the number of arenas, which once meant that.
const ARENAS: [usize; 3] = [0, 1, 4096];
/// The number of every arena that a program creates: nothing is in it.
const CREATED: usize = 2;
/// Parts of the longest name.
const PARTS_MAX: usize = 5;

/// Reads, writes or does what a name stands for.
///
/// # Safety
/// 1. `name` is a string. 2. `old_len` is null or valid, `old` is null or has so many bytes; `new` is null or has `new_len`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mallctl(
    name: *const c_char,
    old: *mut c_void,
    old_len: *mut usize,
    new: *const c_void,
    new_len: usize,
) -> c_int {
    // SAFETY: duty 1.
    match find(unsafe { CStr::from_ptr(name) }) {
        // SAFETY: duty 2.
        Some((node, arena, _)) => unsafe { act(node, arena, old, old_len, new, new_len) },
        None => libc::ENOENT,
    }
}

/// Translates a name to numbers for [`mallctlbymib`]: that of the name, that of the arena.
///
/// # Safety
/// 1. `name` is a string. 2. `mib` has as many words as `mib_len`, which is valid, says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mallctlnametomib(
    name: *const c_char,
    mib: *mut usize,
    mib_len: *mut usize,
) -> c_int {
    // SAFETY: duty 1.
    let name = unsafe { CStr::from_ptr(name) };
    let Some((_, _, numbers)) = find(name) else { return libc::ENOENT };
    let parts = name.to_bytes().iter().filter(|&&byte| byte == b'.').count() + 1;
    // SAFETY: duty 2.
    unsafe {
        let len = parts.min(*mib_len);
        mib.copy_from_nonoverlapping(numbers.as_ptr(), len);
        *mib_len = len;
    }
    0
}

/// As [`mallctl`], by the numbers of [`mallctlnametomib`].
///
/// # Safety
/// 1. `mib` has `mib_len` words. 2. As duty 2 of `mallctl`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mallctlbymib(
    mib: *const usize,
    mib_len: usize,
    old: *mut c_void,
    old_len: *mut usize,
    new: *const c_void,
    new_len: usize,
) -> c_int {
    // SAFETY: duty 1.
    let number = |at: usize| (at < mib_len).then(|| unsafe { *mib.add(at) });
    let Some((name, node)) = number(0).and_then(|number| NAMES.get(number)) else {
        return libc::ENOENT;
    };
    if name.split('.').count() != mib_len {
        return libc::ENOENT;
    }
    let arena = match arena_part(name) {
        None => 0,
        Some(at) => match number(at).filter(|arena| is_arena(*arena)) {
            Some(arena) => arena,
            None => return libc::ENOENT,
        },
    };
    // SAFETY: duty 2.
    unsafe { act(*node, arena, old, old_len, new, new_len) }
}

/// Which part of a known name is the number of an arena.
fn arena_part(known: &str) -> Option<usize> {
    known.split('.').position(|part| part == "i")
}

fn is_arena(arena: usize) -> bool {
    arena == CREATED || ARENAS.contains(&arena)
}

/// Writes the statistics as text: by `write`, or to standard error if it is null. The options, which leave parts out of
/// jemalloc's, have no meaning here.
///
/// # Safety
/// 1. `write` takes a string and `opaque`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_stats_print(
    write: Option<unsafe extern "C" fn(*mut c_void, *const c_char)>,
    opaque: *mut c_void,
    _options: *const c_char,
) {
    let Some(write) = write else { return crate::print::malloc_stats() };
    let mut out = Buffered::new(|bytes: &[u8]| {
        for piece in bytes.chunks(PIECE_BYTES) {
            let mut text = [0u8; PIECE_BYTES + 1];
            text[..piece.len()].copy_from_slice(piece);
            // SAFETY: duty 1; the text ends with a zero.
            unsafe { write(opaque, text.as_ptr().cast()) };
        }
    });
    let _ = writeln!(out, "{}", VERSION.to_str().unwrap_or_default());
    all_text(&mut out);
}

const PIECE_BYTES: usize = 512;

/// The bytes that an object of `size` bytes has, with jemalloc's flags: the logarithm of an alignment in the lowest six bits.
#[unsafe(no_mangle)]
pub extern "C" fn nallocx(size: usize, flags: c_int) -> usize {
    let align = 1 << (flags & 63);
    if size > errno::OBJECT_MAX || align > errno::OBJECT_MAX {
        return 0;
    }
    rsalloc_core::usable_size_of(size, align)
}

/// What a name stands for, the number of its arena, and its numbers.
fn find(name: &CStr) -> Option<(Node, usize, [usize; PARTS_MAX])> {
    let name = name.to_str().ok()?;
    NAMES.iter().enumerate().find_map(|(number, (known, node))| {
        let mut numbers = [number, 0, 0, 0, 0];
        let Some((before, after)) = known.split_once(".i.") else {
            return (*known == name).then_some((*node, 0, numbers));
        };
        let arena = name
            .strip_prefix(before)
            .and_then(|name| name.strip_suffix(after)?.strip_prefix('.')?.strip_suffix('.'))
            .and_then(|number| number.parse().ok())
            .filter(|arena| is_arena(*arena))?;
        numbers[arena_part(known)?] = arena;
        Some((*node, arena, numbers))
    })
}

/// # Safety
/// 1. As duty 2 of `mallctl`.
unsafe fn act(
    node: Node,
    arena: usize,
    old: *mut c_void,
    old_len: *mut usize,
    new: *const c_void,
    new_len: usize,
) -> c_int {
    let reads = !old.is_null() && !old_len.is_null();
    let writes = !new.is_null();
    match node {
        Node::Purge | Node::Nothing if reads || writes => return libc::EPERM,
        Node::Purge if arena == CREATED => return 0,
        Node::Purge => {
            errno::keeping(rsalloc_core::release);
            return 0;
        }
        Node::Nothing => return 0,
        Node::Takes if reads || !writes => return libc::EPERM,
        Node::Takes => return if new_len == size_of::<u32>() { 0 } else { libc::EINVAL },
        Node::Epoch if writes && new_len != size_of::<u64>() => return libc::EINVAL,
        Node::Epoch if writes => {
            // Ordering: Relaxed, a number that nothing depends on.
            EPOCH.fetch_add(1, Ordering::Relaxed);
        }
        _ if writes => return libc::EPERM,
        _ => {}
    }
    if !reads {
        return 0;
    }
    // SAFETY: duty 1, throughout.
    unsafe {
        match node {
            Node::Bytes(_) if arena == CREATED => store(0usize, old, old_len),
            Node::Bytes(number) => {
                store(errno::keeping(|| number(&rsalloc_core::stats())), old, old_len)
            }
            Node::Size(number) => store(number, old, old_len),
            Node::Unsigned(number) => store(number, old, old_len),
            Node::Bool(is) => store(is, old, old_len),
            Node::Text(text) => store(text.as_ptr(), old, old_len),
            // Ordering: Relaxed, as above.
            Node::Epoch => store(EPOCH.load(Ordering::Relaxed), old, old_len),
            Node::Purge | Node::Nothing | Node::Takes => 0,
        }
    }
}

static EPOCH: AtomicU64 = AtomicU64::new(1);

/// Stores a value where the caller has as many bytes for it; else as many as it has, and EINVAL, as jemalloc does.
///
/// # Safety
/// 1. `old_len` is valid, and `old` has so many bytes.
unsafe fn store<T: Copy>(value: T, old: *mut c_void, old_len: *mut usize) -> c_int {
    let bytes = size_of::<T>();
    // SAFETY: duty 1; the value has at least so many bytes.
    unsafe {
        let is_fitting = *old_len == bytes;
        *old_len = bytes.min(*old_len);
        old.cast::<u8>().copy_from_nonoverlapping((&raw const value).cast(), *old_len);
        if is_fitting { 0 } else { libc::EINVAL }
    }
}

//! The trace as a file: its header, and chunks of it given to threads.
//!
//! Both are shared mappings of the file, so what is written there is in it at once, whatever ends the process. A page
//! that fork wipes says whether this process records: zero in a child, however it was made; children of vfork share it,
//! as they share the heap.

use crate::format::{CHUNK_BYTES, ChunkHeader, HEADER_BYTES, Header, MAGIC, NAME_MAX, VERSION};
use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

/// The file's path; `%p` is the process id.
const PATH: &CStr = c"RSALLOC_RECORD";
/// The file name of the program that is meant; none: the first one that starts.
const ONLY: &CStr = c"RSALLOC_RECORD_ONLY";
const PATH_MAX: usize = 4096;

static ACTIVE: AtomicPtr<AtomicU32> = AtomicPtr::new(null_mut());
static HEADER: AtomicPtr<Header> = AtomicPtr::new(null_mut());
static OPENED: Path = Path(UnsafeCell::new([0; PATH_MAX]));

struct Path(UnsafeCell<[u8; PATH_MAX]>);

// SAFETY: written by `begin`, before there are threads.
unsafe impl Sync for Path {}

/// Whether this process records.
#[inline]
pub fn is_active() -> bool {
    // Ordering: Relaxed, set before there are threads; the page is for ever.
    let page = ACTIVE.load(Ordering::Relaxed);
    // SAFETY: null, or the page.
    !page.is_null() && unsafe { (*page).load(Ordering::Relaxed) } != 0 // Ordering: Relaxed, as above.
}

/// The header; only while [`is_active`].
#[inline]
pub fn header() -> &'static Header {
    // SAFETY: set before the page said that we record; never unmapped.
    unsafe { &*HEADER.load(Ordering::Relaxed) } // Ordering: Relaxed, set before there are threads.
}

/// No more is written, because the file can't grow; what is lost shows in its length.
pub fn stop() {
    // Ordering: Relaxed, a switch; the page is for ever.
    let page = ACTIVE.load(Ordering::Relaxed);
    // SAFETY: only called while active, so it is the page.
    unsafe { (*page).store(0, Ordering::Relaxed) }; // Ordering: Relaxed, a switch.
}

#[used]
#[unsafe(link_section = ".init_array")]
static BEGIN: extern "C" fn() = begin;

/// When the library is loaded: starts, if this is the program that is meant.
extern "C" fn begin() {
    crate::next::get();
    // SAFETY: called once, before the program's own code; names end with a zero, and what getenv gives
    // does too.
    unsafe {
        let path = libc::getenv(PATH.as_ptr());
        if path.is_null() {
            return;
        }
        let mut name = [0u8; NAME_MAX + 1];
        let only = libc::getenv(ONLY.as_ptr());
        if !own_name(&mut name) || !(only.is_null() || is_same(&name, CStr::from_ptr(only))) {
            return;
        }
        let opened = &mut *OPENED.0.get();
        if expand(CStr::from_ptr(path).to_bytes(), opened) {
            start(&name);
        }
    }
}

/// # Safety
/// 1. `OPENED` is a path.
unsafe fn start(name: &[u8; NAME_MAX + 1]) {
    // A program that this one becomes or starts finds the file there and leaves it alone.
    let Some(file) = open(libc::O_RDWR | libc::O_CREAT | libc::O_EXCL) else { return };
    let mapped = grow(file, 0, HEADER_BYTES);
    close(file);
    // SAFETY: a fresh private page.
    let page = unsafe {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let page =
            libc::mmap(null_mut(), 4096, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        // Without it a child would write between its parent's events.
        if page == libc::MAP_FAILED || libc::madvise(page, 4096, libc::MADV_WIPEONFORK) != 0 {
            return;
        }
        page.cast::<AtomicU32>()
    };
    let Some(header) = mapped else { return };
    let header: *mut Header = header.cast();
    // SAFETY: the mapping is as long as the header's place, and zero; the page is ours.
    unsafe {
        (*header).version = VERSION;
        (*header).chunk_bytes = CHUNK_BYTES as u32;
        (*header).name.copy_from_slice(&name[..NAME_MAX]);
        (*header).magic = MAGIC;
        // Ordering: Relaxed throughout: there is one thread.
        HEADER.store(header, Ordering::Relaxed);
        (*page).store(1, Ordering::Relaxed); // Ordering: Relaxed, as above.
        ACTIVE.store(page, Ordering::Relaxed); // Ordering: Relaxed, as above.
    }
}

/// Maps chunk `index` for `thread`, whose events count from there; null if the file can't grow. The chunk
/// at `old` (0: none) is given up.
pub fn chunk(index: u64, old: usize, header: ChunkHeader) -> usize {
    // SAFETY: libc's thread-local, valid in every thread; a mapping of ours that is used no more.
    let errno = unsafe { *libc::__errno_location() };
    if old != 0 {
        // SAFETY: as above.
        unsafe { libc::munmap(old as *mut c_void, CHUNK_BYTES) };
    }
    let mut fresh = 0;
    if let Some(file) = open(libc::O_RDWR) {
        if let Some(mapped) = grow(file, HEADER_BYTES + index as usize * CHUNK_BYTES, CHUNK_BYTES) {
            // SAFETY: the mapping is a whole chunk.
            unsafe { mapped.cast::<ChunkHeader>().write(header) };
            fresh = mapped as usize;
        }
        close(file);
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    fresh
}

// By number: libc's functions of these names are cancellation points, which malloc is not.

fn open(flags: c_int) -> Option<c_int> {
    let path = OPENED.0.get().cast::<c_char>();
    // SAFETY: a path that ends with a zero.
    let file = unsafe {
        libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags | libc::O_CLOEXEC, 0o644)
    };
    (file >= 0).then_some(file as c_int)
}

fn close(file: c_int) {
    // SAFETY: opened by the caller.
    unsafe { libc::syscall(libc::SYS_close, file) };
}

/// Makes `len` more bytes of the file, which read as zero, and maps them.
fn grow(file: c_int, at: usize, len: usize) -> Option<*mut c_void> {
    // SAFETY: a buffer of one byte; a fresh mapping.
    unsafe {
        // Real blocks, not a hole: writing to a hole on a full disk would be a SIGBUS.
        if libc::syscall(libc::SYS_fallocate, file, 0, at, len) != 0 {
            let zero = [0u8];
            let full = *libc::__errno_location() != libc::EOPNOTSUPP;
            if full || libc::syscall(libc::SYS_pwrite64, file, &zero, 1, at + len - 1) != 1 {
                return None;
            }
        }
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let mapped = libc::mmap(null_mut(), len, rights, libc::MAP_SHARED, file, at as libc::off_t);
        (mapped != libc::MAP_FAILED).then_some(mapped)
    }
}

/// The last part of this program's path.
fn own_name(name: &mut [u8; NAME_MAX + 1]) -> bool {
    let mut path = [0u8; PATH_MAX];
    // SAFETY: a name that ends with a zero, and a live buffer.
    let len =
        unsafe { libc::readlink(c"/proc/self/exe".as_ptr(), path.as_mut_ptr().cast(), PATH_MAX) };
    let Some(path) = usize::try_from(len).ok().and_then(|len| path.get(..len)) else {
        return false;
    };
    let last = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    let len = last.len().min(NAME_MAX);
    name[..len].copy_from_slice(&last[..len]);
    true
}

fn is_same(name: &[u8; NAME_MAX + 1], wanted: &CStr) -> bool {
    let wanted = wanted.to_bytes();
    name.get(wanted.len()) == Some(&0) && name.starts_with(wanted)
}

/// Puts `path` into `to` with `%p` replaced by the process id; whether it fits.
fn expand(path: &[u8], to: &mut [u8; PATH_MAX]) -> bool {
    let mut at = 0;
    let mut put = |byte| {
        to[at.min(PATH_MAX - 1)] = byte;
        at += 1;
    };
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(b"%p") {
            // SAFETY: no preconditions.
            let pid = unsafe { libc::getpid() } as u32;
            let digits = pid.checked_ilog10().unwrap_or(0);
            (0..=digits).rev().for_each(|i| put(b'0' + (pid / 10u32.pow(i) % 10) as u8));
            rest = tail;
        } else {
            put(byte);
            rest = tail;
        }
    }
    put(0);
    at <= PATH_MAX
}

//! The operating system: each call that the allocator makes, typed, leaving errno alone.
//!
//! Promises: no call allocates, takes a lock of ours, or unwinds; every failure is a value.
//! Called by page_heap, rseq, sync, config and fail; calls `asm` (the system call instruction), and of libc what
//! is no system call or needs its data: `environ`, `getauxval`, errno, `abort`, the clocks, `sched_getcpu`, and a key
//! of its threads.

pub mod faults;
mod promises;
mod text;

pub use promises::{Memory, Zeroing, give_back, probe, purge, zeroing};
pub use text::{gives_huge_pages_unasked, parse_number, read_file};

use crate::arch::{STACK_TOP, syscall};
use crate::atomic::{AtomicU32, AtomicUsize, Ordering};

/// A positive errno value.
pub type Errno = i32;

fn outcome(result: isize) -> Result<usize, Errno> {
    if (-4095..0).contains(&result) { Err(-result as Errno) } else { Ok(result as usize) }
}

/// As [`outcome`], of a call that gives an address. 0 is none: a filter may say that a call went well which
/// it never made.
fn address_of(result: isize) -> Result<usize, Errno> {
    outcome(result).and_then(|address| if address == 0 { Err(libc::ENOMEM) } else { Ok(address) })
}

/// Where a mapping goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// Wherever the kernel likes.
    Anywhere,
    /// At this address or not at all; what is mapped there stays.
    Exactly(usize),
}

/// Maps `len` bytes of zeroed memory, readable and writable. `len` is a multiple of the OS page.
pub fn map(place: Place, len: usize) -> Result<usize, Errno> {
    faults::check(faults::Call::Map)?;
    let mut flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let mut hint = 0;
    if let Place::Exactly(address) = place {
        if !promises::leaves_others_alone() {
            return Err(libc::EOPNOTSUPP);
        }
        hint = address;
        flags |= libc::MAP_FIXED_NOREPLACE;
    }
    let prot = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new private mapping replaces nothing (no MAP_FIXED).
    let address = address_of(unsafe {
        syscall(libc::SYS_mmap as usize, [hint, len, prot as usize, flags as usize, usize::MAX, 0])
    })?;
    if let Place::Exactly(wanted) = place
        && address != wanted
    {
        // Kernels before 4.17 take the flag for a hint.
        // SAFETY: the mapping was made above and nobody knows it.
        unsafe { unmap(address, len) };
        return Err(libc::EEXIST);
    }
    Ok(address)
}

/// Takes `len` bytes of address space that nobody can touch before [`unseal`].
pub fn map_sealed(len: usize) -> Result<usize, Errno> {
    faults::check(faults::Call::Map)?;
    // SAFETY: a new private mapping replaces nothing (no MAP_FIXED).
    address_of(unsafe { syscall(libc::SYS_mmap as usize, sealed_at(0, len, 0)) })
}

/// Makes a range unreadable and gives its memory back.
///
/// # Safety
/// 1. The range is ours and holds nothing of value.
pub unsafe fn seal(address: usize, len: usize) -> Result<(), Errno> {
    faults::check(faults::Call::Map)?;
    // SAFETY: duty 1. A fresh mapping in its place is both steps in one call.
    let sealed = address_of(unsafe {
        syscall(libc::SYS_mmap as usize, sealed_at(address, len, libc::MAP_FIXED))
    })?;
    if sealed == address { Ok(()) } else { Err(libc::EINVAL) }
}

fn sealed_at(address: usize, len: usize, flags: i32) -> [usize; 6] {
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    [address, len, libc::PROT_NONE as usize, flags as usize, usize::MAX, 0]
}

/// Makes a sealed range readable and writable; it reads as zero.
pub fn unseal(address: usize, len: usize) -> Result<(), Errno> {
    faults::check(faults::Call::Protect)?;
    let prot = (libc::PROT_READ | libc::PROT_WRITE) as usize;
    // SAFETY: gives rights, takes none.
    outcome(unsafe { syscall(libc::SYS_mprotect as usize, [address, len, prot, 0, 0, 0]) })
        .map(drop)
}

/// Unmaps `len` bytes at `address`.
///
/// # Safety
/// 1. The range is a mapping of ours that nobody will touch again.
pub unsafe fn unmap(address: usize, len: usize) {
    // SAFETY: duty 1. It fails only when a split would pass max_map_count; the range then stays
    // mapped, which costs memory and harms nothing.
    unsafe {
        syscall(libc::SYS_munmap as usize, [address, len, 0, 0, 0, 0]);
    }
}

/// Keeps huge pages away from a range of metadata, which is touched sparsely. Advice only.
pub fn no_huge_pages(address: usize, len: usize) {
    // SAFETY: changes no contents.
    let _ = unsafe { advise(address, len, libc::MADV_NOHUGEPAGE) };
}

/// Asks for huge pages in a range that will be dense, where the system gives them on request. Advice only.
pub fn want_huge_pages(address: usize, len: usize) {
    // SAFETY: changes no contents.
    let _ = unsafe { advise(address, len, libc::MADV_HUGEPAGE) };
}

/// madvise(2).
///
/// # Safety
/// 1. The range holds nothing of value, or the advice leaves contents alone.
unsafe fn advise(address: usize, len: usize, advice: i32) -> Result<(), Errno> {
    // SAFETY: duty 1.
    outcome(unsafe {
        syscall(libc::SYS_madvise as usize, [address, len, advice as usize, 0, 0, 0])
    })
    .map(drop)
}

/// Grows or shrinks a mapping, moving it if it must; the new address.
///
/// # Safety
/// 1. `address..address + old_len` is a mapping of ours; on success the old address is dead.
pub unsafe fn remap(address: usize, old_len: usize, len: usize) -> Result<usize, Errno> {
    faults::check(faults::Call::Remap)?;
    let flags = libc::MREMAP_MAYMOVE as usize;
    // SAFETY: duty 1.
    address_of(unsafe { syscall(libc::SYS_mremap as usize, [address, old_len, len, flags, 0, 0]) })
}

/// Moves the memory behind `len` bytes to a new mapping, leaving the range mapped, with any contents; the new
/// address (MREMAP_DONTUNMAP, Linux 5.7). Not to a given address: up to Linux 6.16 what is mapped there is gone
/// when the move is refused after all.
///
/// # Safety
/// 1. The range is a mapping of ours, readable and writable.
pub unsafe fn move_away(from: usize, len: usize) -> Result<usize, Errno> {
    faults::check(faults::Call::Remap)?;
    let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP) as usize;
    // SAFETY: duty 1.
    let moved =
        address_of(unsafe { syscall(libc::SYS_mremap as usize, [from, len, len, flags, 0, 0]) })?;
    if moved == from {
        // The flag was not understood: a move to the same length is none.
        return Err(libc::EINVAL);
    }
    // SAFETY: duty 1.
    unsafe { promises::keep_mapped(from, len) };
    Ok(moved)
}

/// Sleeps while `*word == expected`, for at most so many microseconds; may wake for no reason.
pub fn futex_wait(word: &AtomicU32, expected: u32, longest_us: usize) {
    let op = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let longest = libc::timespec {
        tv_sec: (longest_us / 1_000_000) as libc::time_t,
        tv_nsec: (longest_us % 1_000_000 * 1_000) as libc::c_long,
    };
    let until = (&raw const longest) as usize;
    // SAFETY: the word is live for the length of the borrow, and so is the time.
    unsafe {
        let args = [word.as_ptr() as usize, op, expected as usize, until, 0, 0];
        syscall(libc::SYS_futex as usize, args);
    }
}

/// Wakes one sleeper on `word`.
pub fn futex_wake(word: &AtomicU32) {
    wake(word, 1);
}

/// Wakes all sleepers on `word`.
pub fn futex_wake_all(word: &AtomicU32) {
    wake(word, i32::MAX as usize);
}

fn wake(word: &AtomicU32, count: usize) {
    let op = (libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG) as usize;
    // SAFETY: wakes only.
    unsafe {
        syscall(libc::SYS_futex as usize, [word.as_ptr() as usize, op, count, 0, 0, 0]);
    }
}

/// rseq(2) with raw arguments; see `rseq::abi`.
///
/// # Safety
/// 1. For a registration, `area` stays valid until it is undone.
pub unsafe fn rseq(area: usize, len: u32, flags: i32, signature: u32) -> Result<(), Errno> {
    faults::check(faults::Call::Rseq)?;
    if faults::is_lied_to(faults::Call::Rseq) {
        return Ok(());
    }
    // SAFETY: duty 1.
    outcome(unsafe {
        let args = [area, len as usize, flags as usize, signature as usize, 0, 0];
        syscall(libc::SYS_rseq as usize, args)
    })
    .map(drop)
}

/// membarrier(2).
pub fn membarrier(command: i32, flags: u32, cpu: u32) -> Result<usize, Errno> {
    faults::check(faults::Call::Membarrier)?;
    if faults::is_lied_to(faults::Call::Membarrier) {
        return Ok(0);
    }
    // SAFETY: changes no memory.
    outcome(unsafe {
        let args = [command as usize, flags as usize, cpu as usize, 0, 0, 0];
        syscall(libc::SYS_membarrier as usize, args)
    })
}

/// The CPU that the calling thread runs on, or ran on just now; 0 if that can't be told.
pub fn current_cpu() -> usize {
    let before = errno();
    // SAFETY: no arguments. libc has it of the thread's rseq area or of the vDSO; else it asks the kernel, and says in
    // errno what that refused.
    let cpu = unsafe { libc::sched_getcpu() };
    if cpu < 0 {
        set_errno(before);
    }
    cpu.max(0) as usize
}

/// A key by which a thread can have `f` called when it ends; none if there is none left.
pub fn make_thread_end_key(f: unsafe extern "C" fn(*mut libc::c_void)) -> Option<u32> {
    let mut key = 0;
    // SAFETY: a live word, and a function of this library, which is never unloaded.
    (unsafe { libc::pthread_key_create(&raw mut key, Some(f)) } == 0).then_some(key)
}

/// Has the key's function called with `value`, not 0, when the calling thread ends; whether libc had the memory.
pub fn call_at_thread_end(key: u32, value: usize) -> bool {
    // SAFETY: the key exists, and what the function does with the value is its maker's.
    unsafe { libc::pthread_setspecific(key, value as *const libc::c_void) == 0 }
}

unsafe extern "C" {
    static environ: *const *const u8;
}

/// The value of the environment entry that starts with `prefix` (`NAME=`), from libc's `environ`; from
/// the kernel's copy in `buffer` if libc has none yet (a call from inside the dynamic linker).
pub fn environment<'a>(prefix: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    // SAFETY: libc's list of NUL-terminated strings, ended by null; init runs before threads exist
    // that could change it, or races setenv as getenv does.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let text = core::ffi::CStr::from_ptr((*entry).cast()).to_bytes();
            if let Some(value) = text.strip_prefix(prefix) {
                let len = value.len().min(buffer.len());
                buffer[..len].copy_from_slice(&value[..len]);
                return Some(&buffer[..len]);
            }
            entry = entry.add(1);
        }
        if !environ.is_null() {
            return None;
        }
    }
    let text = read_file(b"/proc/self/environ\0", buffer)?;
    text.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(prefix))
}

/// write(2): how many bytes. As a system call of its own, not libc's function, which is a cancellation point.
pub fn write(fd: i32, bytes: &[u8]) -> Result<usize, Errno> {
    let args = [fd as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0];
    // SAFETY: reads `bytes` only.
    outcome(unsafe { syscall(libc::SYS_write as usize, args) })
}

/// Writes to standard error, as far as it goes.
pub fn write_stderr(bytes: &[u8]) {
    let _ = write(libc::STDERR_FILENO, bytes);
}

/// Lets other threads run: sleeps for a moment, some 50 microseconds by the kernel's timer slack. By futex,
/// which libc's malloc can't do without, where filters kill for sched_yield; and beside a sleeper threads of
/// lower priority run too.
pub fn yield_now() {
    static NOT_WOKEN: AtomicU32 = AtomicU32::new(0);
    let moment = libc::timespec { tv_sec: 0, tv_nsec: 1_000 };
    let op = (libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG) as usize;
    let args = [NOT_WOKEN.as_ptr() as usize, op, 0, &raw const moment as usize, 0, 0];
    // SAFETY: the word and the time are live; no thread wakes or changes the word.
    unsafe {
        syscall(libc::SYS_futex as usize, args);
    }
}

/// Ends the process by SIGABRT.
pub fn abort() -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::abort() }
}

/// An entry of the auxiliary vector; 0 if absent.
pub fn auxv(key: u64) -> usize {
    // SAFETY: reads libc's copy of the vector. It may set errno to ENOENT, which init restores.
    unsafe { libc::getauxval(key as libc::c_ulong) as usize }
}

/// Whether the kernel gives each run the same addresses (ADDR_NO_RANDOMIZE, as under a debugger): the stack begins at
/// the very top then, with eight bytes of zero above the name of the program. With random addresses that happens once
/// in four million times. No system call, which a filter might punish.
pub fn has_fixed_addresses() -> bool {
    let name = auxv(libc::AT_EXECFN) as *const core::ffi::c_char;
    if name.is_null() {
        return false;
    }
    // SAFETY: the kernel puts the NUL-terminated name there.
    let bytes = unsafe { core::ffi::CStr::from_ptr(name) }.count_bytes() + 1;
    name as usize + bytes + size_of::<usize>() == STACK_TOP
}

/// Bytes of an OS page.
pub fn page_bytes() -> usize {
    // Ordering: Relaxed, a cache of a constant.
    let known = PAGE.load(Ordering::Relaxed);
    if known != 0 {
        return known;
    }
    let bytes = match auxv(libc::AT_PAGESZ) {
        0 => 4096,
        bytes => bytes,
    };
    // Ordering: Relaxed, every writer writes the same.
    PAGE.store(bytes, Ordering::Relaxed);
    bytes
}

/// Bytes of a huge page: what one page of 8-byte entries maps.
pub fn huge_page_bytes() -> usize {
    page_bytes() * (page_bytes() / 8)
}

static PAGE: AtomicUsize = AtomicUsize::new(0);

/// Seconds of a clock that only goes forward; cheap (the vDSO reads no counter for it).
pub fn seconds() -> usize {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a live struct. Should the clock not exist, no time passes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    now.tv_sec as usize
}

/// Microseconds of a clock that only goes forward.
pub fn microseconds() -> usize {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as in `seconds`.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as usize * 1_000_000 + now.tv_nsec as usize / 1_000
}

/// The calling thread's errno, so that a front can leave it as it found it.
pub fn errno() -> i32 {
    // SAFETY: libc's thread-local, valid in every thread.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's errno.
pub fn set_errno(value: i32) {
    // SAFETY: libc's thread-local, valid in every thread.
    unsafe { *libc::__errno_location() = value }
}

//! The operating system: each system call that the allocator makes, with types.
//!
//! System calls don't go through libc, so they leave errno alone; but for those of `File` and `is_file`, which serve the
//! statistics at exit. Else from libc comes only what is no system call or needs libc's data: `environ`, `getauxval`,
//! errno, `abort`, the clocks, `sched_getcpu`, and descriptor and keys of the process's threads.
//!
//! Invariants:
//! I1. No function here allocates, takes a lock of the allocator, or unwinds; every failure is a value.

mod clock;
pub mod container;
pub mod faults;
mod file;
mod futex;
mod kept;
mod mapping;
mod promises;
mod scratch;
mod stderr;
mod text;

pub use clock::{microseconds, milliseconds, nanoseconds_since_epoch, seconds, unix_time_ms};
pub use file::{
    File, Identity, Shared, file_size_limit, identity_of, is_file, is_process, pid_namespace,
    share, unlink,
};
pub use futex::{futex_wait, futex_wake, futex_wake_all};
pub use kept::keep;
pub use mapping::{
    Place, map, map_sealed, move_away, no_huge_pages, remap, seal, unmap, unseal, want_huge_pages,
    wipe_in_children,
};
pub use promises::{Memory, Zeroing, give_back, probe, purge, zeroing, zeroing_word};
pub use scratch::Scratch;
pub use stderr::{keep_stderr, stderr_or_kept, write, write_stderr};
pub use text::{gives_huge_pages_unasked, parse_number, read_file};

use crate::arch::{self, STACK_TOP, is_there, syscall};
use crate::atomic::{AtomicUsize, Ordering};
use core::ffi::CStr;

// musl's libc, behind this crate's code on the linker's command line: a static program has the functions that std does not
// use from nowhere else.
#[cfg(target_env = "musl")]
#[cfg_attr(target_feature = "crt-static", link(name = "c", kind = "static", modifiers = "-bundle"))]
#[cfg_attr(not(target_feature = "crt-static"), link(name = "c"))]
unsafe extern "C" {}

/// A positive errno value.
pub type Errno = i32;

fn outcome(result: isize) -> Result<usize, Errno> {
    if (-4095..0).contains(&result) { Err(-result as Errno) } else { Ok(result as usize) }
}

/// As [`outcome`], of a call that returns an address. 0 is a failure: a seccomp filter can report success for a call that was
/// never made.
fn address_of(result: isize) -> Result<usize, Errno> {
    outcome(result).and_then(|address| if address == 0 { Err(libc::ENOMEM) } else { Ok(address) })
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
#[inline(never)]
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

/// The CPU that the calling thread runs on, or ran on just now; 0 if that is not known.
pub fn current_cpu() -> usize {
    let before = errno();
    // SAFETY: no arguments. libc reads it from the thread's rseq area or the vDSO; otherwise it asks the kernel, whose
    // refusal it stores in errno.
    let cpu = unsafe { libc::sched_getcpu() };
    if cpu < 0 {
        set_errno(before);
    }
    cpu.max(0) as usize
}

/// The kernel's number of the memory node of the calling thread, by `getcpu(3)` (glibc 2.29), which reads it from the vDSO. None where that
/// would be a system call, or libc has no such function.
pub fn node_by_libc() -> Option<u32> {
    let (mut cpu, mut node) = (0, 0);
    let getcpu = arch::libc_getcpu()?;
    // SAFETY: it writes two numbers.
    (unsafe { getcpu(&mut cpu, &mut node) } == 0).then_some(node)
}

/// The address of libc's descriptor of the calling thread; on x86-64 the thread pointer.
pub fn thread_descriptor() -> usize {
    // SAFETY: no preconditions.
    unsafe { libc::pthread_self() as usize }
}

/// A key with which a thread can have `f` called when it ends; none if all keys are in use, or libc has none without
/// libpthread.
pub fn make_thread_end_key(f: unsafe extern "C" fn(*mut libc::c_void)) -> Option<u32> {
    if !is_there(libc::pthread_key_create as *const ()) {
        return None;
    }
    let mut key = 0;
    // SAFETY: a live word, and a function of this library, which is never unloaded.
    (unsafe { libc::pthread_key_create(&raw mut key, Some(f)) } == 0).then_some(key)
}

/// Has the key's function called with `value`, not 0, when the calling thread ends; whether libc had the memory.
pub fn call_at_thread_end(key: u32, value: usize) -> bool {
    // SAFETY: the key exists; its function gets no more than the value.
    unsafe { libc::pthread_setspecific(key, value as *const libc::c_void) == 0 }
}

unsafe extern "C" {
    static environ: *const *const u8;
}

/// The value of the environment entry that starts with `prefix` (`NAME=`), copied to `buffer`: from libc's `environ`, or from
/// the kernel's copy if libc has none yet (a call from inside the dynamic linker).
pub fn environment<'a>(prefix: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    // SAFETY: libc's list of NUL-terminated strings, ended by null. Init runs before threads exist that could change it, or
    // races with setenv as getenv does.
    unsafe {
        let mut entry = environ;
        while !entry.is_null() && !(*entry).is_null() {
            let text = CStr::from_ptr((*entry).cast()).to_bytes();
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

/// Lets other threads run: sleeps for a moment, some 50 microseconds by the kernel's timer slack, on a futex that no thread
/// wakes. Seccomp filters that kill for sched_yield allow futexes, which libc's malloc needs; and while a thread sleeps,
/// threads of lower priority run too.
pub fn yield_now() {
    static NEVER_WOKEN: AtomicUsize = AtomicUsize::new(0);
    futex_wait(&NEVER_WOKEN, 0, 1);
}

/// Ends the process by exit_group(2). Where a filter denies it, the thread ends, and where it denies that too, SIGABRT comes.
pub fn end_process(status: i32) -> ! {
    for call in [libc::SYS_exit_group, libc::SYS_exit] {
        // SAFETY: does not return, unless a filter denies it.
        unsafe { syscall(call as usize, [status as usize, 0, 0, 0, 0, 0]) };
    }
    abort()
}

/// Ends the process by SIGABRT.
pub fn abort() -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::abort() }
}

/// An entry of the auxiliary vector; 0 if absent.
#[inline(never)]
pub fn auxv(key: u64) -> usize {
    // SAFETY: reads libc's copy of the vector. The call may set errno to ENOENT, which init restores.
    unsafe { libc::getauxval(key as libc::c_ulong) as usize }
}

/// Whether the kernel gives each run the same addresses (ADDR_NO_RANDOMIZE, as under a debugger): the stack begins at the top
/// of the address space then, with eight bytes of zero above the name of the program. With random addresses that happens once
/// in four million runs. Makes no system call, which a seccomp filter might punish.
pub fn has_fixed_addresses() -> bool {
    let name = auxv(libc::AT_EXECFN) as *const core::ffi::c_char;
    if name.is_null() {
        return false;
    }
    // SAFETY: the kernel puts the NUL-terminated name there.
    let bytes = unsafe { CStr::from_ptr(name) }.count_bytes() + 1;
    name as usize + bytes + size_of::<usize>() == STACK_TOP
}

/// Bytes of an OS page.
#[inline(never)]
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

/// `bytes` rounded up to whole OS pages.
#[inline(never)]
pub fn whole_pages(bytes: usize) -> usize {
    // A power of two, which the compiler does not know: it would divide.
    let mask = page_bytes() - 1;
    (bytes + mask) & !mask
}

/// Bytes of a huge page: what one page of 8-byte entries maps.
pub fn huge_page_bytes() -> usize {
    page_bytes() * (page_bytes() / 8)
}

static PAGE: AtomicUsize = AtomicUsize::new(0);

/// Writes the path of the running program to `path`; its length.
pub fn program_path(path: &mut [u8]) -> Option<usize> {
    let link = c"/proc/self/exe".as_ptr() as usize;
    let args = [libc::AT_FDCWD as usize, link, path.as_mut_ptr() as usize, path.len(), 0, 0];
    // SAFETY: reads the name, and writes to `path` only.
    outcome(unsafe { syscall(libc::SYS_readlinkat as usize, args) }).ok()
}

/// The process's id.
#[inline(never)]
pub fn process_id() -> u32 {
    // SAFETY: no preconditions.
    unsafe { syscall(libc::SYS_getpid as usize, [0; 6]) as u32 }
}

/// The calling thread's errno, which a front saves and restores.
pub fn errno() -> i32 {
    // SAFETY: libc's thread-local, valid in every thread.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's errno.
pub fn set_errno(value: i32) {
    // SAFETY: libc's thread-local, valid in every thread.
    unsafe { *libc::__errno_location() = value }
}

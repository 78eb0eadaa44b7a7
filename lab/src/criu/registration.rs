//! The rseq areas of another process, as its kernel knows them.
//!
//! What `rsalloc check` reads is memory, which a restore copies; whether the restored threads are registered with the
//! new kernel objects, only the kernel can say (`PTRACE_GET_RSEQ_CONFIGURATION`, Linux 5.13).

use anyhow::{Result, ensure};

/// A thread's area: address, size, signature. `None`: none is registered.
pub type Registration = Option<(u64, u32, u32)>;

/// `PTRACE_GET_RSEQ_CONFIGURATION` of `linux/ptrace.h`.
const GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;

/// `struct ptrace_rseq_configuration` of `linux/ptrace.h`.
#[repr(C)]
#[derive(Default)]
struct Configuration {
    address: u64,
    size: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

/// The areas of all threads of `pid`, in the order of the threads' numbers.
pub fn of(pid: i32) -> Result<Vec<Registration>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        threads.push(entry?.file_name().to_string_lossy().parse::<i32>()?);
    }
    threads.sort_unstable();
    threads.into_iter().map(of_thread).collect()
}

fn of_thread(thread: i32) -> Result<Registration> {
    ptrace(libc::PTRACE_SEIZE, thread, 0, std::ptr::null_mut())?;
    let found = stopped(thread);
    ptrace(libc::PTRACE_DETACH, thread, 0, std::ptr::null_mut())?;
    found
}

fn stopped(thread: i32) -> Result<Registration> {
    ptrace(libc::PTRACE_INTERRUPT, thread, 0, std::ptr::null_mut())?;
    let mut status = 0;
    // SAFETY: points to a live value.
    let stopped = unsafe { libc::waitpid(thread, &mut status, libc::__WALL) };
    ensure!(stopped == thread, "waitpid: {}", std::io::Error::last_os_error());
    ensure!(libc::WIFSTOPPED(status), "thread {thread} ended ({status:#x})");
    let mut found = Configuration::default();
    let size = size_of::<Configuration>();
    ptrace(GET_RSEQ_CONFIGURATION, thread, size, (&raw mut found).cast())?;
    Ok((found.address != 0).then_some((found.address, found.size, found.signature)))
}

fn ptrace(
    request: libc::c_uint,
    thread: i32,
    address: usize,
    data: *mut libc::c_void,
) -> Result<()> {
    // SAFETY: of the requests used here only one writes, into `data`, of which `address` is the size.
    let result = unsafe { libc::ptrace(request, thread, address, data) };
    let error = std::io::Error::last_os_error();
    ensure!(result >= 0, "ptrace {request:#x} of thread {thread}: {error}");
    Ok(())
}

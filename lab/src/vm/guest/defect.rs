//! A program that breaks the ABI of restartable sequences on purpose.
//!
//! A kernel with `rseq_debug=1` must kill it. Started by the control.

use std::arch::asm;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

/// Offset of `cpu_id` in `struct rseq`.
const CPU_ID: usize = 4;

/// Writes to the thread's `cpu_id`, then goes in and out of the kernel for a second.
pub fn break_abi() -> Result<()> {
    // SAFETY: a name that ends in zero.
    let offset = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    ensure!(!offset.is_null(), "this C library does not register rseq");
    let thread: usize;
    // SAFETY: reads the thread pointer.
    unsafe { asm!("mov {}, fs:0", out(reg) thread, options(nostack, readonly)) };
    // SAFETY: of this type in glibc (sys/rseq.h), and constant.
    let area = thread.wrapping_add_signed(unsafe { *offset.cast::<isize>() });
    // SAFETY: the area lies there; that only the kernel may write it is the point.
    unsafe { ((area + CPU_ID) as *mut u32).write_volatile(4711) };
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

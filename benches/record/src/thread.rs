//! What each thread keeps while it is recorded.
//!
//! In static TLS, so that reaching it never calls the dynamic linker, which might allocate. Zeroes at first.

use core::arch::{asm, global_asm};

/// Where a thread writes, and what its next event counts from.
#[repr(C)]
pub struct Thread {
    /// Its number; 0: it has made no event yet.
    pub number: u32,
    /// It writes an event: a call that comes now is a signal handler's, on top of it.
    pub is_busy: bool,
    /// The mapping of its chunk; 0: none.
    pub chunk: usize,
    /// Where in it the next event goes.
    pub used: usize,
    /// The last number of an event.
    pub sequence: u64,
    /// The last address of an event.
    pub address: u64,
}

const _: () = assert!(size_of::<Thread>() == 40);

global_asm!(
    ".pushsection .tbss.rsalloc_record,\"awT\",@nobits",
    ".balign 16",
    ".globl rsalloc_record_thread",
    ".hidden rsalloc_record_thread",
    ".type rsalloc_record_thread, @object",
    ".size rsalloc_record_thread, 48",
    "rsalloc_record_thread:",
    ".skip 48",
    ".popsection",
);

/// The calling thread's.
pub fn own() -> *mut Thread {
    let at: *mut Thread;
    // SAFETY: the thread pointer, plus an offset that the dynamic linker puts into the GOT.
    unsafe {
        asm!(
            "mov {0}, qword ptr [rip + rsalloc_record_thread@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) at,
            options(nostack, readonly, pure),
        );
    }
    at
}

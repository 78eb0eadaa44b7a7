//! Where a thread runs a command that another process has put to it.

use crate::engine::command::{Area, BUSY, FREE, run};
use core::arch::naked_asm;
use core::mem::offset_of;

/// Turns of the loop that waits for the other process: some 50 to 100 ms.
const TURNS: u32 = 1 << 22;

/// See [`super::super::COMMAND_ENTRY`].
#[unsafe(naked)]
pub unsafe extern "C" fn command_entry() {
    naked_asm!(
        ".cfi_startproc",
        // No caller: the stack is the area's, and begins here.
        ".cfi_undefined x30",
        "20:",
        // x19: the area. The call keeps it.
        "mov x19, x2",
        "mov w9, {busy}",
        "str w9, [x19, {state}]",
        "bl {run}",
        "str x0, [x19, {answer}]",
        "add x9, x19, {answers}",
        "ldr w10, [x9]",
        "add w10, w10, #1",
        // Release: pairs with the fence between the other process's reads of the count and of the answer.
        "stlr w10, [x9]",
        // The other process stops the thread here, and has it go on where it was.
        "mov w9, {turns}",
        "30: isb",
        "subs w9, w9, #1",
        "b.ne 30b",
        // It does not: it has ended, or is held up. The thread goes on by itself.
        "mov w9, {free}",
        "str w9, [x19, {state}]",
        "mov x8, {sigreturn}",
        "svc #0",
        "brk #1",
        // No other code in the range that a thread in here is known by. Refused by the assembler if it is too short.
        ".org 20b + {bytes}",
        ".cfi_endproc",
        run = sym run,
        state = const offset_of!(Area, state),
        answer = const offset_of!(Area, answer),
        answers = const offset_of!(Area, answers),
        busy = const BUSY,
        free = const FREE,
        turns = const TURNS,
        sigreturn = const libc::SYS_rt_sigreturn,
        bytes = const super::COMMAND_ENTRY_BYTES,
    )
}

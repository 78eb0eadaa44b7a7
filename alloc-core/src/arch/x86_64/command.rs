//! Where a thread runs a command that another process has put to it.

use crate::engine::command::{Area, BUSY, FREE, run};
use core::arch::naked_asm;
use core::mem::offset_of;

/// Turns of the loop that waits for the other process: some 50 to 100 ms.
const TURNS: u32 = 1 << 21;

/// See [`super::super::COMMAND_ENTRY`].
#[unsafe(naked)]
pub unsafe extern "C" fn command_entry() {
    naked_asm!(
        ".cfi_startproc",
        // No caller: the stack is the area's, and begins here.
        ".cfi_undefined rip",
        "20:",
        "cld",
        // rbx: the area. The call keeps it.
        "mov rbx, rdx",
        "mov dword ptr [rbx + {state}], {busy}",
        "call {run}",
        "mov qword ptr [rbx + {answer}], rax",
        "add dword ptr [rbx + {answers}], 1",
        // The other process stops the thread here, and has it go on where it was.
        "mov ecx, {turns}",
        "30: pause",
        "sub ecx, 1",
        "jnz 30b",
        // It does not: it has ended, or is held up. The thread goes on by itself.
        "mov dword ptr [rbx + {state}], {free}",
        "mov eax, {sigreturn}",
        "syscall",
        "ud2",
        // No other code in the range that a thread in here is known by. Refused by the assembler if it is too short.
        ".org 20b + {bytes}, 0xcc",
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

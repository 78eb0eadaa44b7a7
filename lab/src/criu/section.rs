//! A section that does not end, and the process that spins in it: the victim of `snapshot`.
//!
//! The section is one jump to itself; each abort leads back into it. It stores nothing, so nothing can
//! break. Needs libc's registration. Started by `snapshot`.

use std::arch::{asm, global_asm};
use std::io::Write;
use std::time::Duration;

use anyhow::{Result, ensure};

// spin(area): rseq_cs of the area = descriptor; section { loop }; aborted: again
global_asm!(
    ".pushsection .data.lab_spin, \"aw\", @progbits",
    ".balign 32",
    "70: .long 0, 0", // version, flags
    ".quad lab_spin_start, lab_spin_end - lab_spin_start, 73f",
    ".popsection",
    ".pushsection .text.lab_spin, \"ax\", @progbits",
    "lab_spin:",
    "lea rax, [rip + 70b]",
    "mov [rdi + 8], rax", // announced
    "lab_spin_start:",
    "pause",
    "jmp lab_spin_start",
    "lab_spin_end:",
    ".byte 0x0f, 0xb9, 0x3d", // ud1, with the signature as its operand
    ".long 0x53053053",
    "73: jmp lab_spin", // the abort handler
    ".popsection",
);

unsafe extern "C" {
    fn lab_spin(area: usize) -> !;
    static lab_spin_start: u8;
    static lab_spin_end: u8;
}

/// Says where the section is, then spins in it with two threads until it is killed, or for a minute.
pub fn main() -> Result<()> {
    // SAFETY: a constant name; the symbol, if there is one, is a `ptrdiff_t` for ever.
    let offset = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_offset".as_ptr()) };
    ensure!(!offset.is_null(), "this libc does not register rseq");
    // SAFETY: as above.
    let offset = unsafe { *offset.cast::<isize>() };
    let (start, end) = (&raw const lab_spin_start as usize, &raw const lab_spin_end as usize);
    println!("{start} {end}");
    std::io::stdout().flush()?;
    // SAFETY: no duties; a harness that was killed leaves nothing spinning for long.
    unsafe { libc::alarm(Duration::from_secs(60).as_secs() as u32) };
    std::thread::spawn(move || spin(offset));
    spin(offset)
}

fn spin(offset: isize) -> ! {
    let thread_pointer: usize;
    // SAFETY: x86-64's TLS keeps its own address in its first word.
    unsafe { asm!("mov {}, fs:[0]", out(reg) thread_pointer, options(nostack, readonly)) };
    // SAFETY: the thread's registered area; the section above follows the rules.
    unsafe { lab_spin(thread_pointer.wrapping_add_signed(offset)) }
}

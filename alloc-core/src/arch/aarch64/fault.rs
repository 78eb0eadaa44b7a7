//! What a signal interrupted: the registers that the kernel saves, and the access, from the record behind them.

use crate::arch::{self, Access};
use core::mem::offset_of;

/// arch/arm64/include/uapi/asm/sigcontext.h: `struct sigcontext` up to its records, which are aligned to 16 bytes.
#[repr(C)]
struct Registers {
    fault_address: u64,
    regs: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

/// The head of each record.
#[repr(C)]
struct Record {
    magic: u32,
    len: u32,
}

/// `struct esr_context`: the syndrome of the fault.
#[repr(C)]
struct Syndrome {
    head: Record,
    esr: u64,
}

const ESR_MAGIC: u32 = 0x4553_5201;
/// Bytes of all records.
const RECORDS_BYTES: usize = 4096;
/// Arm ARM, ESR_EL1: the exception class, and of a data abort from user space whether it wrote.
const CLASS_SHIFT: u32 = 26;
const DATA_ABORT: u64 = 0x24;
const WRITE: u64 = 1 << 6;

/// # Safety
/// 1. As for [`crate::arch::fault_access`].
pub unsafe fn access(context: *mut libc::c_void) -> Access {
    let registers = offset_of!(libc::ucontext_t, uc_mcontext);
    let records = (registers + size_of::<Registers>()).next_multiple_of(16);
    let mut at = 0;
    while at + size_of::<Syndrome>() <= RECORDS_BYTES {
        let record = context.wrapping_byte_add(records + at).cast::<Syndrome>();
        // SAFETY: duty 1: within the records of the context, which end with one of length 0.
        let (Record { magic, len }, esr) =
            unsafe { (core::ptr::read(&raw const (*record).head), (*record).esr) };
        match magic {
            ESR_MAGIC if esr >> CLASS_SHIFT & 0x3f != DATA_ABORT => return Access::Unknown,
            ESR_MAGIC if esr & WRITE != 0 => return Access::Write,
            ESR_MAGIC => return Access::Read,
            _ if len == 0 => return Access::Unknown,
            _ => at += len as usize,
        }
    }
    Access::Unknown
}

/// See the contract at [`arch::saved_by_signal`]. The kernel's code to which handlers return is known by its instructions, as unwinders know it
/// (arch/arm64/kernel/vdso/sigreturn.S); libc finds no table of it. On its stack is `struct rt_sigframe` of arch/arm64/kernel/signal.c, a siginfo_t and the context.
///
/// # Safety
/// 1. As there.
pub unsafe fn saved_by_signal(
    place: usize,
    stack: usize,
) -> Option<[usize; arch::Registers::COLUMNS]> {
    /// `mov x8, #139`, the number of rt_sigreturn, and `svc #0`.
    const RETURN: [u32; 2] = [0xd280_1168, 0xd400_0001];
    if !place.is_multiple_of(align_of::<u32>()) {
        return None;
    }
    // SAFETY: duty 1, aligned.
    if unsafe { (place as *const [u32; 2]).read_volatile() } != RETURN {
        return None;
    }
    let registers = stack
        .wrapping_add(size_of::<libc::siginfo_t>() + offset_of!(libc::ucontext_t, uc_mcontext));
    let mut saved = core::array::from_fn(|column| {
        registers.wrapping_add(offset_of!(Registers, regs) + column * size_of::<u64>())
    });
    saved[arch::Registers::SP] = registers.wrapping_add(offset_of!(Registers, sp));
    saved[arch::Registers::PC] = registers.wrapping_add(offset_of!(Registers, pc));
    Some(saved)
}

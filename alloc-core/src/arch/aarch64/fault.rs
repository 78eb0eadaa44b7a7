//! What an interrupted access was, from the record that the kernel leaves behind the registers.

use crate::arch::Access;
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

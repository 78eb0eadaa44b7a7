//! The registers of a thread on x86-64, and the frame by which it can restore them itself.

use super::Place;
use super::calls::ptrace_get;
use super::sequence;
use super::tracee::{Tracee, Unusable};
use anyhow::Result;
use libc::user_regs_struct;
use std::arch::x86_64::__cpuid_count;

/// What a stopped thread was at.
pub struct Saved {
    /// With `rip` where the thread is to go on.
    registers: user_regs_struct,
    /// Registers of floating point, as xsave stores them without compaction.
    extended: Vec<u8>,
    pub signal_mask: u64,
    /// Commands that the process had answered before.
    pub answers: u32,
}

/// Code segment of 64-bit code (arch/x86/include/asm/segment.h: __USER_CS).
const USER_CS: u64 = 0x33;
const NT_X86_XSTATE: usize = 0x202;
/// More than any processor has (AMX: 11 KiB).
const EXTENDED_MAX_BYTES: usize = 16 << 10;
/// Flags that a function must find clear: trap, direction, alignment check.
const CLEARED_FLAGS: u64 = 1 << 8 | 1 << 10 | 1 << 18;

/// Errors that a system call ends with inside the kernel if it is to go on after a stop (include/linux/errno.h).
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
/// Bytes of the instruction `syscall`.
const SYSCALL_BYTES: u64 = 2;

impl Saved {
    /// What the stopped thread is at, if it can be used.
    pub fn of(tracee: &mut Tracee, place: &Place) -> Result<Result<Self, Unusable>> {
        let mut registers = general(tracee.tid)?;
        if registers.cs != USER_CS {
            return Ok(Err(Unusable::Has32Bits));
        }
        if registers.fs_base == 0 {
            return Ok(Err(Unusable::HasNoThreadPointer));
        }
        if is_inside(registers.rip, place) {
            return Ok(Err(Unusable::IsAtCommand));
        }
        // Sequences contain no system call.
        let is_outside = registers.orig_rax as i64 >= 0;
        match sequence::continuation(tracee, registers.rip, is_outside)? {
            Some(address) => registers.rip = address,
            None => return Ok(Err(Unusable::MayBeInSection)),
        }
        let mut extended = vec![0; EXTENDED_MAX_BYTES];
        let mut range =
            libc::iovec { iov_base: extended.as_mut_ptr().cast(), iov_len: extended.len() };
        ptrace_get(libc::PTRACE_GETREGSET, tracee.tid, NT_X86_XSTATE, &mut range)?;
        extended.truncate(range.iov_len);
        Ok(Ok(Saved { registers, extended, signal_mask: 0, answers: 0 }))
    }

    /// Has the thread begin the command when it goes on.
    pub fn enter(&self, tid: i32, place: &Place, operation: usize, argument: usize) -> Result<()> {
        let mut registers = user_regs_struct {
            rip: place.entry,
            rsp: place.frame + CONTEXT as u64,
            rdi: operation as u64,
            rsi: argument as u64,
            rdx: place.area,
            eflags: self.registers.eflags & !CLEARED_FLAGS,
            // Else the kernel might take the system call up again here.
            orig_rax: u64::MAX,
            ..self.registers
        };
        ptrace_get(libc::PTRACE_SETREGS, tid, 0, &mut registers)
    }

    /// Restores the stopped thread. The kernel takes a system call up again by what is in `rax` and `orig_rax`.
    pub fn restore(&self, tid: i32) -> Result<()> {
        let mut extended = self.extended.clone();
        let mut range =
            libc::iovec { iov_base: extended.as_mut_ptr().cast(), iov_len: extended.len() };
        ptrace_get(libc::PTRACE_SETREGSET, tid, NT_X86_XSTATE, &mut range)?;
        ptrace_get(libc::PTRACE_SETREGS, tid, 0, &mut self.registers.clone())
    }

    /// Whether the thread is in a call whose time the kernel keeps.
    pub fn is_in_timed_call(&self) -> bool {
        self.registers.rax as i64 == ERESTART_RESTARTBLOCK && self.is_in_system_call()
    }

    /// For tests of the tests: says of no register that it is in use, so that all become zeros.
    #[cfg(test)]
    pub fn forget_vectors(&mut self) {
        self.extended[XSTATE_BV..XSTATE_BV + 8].fill(0);
    }

    /// The kernel may have lost how long a sleep was to go on: system calls of the command have been interrupted.
    pub fn forget_restart(&mut self) {
        if self.is_in_timed_call() {
            self.registers.rax = i64::from(-libc::EINTR) as u64;
        }
    }

    fn is_in_system_call(&self) -> bool {
        self.registers.orig_rax as i64 >= 0
    }

    /// The registers as a signal handler's frame has them, for sigreturn(2) (arch/x86/include/uapi/asm/sigcontext.h and
    /// ucontext.h; arch/x86/kernel/signal_64.c).
    pub fn frame(&self, place: &Place) -> Vec<u8> {
        let saved = &self.registers;
        let (mut rip, mut rax) = (saved.rip, saved.rax);
        if self.is_in_system_call() {
            match rax as i64 {
                ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => {
                    (rip, rax) = (rip - SYSCALL_BYTES, saved.orig_rax);
                }
                ERESTART_RESTARTBLOCK => rax = i64::from(-libc::EINTR) as u64,
                _ => {}
            }
        }
        let segments = saved.cs | saved.ss << 48;
        let registers = [
            saved.r8,
            saved.r9,
            saved.r10,
            saved.r11,
            saved.r12,
            saved.r13,
            saved.r14,
            saved.r15,
            saved.rdi,
            saved.rsi,
            saved.rbp,
            saved.rbx,
            saved.rdx,
            rax,
            saved.rcx,
            saved.rsp,
            rip,
            saved.eflags,
            segments,
            0,
            0,
            0,
            0,
            place.frame + EXTENDED as u64,
        ];
        let mut frame = vec![0; EXTENDED];
        let mut put = |at: usize, word: u64| frame[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        put(CONTEXT, UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS);
        // Flags of no alternate stack: the kernel leaves the thread's as it is.
        put(CONTEXT + UC_STACK + 8, 3);
        registers
            .into_iter()
            .enumerate()
            .for_each(|(index, word)| put(CONTEXT + UC_MCONTEXT + 8 * index, word));
        put(CONTEXT + UC_SIGMASK, self.signal_mask);
        frame.extend(self.extended_for_sigreturn());
        frame.truncate(place.frame_bytes as usize);
        frame
    }

    /// As the kernel stores them for a handler, with the marks by which it knows its own format.
    fn extended_for_sigreturn(&self) -> Vec<u8> {
        let features = u64::from_ne_bytes(
            self.extended[SW_RESERVED..SW_RESERVED + 8].try_into().unwrap_or_default(),
        );
        let in_use = u64::from_ne_bytes(
            self.extended[XSTATE_BV..XSTATE_BV + 8].try_into().unwrap_or_default(),
        );
        // A thread that has not asked for AMX has no room for it.
        let features = features & (!AMX | in_use);
        let ends = (2..63).filter(|feature| features >> feature & 1 != 0).map(|feature| {
            let leaf = __cpuid_count(0xd, feature);
            (leaf.eax + leaf.ebx) as usize
        });
        let len = ends.max().unwrap_or(0).max(XSTATE_BV + 64).min(self.extended.len());
        let mut bytes = self.extended[..len].to_vec();
        let marks = [
            FP_XSTATE_MAGIC1,
            len as u32 + 4,
            features as u32,
            (features >> 32) as u32,
            len as u32,
            0,
        ];
        for (index, mark) in marks.into_iter().enumerate() {
            let at = SW_RESERVED + 4 * index;
            bytes[at..at + 4].copy_from_slice(&mark.to_ne_bytes());
        }
        bytes.extend(FP_XSTATE_MAGIC2.to_ne_bytes());
        bytes
    }
}

/// Offsets in the frame: of the struct ucontext, at which the stack is aligned for a call, and of the extended registers,
/// which are aligned to 64.
const CONTEXT: usize = 16;
const EXTENDED: usize = 1024;
const UC_STACK: usize = 16;
const UC_MCONTEXT: usize = 40;
const UC_SIGMASK: usize = 296;
const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
/// Offsets in the extended registers: bytes for software, and the features that are in use.
const SW_RESERVED: usize = 464;
const XSTATE_BV: usize = 512;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
const AMX: u64 = 3 << 17;

/// Whether the stopped thread is at a command.
pub fn is_at_command(tid: i32, place: &Place) -> Result<bool> {
    Ok(is_inside(general(tid)?.rip, place))
}

/// The address of the instruction that the stopped thread runs next.
#[cfg(test)]
pub fn instruction(tid: i32) -> Result<u64> {
    Ok(general(tid)?.rip)
}

fn is_inside(address: u64, place: &Place) -> bool {
    address.wrapping_sub(place.entry) < place.entry_bytes
}

fn general(tid: i32) -> Result<user_regs_struct> {
    // SAFETY: all zeroes is a valid value of plain words.
    let mut registers: user_regs_struct = unsafe { std::mem::zeroed() };
    ptrace_get(libc::PTRACE_GETREGS, tid, 0, &mut registers)?;
    Ok(registers)
}

//! The registers of a thread on aarch64, and the frame by which it can restore them itself.
//!
//! A system call that is to go on after a stop has its instruction as the next one, and its arguments in the registers (do_signal in
//! arch/arm64/kernel/signal.c): restoring the registers takes it up again. What is left of a relative time is kept in the kernel, for
//! restart_syscall(2), whose number the kernel puts in when the thread goes on from its first stop. So such a thread is stopped
//! twice.

use super::Place;
use super::calls::ptrace_get;
use super::sequence;
use super::tracee::{Tracee, Unusable};
use anyhow::Result;

/// struct user_pt_regs (arch/arm64/include/uapi/asm/ptrace.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Registers {
    x: [u64; 31],
    sp: u64,
    pc: u64,
    pstate: u64,
}

/// What a stopped thread was at.
pub struct Saved {
    /// With `pc` where the thread is to go on.
    registers: Registers,
    /// Set NT_PRFPREG: struct user_fpsimd_state.
    floating: Vec<u8>,
    /// Set NT_ARM_SVE, which contains the former, if the machine has it: struct user_sve_header, and either form of registers.
    vectors: Option<Vec<u8>>,
    /// Whether restart_syscall(2) is the next instruction.
    restarts: bool,
    pub signal_mask: u64,
    /// Commands that the process had answered before.
    pub answers: u32,
}

const NT_PRSTATUS: usize = 1;
const NT_PRFPREG: usize = 2;
const NT_ARM_TLS: usize = 0x401;
const NT_ARM_SVE: usize = 0x405;
const NT_ARM_SSVE: usize = 0x40b;
/// More than vectors of 2048 bits take.
const VECTORS_MAX_BYTES: usize = 16 << 10;
const SVE_HEADER_BYTES: usize = 16;
/// In the header's flags: the registers are whole vectors, not their low 128 bits.
const SVE_REGS: u8 = 1;

/// Whether the next instruction must be a landing pad, by the last branch (PSTATE.BTYPE); one step to be taken (SS).
const CLEARED_STATE: u64 = 3 << 10 | 1 << 21;
const FP: usize = 29;
const LR: usize = 30;
/// The instruction `svc #0`, and its bytes.
const SVC: u32 = 0xd400_0001;
const SVC_BYTES: u64 = 4;
/// Calls whose time the kernel keeps when they are interrupted, and the one that takes them up.
const TIMED: [i64; 3] = [libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_futex];
const RESTART: i64 = libc::SYS_restart_syscall;

impl Saved {
    /// What the stopped thread is at, if it can be used.
    pub fn of(tracee: &mut Tracee, place: &Place) -> Result<Result<Self, Unusable>> {
        let Some(mut registers) = general(tracee.tid)? else {
            return Ok(Err(Unusable::Has32Bits));
        };
        let mut is_at_call = is_at_call(tracee, &registers);
        if is_at_call && TIMED.contains(&(registers.x[8] as i64)) {
            if let Err(why) = tracee.enter_system_call() {
                return Ok(Err(why));
            }
            registers = general(tracee.tid)?.unwrap_or_default();
            is_at_call = self::is_at_call(tracee, &registers);
        }
        if set(tracee.tid, NT_ARM_TLS, 8)?.iter().all(|&byte| byte == 0) {
            return Ok(Err(Unusable::HasNoThreadPointer));
        }
        if is_inside(registers.pc, place) {
            return Ok(Err(Unusable::IsAtCommand));
        }
        // No registers but the head: the thread is not in that mode.
        if set(tracee.tid, NT_ARM_SSVE, VECTORS_MAX_BYTES)
            .is_ok_and(|set| sve_bytes(&set) > SVE_HEADER_BYTES)
        {
            return Ok(Err(Unusable::IsStreaming));
        }
        // Sequences contain no system call.
        match sequence::continuation(tracee, registers.pc, is_at_call)? {
            Some(address) => registers.pc = address,
            None => return Ok(Err(Unusable::MayBeInSection)),
        }
        let floating = set(tracee.tid, NT_PRFPREG, FLOATING_BYTES)?;
        let vectors = set(tracee.tid, NT_ARM_SVE, VECTORS_MAX_BYTES).ok().map(|mut set| {
            set.truncate(sve_bytes(&set));
            set
        });
        let restarts = is_at_call && registers.x[8] as i64 == RESTART;
        Ok(Ok(Saved { registers, floating, vectors, restarts, signal_mask: 0, answers: 0 }))
    }

    /// Has the thread begin the command when it goes on.
    pub fn enter(&self, tid: i32, place: &Place, operation: usize, argument: usize) -> Result<()> {
        let mut registers = self.registers;
        registers.x[..3].copy_from_slice(&[operation as u64, argument as u64, place.area]);
        // The end of the chain of frames.
        (registers.x[FP], registers.x[LR]) = (0, 0);
        (registers.sp, registers.pc) = (place.frame, place.entry);
        registers.pstate &= !CLEARED_STATE;
        set_general(tid, &mut registers)
    }

    /// Restores the stopped thread.
    pub fn restore(&self, tid: i32) -> Result<()> {
        match &self.vectors {
            Some(vectors) => put_set(tid, NT_ARM_SVE, &mut vectors.clone())?,
            None => put_set(tid, NT_PRFPREG, &mut self.floating.clone())?,
        }
        set_general(tid, &mut self.registers.clone())
    }

    /// Whether the thread is in a call whose time the kernel keeps.
    pub fn is_in_timed_call(&self) -> bool {
        self.restarts
    }

    /// For tests of the tests: all become zeros.
    #[cfg(test)]
    pub fn forget_vectors(&mut self) {
        self.floating.fill(0);
        self.vectors.iter_mut().for_each(|set| set[SVE_HEADER_BYTES..].fill(0));
    }

    /// The kernel may have lost how long a sleep was to go on: system calls of the command have been interrupted.
    pub fn forget_restart(&mut self) {
        self.registers = self.without_restart();
        self.restarts = false;
    }

    /// The registers as a signal handler's frame has them, for sigreturn(2) (arch/arm64/include/uapi/asm/sigcontext.h and
    /// arch/arm64/kernel/signal.c). That call forgets how long a sleep was to go on.
    pub fn frame(&self, place: &Place) -> Vec<u8> {
        let saved = self.without_restart();
        let mut frame = vec![0; RECORDS];
        let mut put = |at: usize, word: u64| frame[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        // Flags of no alternate stack: the kernel leaves the thread's as it is.
        put(CONTEXT + UC_STACK + 8, 3);
        put(CONTEXT + UC_SIGMASK, self.signal_mask);
        let words = saved.x.into_iter().chain([saved.sp, saved.pc, saved.pstate]);
        // Behind the address of a fault.
        words
            .enumerate()
            .for_each(|(index, word)| put(CONTEXT + UC_MCONTEXT + 8 + 8 * index, word));
        let (registers, control) = self.floating.split_at(VECTORS_BYTES);
        frame.extend(record(FPSIMD_MAGIC, FLOATING_BYTES));
        frame.extend(&control[..8]);
        frame.extend(registers);
        let vectors = self.vectors.as_ref().filter(|set| set[SVE_FLAGS] & SVE_REGS != 0);
        if let Some(set) = vectors {
            let vl = u16::from_ne_bytes([set[SVE_VL], set[SVE_VL + 1]]);
            // 32 vectors, 16 predicates of a bit for each byte, and the first-fault register.
            let bytes = 32 * usize::from(vl) + 17 * usize::from(vl) / 8;
            let len = (SVE_HEADER_BYTES + bytes).next_multiple_of(16);
            // What follows may be longer than the kernel's own space for records.
            let start = place.frame + (frame.len() + EXTRA_BYTES + RECORD_END.len()) as u64;
            frame.extend(record(EXTRA_MAGIC, EXTRA_BYTES));
            frame.extend(start.to_ne_bytes());
            frame.extend(((len + RECORD_END.len()) as u64).to_ne_bytes());
            frame.extend([0; 8]);
            frame.extend(RECORD_END);
            let end = frame.len() + len;
            frame.extend(record(SVE_MAGIC, len));
            frame.extend(u64::from(vl).to_ne_bytes());
            frame.extend(&set[SVE_HEADER_BYTES..][..bytes]);
            frame.resize(end, 0);
        }
        frame.extend(RECORD_END);
        frame.truncate(place.frame_bytes as usize);
        frame
    }

    /// A call that was to be taken up ends with EINTR.
    fn without_restart(&self) -> Registers {
        let mut registers = self.registers;
        if self.restarts {
            registers.x[0] = i64::from(-libc::EINTR) as u64;
            registers.pc += SVC_BYTES;
        }
        registers
    }
}

/// Offsets in the frame: struct ucontext behind the siginfo, and the records behind the registers.
const CONTEXT: usize = 128;
const UC_STACK: usize = 16;
const UC_SIGMASK: usize = 40;
const UC_MCONTEXT: usize = 176;
const RECORDS: usize = CONTEXT + UC_MCONTEXT + 288;
const FPSIMD_MAGIC: u32 = 0x4650_8001;
const SVE_MAGIC: u32 = 0x5356_4501;
const EXTRA_MAGIC: u32 = 0x4558_5401;
const EXTRA_BYTES: usize = 32;
/// The last record has magic and length 0.
const RECORD_END: [u8; 16] = [0; 16];
/// struct user_fpsimd_state: 32 registers, fpsr and fpcr, two words of nothing. The kernel's record has a head instead of these.
const FLOATING_BYTES: usize = 528;
const VECTORS_BYTES: usize = 512;
/// Offsets in struct user_sve_header.
const SVE_VL: usize = 8;
const SVE_FLAGS: usize = 12;

fn record(magic: u32, len: usize) -> [u8; 8] {
    let [a, b, c, d] = magic.to_ne_bytes();
    let [e, f, g, h] = (len as u32).to_ne_bytes();
    [a, b, c, d, e, f, g, h]
}

/// The length that a set of vector registers says it has.
fn sve_bytes(set: &[u8]) -> usize {
    let len = set.first_chunk().map_or(0, |&len| u32::from_ne_bytes(len) as usize);
    len.min(set.len())
}

/// Whether the next instruction is a system call.
fn is_at_call(tracee: &Tracee, registers: &Registers) -> bool {
    let mut word = [0; 4];
    tracee.read(registers.pc, &mut word).is_ok() && u32::from_ne_bytes(word) == SVC
}

/// Whether the stopped thread is at a command.
pub fn is_at_command(tid: i32, place: &Place) -> Result<bool> {
    Ok(general(tid)?.is_some_and(|registers| is_inside(registers.pc, place)))
}

/// The address of the instruction that the stopped thread runs next.
#[cfg(test)]
pub fn instruction(tid: i32) -> Result<u64> {
    Ok(general(tid)?.unwrap_or_default().pc)
}

fn is_inside(address: u64, place: &Place) -> bool {
    address.wrapping_sub(place.entry) < place.entry_bytes
}

/// None of a thread that runs 32-bit code: its set is shorter.
fn general(tid: i32) -> Result<Option<Registers>> {
    let mut registers = Registers::default();
    let mut range =
        libc::iovec { iov_base: (&raw mut registers).cast(), iov_len: size_of::<Registers>() };
    ptrace_get(libc::PTRACE_GETREGSET, tid, NT_PRSTATUS, &mut range)?;
    Ok((range.iov_len == size_of::<Registers>()).then_some(registers))
}

fn set_general(tid: i32, registers: &mut Registers) -> Result<()> {
    let len = size_of::<Registers>();
    let mut range = libc::iovec { iov_base: (&raw mut *registers).cast(), iov_len: len };
    ptrace_get(libc::PTRACE_SETREGSET, tid, NT_PRSTATUS, &mut range)
}

/// A set of registers of at most so many bytes.
fn set(tid: i32, name: usize, bytes_max: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; bytes_max];
    let mut range = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    ptrace_get(libc::PTRACE_GETREGSET, tid, name, &mut range)?;
    bytes.truncate(range.iov_len);
    Ok(bytes)
}

fn put_set(tid: i32, name: usize, bytes: &mut [u8]) -> Result<()> {
    let mut range = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    ptrace_get(libc::PTRACE_SETREGSET, tid, name, &mut range)
}

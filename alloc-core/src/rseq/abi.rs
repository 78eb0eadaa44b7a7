//! The kernel's interface of restartable sequences, whole and typed, and nothing else.
//!
//! Source: include/uapi/linux/rseq.h, kernel/rseq.c and include/uapi/linux/membarrier.h (Linux 6.18;
//! later changes as noted). Usable on its own.
//!
//! Invariants:
//! I1. The only field of [`Area`] that user space writes is `rseq_cs`.
//! I2. Both flag words stay 0, see [`CriticalSectionFlags::is_legal`].

use crate::atomic::{AtomicU32, AtomicU64};
use crate::os::{self, Errno};

pub use crate::arch::sections::SIGNATURE;

/// `cpu_id` of a thread that is not registered.
pub const CPU_ID_UNINITIALIZED: u32 = -1i32 as u32;
/// `cpu_id` of a thread whose registration failed.
pub const CPU_ID_REGISTRATION_FAILED: u32 = -2i32 as u32;

/// Auxiliary vector: bytes of [`Area`] that the kernel fills (Linux 6.3).
pub const AT_RSEQ_FEATURE_SIZE: u64 = 27;
/// Auxiliary vector: alignment that the kernel wants for [`Area`] (Linux 6.3).
pub const AT_RSEQ_ALIGN: u64 = 28;

/// The length of the first version of [`Area`]; accepted by every kernel, and on 7.1 and later what
/// keeps the "legacy" behaviour.
pub const AREA_LEN: u32 = 32;

/// `struct rseq`: one for each thread, shared with the kernel.
#[repr(C, align(32))]
pub struct Area {
    /// CPU of the thread, a plausible index even when unregistered (Linux 4.18). Kernel writes.
    pub cpu_id_start: AtomicU32,
    /// CPU of the thread, or one of the two negative values (Linux 4.18). Kernel writes.
    pub cpu_id: AtomicU32,
    /// Address of the current [`CriticalSection`] or 0 (Linux 4.18). User stores, kernel clears.
    pub rseq_cs: AtomicU64,
    /// Always 0 today.
    pub flags: AtomicU32,
    /// NUMA node (Linux 6.3). Kernel writes.
    pub node_id: AtomicU32,
    /// Concurrency id within the process (Linux 6.3). Kernel writes.
    pub mm_cid: AtomicU32,
    /// Time-slice extension (Linux 7.0); not used here.
    pub slice_ctrl: AtomicU32,
}

/// Byte offsets of the fields of [`Area`] that the assembly uses.
pub mod offset {
    use super::Area;
    /// Of `cpu_id`.
    pub const CPU_ID: usize = core::mem::offset_of!(Area, cpu_id);
    /// Of `rseq_cs`.
    pub const RSEQ_CS: usize = core::mem::offset_of!(Area, rseq_cs);
    /// Of `mm_cid`.
    pub const MM_CID: usize = core::mem::offset_of!(Area, mm_cid);
}

/// The kernel's feature size that includes `mm_cid`.
pub const MM_CID_FEATURE_SIZE: u32 = offset::MM_CID as u32 + 4;

/// `struct rseq_cs`: describes one section.
#[repr(C, align(32))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CriticalSection {
    /// 0 today.
    pub version: u32,
    /// See [`CriticalSectionFlags`]; 0 today.
    pub flags: u32,
    /// Address of the first instruction.
    pub start_ip: u64,
    /// Bytes from there to the end of the commit store.
    pub post_commit_offset: u64,
    /// Where an aborted thread goes on; outside the section, behind the signature.
    pub abort_ip: u64,
}

/// Flags of a section. Deprecated: since Linux 6.0 the kernel kills a process that sets any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CriticalSectionFlags(pub u32);

impl CriticalSectionFlags {
    /// Do not restart on preemption (dead).
    pub const NO_RESTART_ON_PREEMPT: u32 = 1 << 0;
    /// Do not restart on a signal (dead); was legal only together with the other two.
    pub const NO_RESTART_ON_SIGNAL: u32 = 1 << 1;
    /// Do not restart on migration (dead).
    pub const NO_RESTART_ON_MIGRATE: u32 = 1 << 2;
    const ALL: u32 = 7;

    /// Whether some kernel ever took these flags: no unknown bits, and ON_SIGNAL only with both others
    /// (Linux 4.18 to 5.19, `rseq_need_restart`).
    pub const fn was_legal(self) -> bool {
        self.0 & !Self::ALL == 0
            && (self.0 & Self::NO_RESTART_ON_SIGNAL == 0 || self.0 == Self::ALL)
    }

    /// Whether every kernel takes these flags: they must be 0.
    pub const fn is_legal(self) -> bool {
        self.0 == 0
    }
}

/// Unregister instead of register.
pub const FLAG_UNREGISTER: i32 = 1;

/// Why the kernel did not do as asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RseqError {
    /// ENOSYS: the kernel has no rseq, or a filter hides it.
    Missing,
    /// EBUSY: this area is registered for this thread already.
    AlreadyRegistered,
    /// EPERM: registered with another signature, or a filter denies it.
    Denied,
    /// EINVAL: another area or length is registered, or the arguments are malformed.
    Invalid,
    /// EFAULT: the area can't be written.
    Fault,
    /// Any other errno.
    Other(Errno),
}

impl From<Errno> for RseqError {
    fn from(errno: Errno) -> Self {
        match errno {
            libc::ENOSYS => RseqError::Missing,
            libc::EBUSY => RseqError::AlreadyRegistered,
            libc::EPERM => RseqError::Denied,
            libc::EINVAL => RseqError::Invalid,
            libc::EFAULT => RseqError::Fault,
            errno => RseqError::Other(errno),
        }
    }
}

/// Registers `area` for the calling thread.
///
/// # Safety
/// 1. `area` is 32-byte aligned, `len` bytes long, and stays valid until it is unregistered.
pub unsafe fn register(area: *mut Area, len: u32) -> Result<(), RseqError> {
    // SAFETY: duty 1.
    unsafe { os::rseq(area as usize, len, 0, SIGNATURE) }.map_err(RseqError::from)
}

/// Undoes [`register`] for the calling thread; the kernel sets `cpu_id` to -1.
///
/// # Safety
/// 1. `area` and `len` are those of the registration, and the thread is in no section.
pub unsafe fn unregister(area: *mut Area, len: u32) -> Result<(), RseqError> {
    // SAFETY: duty 1.
    unsafe { os::rseq(area as usize, len, FLAG_UNREGISTER, SIGNATURE) }.map_err(RseqError::from)
}

/// Whether the kernel has rseq: a malformed call is EINVAL if so, ENOSYS if not.
pub fn query() -> Result<(), RseqError> {
    // SAFETY: a null area of length 0 is refused before anything is written.
    match unsafe { os::rseq(0, 0, 0, 0) }.map_err(RseqError::from) {
        Err(RseqError::Invalid) => Ok(()),
        // No kernel takes that: a filter says yes to what is never made.
        Ok(()) => Err(RseqError::Missing),
        Err(error) => Err(error),
    }
}

/// Commands of membarrier(2): those that fence sections (Linux 5.10), and the plain barrier (4.14).
pub mod membarrier {
    use crate::arch;
    use crate::atomic::{AtomicBool, Ordering, compiler_fence};
    use crate::config::{self, Key};
    use crate::os;

    const PRIVATE_EXPEDITED: i32 = 1 << 3;
    const REGISTER_PRIVATE_EXPEDITED: i32 = 1 << 4;

    const PRIVATE_EXPEDITED_RSEQ: i32 = 1 << 7;
    const REGISTER_PRIVATE_EXPEDITED_RSEQ: i32 = 1 << 8;
    const FLAG_CPU: u32 = 1;
    /// A flag that no kernel has.
    const FLAG_UNKNOWN: u32 = 1 << 30;

    /// Allows [`fence`] for this process; survives fork, not exec. Never asks QUERY, whose answer
    /// lacked these bits before 5.16.5.
    pub fn register() -> bool {
        is_allowed()
            && os::membarrier(REGISTER_PRIVATE_EXPEDITED_RSEQ, 0, 0).is_ok()
            && is_carried_out(PRIVATE_EXPEDITED_RSEQ)
    }

    /// Aborts every section of this process that runs on `cpu` (on all CPUs if none is named); stores
    /// made before the call are seen by each section that starts after it. Registers again if the
    /// kernel has forgotten (a restore by CRIU before 3.19).
    pub fn fence(cpu: Option<u32>) -> bool {
        let once = || match cpu {
            Some(cpu) => os::membarrier(PRIVATE_EXPEDITED_RSEQ, FLAG_CPU, cpu),
            None => os::membarrier(PRIVATE_EXPEDITED_RSEQ, 0, 0),
        };
        is_alone() || is_carried_out(PRIVATE_EXPEDITED_RSEQ) && or_registered(once, register)
    }

    /// Allows [`barrier`] for this process; survives fork, not exec.
    pub fn register_plain() -> bool {
        is_allowed()
            && os::membarrier(REGISTER_PRIVATE_EXPEDITED, 0, 0).is_ok()
            && is_carried_out(PRIVATE_EXPEDITED)
    }

    /// A full barrier on every CPU that runs a thread of this process; those that run none pass one in the
    /// scheduler. Registers again as [`fence`] does.
    pub fn barrier() -> bool {
        is_alone()
            || is_carried_out(PRIVATE_EXPEDITED)
                && or_registered(|| os::membarrier(PRIVATE_EXPEDITED, 0, 0), register_plain)
    }

    /// Tasks may run on this memory that libc does not count as threads.
    static HAS_UNCOUNTED_TASKS: AtomicBool = AtomicBool::new(false);

    /// To be called before a task starts that runs beside the caller, on its memory, and that libc does not know of: a
    /// child of clone(2).
    pub fn expect_uncounted_tasks() {
        // Ordering: Relaxed, the start of the task orders it.
        HAS_UNCOUNTED_TASKS.store(true, Ordering::Relaxed);
    }

    /// Whether there is no other thread that could be in a section or an operation, so that the calling thread's
    /// own order is all that is needed: a program of one thread may have a filter that kills for membarrier.
    fn is_alone() -> bool {
        // Ordering: SeqCst, for the compiler alone.
        compiler_fence(Ordering::SeqCst);
        // Ordering: Relaxed, set by the calling thread, or before it started.
        arch::is_single_threaded() && !HAS_UNCOUNTED_TASKS.load(Ordering::Relaxed)
    }

    /// Whether the configuration lets the call be made at all.
    fn is_allowed() -> bool {
        config::is_on(Key::Membarrier)
    }

    /// Whether calls of this command reach a kernel: a flag that none has is refused there. A filter or an
    /// emulator that says yes to each call says yes to this one too, and gives no fence. Asked before each
    /// fence, since a filter may come, and a restore may bring another kernel, at any time.
    fn is_carried_out(command: i32) -> bool {
        is_allowed() && os::membarrier(command, FLAG_UNKNOWN, 0) == Err(libc::EINVAL)
    }

    fn or_registered(
        once: impl Fn() -> Result<usize, os::Errno>,
        register: impl Fn() -> bool,
    ) -> bool {
        match once() {
            Ok(_) => true,
            Err(libc::EPERM) => register() && once().is_ok(),
            Err(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout_is_the_kernels() {
        assert_eq!(size_of::<Area>(), 32);
        assert_eq!(size_of::<CriticalSection>(), 32);
        assert_eq!((offset::CPU_ID, offset::RSEQ_CS, offset::MM_CID), (4, 8, 24));
        assert_eq!(core::mem::offset_of!(CriticalSection, abort_ip), 24);
    }

    #[test]
    fn signal_flag_needs_the_other_two() {
        assert!(CriticalSectionFlags(0).is_legal() && CriticalSectionFlags(0).was_legal());
        assert!(CriticalSectionFlags(7).was_legal() && !CriticalSectionFlags(7).is_legal());
        for alone in [2, 3, 6] {
            assert!(!CriticalSectionFlags(alone).was_legal());
        }
        assert!(CriticalSectionFlags(5).was_legal());
        assert!(!CriticalSectionFlags(8).was_legal());
    }
}

//! What mode the process runs in and why, for people.
//!
//! A leaf: filled by init, read by the fronts and the `rsalloc` command.

/// How the calling process's allocations are served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Mode {
    /// Not initialised yet.
    Unset = 0,
    /// Per-CPU, sections on the area that libc registered.
    RseqLibc = 1,
    /// Per-CPU, sections on areas that we registered.
    RseqOwn = 2,
    /// Atomic path.
    Atomic = 3,
}

/// Why the mode is what it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum ModeReason {
    /// The normal case: nothing stands in the way.
    None = 0,
    /// libc did not register (its tunable is off, or it is too old) and we did.
    LibcDidNotRegister = 1,
    /// The kernel has no rseq (ENOSYS).
    KernelHasNone = 2,
    /// Something else owns the thread's registration (EINVAL, EBUSY, EPERM).
    ForeignRegistration = 3,
    /// Forced by configuration (`mode:atomic`).
    Configured = 4,
    /// The architecture has no sections in this build.
    NoSections = 5,
}

/// The mode and the kernel features behind it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Report {
    /// Mode of the process.
    pub mode: Mode,
    /// Why.
    pub reason: ModeReason,
    /// 0: cpu_id, 1: mm_cid.
    pub index_is_mm_cid: u32,
    /// Shards up to the highest one that a thread has come to, when this was published; at least 1.
    pub shards: u32,
    /// `__rseq_size` as libc says it (0: absent or not registered).
    pub libc_rseq_size: u32,
    /// AT_RSEQ_FEATURE_SIZE (0: absent).
    pub kernel_feature_size: u32,
    /// 1 if membarrier's command for this mode is registered: the one that fences sections, or the barrier.
    pub membarrier: u32,
    /// OS page size in bytes.
    pub os_page_bytes: u32,
    /// 1 if each object is checked when it is freed and handed out.
    pub hardened: u32,
    /// One of how many slow calls gets an object between guard pages; 0: none.
    pub guard: u32,
    /// How memory is given back (`os::Zeroing`): 1 by madvise, 2 by mmap, since madvise was seen to succeed and
    /// do nothing, 3 not at all. 0: not known.
    pub zeroing: u32,
}

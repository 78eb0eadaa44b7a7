//! The mode that the process runs in, its reason, and what stands behind it.

/// How the process's allocations are served.
///
/// ```
/// use rsalloc::Mode;
///
/// let is_per_cpu = matches!(rsalloc::report().mode, Mode::RseqLibc | Mode::RseqOwn);
/// # let _ = is_per_cpu;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Mode {
    /// Not initialised yet.
    Unset,
    /// Per CPU, sections on the rseq area that libc registered.
    RseqLibc,
    /// Per CPU, sections on rseq areas that rsalloc registered.
    RseqOwn,
    /// The atomic path.
    Atomic,
}

/// Why the mode is what it is.
///
/// ```
/// use rsalloc::ModeReason;
///
/// if rsalloc::report().reason == ModeReason::KernelHasNone {
///     eprintln!("{}", ModeReason::KernelHasNone.text());
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ModeReason {
    /// The normal case: nothing stands in the way.
    None,
    /// libc did not register rseq (its tunable is off, or it is too old), and rsalloc did.
    LibcDidNotRegister,
    /// The kernel has no rseq (ENOSYS).
    KernelHasNone,
    /// Something else owns the thread's registration (EINVAL, EBUSY, EPERM).
    ForeignRegistration,
    /// The configuration asks for it (`mode:atomic`).
    Configured,
    /// This build has no sections for the architecture.
    NoSections,
    /// The kernel does not abort sections (arm64 from Linux 6.19 on, before 7.0.14 and 7.2).
    KernelDoesNotAbort,
}

/// What numbers the shards.
///
/// ```standalone_crate
/// use rsalloc::{Config, ShardIndex};
///
/// rsalloc::config!(Config::new().index(ShardIndex::MmCid));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ShardIndex {
    /// The CPU.
    CpuId,
    /// The kernel's compact concurrency id (`mm_cid`).
    MmCid,
}

/// How free memory is given back to the system. rsalloc tries each way, since systems exist where a call succeeds and
/// does nothing.
///
/// ```
/// use rsalloc::PurgeMethod;
///
/// let keeps_memory = rsalloc::report().purge_method == Some(PurgeMethod::Nothing);
/// # let _ = keeps_memory;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PurgeMethod {
    /// By `madvise`.
    Madvise,
    /// By `mmap`: `madvise` succeeds and does nothing here.
    Mmap,
    /// Not at all: `madvise` and `mmap` succeed and do nothing here.
    Nothing,
}

/// The mode of the process and the features behind it, from [`report`](crate::report). Shown as lines of text, or as
/// [JSON](Report::json).
///
/// ```
/// let report = rsalloc::report();
/// println!("{report}");
/// println!("{} shards, {}", report.shards, report.json());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Report {
    /// How allocations are served.
    pub mode: Mode,
    /// Why.
    pub reason: ModeReason,
    /// What numbers the shards.
    pub shard_index: ShardIndex,
    /// Whether every call takes the slow path to its section: with the index that this build's hot paths do not know (by default `mm_cid`,
    /// with the feature `mm_cid` `cpu_id`), hardened, and under ThreadSanitizer.
    pub slow_path: bool,
    /// Shards up to the highest one that a thread has come to; at least 1, and 0 before the first allocation.
    pub shards: usize,
    /// The size of `struct rseq` as libc registered it (`__rseq_size`).
    pub libc_rseq_size: Option<usize>,
    /// The size of `struct rseq` that the kernel fills (AT_RSEQ_FEATURE_SIZE).
    pub kernel_feature_size: Option<usize>,
    /// Whether the command of membarrier(2) for this mode is registered: the one that fences sections, or the barrier.
    pub membarrier: bool,
    /// Bytes of an OS page.
    pub os_page_bytes: usize,
    /// Whether each object is checked when it is freed and handed out.
    pub hardened: bool,
    /// One of how many slow calls gets an object between guard pages; none does by default.
    pub guard_one_in: Option<usize>,
    /// How free memory is given back; none if that is not known, as of a process with an older rsalloc.
    pub purge_method: Option<PurgeMethod>,
}

impl Report {
    /// The report of a process that has not allocated yet.
    pub(crate) const UNSET: Report = Report {
        mode: Mode::Unset,
        reason: ModeReason::None,
        shard_index: ShardIndex::CpuId,
        slow_path: false,
        shards: 0,
        libc_rseq_size: None,
        kernel_feature_size: None,
        membarrier: false,
        os_page_bytes: 0,
        hardened: false,
        guard_one_in: None,
        purge_method: None,
    };
}

//! The engine of rsalloc.
//!
//! STAND-IN: the functions below have their final signatures and contracts, and a backend that maps
//! every object separately; the real tiers replace the bodies.
#![no_std]

/// Allocates `size` bytes aligned to 16 (to 8 if `size <= 8`). A size of 0 gives a unique object. Null when out of memory.
pub fn allocate(size: usize) -> *mut u8 {
    allocate_aligned(size, 16)
}

/// Allocates `size` bytes aligned to `align`, a power of two. Null when out of memory.
pub fn allocate_aligned(size: usize, align: usize) -> *mut u8 {
    let align = if align < 4096 { 4096 } else { align };
    let Some(len) = size.checked_add(align + 8192) else { return core::ptr::null_mut() };
    // SAFETY: a fresh anonymous mapping.
    unsafe {
        let p = libc::mmap(
            core::ptr::null_mut(),
            len,
            3,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        ) as usize;
        if p == usize::MAX {
            return core::ptr::null_mut();
        }
        let obj = (p + 4096).next_multiple_of(align);
        *((obj - 16) as *mut usize) = size.max(1);
        obj as *mut u8
    }
}

/// As [`allocate_aligned`], cleared.
pub fn allocate_zeroed(size: usize, align: usize) -> *mut u8 {
    allocate_aligned(size, align)
}

/// Frees an object of any front; null is ignored; a pointer of another allocator ends the process with one line.
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
pub unsafe fn free(_ptr: *mut u8) {}

/// Frees an object whose `size` and `align` at allocation are known: no look-up.
///
/// # Safety
/// 1. `ptr` is a live object that was allocated with this `size` and `align`.
pub unsafe fn free_sized(_ptr: *mut u8, _size: usize, _align: usize) {}

/// Resizes `ptr` (null: allocates). Null when out of memory; `ptr` is untouched then. The alignment of
/// the result is that of [`allocate`].
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
pub unsafe fn reallocate(ptr: *mut u8, size: usize) -> *mut u8 {
    let n = allocate(size);
    if !ptr.is_null() && !n.is_null() {
        // SAFETY: both are live and at least that long.
        unsafe { core::ptr::copy_nonoverlapping(ptr, n, size.min(usable_size(ptr))) };
    }
    n
}

/// Resizes an object whose layout is known.
///
/// # Safety
/// 1. `ptr` is a live object that was allocated with `old_size` and `align`.
pub unsafe fn reallocate_sized(
    ptr: *mut u8,
    old_size: usize,
    align: usize,
    size: usize,
) -> *mut u8 {
    let n = allocate_aligned(size, align);
    if !n.is_null() {
        // SAFETY: both are live and at least that long.
        unsafe { core::ptr::copy_nonoverlapping(ptr, n, size.min(old_size)) };
    }
    n
}

/// Bytes that the program may use at `ptr`, at least what it asked for; 0 for null.
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
pub unsafe fn usable_size(ptr: *const u8) -> usize {
    if ptr.is_null() {
        return 0;
    }
    // SAFETY: the word was written by `allocate_aligned`.
    unsafe { *((ptr as usize - 16) as *const usize) }
}

/// Returns all cached and free memory of every shard and tier to the OS; bytes returned.
pub fn release() -> usize {
    0
}

/// What the allocator holds at this moment, in bytes and counts.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Stats {
    /// Bytes mapped from the OS for objects.
    pub mapped_bytes: u64,
    /// Bytes of allocator metadata that are mapped.
    pub metadata_bytes: u64,
    /// Bytes in objects that the program holds (object sizes, not requested sizes).
    pub live_bytes: u64,
    /// Of these, bytes in large spans (above the largest size class).
    pub large_bytes: u64,
    /// Number of large spans that the program holds.
    pub large_count: u64,
    /// Bytes in objects cached in shards and depot.
    pub cached_bytes: u64,
    /// Bytes in free objects inside slabs.
    pub slab_free_bytes: u64,
    /// Bytes in free spans that may still be resident.
    pub dirty_bytes: u64,
    /// Bytes returned to the OS since start.
    pub purged_bytes_total: u64,
    /// Slow-path entries: refills of a shard's cache.
    pub refills: u64,
    /// Slow-path entries: flushes of a shard's cache.
    pub flushes: u64,
    /// Sections that the kernel aborted, as far as the retry paths saw.
    pub aborts: u64,
    /// Allocations and frees served by the atomic path.
    pub atomic_ops: u64,
}

/// Collects statistics by walking the tiers. Cheap enough to call each second.
pub fn stats() -> Stats {
    Stats::default()
}

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

/// The mode and the kernel features behind it. Lies in static memory at a fixed address so that
/// `rsalloc check PID` can read it from outside.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Report {
    /// Mode of the process.
    pub mode: Mode,
    /// Why.
    pub reason: ModeReason,
    /// 0: cpu_id, 1: mm_cid.
    pub index_is_mm_cid: u32,
    /// Shards that can be indexed (possible CPUs at start, grown later).
    pub shards: u32,
    /// `__rseq_size` as libc says it (0: absent or not registered).
    pub libc_rseq_size: u32,
    /// AT_RSEQ_FEATURE_SIZE (0: absent).
    pub kernel_feature_size: u32,
    /// 1 if membarrier's private expedited rseq command is registered.
    pub membarrier: u32,
    /// OS page size in bytes.
    pub os_page_bytes: u32,
}

/// The report of this process.
pub fn report() -> Report {
    Report {
        mode: Mode::Unset,
        reason: ModeReason::None,
        index_is_mm_cid: 0,
        shards: 0,
        libc_rseq_size: 0,
        kernel_feature_size: 0,
        membarrier: 0,
        os_page_bytes: 4096,
    }
}

/// Where a configuration value came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// Built in.
    Default,
    /// `RSALLOC_CONF`.
    Environment,
    /// The program, by `mallopt` or the Rust API.
    Program,
}

/// One effective configuration value: key, value (a number or the index of a word), origin.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The key as written in `RSALLOC_CONF`.
    pub key: &'static str,
    /// The effective value as text.
    pub value: &'static str,
    /// Where it came from.
    pub origin: Origin,
}

/// Effective settings.
pub fn settings() -> &'static [Setting] {
    &[]
}

/// Whole-heap validator: walks every tier, stops the shards while it does. `Err` names the first broken invariant.
pub fn check() -> Result<(), &'static str> {
    Ok(())
}

/// Defines an exported C function as the hot path, with no frame and no thunk:
/// `alloc_core::c_malloc!(malloc);` and the like. Stand-in: a plain call.
#[macro_export]
macro_rules! c_malloc {
    ($name:ident) => {
        /// See malloc(3).
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(size: usize) -> *mut u8 {
            $crate::allocate(size)
        }
    };
}

/// As [`c_malloc`], for `free`.
#[macro_export]
macro_rules! c_free {
    ($name:ident) => {
        /// See free(3).
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(ptr: *mut u8) {
            // SAFETY: the caller's duty, see free(3).
            unsafe { $crate::free(ptr) }
        }
    };
}

/// As [`c_malloc`], for a function of `(ptr, size)` such as C23's `free_sized` and C++'s sized delete.
#[macro_export]
macro_rules! c_free_sized {
    ($name:ident) => {
        /// Frees an object whose size is known.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(ptr: *mut u8, size: usize) {
            // SAFETY: the caller's duty.
            unsafe { $crate::free_sized(ptr, size, 1) }
        }
    };
}

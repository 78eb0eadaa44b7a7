//! The architecture: all that the engine needs of a processor, as a contract that each folder beside this file fulfils.
//!
//! | file of a folder | gives | held by |
//! |---|---|---|
//! | `mod.rs` | the functions and constants wrapped below | unit tests of `sync`, `os`; tests `lock_ranks`, `reentry`, `late` |
//! | `entry.rs` | the fronts' entries, as macros | `front`, `functions`, `sequences`, `cargo xtask golden` |
//! | `sections.rs` | the restartable sequences and what they know of threads | `sections`, `own_area`, `children`, `cargo xtask sweep` |
//! | `probe.rs` | static probes for tracers (USDT), or functions that do nothing | `probe` |
//! | `text.rs` | the text that entries and sections have in common; only with sections | those of both |
//!
//! `x86_64` and `aarch64` (little-endian) have sections. `portable` has no assembly: with it every thread takes the atomic path,
//! on any 64-bit Linux. The feature `portable` chooses it there too.
//!
//! # To add an architecture
//!
//! 1. A folder `NAME/` with at least the first three files. `portable/` is a start that builds: copy it, then replace one
//!    item after the other, `sections.rs`, `text.rs` and `entry.rs` last and together with [`HAS_SECTIONS`].
//! 2. A `cfg_attr` line for `NAME` at `mod selected` below, and `NAME` added to the `not(..)` of the line for `portable`. No
//!    other file under `src/` names an architecture.
//! 3. The same two steps in `alloc-preload/src/arch/` (children of vfork and clone, operators of C++), which must have a
//!    folder for each architecture with sections.
//! 4. `xtask/cross.sh` shows how to build and run the tests for another machine. Of the gates, `cargo xtask golden` and
//!    `sweep` decode x86-64; aarch64 has its own in `xtask/guest`. The gates `portable` hold the form without sections.
//! 5. The other files that ask for the architecture: `sections.rs`, `regressions.rs`, `model.rs` and `support/trapped.rs` in
//!    `alloc-core/tests/`, `alloc-global/tests/misuse.rs`, `cli/src/elf.rs`.
//!
//! # What sections of another architecture need
//!
//! * Regions are laid out in [`crate::region`]: the head of class `c` is the 8 bytes at `8 * c`, `top` before `end`, both in
//!   bytes from the start of the region.
//! * The signature is RSEQ_SIG of glibc's `sys/rseq.h` for the architecture.
//! * Descriptors lie in the ELF section `__rseq_cs`, where `cargo xtask sweep` and `golden` find them.
//!   `__rseq_cs_ptr_array` has a pointer to each, for debuggers (librseq's convention). `.reloc` refers to that pointer
//!   from the function, so a linker that drops unused sections keeps it as long as the function.
//! * The kernel clears `rseq_cs` when it aborts a section: each attempt stores it again.
//! * Before init, `area_offset` and `free_area_offset` lead to a word of each thread that may be written to as `rseq_cs`. Where `cpu_id` lies then,
//!   a negative number is best: it stays closed in a thread that is held up across init (docs/adr/0003).
//! * `cpu_id` is loaded as the 16 bits at 4: its low half on little-endian machines only.
//!
//! # Entries
//!
//! Macros, exported at the root of the crate, that each define one function with the attributes given. The function does
//! what the function of its name in `engine::slow` does, or the one named last, and may call that (a jump: the arguments as they
//! came) whenever a plain pop or push does not do. Every caller treats the two as one function.
//!
//! | macro | function |
//! |---|---|
//! | `c_malloc!(name[, slow])` | `extern "C" fn(size) -> *mut u8` |
//! | `c_malloc!(local name, slow)` | the same, not exported by name |
//! | `c_calloc!(name)` | `extern "C" fn(count, size) -> *mut u8` |
//! | `c_posix_memalign!(name, slow)` | `unsafe extern "C" fn(out, align, size) -> i32` |
//! | `c_free!(name)` | `unsafe extern "C" fn(ptr)` |
//! | `c_free_sized!(name)` | `unsafe extern "C" fn(ptr, size)` |
//! | `rust_alloc!(name)` | `extern "C" fn(size, align) -> *mut u8`, not exported by name |
//! | `rust_dealloc!(name)` | `unsafe extern "C" fn(ptr, size, align)`, not exported by name |
//!
//! An entry is a section (see [`sections`]) behind a table look-up in [`crate::hot`]. It counts an abort in `HOT.aborts`,
//! then takes the slow path: nothing retries.
//!
//! # Memory order
//!
//! Sections read the shard table and the regions by plain loads: each access to a region depends on the address that was
//! loaded, which every architecture orders (docs/ordering.md, "Another architecture").

mod release;
mod words;

#[cfg_attr(all(target_arch = "x86_64", not(feature = "portable")), path = "x86_64/mod.rs")]
#[cfg_attr(
    all(target_arch = "aarch64", target_endian = "little", not(feature = "portable")),
    path = "aarch64/mod.rs"
)]
#[cfg_attr(
    any(
        not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_endian = "little"))),
        feature = "portable"
    ),
    path = "portable/mod.rs"
)]
mod selected;

pub use release::kernel_version;
pub use words::ThreadWords;

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("rsalloc-core needs 64-bit Linux; the crate `rsalloc` uses std's System elsewhere");

use crate::atomic::{AtomicU32, AtomicUsize};

/// Whether this architecture has restartable sequences. If not, the mode of the process is the atomic one, no function of
/// [`sections`] is called, and the entries are calls.
pub const HAS_SECTIONS: bool = selected::HAS_SECTIONS;

/// Every user address is below this: the longest mapping, too.
pub const ADDRESS_SPACE_BYTES: usize = selected::ADDRESS_SPACE_BYTES;

/// Where the stack begins when the kernel randomises no addresses; `usize::MAX` if that is not known.
pub const STACK_TOP: usize = selected::STACK_TOP;

/// Addresses that AddressSanitizer, MemorySanitizer and ThreadSanitizer leave to the program, at least as many as the page
/// map covers. Not asked for where [`sanitizers`] finds none.
pub const SANITIZED_ADDRESSES: core::ops::Range<usize> = selected::SANITIZED_ADDRESSES;

/// The identity of the calling thread.
///
/// 1. Not 0, and a multiple of 8. 2. The same as long as the thread runs, in the child of a fork, and in a child that
///    shares its parent's thread-local storage (vfork). 3. Another one than that of any other live thread; that of a
///    dead thread comes again. 4. Async-signal-safe.
#[inline(always)]
pub fn thread_id() -> usize {
    selected::thread_id()
}

/// An address above all frames of the calling thread's stack and on the same mapping, if libc keeps the thread's block there; any
/// other number if not.
#[inline(always)]
pub fn above_stack() -> usize {
    selected::above_stack()
}

/// The calling thread's words.
///
/// 1. All 0 when the thread first asks for them, or as a dead thread with the same [`thread_id`] left them. 2. No other
///    thread's, but for threads that an architecture has no words for while memory is out. They share one set: there the
///    words change under the thread, and `biased_shard` stays 0. 3. Neither allocates from the heap nor waits, but for what
///    libc does at a thread's first call. 4. Async-signal-safe: a handler finds the words of the thread below it.
///
/// `'static` is as long as the thread runs: the reference is not kept.
#[inline(always)]
pub fn thread_words() -> &'static ThreadWords {
    selected::thread_words()
}

/// In the child of a fork, by its only thread: forgets the words of threads that the child does not have.
pub fn forget_other_threads() {
    selected::forget_other_threads();
}

/// A system call: its result, or a negative errno. Leaves the thread's errno alone. Async-signal-safe, no cancellation
/// point.
///
/// # Safety
/// 1. The call's own contract.
#[inline(always)]
pub unsafe fn syscall(number: usize, args: [usize; 6]) -> isize {
    // SAFETY: duty 1.
    unsafe { selected::syscall(number, args) }
}

/// Asks for the cache line at `address`, which may be any number. A hint: it never faults, and may do nothing.
#[inline(always)]
pub fn prefetch(address: usize) {
    selected::prefetch(address);
}

/// Adds to a counter that the threads of one CPU, or one thread at a time, write to: what a thread, the handlers on top of it
/// and other threads of the CPU add is all counted. Of two CPUs that add at the same instant, because a thread was just moved, one may be
/// lost. Takes no lock prefix on x86-64 (`docs/adr/0050`).
#[inline(always)]
pub fn add_here(counter: &AtomicUsize, number: usize) {
    selected::add_here(counter, number);
}

/// Whether libc knows of no other thread (`__libc_single_threaded`, glibc 2.32). False where libc does not say.
pub fn is_single_threaded() -> bool {
    selected::is_single_threaded()
}

/// `dladdr(3)`.
pub type DlAddr = unsafe extern "C" fn(*const libc::c_void, *mut libc::Dl_info) -> libc::c_int;
/// `dlopen(3)`.
pub type DlOpen = unsafe extern "C" fn(*const libc::c_char, libc::c_int) -> *mut libc::c_void;

/// Whether a function of libc is there: the released librsalloc.so refers weakly to what glibc before 2.34 has in libraries
/// of its own, and no program need have those (docs/adr/0043-releases.md).
pub fn is_there(function: *const ()) -> bool {
    // The compiler takes no function for null.
    !core::hint::black_box(function).is_null()
}

/// The dynamic linker's functions, if the program has them. Best by weak symbols: a static program should not grow by them.
pub fn libc_dl() -> Option<(DlAddr, DlOpen)> {
    selected::libc_dl()
}

/// Where another process has a thread of this one go on, to run a command (see `engine::command`); 0 where there is no such
/// function. Registers then: the stack pointer in [`Frame`](crate::engine::command::Frame), where sigreturn(2) wants it; the
/// first three arguments' the operation, its argument and the [`Area`](crate::engine::command::Area). All of the function is in the
/// [`COMMAND_ENTRY_BYTES`] from there on, and no other code.
pub const COMMAND_ENTRY: *const () = selected::COMMAND_ENTRY;
/// See [`COMMAND_ENTRY`].
pub const COMMAND_ENTRY_BYTES: usize = selected::COMMAND_ENTRY_BYTES;

/// `getcpu(3)`.
pub type GetCpu = unsafe extern "C" fn(*mut libc::c_uint, *mut libc::c_uint) -> libc::c_int;

/// libc's function, if it has one that mostly does without a system call.
pub fn libc_getcpu() -> Option<GetCpu> {
    selected::libc_getcpu()
}

/// `_dl_find_object(3)`: 0, with the record filled in, if the address lies in a loaded module.
pub type FindObject = unsafe extern "C" fn(*mut libc::c_void, *mut FoundObject) -> libc::c_int;

/// `struct dl_find_object` (glibc's dlfcn.h, for architectures without `dlfo_eh_dbase`).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FoundObject {
    /// 0.
    pub flags: u64,
    /// First address of the module.
    pub map_start: usize,
    /// Its end.
    pub map_end: usize,
    /// libc's record of it.
    pub link_map: usize,
    /// Its segment PT_GNU_EH_FRAME.
    pub eh_frame: usize,
    /// 0.
    pub reserved: [u64; 7],
}

/// The function, if this libc has it. It takes no lock and may be called in handlers.
pub fn find_object() -> Option<FindObject> {
    selected::find_object()
}

/// The registers of a place in the code by their DWARF columns: those that a function preserves, the stack pointer and the
/// program counter. The others have any value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Registers(pub [usize; selected::counted::COLUMNS]);

impl Registers {
    /// Number of columns.
    pub const COLUMNS: usize = selected::counted::COLUMNS;
    /// The column of the return address: the program counter of the place.
    pub const PC: usize = selected::counted::PC;
    /// That of the stack pointer.
    pub const SP: usize = selected::counted::SP;
    /// That of the frame pointer.
    pub const FP: usize = selected::counted::FP;
    /// Those of the registers that functions preserve, but for the stack pointer.
    pub const PRESERVED: [usize; selected::counted::PRESERVED.len()] = selected::counted::PRESERVED;
}

/// Allocations that count their bytes, for the slow functions while a heap profile runs.
///
/// `malloc_counted` and `alloc_counted` do what `malloc_uncounted` and `alloc_uncounted` of `engine::slow` do. Before that they subtract the size
/// from [`sample_countdown`]; if that is `HOT.sample_floor` or less then, they call `malloc` or `alloc` of
/// `engine::sampled` with the registers of their caller instead. So they do for sizes above
/// [`MEDIUM_MAX_BYTES`](crate::size_class::MEDIUM_MAX_BYTES) and alignments above 8, of which they subtract nothing.
/// `calloc_counted` is the same of `calloc_uncounted`, for sizes up to
/// [`TINY_MAX_BYTES`](crate::size_class::TINY_MAX_BYTES) only.
pub mod counted {
    use super::selected::counted as selected;
    pub use selected::{alloc_counted, calloc_counted, malloc_counted, with_registers};
}

/// What of the sanitizers is part of this process, by weak symbols; all absent where there are none.
#[cold]
pub fn sanitizers() -> Sanitizers {
    selected::sanitizers()
}

/// Whether signal handlers return to code of the kernel of which libc finds no unwind table; if not, [`saved_by_signal`] is not asked.
pub const RETURNS_WITHOUT_TABLE: bool = selected::RETURNS_WITHOUT_TABLE;

/// Where the kernel saved the registers of what a signal interrupted, by column, if `place` is the code to which handlers return and libc finds no
/// unwind table of it; `stack` is the stack pointer there. None for other code, and where there is a table.
///
/// # Safety
/// 1. Eight bytes of code at `place` may be read.
pub unsafe fn saved_by_signal(place: usize, stack: usize) -> Option<[usize; Registers::COLUMNS]> {
    // SAFETY: duty 1.
    unsafe { selected::saved_by_signal(place, stack) }
}

/// What the interrupted thread did to the address of its page fault, by the third argument of a SA_SIGINFO handler.
///
/// # Safety
/// 1. `context` is that argument, in that handler, for SIGSEGV by a page fault.
pub unsafe fn fault_access(context: *mut libc::c_void) -> Access {
    // SAFETY: duty 1.
    unsafe { selected::fault_access(context) }
}

/// See [`fault_access`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// It read.
    Read,
    /// It wrote.
    Write,
    /// The machine does not say.
    Unknown,
}

/// Addresses of functions in the sanitizers' interfaces; 0 if absent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sanitizers {
    /// `__asan_init`.
    pub asan: usize,
    /// `__msan_init`.
    pub msan: usize,
    /// `__tsan_init`.
    pub tsan: usize,
    /// `__lsan_init`.
    pub lsan: usize,
    /// `__lsan_register_root_region` (sanitizer/lsan_interface.h).
    pub add_root: usize,
    /// `__lsan_unregister_root_region`.
    pub remove_root: usize,
    /// `__tsan_acquire` (sanitizer/tsan_interface.h).
    pub acquire: usize,
    /// `__tsan_release`.
    pub release: usize,
    /// `rsalloc_check`, which librsalloc.so has: malloc is rsalloc's then, not the sanitizer's.
    pub is_malloc: usize,
}

/// The probes that tell tracers of sampled objects, by the contract of OpenTelemetry's eBPF profiler (docs/adr/0035). Each
/// is a nop that the kernel replaces while a tool is attached; an architecture without them has functions that do nothing.
pub mod probe {
    use super::selected::probe as selected;

    /// Whether a tool is attached to any of them: it wants samples.
    pub fn is_wanted() -> bool {
        selected::is_wanted()
    }

    /// `otel_memory:alloc`: an object of `size` requested bytes was sampled, which stands for `weight` allocated bytes.
    pub fn alloc(object: usize, size: usize, weight: u64) {
        selected::alloc(object, size, weight);
    }

    /// `otel_memory:free`: a sampled object was freed.
    pub fn free(object: usize) {
        selected::free(object);
    }
}

/// The restartable sequences, and what they know of threads. Where [`HAS_SECTIONS`] is false these are functions that
/// nothing calls.
///
/// Twelve sections, each for shards by `cpu_id` and by `mm_cid`: `pop_cpu` and `pop_cid`, `push_*`, `pop_batch_*`,
/// `push_batch_*`, `set_bounds_*`, `add_*`. What each does is the function of its name in `rseq::reference`, on the region that
/// the table of its index in [`crate::hot`] names; the status it returns is one of `rseq::status`. A section either commits
/// whole or changes nothing. The rules for their text are S1 to S5 at the head of `x86_64/sections.rs`.
pub mod sections {
    use super::selected::sections as selected;
    use crate::atomic::AtomicIsize;
    use crate::rseq::abi::Area;

    pub use super::words::ThreadBlock;
    pub use selected::{
        add_cid, add_cpu, pop_batch_cid, pop_batch_cpu, pop_cid, pop_cpu, push_batch_cid,
        push_batch_cpu, push_cid, push_cpu, set_bounds_cid, set_bounds_cpu,
    };

    /// The four bytes before each abort handler, as the kernel and libc have them (RSEQ_SIG).
    pub const SIGNATURE: u32 = selected::SIGNATURE;

    /// Whether this kernel aborts a section that is preempted or interrupted by a signal; tried, where kernels exist that do
    /// not. The area in use is named by [`area_offset`], and the calling thread's is registered. For init.
    pub fn are_aborted() -> bool {
        selected::are_aborted()
    }

    /// The word that every section but those of frees' entries loads: the distance of the rseq area that it uses from [`area_at`]'s origin. Before
    /// anything stores to it a section may run, and finds no shard.
    #[inline(always)]
    pub fn area_offset() -> &'static AtomicIsize {
        selected::area_offset()
    }

    /// As [`area_offset`], of the entries that free: a word of its own, so that they alone can be kept from finding a shard.
    #[inline(always)]
    pub fn free_area_offset() -> &'static AtomicIsize {
        selected::free_area_offset()
    }

    /// The calling thread's area at such a distance.
    #[inline(always)]
    pub fn area_at(offset: isize) -> *mut Area {
        selected::area_at(offset)
    }

    /// The calling thread's block, for a thread that libc did not register. Its areas say by their `cpu_id` that they are
    /// not registered, from the start of each thread.
    pub fn thread_block() -> &'static ThreadBlock {
        selected::thread_block()
    }

    /// The distance of the block, which is that of its area.
    pub fn thread_block_offset() -> isize {
        selected::thread_block_offset()
    }

    /// libc's area: its distance, and `__rseq_size` (glibc 2.35, sys/rseq.h). None if this libc has no such symbols.
    pub fn libc_rseq() -> Option<(isize, u32)> {
        selected::libc_rseq()
    }

    /// Undoes what sections of the calling thread stored before [`area_offset`] was set.
    pub fn forget_early_descriptor() {
        selected::forget_early_descriptor();
    }
}

/// The rank of the locks that the calling thread holds, for `sync`.
#[inline(always)]
pub fn held_rank() -> &'static AtomicU32 {
    &thread_words().held_rank
}

/// Calls of the calling thread until its next guarded object, for `guard`.
#[inline(always)]
pub fn guard_countdown() -> &'static AtomicU32 {
    &thread_words().guard_countdown
}

/// Bytes until the calling thread's next sample, for `profile`.
#[inline(always)]
pub fn sample_countdown() -> &'static AtomicUsize {
    &thread_words().sample_countdown
}

/// Slow calls of the calling thread until its next request for a biased shard, for `cpu_cache`.
#[inline(always)]
pub fn lease_countdown() -> &'static AtomicU32 {
    &thread_words().lease_countdown
}

/// The address of the calling thread's biased shard, or 0, for `cpu_cache`.
#[inline(always)]
pub fn biased_shard() -> &'static AtomicUsize {
    &thread_words().biased_shard
}

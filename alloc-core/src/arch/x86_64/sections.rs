//! The restartable sequences of x86-64, as functions that the slow paths call.
//!
//! Each exists twice, indexed by `cpu_id` and by `mm_cid`; the text is the same but for the index.
//! Each returns a status instead of retrying: callers bound the retries. The pseudo-code above each
//! one is the function of the same name in `rseq::reference`, against which it is tested.
//!
//! Rules (kernel/rseq.c; librseq's guide):
//! S1. The `rseq_cs` store is the last instruction before the section; nothing comes between.
//! S2. Inside: no call, no system call, no stack, no unbounded loop.
//! S3. One committing store, the last instruction inside; stores before it go where no thread reads yet. The computation
//!     before it may take more instructions than here.
//! S4. The shard index is loaded inside and can't leave its table; in mm_cid mode `cpu_id` proves the
//!     registration.
//! S5. The abort handler lies outside, behind the signature. A section's returns ABORTED; an entry's jumps to its slow
//!     function with the arguments still in their registers.
//!
//! Registers: r9 rseq area (offset from fs), r10 descriptor, r11 `HOT`, then the shard's region; rax shard
//! index. The region of a stopped shard, or of one that was never created, is the closed one: empty and full (hot I1).

use super::thread_pointer;
use super::weak::weak;
use crate::arch::words::ThreadBlock;
use crate::atomic::AtomicIsize;
use crate::hot::{HOT, Hot};
use crate::region::Region;
use crate::rseq::abi::{Area, CPU_ID_UNINITIALIZED, offset};
use crate::units::SHARDS_MAX;
use core::arch::{asm, global_asm, naked_asm};
use core::mem::offset_of;

/// RSEQ_SIG of glibc's sys/rseq.h for this architecture.
pub const SIGNATURE: u32 = 0x5305_3053;

// The text names these fields by their numbers.
const _: () = assert!(offset::CPU_ID == 4 && offset::RSEQ_CS == 8 && offset::MM_CID == 24);

// The block of each thread: zeroes, but for the areas' `cpu_id`s, which say that nothing is registered. And the offset from the
// thread pointer of the area in use, twice: for the entries of frees, and for all others. Nothing can name the block in static data (lld refuses TPOFF64 in a shared
// object), so until init has run the offset is one whose `rseq_cs` is fs:[0x20]: `sysinfo` in the thread header of
// glibc and musl, which only i386 uses. See docs/adr/0003.
global_asm!(
    ".pushsection .tdata.rsalloc_thread_block, \"awT\", @progbits",
    ".balign {align}",
    ".globl rsalloc_thread_block",
    ".hidden rsalloc_thread_block",
    ".type rsalloc_thread_block, @tls_object",
    ".size rsalloc_thread_block, {size}",
    "rsalloc_thread_block:",
    ".zero {own}",
    ".long {unregistered}",
    ".zero {first} - {own} - 4",
    ".long {unregistered}",
    ".zero {second} - {first} - 4",
    ".long {unregistered}",
    ".zero {size} - {second} - 4",
    ".popsection",
    ".pushsection .data.rsalloc_area_offset, \"aw\", @progbits",
    ".balign 64",
    ".globl rsalloc_area_offset",
    ".hidden rsalloc_area_offset",
    ".type rsalloc_area_offset, @object",
    ".size rsalloc_area_offset, 8",
    "rsalloc_area_offset:",
    ".quad {sysinfo} - {rseq_cs}",
    ".globl rsalloc_free_area_offset",
    ".hidden rsalloc_free_area_offset",
    ".type rsalloc_free_area_offset, @object",
    ".size rsalloc_free_area_offset, 8",
    "rsalloc_free_area_offset:",
    ".quad {sysinfo} - {rseq_cs}",
    ".popsection",
    align = const align_of::<ThreadBlock>(),
    size = const size_of::<ThreadBlock>(),
    own = const offset_of!(ThreadBlock, area) + offset::CPU_ID,
    first = const offset_of!(ThreadBlock, never_registered) + offset::CPU_ID,
    second = const offset_of!(ThreadBlock, never_registered) + size_of::<Area>() + offset::CPU_ID,
    unregistered = const CPU_ID_UNINITIALIZED as i32,
    sysinfo = const SYSINFO,
    rseq_cs = const offset::RSEQ_CS,
);

/// Offset from the thread pointer of the unused word of the thread header.
const SYSINFO: usize = 0x20;

#[inline(always)]
pub fn area_offset() -> &'static AtomicIsize {
    unsafe extern "C" {
        static rsalloc_area_offset: AtomicIsize;
    }
    // SAFETY: defined above.
    unsafe { &rsalloc_area_offset }
}

#[inline(always)]
pub fn free_area_offset() -> &'static AtomicIsize {
    unsafe extern "C" {
        static rsalloc_free_area_offset: AtomicIsize;
    }
    // SAFETY: defined above.
    unsafe { &rsalloc_free_area_offset }
}

#[inline(always)]
pub fn area_at(offset: isize) -> *mut Area {
    thread_pointer().wrapping_add_signed(offset) as *mut Area
}

#[inline(always)]
pub fn thread_block() -> &'static ThreadBlock {
    // SAFETY: defined above, for each thread, and nothing but atomics.
    unsafe { &*area_at(thread_block_offset()).cast::<ThreadBlock>() }
}

#[inline(always)]
pub fn thread_block_offset() -> isize {
    let offset: isize;
    // SAFETY: loads a GOT entry that the linker fills with the TLS offset.
    unsafe {
        asm!("mov {}, qword ptr [rip + rsalloc_thread_block@GOTTPOFF]",
            out(reg) offset, options(nostack, preserves_flags, readonly, pure));
    }
    offset
}

pub fn libc_rseq() -> Option<(isize, u32)> {
    let size = weak!("__rseq_size") as *const u32;
    let offset = weak!("__rseq_offset") as *const isize;
    // SAFETY: null, or libc's own constants, written before user code.
    unsafe { Some((*offset.as_ref()?, *size.as_ref()?)) }
}

/// Every kernel that has rseq aborts sections on x86-64.
#[inline(always)]
pub fn are_aborted() -> bool {
    true
}

/// Clears the unused word of the thread header, to which the offset above leads.
pub fn forget_early_descriptor() {
    // SAFETY: the word is unused on x86-64 and held 0.
    unsafe { asm!("mov qword ptr fs:[{}], 0", const SYSINFO, options(nostack, preserves_flags)) };
}

macro_rules! section {
    (
        $(#[$meta:meta])*
        $cpu:ident / $cid:ident ($($arg:ident: $ty:ty),*);
        $($body:literal)*
        ; $($operands:tt)*
    ) => {
        section!(@one cpu () $(#[$meta])* $cpu($($arg: $ty),*); $($body)*; $($operands)*);
        section!(@one cid (shards_max = const SHARDS_MAX,) $(#[$meta])* $cid($($arg: $ty),*); $($body)*; $($operands)*);
    };
    (@one $mode:ident ($($bound:tt)*) $(#[$meta:meta])* $name:ident ($($arg:ident: $ty:ty),*); $($body:literal)*; $($operands:tt)*) => {
        $(#[$meta])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> isize {
            naked_asm!(
                crate::__rsalloc_text!(descriptor),
                "lea r11, [rip + {hot}]",
                crate::__rsalloc_text!(store_rseq_cs),
                section!(@index $mode),
                "add r11, [r11 + rax*8 + {table}]", // the shard's region
                $($body,)*
                crate::__rsalloc_text!(abort),
                concat!("mov rax, -1\n", "ret"),    // ABORTED
                concat!("41: mov rax, -2\n", "ret"), // NO_SHARD
                ".cfi_endproc",
                hot = sym HOT,
                table = const section!(@table $mode),
                $($bound)*
                $($operands)*
            )
        }
    };
    (@table cpu) => {
        Hot::table_offset(false)
    };
    (@table cid) => {
        Hot::table_offset(true)
    };
    (@index cpu) => {
        concat!(
            "movsx rax, word ptr fs:[r9 + 4]\n", // area.cpu_id
            "test rax, rax\n",
            "js 41f\n", // not registered
        )
    };
    (@index cid) => {
        concat!(
            "cmp dword ptr fs:[r9 + 4], 0\n", // area.cpu_id: registered? (S4)
            "jl 41f\n",
            "mov eax, dword ptr fs:[r9 + 24]\n", // area.mm_cid
            "cmp eax, {shards_max}\n",
            "jae 41f\n",
        )
    };
}

section! {
    /// Returns the object on top, 0 if the class is empty, or a status.
    ///
    /// ```text
    /// object = *top; if object == 0 { return 0 }; top -= 1; return object
    /// ```
    ///
    /// # Safety
    /// 1. `class` is a class.
    pop_cpu / pop_cid (class: usize);
    "mov edx, [r11 + rdi*8]"            // top
    "mov rax, [r11 + rdx]"              // the object, or the sentinel
    "test rax, rax"
    "jz 21f"
    "sub dword ptr [r11 + rdi*8], 8"    // COMMIT
    "20:"
    "21: ret"
    ;
}

section! {
    /// Puts `object` on top; 0, [`FULL`](crate::rseq::status::FULL) or a status.
    ///
    /// ```text
    /// if top >= end { return FULL }; top[1] = object; top += 1; return 0
    /// ```
    ///
    /// # Safety
    /// 1. `class` is a class; `object` is a free object that the caller owns.
    push_cpu / push_cid (class: usize, object: usize);
    "mov edx, [r11 + rdi*8]"            // top
    "mov rax, -4"                       // FULL
    "cmp edx, [r11 + rdi*8 + 4]"        // end
    "jae 21f"
    "mov [r11 + rdx + 8], rsi"          // above top: no thread reads there
    "add dword ptr [r11 + rdi*8], 8"    // COMMIT
    "20: xor eax, eax"
    "21: ret"
    ;
}

section! {
    /// Moves up to `n` objects from the top of a class to `out`, topmost first; how many, or a status.
    /// `bottom`, `long`: byte offsets of the sentinels of the class's short and long stack.
    ///
    /// ```text
    /// bottom = if top >= long { long } else { bottom }; k = min(n, top - bottom); out[0..k] = top[0], top[-1], ..; top -= k; return k
    /// ```
    ///
    /// # Safety
    /// 1. `class` is a class, `bottom` and `long` its own. 2. `out` takes `n`, at most MAGAZINE_MAX.
    pop_batch_cpu / pop_batch_cid (class: usize, out: *mut usize, n: usize, bottom: usize, long: usize);
    "mov eax, [r11 + rdi*8]"            // top; 0 in the closed region
    "cmp rax, r8"
    "cmovae rcx, r8"                    // the sentinel of the stack that top is in
    "mov r8, rax"
    "sub rax, rcx"                      // bytes above the sentinel
    "jbe 14f"                           // empty
    "shr rax, 3"
    "cmp rax, rdx"
    "cmova rax, rdx"                    // k
    "xor ecx, ecx"
    "12: cmp rcx, rax"                  // bounded by n
    "jae 13f"
    "mov r10, [r11 + r8]"
    "mov [rsi + rcx*8], r10"            // the caller's buffer
    "sub r8, 8"
    "add rcx, 1"
    "jmp 12b"
    "13: mov [r11 + rdi*8], r8d"        // COMMIT
    "20: ret"
    "14: xor eax, eax"
    "ret"
    ;
}

section! {
    /// Puts the last of `n` objects on top of a class, then the one before it, while there is space;
    /// how many, or a status. The first ones of `objects` stay with the caller.
    ///
    /// ```text
    /// k = min(n, end - top); for i in 1..=k { top[i] = objects[n - i] }; top += k; return k
    /// ```
    ///
    /// # Safety
    /// 1. `class` is a class. 2. `objects` has `n` free objects that the caller owns, at most MAGAZINE_MAX.
    push_batch_cpu / push_batch_cid (class: usize, objects: *const usize, n: usize);
    "mov r8d, [r11 + rdi*8]"            // top
    "mov eax, [r11 + rdi*8 + 4]"        // end; 0 in the closed region
    "xor ecx, ecx"
    "sub rax, r8"
    "jbe 14f"                           // full
    "shr rax, 3"
    "cmp rax, rdx"
    "cmova rax, rdx"                    // k
    "12: cmp rcx, rax"                  // bounded by n
    "jae 13f"
    "mov r10, [rsi + rdx*8 - 8]"
    "mov [r11 + r8 + 8], r10"           // above top: no thread reads there
    "add r8, 8"
    "sub rdx, 1"
    "add rcx, 1"
    "jmp 12b"
    "13: mov [r11 + rdi*8], r8d"        // COMMIT
    "20: ret"
    "14: xor eax, eax"
    "ret"
    ;
}

section! {
    /// Sets top and end of a class from `expected` to `bounds`, each a [`Bounds`](crate::region::Bounds) as a word, if the shard's
    /// region still is `region`; 0, [`CHANGED`](crate::rseq::status::CHANGED) or a status.
    ///
    /// ```text
    /// if region_of_shard != region || (top, end) != expected { return CHANGED }; (top, end) = bounds; return 0
    /// ```
    ///
    /// # Safety
    /// 1. `class` is a class; `bounds` are those of a stack of it (region I2), with the objects that it has with `expected`.
    set_bounds_cpu / set_bounds_cid (class: usize, region: *const Region, expected: usize, bounds: usize);
    "mov rax, -3"                       // CHANGED
    "cmp r11, rsi"
    "jne 21f"
    "cmp [r11 + rdi*8], rdx"
    "jne 21f"
    "mov [r11 + rdi*8], rcx"            // COMMIT
    "20: xor eax, eax"
    "21: ret"
    ;
}

section! {
    /// Adds `delta` to the word at byte `offset` of the shard's region: a per-CPU counter. 0 or a status.
    ///
    /// ```text
    /// word_of_shard += delta; return 0
    /// ```
    ///
    /// # Safety
    /// 1. `offset` is that of a counter.
    add_cpu / add_cid (offset: usize, delta: usize);
    "add [r11 + rdi], rsi"              // COMMIT
    "20: xor eax, eax"
    "ret"
    ;
}

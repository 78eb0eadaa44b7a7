//! The restartable sequences of aarch64, as functions that the slow paths call.
//!
//! Each exists twice, indexed by `cpu_id` and by `mm_cid`; the text is the same but for the index.
//! Each returns a status instead of retrying: callers bound the retries. The pseudo-code above each
//! one is the function of the same name in `rseq::reference`, against which it is tested.
//!
//! Rules (kernel/rseq.c; librseq's guide):
//! S1. The `rseq_cs` store is the last instruction before the section; nothing comes between.
//! S2. Inside: no call, no system call, no stack, no unbounded loop.
//! S3. One committing store of one register, the last instruction inside; stores before it go where no thread reads yet. The
//!     computation before it may take more instructions than here.
//! S4. The shard index is loaded inside and can't leave its table; in mm_cid mode `cpu_id` proves the
//!     registration.
//! S5. The abort handler lies outside, behind the signature. A section's returns ABORTED; an entry's jumps to its slow
//!     function with the arguments still in their registers.
//! S6. Inside: no exclusive load or store, which every exception undoes, and no atomic instruction: the section is the exclusion.
//!
//! Registers: x9 `HOT`, x11 descriptor, x12 rseq area, x13 shard index, x14 the shard's region, x10 and x15 to x5 the rest. x16
//! and x17 are the linker's (veneers), x18 the platform's. The region of a stopped shard, or of one that was never created, is
//! the closed one: empty and full (hot I1).

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

pub use super::self_test::are_aborted;

/// RSEQ_SIG of glibc's sys/rseq.h for this architecture.
pub const SIGNATURE: u32 = 0xd428_bc00;

// The text names these fields by their numbers, and counts on these immediate operands.
const _: () = {
    assert!(offset::CPU_ID == 4 && offset::RSEQ_CS == 8 && offset::MM_CID == 24);
    assert!(offset_of!(Hot, table).is_multiple_of(4096) && offset_of!(Hot, table) < 1 << 24);
    assert!(offset_of!(Hot, other_table).is_multiple_of(4096) && SHARDS_MAX.is_multiple_of(4096));
    assert!(offset_of!(Hot, pages).is_multiple_of(4096) && offset_of!(Hot, pages) < 1 << 24);
    assert!(align_of::<Hot>() == 4096 && offset_of!(Hot, kept_medium) < 4096);
};

// The block of each thread: zeroes, but for the areas' `cpu_id`s, which say that nothing is registered. The offset from the
// thread pointer of the area in use is `Hot::area_offset`. Until init has run it is 0: the area's `rseq_cs` is the second word at
// the thread pointer then, which the ABI keeps for libc and neither glibc nor musl uses. See docs/adr/0047.
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
    align = const align_of::<ThreadBlock>(),
    size = const size_of::<ThreadBlock>(),
    own = const offset_of!(ThreadBlock, area) + offset::CPU_ID,
    first = const offset_of!(ThreadBlock, never_registered) + offset::CPU_ID,
    second = const offset_of!(ThreadBlock, never_registered) + size_of::<Area>() + offset::CPU_ID,
    unregistered = const CPU_ID_UNINITIALIZED as i32,
);

#[inline(always)]
pub fn area_offset() -> &'static AtomicIsize {
    &HOT.area_offset
}

#[inline(always)]
pub fn free_area_offset() -> &'static AtomicIsize {
    &HOT.free_area_offset
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
        asm!("adrp {0}, :gottprel:rsalloc_thread_block",
            "ldr {0}, [{0}, :gottprel_lo12:rsalloc_thread_block]",
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

/// Clears the unused word of the thread header, to which the early offset leads.
pub fn forget_early_descriptor() {
    let word = (thread_pointer() + offset::RSEQ_CS) as *mut usize;
    // SAFETY: the word is unused and held 0.
    unsafe { word.write_volatile(0) };
}

macro_rules! section {
    (
        $(#[$meta:meta])*
        $cpu:ident / $cid:ident ($($arg:ident: $ty:ty),*);
        $($body:literal)*
    ) => {
        section!(@one cpu () $(#[$meta])* $cpu($($arg: $ty),*); $($body)*);
        section!(@one cid (shards_max = const SHARDS_MAX,) $(#[$meta])* $cid($($arg: $ty),*); $($body)*);
    };
    (@one $mode:ident ($($bound:tt)*) $(#[$meta:meta])* $name:ident ($($arg:ident: $ty:ty),*); $($body:literal)*) => {
        $(#[$meta])*
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> isize {
            naked_asm!(
                crate::__rsalloc_text!(descriptor),
                crate::__rsalloc_text!(store_rseq_cs),
                section!(@index $mode),
                "add x14, x9, {table} >> 12, lsl #12",
                "ldr x14, [x14, x13, lsl #3]",
                "add x14, x14, x9",                 // the shard's region
                $($body,)*
                crate::__rsalloc_text!(abort),
                concat!("mov x0, #-1\n", "ret"),    // ABORTED
                concat!("41: mov x0, #-2\n", "ret"), // NO_SHARD
                ".cfi_endproc",
                hot = sym HOT,
                area_offset = const offset_of!(Hot, area_offset),
                table = const section!(@table $mode),
                $($bound)*
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
            "ldrsh x13, [x12, #4]\n", // area.cpu_id
            "tbnz x13, #63, 41f\n",   // not registered
        )
    };
    (@index cid) => {
        concat!(
            "ldr w13, [x12, #4]\n", // area.cpu_id: registered? (S4)
            "tbnz w13, #31, 41f\n",
            "ldr w13, [x12, #24]\n", // area.mm_cid
            "cmp w13, {shards_max} >> 12, lsl #12\n",
            "b.hs 41f\n",
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
    "ldr x13, [x14, x0, lsl #3]"        // top below, end above
    "ldr x15, [x14, w13, uxtw]"         // the object, or the sentinel
    "cbz x15, 21f"
    "sub x13, x13, #8"                  // above a sentinel top is not 0: end stays
    "str x13, [x14, x0, lsl #3]"        // COMMIT
    "20:"
    "21: mov x0, x15"
    "ret"
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
    "ldr x13, [x14, x0, lsl #3]"        // top below, end above
    "lsr x15, x13, #32"                 // end
    "cmp w13, w15"
    "b.hs 21f"
    "add x13, x13, #8"
    "str x1, [x14, w13, uxtw]"          // above top: no thread reads there
    "str x13, [x14, x0, lsl #3]"        // COMMIT
    "20: mov x0, xzr"
    "ret"
    "21: mov x0, #-4"                   // FULL
    "ret"
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
    "add x10, x14, x0, lsl #3"
    "ldr w13, [x10]"                    // top; 0 in the closed region
    "cmp x13, x4"
    "csel x3, x4, x3, hs"               // the sentinel of the stack that top is in
    "subs x15, x13, x3"                 // bytes above the sentinel
    "b.ls 14f"                          // empty
    "lsr x15, x15, #3"
    "cmp x15, x2"
    "csel x15, x15, x2, ls"             // k
    "mov x3, xzr"
    "12: cmp x3, x15"                   // bounded by n
    "b.hs 13f"
    "ldr x4, [x14, x13]"
    "str x4, [x1, x3, lsl #3]"          // the caller's buffer
    "sub x13, x13, #8"
    "add x3, x3, #1"
    "b 12b"
    "13: str w13, [x10]"                // COMMIT
    "20: mov x0, x15"
    "ret"
    "14: mov x0, xzr"
    "ret"
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
    "add x10, x14, x0, lsl #3"
    "ldp w13, w15, [x10]"               // top; end, 0 in the closed region
    "subs x15, x15, x13"
    "b.ls 14f"                          // full
    "lsr x15, x15, #3"
    "cmp x15, x2"
    "csel x15, x15, x2, ls"             // k
    "add x1, x1, x2, lsl #3"
    "mov x3, xzr"
    "12: cmp x3, x15"                   // bounded by n
    "b.hs 13f"
    "ldr x4, [x1, #-8]!"
    "add x13, x13, #8"
    "str x4, [x14, x13]"                // above top: no thread reads there
    "add x3, x3, #1"
    "b 12b"
    "13: str w13, [x10]"                // COMMIT
    "20: mov x0, x15"
    "ret"
    "14: mov x0, xzr"
    "ret"
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
    "cmp x14, x1"
    "b.ne 21f"
    "ldr x13, [x14, x0, lsl #3]"
    "cmp x13, x2"
    "b.ne 21f"
    "str x3, [x14, x0, lsl #3]"         // COMMIT
    "20: mov x0, xzr"
    "ret"
    "21: mov x0, #-3"                   // CHANGED
    "ret"
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
    "ldr x13, [x14, x0]"
    "add x13, x13, x1"
    "str x13, [x14, x0]"                // COMMIT
    "20: mov x0, xzr"
    "ret"
}

//! The hot paths of the fronts on aarch64, from entry to `ret`, with no frame and no call.
//!
//! Each is a macro that defines a naked function, so that a front's exported symbol *is* the hot path.
//! They are the `pop` and `push` of `sections` with the size or address turned into a class first.
//! Whatever is not the plain case leaves by a jump to the slow path in `engine::slow` or the front, with the
//! arguments still in their registers; an abort does so too: an entry never retries.
//!
//! Registers: x0, x1, x2 arguments; x9 `HOT`; x10 the class; x11 the descriptor; x12 the
//! rseq area; x13 the index, then the head of the class; x14 region; x15 the object, or the end. x16 and x17 are the
//! linker's (veneers), x18 the platform's.

/// Defines the hot path of `malloc(size)`, or of a function like it that has a slow path of its own:
/// `c_malloc!(name, slow)`, where `slow` takes the same argument and does all that `malloc` might. `local name` is not exported.
#[macro_export]
macro_rules! c_malloc {
    ($(#[$meta:meta])* $name:ident) => {
        $crate::c_malloc! { $(#[$meta])* $name, $crate::internals::engine::slow::malloc }
    };
    ($(#[$meta:meta])* $name:ident, $slow:path) => {
        $crate::c_malloc! { $(#[$meta])* #[unsafe(no_mangle)] local $name, $slow }
    };
    ($(#[$meta:meta])* local $name:ident, $slow:path) => {
        $(#[$meta])*
        #[unsafe(naked)]
        pub extern "C" fn $name(size: usize) -> *mut u8 {
            ::core::arch::naked_asm!(
                $crate::__rsalloc_text!(descriptor),
                "cmp x0, {tiny_max}",
                "b.hi 60f",
                $crate::__rsalloc_text!(tiny "x0"),
                "50:",
                $crate::__rsalloc_text!(store_rseq_cs),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(pop),
                "mov x0, x15",
                "ret",
                "60:",
                $crate::__rsalloc_text!(medium "x0"),
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
                area_offset = const ::core::mem::offset_of!($crate::internals::hot::Hot, area_offset),
                slow = sym $slow,
                aborts = const ::core::mem::offset_of!($crate::internals::hot::Hot, aborts),
                table = const ::core::mem::offset_of!($crate::internals::hot::Hot, table),
                tiny = const ::core::mem::offset_of!($crate::internals::hot::Hot, tiny),
                medium = const ::core::mem::offset_of!($crate::internals::hot::Hot, medium),
                tiny_max = const $crate::internals::size_class::TINY_MAX_BYTES,
                medium_max = const $crate::internals::size_class::MEDIUM_MAX_BYTES,
                medium_shift = const $crate::internals::size_class::MEDIUM_SHIFT,
                medium_round = const (1usize << $crate::internals::size_class::MEDIUM_SHIFT) - 1,
            )
        }
    };
}

/// Defines the hot path of `calloc(count, size)`: `malloc` of the product, cleared behind the section: the
/// whole object, since a program may use all that malloc_usable_size(3) says.
#[macro_export]
macro_rules! c_calloc {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub extern "C" fn $name(count: usize, size: usize) -> *mut u8 {
            ::core::arch::naked_asm!(
                $crate::__rsalloc_text!(descriptor),
                "umulh x10, x0, x1",
                "mul x11, x0, x1",
                "cbnz x10, 40f",
                "cmp x11, {tiny_max}",
                "b.hi 40f",
                $crate::__rsalloc_text!(tiny "x11"),
                "add x2, x9, x10, lsl #2",
                "ldr w2, [x2, {object_bytes}]",
                $crate::__rsalloc_text!(store_rseq_cs),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(pop),
                $crate::__rsalloc_text!(clear),
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
                area_offset = const ::core::mem::offset_of!($crate::internals::hot::Hot, area_offset),
                slow = sym $crate::internals::engine::slow::calloc,
                aborts = const ::core::mem::offset_of!($crate::internals::hot::Hot, aborts),
                table = const ::core::mem::offset_of!($crate::internals::hot::Hot, table),
                object_bytes = const ::core::mem::offset_of!($crate::internals::hot::Hot, object_bytes),
                tiny = const ::core::mem::offset_of!($crate::internals::hot::Hot, tiny),
                tiny_max = const $crate::internals::size_class::TINY_MAX_BYTES,
            )
        }
    };
}

/// Defines the hot path of `posix_memalign(out, align, size)`: `malloc` of the size rounded up to a multiple of the
/// alignment, which has a class of that alignment. That is 0 for a size of 0, an alignment of 0 and a sum that wraps.
#[macro_export]
macro_rules! c_posix_memalign {
    ($(#[$meta:meta])* $name:ident, $slow:path) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// 1. `out` may be written.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(out: *mut *mut u8, align: usize, size: usize) -> i32 {
            ::core::arch::naked_asm!(
                $crate::__rsalloc_text!(descriptor),
                "sub x11, x1, #1",
                "tst x11, x1", // not a power of two
                "b.ne 40f",
                "cmp x1, #8",
                "b.lo 40f",
                "add x11, x11, x2",
                "neg x13, x1",
                "ands x11, x11, x13",
                "b.eq 40f",
                "cmp x11, {tiny_max}",
                "b.hi 63f",
                $crate::__rsalloc_text!(tiny "x11"),
                "50:",
                $crate::__rsalloc_text!(store_rseq_cs),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(pop),
                "str x15, [x0]",
                "mov w0, wzr",
                "ret",
                "63:",
                $crate::__rsalloc_text!(medium "x11"),
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
                area_offset = const ::core::mem::offset_of!($crate::internals::hot::Hot, area_offset),
                slow = sym $slow,
                aborts = const ::core::mem::offset_of!($crate::internals::hot::Hot, aborts),
                table = const ::core::mem::offset_of!($crate::internals::hot::Hot, table),
                tiny = const ::core::mem::offset_of!($crate::internals::hot::Hot, tiny),
                medium = const ::core::mem::offset_of!($crate::internals::hot::Hot, medium),
                tiny_max = const $crate::internals::size_class::TINY_MAX_BYTES,
                medium_max = const $crate::internals::size_class::MEDIUM_MAX_BYTES,
                medium_shift = const $crate::internals::size_class::MEDIUM_SHIFT,
                medium_round = const (1usize << $crate::internals::size_class::MEDIUM_SHIFT) - 1,
            )
        }
    };
}

/// Defines the hot path of `alloc(size, align)`: `malloc` for the alignments that every class has.
#[macro_export]
macro_rules! rust_alloc {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[unsafe(naked)]
        pub extern "C" fn $name(size: usize, align: usize) -> *mut u8 {
            ::core::arch::naked_asm!(
                $crate::__rsalloc_text!(descriptor),
                "cmp x1, #8",
                "b.hi 61f",
                "cmp x0, {tiny_max}",
                "b.hi 60f",
                $crate::__rsalloc_text!(tiny "x0"),
                "50:",
                $crate::__rsalloc_text!(store_rseq_cs),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(pop),
                "mov x0, x15",
                "ret",
                // Rounded up to a multiple of the alignment, a size has a class of that alignment. The multiple is
                // 0 for a size of 0, and for one so near the end of the address space that the sum wraps.
                "61: add x11, x0, x1",
                "sub x11, x11, #1",
                "neg x13, x1",
                "ands x11, x11, x13",
                "b.eq 40f",
                "cmp x11, {tiny_max}",
                "b.hi 63f",
                $crate::__rsalloc_text!(tiny "x11"),
                "b 50b",
                "63:",
                $crate::__rsalloc_text!(medium "x11"),
                "60:",
                $crate::__rsalloc_text!(medium "x0"),
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
                area_offset = const ::core::mem::offset_of!($crate::internals::hot::Hot, area_offset),
                slow = sym $crate::internals::engine::slow::alloc,
                aborts = const ::core::mem::offset_of!($crate::internals::hot::Hot, aborts),
                table = const ::core::mem::offset_of!($crate::internals::hot::Hot, table),
                tiny = const ::core::mem::offset_of!($crate::internals::hot::Hot, tiny),
                medium = const ::core::mem::offset_of!($crate::internals::hot::Hot, medium),
                tiny_max = const $crate::internals::size_class::TINY_MAX_BYTES,
                medium_max = const $crate::internals::size_class::MEDIUM_MAX_BYTES,
                medium_shift = const $crate::internals::size_class::MEDIUM_SHIFT,
                medium_round = const (1usize << $crate::internals::size_class::MEDIUM_SHIFT) - 1,
            )
        }
    };
}

/// Defines the hot path of `free(ptr)`: the page map gives the class; null, foreign and large pointers
/// have class 0 or lie outside the page-map range.
#[macro_export]
macro_rules! c_free {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// 1. `ptr` is null or a live object of this allocator.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(ptr: *mut u8) {
            ::core::arch::naked_asm!(
                $crate::__rsalloc_text!(descriptor),
                "ldr x10, [x9, {base}]",
                "add x11, x9, {pages} >> 12, lsl #12",
                "sub x10, x0, x10",
                "lsr x10, x10, {page_shift}",
                "cmp x10, {page_count} >> 12, lsl #12",
                "b.hs 40f",
                "ldrb w10, [x11, x10]",
                $crate::__rsalloc_text!(store_rseq_cs),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(push),
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
                area_offset = const ::core::mem::offset_of!($crate::internals::hot::Hot, free_area_offset),
                slow = sym $crate::internals::engine::slow::free,
                aborts = const ::core::mem::offset_of!($crate::internals::hot::Hot, aborts),
                table = const ::core::mem::offset_of!($crate::internals::hot::Hot, table),
                base = const ::core::mem::offset_of!($crate::internals::hot::Hot, page_map_base),
                pages = const ::core::mem::offset_of!($crate::internals::hot::Hot, pages),
                page_shift = const $crate::internals::units::PAGE_SHIFT,
                page_count = const $crate::internals::units::PAGE_MAP_PAGES,
            )
        }
    };
}

/// Defines the hot path of a free that knows the size: `free_sized(ptr, size)`. A null pointer becomes
/// a null slot, which pops as "empty" and is thrown away by the refill.
#[macro_export]
macro_rules! c_free_sized {
    ($(#[$meta:meta])* $name:ident) => {
        $crate::__rsalloc_free_sized! {
            $(#[$meta])* #[unsafe(no_mangle)] $name (); any_align, no_align;
            $crate::internals::engine::slow::free_sized
        }
    };
}

/// Defines the hot path of `dealloc(ptr, size, align)`.
#[macro_export]
macro_rules! rust_dealloc {
    ($(#[$meta:meta])* $name:ident) => {
        $crate::__rsalloc_free_sized! {
            $(#[$meta])* $name (align: usize); small_align, large_align;
            $crate::internals::engine::slow::dealloc
        }
    };
}

/// The text of the two sized frees, which differ in the alignment check.
#[doc(hidden)]
#[macro_export]
macro_rules! __rsalloc_free_sized {
    ($(#[$meta:meta])* $name:ident ($($align:ident: $ty:ty)?); $check:ident, $aligned:ident; $slow:path) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// 1. `ptr` is a live object of this allocator that was allocated with this size and alignment.
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name(ptr: *mut u8, size: usize $(, $align: $ty)?) {
            ::core::arch::naked_asm!(
                $crate::__rsalloc_text!(descriptor),
                $crate::__rsalloc_text!($check),
                "cmp x1, {tiny_max}",
                "b.hi 60f",
                $crate::__rsalloc_text!(tiny "x1"),
                "50:",
                $crate::__rsalloc_text!(store_rseq_cs),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(push),
                $crate::__rsalloc_text!($aligned),
                "60:",
                $crate::__rsalloc_text!(medium "x1"),
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
                area_offset = const ::core::mem::offset_of!($crate::internals::hot::Hot, free_area_offset),
                slow = sym $slow,
                aborts = const ::core::mem::offset_of!($crate::internals::hot::Hot, aborts),
                table = const ::core::mem::offset_of!($crate::internals::hot::Hot, table),
                tiny = const ::core::mem::offset_of!($crate::internals::hot::Hot, tiny),
                medium = const ::core::mem::offset_of!($crate::internals::hot::Hot, medium),
                tiny_max = const $crate::internals::size_class::TINY_MAX_BYTES,
                medium_max = const $crate::internals::size_class::MEDIUM_MAX_BYTES,
                medium_shift = const $crate::internals::size_class::MEDIUM_SHIFT,
                medium_round = const (1usize << $crate::internals::size_class::MEDIUM_SHIFT) - 1,
            )
        }
    };
}

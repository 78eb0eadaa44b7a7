//! The hot paths of the fronts on x86-64, from entry to `ret`, with no frame and no call.
//!
//! Each is a macro that defines a naked function, so that a front's exported symbol *is* the hot path.
//! They are the `pop` and `push` of `sections` with the size or address turned into a class first.
//! Whatever is not the plain case leaves by a jump to the slow path in `engine::slow` or the front, with the
//! arguments still in their registers; an abort does so too: an entry never retries.
//!
//! Registers: rdi, rsi, rdx arguments; r8 the class; r9 rseq area, r10 descriptor,
//! then a pop's top, r11 `HOT`; rax index, then a push's top, or the result; rcx region.

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
                "cmp rdi, {tiny_max}",
                "lea r11, [rip + {hot}]",
                "ja 60f",
                "movzx r8d, byte ptr [r11 + rdi + {tiny}]",
                "50:",
                $crate::__rsalloc_text!(store_rseq_cs),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(pop),
                "ret",
                "60: cmp rdi, {medium_max}",
                "ja 40f",
                "lea rax, [rdi + {medium_round}]",
                "shr rax, {medium_shift}",
                "movzx r8d, byte ptr [r11 + rax + {medium}]",
                "jmp 50b",
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
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
                "mov rax, rdi",
                "mul rsi",
                "jo 40f",
                "cmp rax, {tiny_max}",
                "lea r11, [rip + {hot}]",
                "ja 40f",
                "movzx r8d, byte ptr [r11 + rax + {tiny}]",
                "mov edx, [r11 + r8*4 + {object_bytes}]",
                $crate::__rsalloc_text!(store_rseq_cs),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(pop),
                $crate::__rsalloc_text!(clear),
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
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
                "lea rax, [rsi - 1]",
                "test rax, rsi", // not a power of two
                "jnz 40f",
                "cmp rsi, 8",
                "jb 40f",
                "add rax, rdx",
                "mov rcx, rsi",
                "neg rcx",
                "and rax, rcx",
                "jz 40f",
                "lea r11, [rip + {hot}]",
                "cmp rax, {tiny_max}",
                "ja 63f",
                "movzx r8d, byte ptr [r11 + rax + {tiny}]",
                "50:",
                $crate::__rsalloc_text!(store_rseq_cs),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(pop),
                "mov [rdi], rax",
                "xor eax, eax",
                "ret",
                $crate::__rsalloc_text!(rounded_medium),
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
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
                "cmp rsi, 8",
                "ja 61f",
                "cmp rdi, {tiny_max}",
                "lea r11, [rip + {hot}]",
                "ja 60f",
                "movzx r8d, byte ptr [r11 + rdi + {tiny}]",
                "50:",
                $crate::__rsalloc_text!(store_rseq_cs),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(pop),
                "ret",
                // Rounded up to a multiple of the alignment, a size has a class of that alignment. The multiple is
                // 0 for a size of 0, and for one so near the end of the address space that the sum wraps.
                "61: lea rax, [rdi + rsi - 1]",
                "mov rcx, rsi",
                "neg rcx",
                "and rax, rcx",
                "jz 40f",
                "lea r11, [rip + {hot}]",
                "cmp rax, {tiny_max}",
                "ja 63f",
                "movzx r8d, byte ptr [r11 + rax + {tiny}]",
                "jmp 50b",
                $crate::__rsalloc_text!(rounded_medium),
                "60: cmp rdi, {medium_max}",
                "ja 40f",
                "lea rax, [rdi + {medium_round}]",
                "shr rax, {medium_shift}",
                "movzx r8d, byte ptr [r11 + rax + {medium}]",
                "jmp 50b",
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
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
                "lea r11, [rip + {hot}]",
                "mov rax, rdi",
                "sub rax, [r11 + {base}]",
                "shr rax, {page_shift}",
                "cmp rax, {page_count}",
                "jae 40f",
                "movzx r8d, byte ptr [r11 + rax + {pages}]",
                $crate::__rsalloc_text!(store_rseq_cs_to_free),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(push),
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
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
                "cmp rsi, {tiny_max}",
                "lea r11, [rip + {hot}]",
                "ja 60f",
                "movzx r8d, byte ptr [r11 + rsi + {tiny}]",
                "50:",
                $crate::__rsalloc_text!(store_rseq_cs_to_free),
                $crate::__rsalloc_text!(region),
                $crate::__rsalloc_text!(push),
                $crate::__rsalloc_text!($aligned),
                "60: cmp rsi, {medium_max}",
                "ja 40f",
                "lea rax, [rsi + {medium_round}]",
                "shr rax, {medium_shift}",
                "movzx r8d, byte ptr [r11 + rax + {medium}]",
                "jmp 50b",
                $crate::__rsalloc_text!(abort),
                $crate::__rsalloc_text!(leave),
                hot = sym $crate::internals::hot::HOT,
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

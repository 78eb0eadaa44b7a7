//! The text that the entries and the sections have in common; their heads name the registers and the rules.

/// Text shared by entries and sections; see `sections` for the rules S1 to S6. Descriptor: the section
/// between labels 10 and 20, abort handler 30 (include/uapi/linux/rseq.h). The descriptor comes first, since it also
/// starts the unwind information: these functions use no stack and keep x30, so at each instruction the caller is found
/// by what the architecture's first row says (the return address in x30, the frame's address in sp).
///
/// The descriptors are numbered by the lines that ask for them, so that the linker drops them with their functions. `line!()` is the
/// line of the outermost macro call: each entry has sections of its own, and the two functions of a `section!` (by cpu_id and by
/// mm_cid) share theirs. In one section of the object file, an entry that is used would keep all the others.
#[doc(hidden)]
#[macro_export]
macro_rules! __rsalloc_text {
    (descriptor) => {
        concat!(
            ".cfi_startproc\n",
            concat!(".pushsection __rseq_cs, \"aw\", @progbits, unique, ", line!(), "\n"),
            ".balign 32\n",
            "77: .long 0, 0\n",
            ".quad 10f, 20f - 10f, 30f\n",
            ".popsection\n",
            concat!(".pushsection __rseq_cs_ptr_array, \"aw\", @progbits, unique, ", line!(), "\n"),
            "76: .quad 77b\n",
            ".popsection\n",
            ".reloc 0, R_AARCH64_NONE, 76b\n",
            "hint #34\n", // bti c: a landing pad for indirect calls, a nop before Armv8.5
            "adrp x9, {hot}\n", // HOT lies at the start of a 4 KiB page (hot I3)
        )
    };
    (store_rseq_cs) => {
        concat!(
            "adrp x11, 77b\n", // the descriptor
            "add x11, x11, :lo12:77b\n",
            "ldr x12, [x9, {area_offset}]\n", // the thread's rseq area
            "mrs x13, tpidr_el0\n",
            "add x12, x12, x13\n",
            "str x11, [x12, #8]\n", // area.rseq_cs = descriptor (S1)
            "10:\n",                // start_ip
        )
    };
    (region) => {
        concat!(
            $crate::__rsalloc_index!(),
            "add x14, x9, {table} >> 12, lsl #12\n",
            "ldr x14, [x14, x13, lsl #3]\n", // the shard's region, 0 if it is closed
            "add x14, x14, x9\n",
        )
    };
    (abort) => {
        concat!(
            ".inst 0xd428bc00\n", // brk #0x45e0, the signature (S5)
            "30:\n",              // abort_ip, in the function's own frame
        )
    };
    // The class of `$size`, up to the largest tiny one.
    (tiny $size:literal) => {
        concat!("add x10, x9, ", $size, "\n", "ldrb w10, [x10, {tiny}]\n")
    };
    // The class of a size above the tiny ones.
    (medium $size:literal) => {
        concat!(
            "cmp ", $size, ", {medium_max} >> 12, lsl #12\n",
            "b.hi 40f\n",
            "add x10, ", $size, ", {medium_round}\n",
            "lsr x10, x10, {medium_shift}\n",
            "add x10, x9, x10\n",
            "ldrb w10, [x10, {medium}]\n",
            "b 50b\n",
        )
    };
    (pop) => {
        concat!(
            "ldr x13, [x14, x10, lsl #3]\n", // top below, end above
            "ldr x15, [x14, w13, uxtw]\n",   // the object, or the sentinel
            "cbz x15, 40f\n",
            "sub x13, x13, #8\n",            // above a sentinel top is not 0: end stays
            "str x13, [x14, x10, lsl #3]\n", // COMMIT
            "20:\n",
        )
    };
    // The x2 bytes at x15 to zero, an object of a class: 8 bytes, or a multiple of 16. By pairs of words if they
    // are few, else by memset, which returns x0.
    (clear) => {
        concat!(
            "mov x0, x15\n",
            "cmp x2, #128\n",
            "b.hi 64f\n",
            "tbnz x2, #3, 65f\n",
            "add x11, x0, x2\n",
            "62: stp xzr, xzr, [x11, #-16]!\n",
            "cmp x11, x0\n",
            "b.ne 62b\n",
            "ret\n",
            "65: str xzr, [x0]\n",
            "ret\n",
            "64: mov w1, wzr\n",
            "b memset\n",
        )
    };
    (push) => {
        concat!(
            "ldr x13, [x14, x10, lsl #3]\n", // top below, end above
            "lsr x15, x13, #32\n",           // end
            "cmp w13, w15\n",
            "b.hs 40f\n",
            "add x13, x13, #8\n",
            "str x0, [x14, w13, uxtw]\n",    // above top: no thread reads there
            "str x13, [x14, x10, lsl #3]\n", // COMMIT
            "20: ret\n",
        )
    };
    (any_align) => {
        ""
    };
    (small_align) => {
        concat!("cmp x2, #8\n", "b.hi 61f\n")
    };
    (no_align) => {
        ""
    };
    // As in `rust_alloc`: the size rounded up to a multiple of the alignment gives the class.
    (large_align) => {
        concat!(
            "61: add x11, x1, x2\n",
            "sub x11, x11, #1\n",
            "neg x13, x2\n",
            "ands x11, x11, x13\n",
            "b.eq 40f\n", // the size is 0
            "cmp x11, {tiny_max}\n",
            "b.hi 63f\n",
            $crate::__rsalloc_text!(tiny "x11"),
            "b 50b\n",
            "63:\n",
            $crate::__rsalloc_text!(medium "x11"),
        )
    };
    (leave) => {
        concat!(
            "add x11, x9, {aborts}\n", // behind the abort handler: counted
            "66: ldxr x12, [x11]\n",
            "add x12, x12, #1\n",
            "stxr w13, x12, [x11]\n",
            "cbnz w13, 66b\n",
            "40: b {slow}\n", // empty, full, large, no shard
            // Never run: makes the function's section, and so the function, begin on a line.
            ".balign 64\n",
            ".cfi_endproc\n",
        )
    };
}

/// The index by which the entries find their shard.
#[doc(hidden)]
#[cfg(not(feature = "mm_cid"))]
#[macro_export]
macro_rules! __rsalloc_index {
    () => {
        "ldrsh x13, [x12, #4]\n" // area.cpu_id; -1 and -2 are closed (S4)
    };
}

/// The index by which the entries find their shard: 0 to 65,535, or -1 (hot I2).
#[doc(hidden)]
#[cfg(feature = "mm_cid")]
#[macro_export]
macro_rules! __rsalloc_index {
    () => {
        concat!(
            "ldrsh x13, [x12, #6]\n", // the upper half of area.cpu_id: -1, which is closed, if it is negative (S4)
            "ldrh w14, [x12, #24]\n", // area.mm_cid
            "orr x13, x13, x14\n",
        )
    };
}

//! The text that the entries and the sections have in common; their heads name the registers and the rules.

/// Text shared by entries and sections; see `sections` for the rules S1 to S5. Descriptor: the section
/// between labels 10 and 20, abort handler 30 (include/uapi/linux/rseq.h). The descriptor comes first, since it also
/// starts the unwind information: these functions use no stack, so at each instruction the return address lies at `rsp`.
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
            ".reloc 0, R_X86_64_NONE, 76b\n",
        )
    };
    (store_rseq_cs) => {
        concat!(
            "lea r10, [rip + 77b]\n",                // the descriptor
            "mov r9, [rip + rsalloc_area_offset]\n", // the thread's rseq area
            "mov qword ptr fs:[r9 + 8], r10\n",      // area.rseq_cs = descriptor (S1)
            "10:\n",                                 // start_ip
        )
    };
    // As the one above, for frees.
    (store_rseq_cs_to_free) => {
        concat!(
            "lea r10, [rip + 77b]\n",
            "mov r9, [rip + rsalloc_free_area_offset]\n", // may be one that is never registered
            "mov qword ptr fs:[r9 + 8], r10\n",
            "10:\n",
        )
    };
    (region) => {
        concat!(
            $crate::__rsalloc_index!(),
            "mov rcx, [r11 + rax*8 + {table}]\n", // the shard's region, 0 if it is closed
            "add rcx, r11\n",
        )
    };
    (abort) => {
        concat!(
            ".byte 0x0f, 0xb9, 0x3d\n", // ud1 edi, [rip + signature] (S5)
            ".long 0x53053053\n",
            "30:\n", // abort_ip, in the function's own frame
        )
    };
    (pop) => {
        concat!(
            "mov r10d, [rcx + r8*8]\n", // top
            "mov rax, [rcx + r10]\n",   // the object, or the sentinel
            "test rax, rax\n",
            "jz 40f\n",
            "sub dword ptr [rcx + r8*8], 8\n", // COMMIT
            "20:\n",
        )
    };
    // The rdx bytes at rax to zero, an object of a class: 8 bytes, or a multiple of 16. By pairs of words if they
    // are few, else by memset, which returns rax.
    (clear) => {
        concat!(
            "cmp edx, 128\n",
            "ja 64f\n",
            "cmp edx, 8\n",
            "je 65f\n",
            "xorps xmm0, xmm0\n",
            "62: movups [rax + rdx - 16], xmm0\n",
            "sub edx, 16\n",
            "jnz 62b\n",
            "ret\n",
            "65: mov qword ptr [rax], 0\n",
            "ret\n",
            "64: mov rdi, rax\n",
            "xor esi, esi\n",
            "jmp qword ptr [rip + memset@GOTPCREL]\n",
        )
    };
    (push) => {
        concat!(
            "mov eax, [rcx + r8*8]\n",     // top
            "cmp eax, [rcx + r8*8 + 4]\n", // end
            "jae 40f\n",
            "mov [rcx + rax + 8], rdi\n", // above top: no thread reads there
            "add dword ptr [rcx + r8*8], 8\n", // COMMIT
            "20: ret\n",
        )
    };
    (any_align) => {
        ""
    };
    (small_align) => {
        concat!("cmp rdx, 8\n", "ja 61f\n")
    };
    (no_align) => {
        ""
    };
    // As in `rust_alloc`: the size rounded up to a multiple of the alignment gives the class.
    (large_align) => {
        concat!(
            "61: lea rax, [rsi + rdx - 1]\n",
            "mov rcx, rdx\n",
            "neg rcx\n",
            "and rax, rcx\n",
            "jz 40f\n", // the size is 0
            "lea r11, [rip + {hot}]\n",
            "cmp rax, {tiny_max}\n",
            "ja 63f\n",
            "movzx r8d, byte ptr [r11 + rax + {tiny}]\n",
            "jmp 50b\n",
            $crate::__rsalloc_text!(rounded_medium),
        )
    };
    // The class of the rax bytes of a size that was rounded up and is above the tiny ones.
    (rounded_medium) => {
        concat!(
            "63: cmp rax, {medium_max}\n",
            "ja 40f\n",
            "add rax, {medium_round}\n",
            "shr rax, {medium_shift}\n",
            "movzx r8d, byte ptr [r11 + rax + {medium}]\n",
            "jmp 50b\n",
        )
    };
    (leave) => {
        concat!(
            "lock inc qword ptr [r11 + {aborts}]\n", // behind the abort handler: counted
            "40: jmp {slow}\n",                      // empty, full, large, no shard
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
        "movsx rax, word ptr fs:[r9 + 4]\n" // area.cpu_id; -1 and -2 are closed (S4)
    };
}

/// The index by which the entries find their shard: 0 to 65,535, or -1 (hot I2).
#[doc(hidden)]
#[cfg(feature = "mm_cid")]
#[macro_export]
macro_rules! __rsalloc_index {
    () => {
        concat!(
            "movsx rax, word ptr fs:[r9 + 6]\n", // the upper half of area.cpu_id: -1, which is closed, if it is negative (S4)
            "or ax, word ptr fs:[r9 + 24]\n", // area.mm_cid
        )
    };
}

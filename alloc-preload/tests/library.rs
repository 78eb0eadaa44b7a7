//! librsalloc.so as a file: what it needs, what it exports, how it can be loaded.

mod common;

use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, elf};
use std::collections::BTreeSet;

/// Every name that a program may bind to. A new one belongs here on purpose, or not there at all:
/// whatever is exported replaces the same name in every library of the process.
const EXPORTS: &[&str] = &[
    "__libc_calloc",
    "__libc_free",
    "__libc_malloc",
    "__libc_memalign",
    "__libc_pvalloc",
    "__libc_realloc",
    "__libc_valloc",
    "aligned_alloc",
    "calloc",
    "free",
    "free_aligned_sized",
    "free_sized",
    "mallctl",
    "mallctlbymib",
    "mallctlnametomib",
    "mallinfo",
    "mallinfo2",
    "malloc",
    "malloc_info",
    "malloc_stats",
    "malloc_stats_print",
    "malloc_trim",
    "malloc_usable_size",
    "mallopt",
    "memalign",
    "nallocx",
    "posix_memalign",
    "pvalloc",
    "realloc",
    "reallocarray",
    "rsalloc_check",
    "rsalloc_print_settings",
    "rsalloc_profile_start",
    "rsalloc_profile_stop",
    "rsalloc_report",
    "valloc",
];

#[cfg(sections)]
const OPERATORS: &[&str] = &[
    "_ZdaPv",
    "_ZdaPvRKSt9nothrow_t",
    "_ZdaPvSt11align_val_t",
    "_ZdaPvSt11align_val_tRKSt9nothrow_t",
    "_ZdaPvm",
    "_ZdaPvmSt11align_val_t",
    "_ZdlPv",
    "_ZdlPvRKSt9nothrow_t",
    "_ZdlPvSt11align_val_t",
    "_ZdlPvSt11align_val_tRKSt9nothrow_t",
    "_ZdlPvm",
    "_ZdlPvmSt11align_val_t",
    "_Znam",
    "_ZnamRKSt9nothrow_t",
    "_ZnamSt11align_val_t",
    "_ZnamSt11align_val_tRKSt9nothrow_t",
    "_Znwm",
    "_ZnwmRKSt9nothrow_t",
    "_ZnwmSt11align_val_t",
    "_ZnwmSt11align_val_tRKSt9nothrow_t",
    "rsalloc_delete_sized",
    "rsalloc_new_nothrow",
    "__clone",
    "__vfork",
    "clone",
    "vfork",
];
#[cfg(not(sections))]
const OPERATORS: &[&str] = &[];

/// Thread-local bytes that glibc always has left for libraries loaded late (TLS_STATIC_SURPLUS is
/// 1,664, shared by all of them).
const TLS_MAX: u64 = 128;

#[test]
fn the_library_needs_libc_alone() {
    with_library(|file, bytes| {
        assert_eq!(dynamic_strings(file, bytes, elf::DT_NEEDED), ["libc.so.6"]);
    });
}

#[test]
fn the_library_exports_the_expected_symbols() {
    with_library(|file, _| {
        let exported: BTreeSet<_> = file
            .dynamic_symbols()
            .filter(|s| !s.is_undefined() && s.is_global())
            .map(|s| s.name().unwrap().to_owned())
            .collect();
        let expected: BTreeSet<_> =
            EXPORTS.iter().chain(OPERATORS).map(|s| s.to_string()).collect();
        assert_eq!(exported, expected);
    });
}

#[test]
fn the_library_has_no_text_relocations_and_binds_at_once() {
    with_library(|file, bytes| {
        assert!(dynamic_values(file, bytes, elf::DT_TEXTREL).is_empty());
        let flags: u64 = dynamic_values(file, bytes, elf::DT_FLAGS).into_iter().sum();
        assert_eq!(flags & u64::from(elf::DF_TEXTREL), 0);
        assert_ne!(flags & u64::from(elf::DF_BIND_NOW), 0, "a lazy binding could allocate");
    });
}

#[test]
fn the_librarys_thread_locals_are_a_few_words() {
    with_library(|file, _| {
        let endian = file.endian();
        let headers = file.elf_program_headers().iter();
        let tls: u64 =
            headers.filter(|h| h.p_type(endian) == elf::PT_TLS).map(|h| h.p_memsz(endian)).sum();
        assert!(tls <= TLS_MAX, "{tls} thread-local bytes");
    });
}

/// Calls to `__tls_get_addr` may allocate: by malloc.
#[test]
fn the_librarys_thread_locals_take_no_call() {
    with_library(|file, _| {
        let imports: Vec<_> = file
            .dynamic_symbols()
            .filter(|s| s.is_undefined())
            .map(|s| s.name().unwrap().to_owned())
            .collect();
        assert!(imports.contains(&"__errno_location".into()), "{imports:?}");
        assert!(!imports.iter().any(|name| name.contains("tls_get_addr")), "{imports:?}");
    });
}

fn with_library(look: impl FnOnce(&ElfFile64<'_, Endianness>, &[u8])) {
    let bytes = std::fs::read(common::library()).unwrap();
    look(&ElfFile64::parse(&*bytes).unwrap(), &bytes);
}

fn dynamic_values(file: &ElfFile64<'_, Endianness>, bytes: &[u8], tag: u32) -> Vec<u64> {
    let endian = file.endian();
    let entries = file
        .elf_program_headers()
        .iter()
        .find_map(|h| h.dynamic(endian, bytes).unwrap())
        .expect("a dynamic section");
    let tagged = entries.iter().filter(|d| d.tag32(endian) == Some(tag));
    tagged.map(|d| d.d_val(endian)).collect()
}

fn dynamic_strings(file: &ElfFile64<'_, Endianness>, bytes: &[u8], tag: u32) -> Vec<String> {
    let sections = file.elf_header().sections(file.endian(), bytes).unwrap();
    let (dynamic, link) =
        sections.dynamic(file.endian(), bytes).unwrap().expect("a dynamic section");
    let strings = sections.strings(file.endian(), bytes, link).unwrap();
    let tagged = dynamic.iter().filter(|d| d.tag32(file.endian()) == Some(tag));
    tagged
        .map(|d| String::from_utf8(d.string(file.endian(), strings).unwrap().to_vec()).unwrap())
        .collect()
}

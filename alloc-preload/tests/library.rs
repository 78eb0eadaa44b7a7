//! librsalloc.so as a file: what it needs, what it exports, how it can be loaded.

mod common;

use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, elf};
use std::collections::BTreeSet;

/// Every name that a program may bind to, by `exports.txt`.
fn expected_exports() -> BTreeSet<String> {
    let lines = include_str!("../exports.txt").lines();
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names = lines.filter_map(|line| match line.strip_prefix("sections ") {
        Some(name) => cfg!(sections).then_some(name),
        None => line.split(' ').next(),
    });
    names.map(str::to_owned).collect()
}

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
        assert_eq!(exported, expected_exports());
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

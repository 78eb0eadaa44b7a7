//! ELF files: which dynamic linker a program asks for, and which library it is.
//!
//! Only native files (this machine's class and byte order).

use memmap2::Mmap;
use object::read::elf::{Dyn, ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, Object, ObjectSymbol, elf};
use std::fs::File;
use std::path::Path;

/// A C library, whose dynamic linker loads no library that was linked for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    Glibc,
    Musl,
}

impl Libc {
    /// This command's own.
    pub const OWN: Libc = if cfg!(target_env = "musl") { Libc::Musl } else { Libc::Glibc };
}

impl std::fmt::Display for Libc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Libc::Glibc => "glibc",
            Libc::Musl => "musl",
        })
    }
}

/// What LD_PRELOAD can do with a program.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// This library's dynamic linker loads it.
    Dynamic(Libc),
    /// It asks for no dynamic linker.
    Static,
    /// Not of this machine.
    OtherMachine,
    /// Not an ELF file, or not readable: the kernel will say.
    Unknown,
}

/// The kind of a program file.
pub fn kind(path: &Path) -> Kind {
    File::open(path).ok().and_then(|file| map(&file).ok()).map_or(Kind::Unknown, |b| kind_of(&b))
}

fn kind_of(bytes: &[u8]) -> Kind {
    if !bytes.starts_with(b"\x7fELF") {
        return Kind::Unknown;
    }
    let Ok(file) = ElfFile64::<Endianness>::parse(bytes) else { return Kind::OtherMachine };
    let endian = file.endian();
    if file.elf_header().e_machine(endian) != MACHINE {
        return Kind::OtherMachine;
    }
    let interpreter =
        file.elf_program_headers().iter().find_map(|h| h.interpreter(endian, bytes).ok().flatten());
    match interpreter {
        None => Kind::Static,
        Some(name) if name.windows(7).any(|w| w == b"ld-musl") => Kind::Dynamic(Libc::Musl),
        Some(_) => Kind::Dynamic(Libc::Glibc),
    }
}

/// The C library that a library asks for; none if it asks for neither, or cannot be read.
pub fn libc_of(library: &Path) -> Option<Libc> {
    let bytes = File::open(library).and_then(|file| map(&file)).ok()?;
    let file = ElfFile64::<Endianness>::parse(&*bytes).ok()?;
    let (endian, sections) = (file.endian(), file.elf_section_table());
    let (entries, link) = sections.dynamic(endian, &*bytes).ok()??;
    let strings = sections.strings(endian, &*bytes, link).ok()?;
    entries
        .iter()
        .filter(|entry| entry.tag32(endian) == Some(elf::DT_NEEDED))
        .filter_map(|entry| entry.string(endian, strings).ok())
        .find_map(|name| match name {
            b"libc.so.6" => Some(Libc::Glibc),
            // Of musl itself, and as Alpine names it.
            b"libc.so" => Some(Libc::Musl),
            name => name.starts_with(b"libc.musl-").then_some(Libc::Musl),
        })
}

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = elf::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = elf::EM_AARCH64;
#[cfg(target_arch = "riscv64")]
const MACHINE: u16 = elf::EM_RISCV;
#[cfg(target_arch = "s390x")]
const MACHINE: u16 = elf::EM_S390;
#[cfg(target_arch = "powerpc64")]
const MACHINE: u16 = elf::EM_PPC64;
#[cfg(target_arch = "loongarch64")]
const MACHINE: u16 = elf::EM_LOONGARCH;

/// Why the library at `path` is not the one that has such a mark; none if it is.
pub fn why_not(path: &Path, mark: Mark) -> Option<&'static str> {
    let Ok(bytes) = File::open(path).and_then(|file| map(&file)) else {
        return Some("cannot be read");
    };
    let Ok(file) = ElfFile64::<Endianness>::parse(&*bytes) else {
        return Some("is no library for this machine");
    };
    let (header, endian) = (file.elf_header(), file.endian());
    if header.e_machine(endian) != MACHINE || header.e_type(endian) != elf::ET_DYN {
        return Some("is no library for this machine");
    }
    let is_marked = match mark {
        Mark::Symbol(name) => file.dynamic_symbols().any(|symbol| symbol.name() == Ok(name)),
        Mark::Text(text) => memchr::memmem::find(&bytes, text.as_bytes()).is_some(),
    };
    (!is_marked).then_some("is another library")
}

/// What only one of our libraries has.
#[derive(Clone, Copy)]
pub enum Mark {
    /// A symbol that it exports.
    Symbol(&'static str),
    /// A text in it.
    Text(&'static str),
}

fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: the bytes are only read. Were the file cut short meanwhile, this command would end
    // by SIGBUS; it holds nothing that could be lost.
    unsafe { Mmap::map(file) }
}

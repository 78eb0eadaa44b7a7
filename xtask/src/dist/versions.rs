//! Versions of symbols that a library can do without.
//!
//! A linker gives a reference to a weak symbol the version that the libc at hand has it in, and the dynamic linker refuses a
//! library for a version that its libc does not have, weak or not. Without a version the reference is null there, and means the
//! symbol's default version elsewhere.

use anyhow::{Context, ensure};
use object::elf::{
    FileHeader64, SHT_DYNSYM, SHT_GNU_VERNEED, SHT_GNU_VERSYM, Sym64, VER_NDX_GLOBAL,
    VERSYM_VERSION,
};
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{Endianness, SymbolIndex};

/// Takes the version off the reference to the weak symbol `name`, if the file has one, and with it the need for that version.
pub fn take_off(bytes: &mut [u8], name: &str) -> anyhow::Result<()> {
    let header = FileHeader64::<Endianness>::parse(&*bytes)?;
    let endian = header.endian()?;
    ensure!(endian == Endianness::Little, "a big-endian library");
    let sections = header.sections(endian, &*bytes)?;
    let symbols = sections.symbols(endian, &*bytes, SHT_DYNSYM)?;
    let versions = sections.versions(endian, &*bytes)?.context("no versions of symbols")?;
    let number_of = |index: usize| versions.version_index(endian, SymbolIndex(index)).index();
    let is_wanted = |symbol: &Sym64<Endianness>| {
        symbol.is_undefined(endian)
            && symbol.is_weak()
            && symbol.name(endian, symbols.strings()) == Ok(name.as_bytes())
    };
    let Some(at) = symbols.iter().position(is_wanted) else { return Ok(()) };
    let number = number_of(at);
    if number <= VER_NDX_GLOBAL {
        return Ok(());
    }
    let users = (0..symbols.len()).filter(|&index| number_of(index) == number).count();
    ensure!(users == 1, "{users} symbols have the version of `{name}`, which must go");
    let offset_of = |kind| {
        let section = sections.iter().find(|section| section.sh_type(endian) == kind);
        section.map(|section| section.sh_offset(endian) as usize).context("no section of versions")
    };
    let (of_symbols, needs) = (offset_of(SHT_GNU_VERSYM)?, offset_of(SHT_GNU_VERNEED)?);
    let at = of_symbols + at * size_of::<u16>();
    bytes[at..at + 2].copy_from_slice(&VER_NDX_GLOBAL.to_le_bytes());
    unlink(bytes, needs, number)
}

/// Takes the version with this number out of the chains of needed ones, the first of which begins at `need`. The fields are those
/// of elf(5): Elf64_Verneed and Elf64_Vernaux, both of 16 bytes.
fn unlink(bytes: &mut [u8], mut need: usize, number: u16) -> anyhow::Result<()> {
    let half = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    loop {
        let count = half(bytes, need + 2);
        // Where the offset of the next version stands, and what it counts from.
        let (mut link, mut base) = (need + 8, need);
        for _ in 0..count {
            let part = base + word(bytes, link) as usize;
            if half(bytes, part + 6) & VERSYM_VERSION == number {
                ensure!(count > 1, "no other version of that library is needed");
                let next = word(bytes, part + 12);
                let step = if next == 0 { 0 } else { (part - base) as u32 + next };
                bytes[link..link + 4].copy_from_slice(&step.to_le_bytes());
                bytes[need + 2..need + 4].copy_from_slice(&(count - 1).to_le_bytes());
                return Ok(());
            }
            (link, base) = (part + 12, part);
        }
        let next = word(bytes, need + 12) as usize;
        ensure!(next != 0, "no version has the number {number}");
        need += next;
    }
}

#[cfg(test)]
mod tests {
    use super::super::checks::needed;
    use super::*;
    use std::fs;
    use std::process::Command;

    const SOURCE: &str = "extern int getcpu(void *, void *), sched_getcpu(void);\n#pragma weak getcpu\n\
                          int cpu(void) { return getcpu ? getcpu(0, 0) : sched_getcpu(); }\n";

    #[test]
    fn a_weak_reference_loses_its_version_and_the_library_loads() {
        let scratch = std::env::temp_dir().join(format!("rsalloc-versions-{}", std::process::id()));
        fs::create_dir_all(&scratch).unwrap();
        let (source, library) = (scratch.join("cpu.c"), scratch.join("cpu.so"));
        fs::write(&source, SOURCE).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        assert!(cc.status().unwrap().success());
        let linked = fs::read(&library).unwrap();
        let mut bytes = linked.clone();
        take_off(&mut bytes, "sched_getcpu").unwrap();
        assert_eq!(bytes, linked, "what must be there keeps its version");
        take_off(&mut bytes, "getcpu").unwrap();
        let all = |bytes: &[u8]| needed(bytes).unwrap();
        assert!(all(&linked).contains(&(2, 29)), "as glibc has it: {:?}", all(&linked));
        let left: Vec<_> = all(&linked).into_iter().filter(|&version| version != (2, 29)).collect();
        assert_eq!(all(&bytes), left);
        fs::write(&library, &bytes).unwrap();
        let loaded = Command::new("true").env("LD_PRELOAD", &library).output().unwrap();
        assert!(loaded.status.success() && loaded.stderr.is_empty(), "{loaded:?}");
        take_off(&mut bytes, "getcpu").unwrap();
        assert_eq!(bytes, fs::read(&library).unwrap(), "nothing is left to do");
        fs::remove_dir_all(&scratch).unwrap();
    }
}

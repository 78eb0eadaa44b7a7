//! What a release must be: exports, libc versions, a C program on it, the command on the library beside it.

use super::sysroot::{Platform, Tools};
use super::{Out, library};
use anyhow::{Context, bail, ensure};
use object::elf::{FileHeader64, VERSYM_VERSION};
use object::read::elf::{FileHeader, Sym};
use object::{Endianness, SymbolIndex};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use tools::{output, root, run};

/// Fails unless the library exports what the list says, under these versions.
pub fn exports(library: &Path) -> anyhow::Result<()> {
    let bytes = fs::read(library).with_context(|| format!("cannot read {}", library.display()))?;
    let list = fs::read_to_string(root().join("alloc-preload/exports.txt"))?;
    compare(&exported(&bytes)?, &list)
}

/// Fails for the first symbol that `list` has otherwise. An architecture without sections has none of theirs.
fn compare(exported: &BTreeSet<String>, list: &str) -> anyhow::Result<()> {
    let has_sections = exported.contains("vfork");
    let lines = list.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let expected: BTreeSet<String> = lines
        .filter_map(|line| match line.strip_prefix("sections ") {
            Some(name) => has_sections.then_some(name),
            None => Some(line),
        })
        .map(str::to_owned)
        .collect();
    if let Some(extra) = exported.difference(&expected).next() {
        bail!("the library exports `{extra}`, which alloc-preload/exports.txt does not list");
    }
    if let Some(missing) = expected.difference(exported).next() {
        bail!("the library does not export `{missing}`: see alloc-preload/exports.map");
    }
    Ok(())
}

/// The exported symbols, each with its version if it has one.
fn exported(bytes: &[u8]) -> anyhow::Result<BTreeSet<String>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let symbols = sections.symbols(endian, bytes, object::elf::SHT_DYNSYM)?;
    let versions = sections.versions(endian, bytes)?.context("no versions of symbols")?;
    let mut exported = BTreeSet::new();
    for (index, symbol) in symbols.iter().enumerate() {
        if symbol.is_undefined(endian)
            || symbol.is_local()
            || symbol.st_shndx(endian) == object::elf::SHN_ABS
        {
            continue;
        }
        let name = std::str::from_utf8(symbol.name(endian, symbols.strings())?)?;
        let number = versions.version_index(endian, SymbolIndex(index));
        let version = versions.version(number)?.filter(|_| number.index() > 1);
        exported.insert(match version {
            Some(version) => format!("{name} {}", std::str::from_utf8(version.name())?),
            None => name.to_owned(),
        });
    }
    Ok(exported)
}

/// Fails for a file that needs a newer glibc than is stated.
pub fn oldest_glibc(platform: Platform, out: &Out) -> anyhow::Result<()> {
    let files = [
        out.root().join(platform.library_folder()).join(library::FILE),
        out.root().join("usr/bin/rsalloc"),
    ];
    for (file, (what, oldest)) in files.iter().zip(library::OLDEST) {
        let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let newest = needed(&bytes)?.into_iter().max().unwrap_or_default();
        ensure!(
            newest <= oldest,
            "the {what} needs glibc {}.{}, and {}.{} is promised",
            newest.0,
            newest.1,
            oldest.0,
            oldest.1
        );
        println!(
            "the {what} needs glibc {}.{} ({}.{} is promised)",
            newest.0, newest.1, oldest.0, oldest.1
        );
    }
    Ok(())
}

/// Fails for a symbol that the library can't do without and glibc has only since a newer version than is stated, whatever libc it is
/// linked against: so it says nothing of weak symbols, whose version is that of the libc at hand.
pub fn strong_symbols(platform: Platform, out: &Out) -> anyhow::Result<()> {
    let library = out.root().join(platform.library_folder()).join(library::FILE);
    let bytes = fs::read(&library).with_context(|| format!("cannot read {}", library.display()))?;
    refuse_newer(&strong(&bytes)?, library::OLDEST[0].1)
}

fn refuse_newer(symbols: &[(String, (u32, u32))], oldest: (u32, u32)) -> anyhow::Result<()> {
    for (name, version) in symbols {
        ensure!(
            *version <= oldest,
            "the library needs `{name}` of glibc {}.{}, and {}.{} is promised: make the symbol weak \
             (BESIDE_LIBC in xtask/src/dist/library.rs) or do without",
            version.0,
            version.1,
            oldest.0,
            oldest.1
        );
    }
    ensure!(!symbols.is_empty(), "no symbol of glibc is needed: nothing was checked");
    println!(
        "the library needs {} symbols of glibc {}.{} or older",
        symbols.len(),
        oldest.0,
        oldest.1
    );
    Ok(())
}

/// The symbols that a file does not load without, each with the version of glibc.
fn strong(bytes: &[u8]) -> anyhow::Result<Vec<(String, (u32, u32))>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let symbols = sections.symbols(endian, bytes, object::elf::SHT_DYNSYM)?;
    let versions = sections.versions(endian, bytes)?.context("no versions of symbols")?;
    let mut found = Vec::new();
    for (index, symbol) in symbols.iter().enumerate() {
        if !symbol.is_undefined(endian) || symbol.is_weak() || index == 0 {
            continue;
        }
        let number = versions.version_index(endian, SymbolIndex(index));
        let Some(version) = versions.version(number)? else { continue };
        let version = std::str::from_utf8(version.name())?;
        if let Some(version) = version.strip_prefix("GLIBC_") {
            let name = std::str::from_utf8(symbol.name(endian, symbols.strings())?)?;
            let version = parse(version).with_context(|| format!("a version {version}"))?;
            found.push((name.to_owned(), version));
        }
    }
    Ok(found)
}

/// The versions of glibc's symbols that a file needs.
pub(super) fn needed(bytes: &[u8]) -> anyhow::Result<Vec<(u32, u32)>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let sections = header.sections(endian, bytes)?;
    let (mut needs, link) = sections.gnu_verneed(endian, bytes)?.context("it needs no libc")?;
    let strings = sections.strings(endian, bytes, link)?;
    let mut versions = Vec::new();
    while let Some((_, mut parts)) = needs.next()? {
        while let Some(part) = parts.next()? {
            debug_assert!(part.vna_other.get(endian) & VERSYM_VERSION > 1);
            let name = std::str::from_utf8(part.name(endian, strings)?)?;
            if let Some(version) = name.strip_prefix("GLIBC_") {
                versions.push(parse(version).with_context(|| format!("a version {name}"))?);
            }
        }
    }
    Ok(versions)
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Compiles the program of librsalloc(3) and runs it: with the library, with the archive, and preloaded.
pub fn example(platform: Platform, out: &Out, tools: Option<&Tools>) -> anyhow::Result<()> {
    let folder = out.root().join(platform.library_folder());
    let source = root().join("alloc-preload/man/example.c");
    let cc = tools.map_or_else(|| "cc".into(), |tools| tools.cc.clone());
    let scratch = out.folder.join("link");
    let compile = |name: &str, arguments: &[&Path]| {
        let program = scratch.join(name);
        let mut command = Command::new(&cc);
        command.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-I"]);
        command.arg(out.root().join("usr/include")).arg("-o").arg(&program).arg(&source);
        run(command.args(arguments).args(["-lpthread", "-ldl"])).map(|()| program)
    };
    let shared = compile("with-library", &[&folder.join("librsalloc.so")])?;
    let with_archive = compile("with-archive", &[&folder.join("librsalloc.a")])?;
    if !platform.is_here() {
        return Ok(());
    }
    for (program, is_library) in [(&shared, true), (&with_archive, false)] {
        let mut command = Command::new(program);
        command.env_remove("LD_PRELOAD").env_remove("LD_LIBRARY_PATH");
        if is_library {
            command.env("LD_LIBRARY_PATH", &folder);
        }
        let said = output(&mut command)?;
        let first = said.lines().next().unwrap_or_default();
        let is_right = first.starts_with(&format!("rsalloc {}, ", super::VERSION))
            && said
                .lines()
                .any(|line| line.ends_with("bytes given back") && !line.starts_with("0 "))
            && said.lines().any(|line| line.contains(r#""stats":{"mapped_bytes""#));
        ensure!(is_right, "{} said:\n{said}", program.display());
    }
    Ok(())
}

/// The command runs programs on the library that is installed with it.
pub fn command(platform: Platform, out: &Out) -> anyhow::Result<()> {
    if !platform.is_here() {
        return Ok(());
    }
    let usr = out.root().join("usr");
    let command = usr.join("bin/rsalloc");
    let mut check = Command::new(&command);
    let environment = output(check.args(["run", "env"]).env_remove("LD_PRELOAD"))?;
    let library = out.root().join(platform.library_folder()).join(library::FILE);
    let line = format!("LD_PRELOAD={}", library.display());
    ensure!(
        environment.lines().any(|seen| seen == line),
        "{} runs programs on another library than {}",
        command.display(),
        library.display()
    );
    // What a page names by .TH is what `man` finds it by; groff says what is wrong in it.
    let pages = fs::read_dir(usr.join("share/man/man1"))?.count();
    ensure!(pages > 10, "{pages} man pages");
    if tools::has("groff") {
        let words = "groff -man -Tutf8 -ww -z usr/share/man/man1/*.1 usr/share/man/man3/*.3 2>&1";
        let said = output(&mut super::shell(words, &out.root()))?;
        ensure!(said.is_empty(), "groff on the man pages:\n{said}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    const LIST: &str = "# a comment\nmalloc\nrsalloc_get RSALLOC_0.1\nsections vfork\n";

    #[test]
    fn the_listed_symbols_pass_with_and_without_sections() {
        compare(&set(&["malloc", "rsalloc_get RSALLOC_0.1", "vfork"]), LIST).unwrap();
        compare(&set(&["malloc", "rsalloc_get RSALLOC_0.1"]), LIST).unwrap();
    }

    #[test]
    fn a_symbol_too_many_one_too_few_and_another_version_are_named() {
        let said = |names: &[&str]| compare(&set(names), LIST).unwrap_err().to_string();
        let all = ["malloc", "rsalloc_get RSALLOC_0.1"];
        assert!(said(&[all[0], all[1], "rsalloc_delete_sized"]).contains("rsalloc_delete_sized"));
        assert!(said(&all[1..]).contains("does not export `malloc`"));
        assert!(said(&["malloc", "rsalloc_get"]).contains("exports `rsalloc_get`"));
    }

    /// Of this program: what it needs is newer than glibc 2.2, and no symbol is newer than the newest.
    #[test]
    fn a_symbol_that_is_too_new_is_named() {
        let symbols = strong(&fs::read("/proc/self/exe").unwrap()).unwrap();
        let newest = symbols.iter().max_by_key(|(_, version)| *version).unwrap();
        refuse_newer(&symbols, newest.1).unwrap();
        let said = refuse_newer(&symbols, (2, 2)).unwrap_err().to_string();
        assert!(said.contains("needs `") && said.contains("and 2.2 is promised"), "{said}");
        assert!(refuse_newer(&[], (2, 17)).is_err(), "nothing was checked");
    }

    #[test]
    fn this_program_needs_a_glibc() {
        let own = fs::read("/proc/self/exe").unwrap();
        let newest = needed(&own).unwrap().into_iter().max().unwrap();
        assert!(newest > (2, 2) && newest < (3, 0), "{newest:?}");
        assert_eq!(parse("2.2.5"), Some((2, 2)));
        assert!(parse("2.17") > parse("2.3.2"));
    }
}

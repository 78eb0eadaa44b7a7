//! Where CPU time goes: which share of samples is in the allocator, in the kernel, in the program.
//!
//! The kernel takes the samples (`benches::samples`): our own programs have it sample themselves while the clock runs,
//! whole programs are sampled from their start to their end. A preloaded library is told by its file; what a Rust
//! program is linked with, by the names and source files of symbols; the C library's malloc, whose inner functions
//! have no symbols in the installed file, by the exported functions around them.

use super::peers::Peer;
use anyhow::Context;
use benches::samples::Samples;
use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, SymbolKind};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where an allocator's code is.
pub enum Code<'a> {
    /// In this file, and nothing else is in it.
    Library(PathBuf),
    /// In the C library.
    CLibrary,
    /// Linked into our own programs, which lie in this folder; its name, of which `system` is the C library's.
    Linked(&'static str, &'a Path),
}

impl Code<'_> {
    /// That of `peer`, as our own programs run on it.
    pub fn of(peer: &Peer) -> Code<'_> {
        match (&peer.preload, peer.says, peer.program.parent()) {
            (Some(library), ..) => Code::Library(library.canonicalize().unwrap_or(library.clone())),
            (None, Some(name), Some(folder)) => Code::Linked(name, folder),
            _ => Code::CLibrary,
        }
    }
}

/// Numbers of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Shares {
    allocator: u64,
    faults: u64,
    system_calls: u64,
    program: u64,
}

/// Tells the allocator's code from the program's; keeps the symbols that it has read.
#[derive(Default)]
pub struct Classifier {
    images: HashMap<String, Image>,
}

impl Classifier {
    /// The shares on the allocator whose code is there.
    pub fn shares(&mut self, code: &Code<'_>, samples: &Samples) -> anyhow::Result<Shares> {
        let mut shares = Shares {
            faults: samples.faults,
            system_calls: samples.system_calls,
            program: samples.elsewhere,
            ..Shares::default()
        };
        for &(file, offset, count) in &samples.user {
            let path = samples.files.get(file).context("a sample of a file without a name")?;
            if self.is_allocator(code, path, offset)? {
                shares.allocator += count;
            } else {
                shares.program += count;
            }
        }
        Ok(shares)
    }

    fn is_allocator(&mut self, code: &Code<'_>, path: &str, offset: u64) -> anyhow::Result<bool> {
        let is_libc = path.rsplit('/').next().is_some_and(|name| name.starts_with("libc.so"));
        let is_candidate = match code {
            Code::Library(library) => {
                return Ok(Path::new(path).canonicalize().is_ok_and(|path| path == *library));
            }
            Code::CLibrary => is_libc,
            Code::Linked(name, folder) => {
                Path::new(path).starts_with(folder) || is_libc && *name == "system"
            }
        };
        if !is_candidate {
            return Ok(false);
        }
        if !self.images.contains_key(path) {
            self.images.insert(path.to_owned(), Image::read(Path::new(path))?);
        }
        let image = &self.images[path];
        let Some(address) = image.address(offset) else { return Ok(false) };
        Ok(match code {
            Code::Linked(name, _) if !is_libc => image.is_linked(address, name),
            _ => image.is_malloc(address),
        })
    }
}

/// The functions of an ELF file.
#[derive(Default)]
struct Image {
    /// File offset, size, address.
    segments: Vec<(u64, u64, u64)>,
    /// By address.
    functions: Vec<Function>,
}

#[derive(Debug)]
struct Function {
    start: u64,
    end: u64,
    name: String,
    /// Whether it is a local one of a C or C++ file.
    is_of_c: bool,
}

impl Image {
    fn read(path: &Path) -> anyhow::Result<Image> {
        let shown = path.display();
        let data = std::fs::read(path).with_context(|| format!("read {shown}"))?;
        let file = object::File::parse(&*data).with_context(|| format!("{shown}"))?;
        let segment = |segment: object::Segment<'_, '_>| {
            let (offset, size) = segment.file_range();
            (offset, size, segment.address())
        };
        let mut image =
            Image { segments: file.segments().map(segment).collect(), functions: Vec::new() };
        // Local symbols follow that of their source file.
        let mut is_of_c = false;
        for symbol in file.symbols().chain(file.dynamic_symbols()) {
            let name = symbol.name().unwrap_or_default();
            match symbol.kind() {
                SymbolKind::File => {
                    is_of_c = [".c", ".cc", ".cpp"].iter().any(|end| name.ends_with(end));
                }
                SymbolKind::Text if symbol.size() > 0 => image.functions.push(Function {
                    start: symbol.address(),
                    end: symbol.address() + symbol.size(),
                    name: name.to_owned(),
                    is_of_c: is_of_c && symbol.is_local(),
                }),
                _ => {}
            }
        }
        image.functions.sort_by_key(|function| function.start);
        Ok(image)
    }

    fn address(&self, offset: u64) -> Option<u64> {
        let own =
            self.segments.iter().find(|(start, size, _)| (*start..start + size).contains(&offset));
        own.map(|(start, _, address)| offset - start + address)
    }

    /// The functions at `address`, of which several may have different names; none in a gap.
    fn at(&self, address: u64) -> impl Iterator<Item = &Function> {
        let next = self.functions.partition_point(|function| function.start <= address);
        let start = next.checked_sub(1).map(|last| self.functions[last].start);
        let same = self.functions[..next].iter().rev();
        same.take_while(move |function| Some(function.start) == start)
            .filter(move |function| address < function.end)
    }

    /// Whether a function of the allocator `name`, which the program is linked with, is at `address`.
    fn is_linked(&self, address: u64, name: &str) -> bool {
        self.at(address).any(|function| function.is_of_c || is_of_allocator(&function.name, name))
    }

    /// Whether `address` is in the C library's malloc: in one of its exported functions, or in a gap beside them,
    /// where its inner functions are.
    fn is_malloc(&self, address: u64) -> bool {
        let mut here = self.at(address).peekable();
        if here.peek().is_some() {
            return here.any(|function| is_malloc_name(&function.name));
        }
        let next = self.functions.partition_point(|function| function.start <= address);
        let beside = [next.checked_sub(1), Some(next)].into_iter().flatten();
        beside.filter_map(|index| self.functions.get(index)).any(|f| is_malloc_name(&f.name))
    }
}

/// Whether a Rust program's symbol belongs to this allocator.
fn is_of_allocator(symbol: &str, allocator: &str) -> bool {
    const RUST: [&str; 5] = ["__rust_alloc", "__rust_dealloc", "__rust_realloc", "__rdl_", "__rg_"];
    let (starts, parts): (&[&str], &[&str]) = match allocator {
        "rsalloc" => (&[], &["rsalloc"]),
        "mimalloc" => (&["mi_", "_mi_"], &["mimalloc"]),
        "jemalloc" => (&["_rjem", "je_"], &["jemalloc"]),
        "snmalloc" => (&["sn_"], &["snmalloc"]),
        "rpmalloc" => (&["rp", "_rp", "_memory_"], &["rpmalloc"]),
        "tcmalloc" => (&["TCMalloc", "MallocExtension"], &["tcmalloc"]),
        _ => (&[], &[]),
    };
    starts.iter().any(|start| symbol.starts_with(start))
        || parts.iter().chain(&RUST).any(|part| symbol.contains(part))
}

fn is_malloc_name(symbol: &str) -> bool {
    const NAMES: [&str; 12] = [
        "malloc",
        "free",
        "calloc",
        "realloc",
        "memalign",
        "aligned_alloc",
        "posix_memalign",
        "valloc",
        "pvalloc",
        "malloc_trim",
        "malloc_usable_size",
        "mallinfo2",
    ];
    NAMES.contains(&symbol)
}

/// The table: a line for each row, a column for each peer.
pub fn table(peers: &[Peer], rows: &[(String, Vec<anyhow::Result<Shares>>)]) -> String {
    let mut text = String::from(
        "\n### Shares of CPU time, %\n\nOf samples taken at fixed intervals, in a run of its own: in the \
         allocator / in the kernel outside of system calls (page faults, some interrupts) / in system calls / in the \
         program.\n\n| row |",
    );
    peers.iter().for_each(|peer| write!(text, " {} |", peer.name).unwrap());
    writeln!(text, "\n|---|{}", "--:|".repeat(peers.len())).unwrap();
    for (row, shares) in rows {
        write!(text, "| {row} |").unwrap();
        for shares in shares {
            match shares {
                Ok(shares) => write!(text, " {} |", shares.percent()).unwrap(),
                Err(_) => text.push_str(" failed |"),
            }
        }
        text.push('\n');
    }
    let failed = rows.iter().flat_map(|(row, shares)| {
        shares.iter().zip(peers).filter_map(move |(shares, peer)| {
            let error = shares.as_ref().err()?;
            let cause = error.root_cause().to_string();
            Some(format!("{row} on {}: {}", peer.name, cause.lines().next().unwrap_or_default()))
        })
    });
    for (index, line) in failed.enumerate() {
        let head = if index == 0 { "\nNot sampled:\n\n" } else { "" };
        writeln!(text, "{head}* {line}").unwrap();
    }
    text
}

impl Shares {
    fn percent(&self) -> String {
        let Shares { allocator, faults, system_calls, program } = *self;
        let all = (allocator + faults + system_calls + program).max(1) as f64;
        let parts = [allocator, faults, system_calls, program];
        parts.map(|part| format!("{:.0}", 100.0 * part as f64 / all)).join(" / ")
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::peer;
    use super::*;

    fn image(functions: &[(u64, u64, &str, bool)]) -> Image {
        let function = |&(start, end, name, is_of_c): &(u64, u64, &str, bool)| Function {
            start,
            end,
            name: name.to_owned(),
            is_of_c,
        };
        Image {
            segments: vec![(0x1000, 0x1000, 0x40_1000)],
            functions: functions.iter().map(function).collect(),
        }
    }

    #[test]
    fn malloc_is_told_by_its_exported_functions_and_the_gaps_beside() {
        let libc = image(&[
            (0x100, 0x110, "timer_settime", false),
            (0x200, 0x210, "malloc", false),
            (0x200, 0x210, "__libc_malloc", false),
            (0x210, 0x220, "free", false),
            (0x300, 0x310, "qsort", false),
            (0x310, 0x320, "memcpy", false),
        ]);
        let is_malloc = |address| libc.is_malloc(address);
        assert!(is_malloc(0x20f) && is_malloc(0x215), "exported");
        assert!(is_malloc(0x1ff) && is_malloc(0x220) && is_malloc(0x2ff), "inner functions");
        assert!(!is_malloc(0x100) && !is_malloc(0x300) && !is_malloc(0x318) && !is_malloc(0x400));
    }

    #[test]
    fn what_a_program_is_linked_with_is_told_by_names_and_files() {
        let front = image(&[
            (0x10, 0x20, "_RNvNtCs1_12rsalloc_core3hot4free", false),
            (0x20, 0x30, "_ZN5front4main17h0123E", false),
            (0x30, 0x40, "_RNvCs1_7___rustc12___rust_alloc", false),
            (0x40, 0x50, "heap_allocate", true),
        ]);
        assert!(front.is_linked(0x10, "rsalloc") && !front.is_linked(0x10, "mimalloc"));
        assert!(!front.is_linked(0x2f, "rsalloc") && !front.is_linked(0x55, "rsalloc"));
        assert!(front.is_linked(0x30, "mimalloc") && front.is_linked(0x4f, "rpmalloc"));
        assert_eq!((front.address(0x1010), front.address(0x10)), (Some(0x40_1010), None));
    }

    /// The C library of this process: what it exports as malloc is found in its file.
    #[test]
    fn the_c_librarys_malloc_is_found() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path = maps.lines().find(|line| line.ends_with("/libc.so.6")).unwrap();
        let path = path.split_whitespace().last().unwrap().to_owned();
        let image = Image::read(Path::new(&path)).unwrap();
        let start = |name: &str| image.functions.iter().find(|f| f.name == name).unwrap().start;
        let offset = |name: &str| {
            let segment = |(offset, size, address): &(u64, u64, u64)| {
                (*address..address + size)
                    .contains(&start(name))
                    .then(|| start(name) - address + offset)
            };
            image.segments.iter().find_map(segment).unwrap()
        };
        let samples = Samples {
            files: vec![path.clone(), "/usr/bin/other".into()],
            user: vec![(0, offset("malloc"), 3), (0, offset("qsort"), 5), (1, 0x1000, 7)],
            system_calls: 11,
            faults: 13,
            elsewhere: 17,
        };
        let shares = Classifier::default().shares(&Code::of(&peer("glibc")), &samples).unwrap();
        assert_eq!(
            shares,
            Shares { allocator: 3, faults: 13, system_calls: 11, program: 5 + 7 + 17 }
        );
        assert_eq!(shares.percent(), "5 / 23 / 20 / 52");
    }
}

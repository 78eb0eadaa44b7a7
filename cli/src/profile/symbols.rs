//! Symbols for a profile's addresses: functions, lines and inlined functions, from ELF symbols and DWARF.
//!
//! Promises that a file is used only if it is the one that was mapped: its build id is the mapping's, or the mapping has none.
//! What a file does not say is left as an address; separate debug files are found by build id.

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{CodeInfo, Input, Sym, Symbolized as Looked, Symbolizer};
use memmap2::Mmap;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, elf};
use rsalloc_pprof::{Function, Line, Location, Mapping, Profile, Symbolized};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Where distributions put debug files.
const SYSTEM_DEBUG_DIRS: [&str; 2] = ["/usr/lib/debug", "/lib/debug"];

/// Finds symbols.
pub struct Symbols {
    symbolizer: Symbolizer,
    debug_dirs: Vec<PathBuf>,
}

/// Files with symbols of a mapping, those with more first, and what turns a place in the file that was mapped into an address
/// as they have it.
struct Found {
    files: Vec<PathBuf>,
    bias: u64,
}

impl Symbols {
    /// Looks for debug files in `debug_dirs` before the system's.
    pub fn new(debug_dirs: &[PathBuf]) -> Self {
        let system = SYSTEM_DEBUG_DIRS.iter().map(PathBuf::from);
        let debug_dirs: Vec<_> = debug_dirs.iter().cloned().chain(system).collect();
        let symbolizer = Symbolizer::builder().set_debug_dirs(Some(&debug_dirs)).build();
        Self { symbolizer, debug_dirs }
    }

    /// Gives functions and lines to the locations that have none. `places` says where the file of a mapping may be, beside
    /// where its name says.
    pub fn add_to(&self, profile: &mut Profile, places: &dyn Fn(&Mapping) -> Vec<PathBuf>) {
        let mut functions = Functions::of(profile);
        for (index, mapping) in profile.mappings.iter_mut().enumerate() {
            let mut bare: Vec<_> = profile
                .locations
                .iter_mut()
                .filter(|l| l.mapping == Some(index) && l.lines.is_empty())
                .collect();
            if bare.is_empty() {
                continue;
            }
            let offset = |location: &&mut Location| {
                location.address.wrapping_sub(mapping.start).wrapping_add(mapping.file_offset)
            };
            let offsets: Vec<u64> = bare.iter().map(offset).collect();
            let Some(found) = self.find(mapping, &places(mapping)) else { continue };
            for (location, symbol) in bare.iter_mut().zip(self.look_up(&found, &offsets)) {
                location.lines = symbol.map_or(Vec::new(), |symbol| functions.lines(&symbol));
                let has_line = location.lines.iter().any(|line| line.line != 0);
                mapping.symbolized = match (mapping.symbolized, location.lines.is_empty()) {
                    (before, true) => before,
                    (Symbolized::Lines, _) => Symbolized::Lines,
                    _ if has_line => Symbolized::Lines,
                    _ => Symbolized::Functions,
                };
            }
        }
        profile.functions = functions.list;
    }

    /// The function `offset` bytes behind where `file` is loaded, and those that are inlined there, innermost first; each with its
    /// place in the sources.
    pub fn at_offset(&self, file: &Path, build_id: &str, offset: u64) -> Vec<(String, String)> {
        let mapping = Mapping {
            file: file.to_string_lossy().into(),
            build_id: build_id.into(),
            ..Mapping::default()
        };
        let files = self.files(&mapping, &[]);
        // Both the file and its debug file say where its first segment lies.
        let Some(bias) = files.first().and_then(|file| lowest_address(file)) else {
            return Vec::new();
        };
        let looked = self.look_up(&Found { files, bias }, &[offset]);
        let Some(symbol) = looked.into_iter().next().flatten() else { return Vec::new() };
        let places = chain(&symbol).into_iter().map(|(name, code)| {
            let place = code.map_or(String::new(), |code| match code.line {
                Some(line) => format!("{}:{line}", code.to_path().display()),
                None => code.to_path().display().to_string(),
            });
            (name.to_owned(), place)
        });
        places.collect()
    }

    /// What the files say of places in the file that was mapped.
    fn look_up(&self, found: &Found, offsets: &[u64]) -> Vec<Option<Sym<'static>>> {
        let inside: Vec<u64> = offsets.iter().map(|at| at.wrapping_add(found.bias)).collect();
        let mut symbols = vec![None; inside.len()];
        for file in &found.files {
            let source = Source::Elf(Elf::new(file));
            let looked = self.symbolizer.symbolize(&source, Input::VirtOffset(&inside));
            for (symbol, looked) in symbols.iter_mut().zip(looked.unwrap_or_default()) {
                if let (None, Looked::Sym(seen)) = (&symbol, looked) {
                    *symbol = Some(seen.into_owned());
                }
            }
        }
        symbols
    }

    fn find(&self, mapping: &Mapping, places: &[PathBuf]) -> Option<Found> {
        let itself = self.itself(mapping, places);
        let debug = self.debug_file(Path::new(&mapping.file), &mapping.build_id);
        let bias = match (&itself, &debug) {
            (Some(itself), _) => bias_by_file(itself, mapping)?,
            (None, Some(debug)) => bias_by_debug_file(debug, mapping)?,
            (None, None) => return None,
        };
        Some(Found { files: debug.into_iter().chain(itself).collect(), bias })
    }

    /// The files of a mapping, that with more symbols first.
    fn files(&self, mapping: &Mapping, places: &[PathBuf]) -> Vec<PathBuf> {
        let debug = self.debug_file(Path::new(&mapping.file), &mapping.build_id);
        debug.into_iter().chain(self.itself(mapping, places)).collect()
    }

    /// The file that was mapped.
    fn itself(&self, mapping: &Mapping, places: &[PathBuf]) -> Option<PathBuf> {
        let name = Path::new(&mapping.file);
        let named =
            (name.is_absolute() && !mapping.file.ends_with(" (deleted)")).then(|| name.to_owned());
        let is_it = |path: &PathBuf| match build_id(path) {
            Some(id) => id == mapping.build_id || mapping.build_id.is_empty(),
            None => mapping.build_id.is_empty() && path.is_file(),
        };
        places.iter().cloned().chain(named).find(is_it)
    }

    /// The debug file of the file at `name`, by its build id: where distributions put it, or by the file's name.
    fn debug_file(&self, name: &Path, id: &str) -> Option<PathBuf> {
        let (folder, rest) = id.split_at_checked(2)?;
        let name = name.file_name().unwrap_or_default();
        let mut debug_name = name.to_owned();
        debug_name.push(".debug");
        let by_id = format!("{folder}/{rest}.debug");
        let places = self.debug_dirs.iter().flat_map(|dir| {
            let by_id = [dir.join(".build-id").join(&by_id), dir.join(&by_id)];
            by_id.into_iter().chain([dir.join(name), dir.join(&debug_name)])
        });
        places.into_iter().find(|path| path.is_file() && build_id(path).as_deref() == Some(id))
    }
}

/// The build id of the ELF file at `path`, in hexadecimal digits; none if it has none.
pub fn build_id(path: &Path) -> Option<String> {
    let id = blazesym::helper::read_elf_build_id(path).ok()??;
    Some(hex(&id))
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bias of the file that was mapped: that of the segment that the mapping shows.
fn bias_by_file(file: &Path, mapping: &Mapping) -> Option<u64> {
    let start = mapping.file_offset;
    let segments = segments(file)?;
    let segment = segments.iter().find(|segment| {
        let first = segment.offset & !(OS_PAGE_BYTES - 1);
        segment.is_code && (first..segment.offset + segment.file_bytes).contains(&start)
    });
    let segment = segment?;
    Some(segment.address.wrapping_sub(segment.offset))
}

/// The bias by the debug file, which keeps the addresses of segments but not their places in the file: the mapping begins where
/// the segment with code does.
fn bias_by_debug_file(debug: &Path, mapping: &Mapping) -> Option<u64> {
    let len = mapping.end.wrapping_sub(mapping.start);
    let segment = segments(debug)?.into_iter().find(|s| s.is_code && s.memory_bytes <= len)?;
    Some((segment.address & !(OS_PAGE_BYTES - 1)).wrapping_sub(mapping.file_offset))
}

/// The address of the first page of a file that is loaded.
fn lowest_address(file: &Path) -> Option<u64> {
    segments(file)?.iter().map(|segment| segment.address & !(OS_PAGE_BYTES - 1)).min()
}

/// What a program header of an ELF file says of a part that is loaded.
struct Segment {
    address: u64,
    offset: u64,
    file_bytes: u64,
    memory_bytes: u64,
    is_code: bool,
}

fn segments(path: &Path) -> Option<Vec<Segment>> {
    let file = std::fs::File::open(path).ok()?;
    // SAFETY: the bytes are only read. Were the file cut short meanwhile, this command would end by SIGBUS; it holds nothing
    // that could be lost.
    let bytes = unsafe { Mmap::map(&file).ok()? };
    let file = ElfFile64::<Endianness>::parse(&*bytes).ok()?;
    let endian = file.elf_header().endian().ok()?;
    let headers = file.elf_program_headers().iter();
    let loaded = headers.filter(|header| header.p_type(endian) == elf::PT_LOAD);
    let segments = loaded.map(|header| Segment {
        address: header.p_vaddr(endian),
        offset: header.p_offset(endian),
        file_bytes: header.p_filesz(endian),
        memory_bytes: header.p_memsz(endian),
        is_code: header.p_flags(endian) & elf::PF_X != 0,
    });
    Some(segments.collect())
}

/// The smallest page of the architectures there are: a segment begins in its mapping's first page.
const OS_PAGE_BYTES: u64 = 4096;

/// The functions at a symbol, the one that was inlined last first.
fn chain<'a>(symbol: &'a Sym<'_>) -> Vec<(&'a str, Option<&'a CodeInfo<'a>>)> {
    let inlined = symbol.inlined.iter().rev();
    let mut chain: Vec<_> = inlined.map(|f| (&*f.name, f.code_info.as_ref())).collect();
    chain.push((&*symbol.name, symbol.code_info.as_deref()));
    chain
}

/// The functions of a profile, each once.
struct Functions {
    list: Vec<Function>,
    indices: HashMap<Function, usize>,
}

impl Functions {
    fn of(profile: &Profile) -> Self {
        let list = profile.functions.clone();
        let indices = list.iter().cloned().enumerate().map(|(index, f)| (f, index)).collect();
        Self { list, indices }
    }

    fn lines(&mut self, symbol: &Sym<'_>) -> Vec<Line> {
        let lines = chain(symbol).into_iter().map(|(name, code)| {
            let function = Function {
                name: name.into(),
                system_name: name.into(),
                file: code.map_or(String::new(), |code| code.to_path().to_string_lossy().into()),
            };
            let line = code.and_then(|code| code.line).map_or(0, i64::from);
            Line { function: self.index(function), line }
        });
        lines.collect()
    }

    fn index(&mut self, function: Function) -> usize {
        *self.indices.entry(function).or_insert_with_key(|function| {
            self.list.push(function.clone());
            self.list.len() - 1
        })
    }
}

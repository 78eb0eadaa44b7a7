//! The restartable sections of a built library, read from its `__rseq_cs` section.
//!
//! Promises to return every descriptor that the library has, with the addresses that the dynamic
//! linker will relocate, or an error: the sweep covers sections that are in no list of ours.

use anyhow::{Context, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;

/// Bytes of `struct rseq_cs` (include/uapi/linux/rseq.h).
const DESCRIPTOR_BYTES: usize = 32;
/// Byte offsets of its fields that are swept or patched.
pub const START_IP: u64 = 8;
/// See [`START_IP`].
pub const POST_COMMIT_OFFSET: u64 = 16;
/// See [`START_IP`].
pub const ABORT_IP: u64 = 24;

/// One section; addresses are those of the file, to which the place it is loaded at is added.
#[derive(Clone, Debug)]
pub struct Section {
    /// The function it lies in.
    pub name: String,
    /// Where that function begins.
    pub function: u64,
    /// Address of its descriptor.
    pub descriptor: u64,
    /// `version` and `flags`.
    pub words: [u32; 2],
    /// Address of its first instruction.
    pub start: u64,
    /// Address after its commit.
    pub post: u64,
    /// Where an aborted thread goes on.
    pub abort: u64,
    /// The 4 bytes before `abort`.
    pub signature: Option<u32>,
}

impl Section {
    /// The addresses at which a stop must abort.
    pub fn span(&self) -> Range<u64> {
        self.start..self.post
    }
}

/// Reads them all, by address.
pub fn read(library: &Path) -> anyhow::Result<Vec<Section>> {
    let bytes = std::fs::read(library).with_context(|| {
        format!("cannot read {}; build it: cargo build --release", library.display())
    })?;
    let file = object::File::parse(&*bytes).context("it is not an ELF file")?;
    let table = file.section_by_name("__rseq_cs").context("it has no section __rseq_cs")?;
    let data = table.data().context("its __rseq_cs has no bytes")?;
    ensure!(
        !data.is_empty() && data.len().is_multiple_of(DESCRIPTOR_BYTES),
        "its __rseq_cs is {} bytes long, not a multiple of {DESCRIPTOR_BYTES}",
        data.len()
    );
    let pointers = file.section_by_name("__rseq_cs_ptr_array").map_or(0, |array| array.size() / 8);
    let count = data.len() / DESCRIPTOR_BYTES;
    ensure!(pointers == count as u64, "{count} descriptors, but {pointers} pointers to them");

    let relocated = relative_addends(&file)?;
    let names = functions(&file);
    let mut sections = Vec::new();
    for (index, bytes) in data.chunks(DESCRIPTOR_BYTES).enumerate() {
        let descriptor = table.address() + (index * DESCRIPTOR_BYTES) as u64;
        let address = |field: u64| {
            relocated.get(&(descriptor + field)).copied().with_context(|| {
                format!("descriptor {descriptor:x}: no relocation of its word at {field}")
            })
        };
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let len = u64::from(word(16)) | u64::from(word(20)) << 32;
        let (start, abort) = (address(START_IP)?, address(ABORT_IP)?);
        let (function, name) = match names.range(..=start).next_back() {
            Some((&function, name)) => (function, name.clone()),
            None => (start, format!("{start:x}")),
        };
        sections.push(Section {
            name,
            function,
            descriptor,
            words: [word(0), word(4)],
            start,
            post: start.checked_add(len).context("a section's length wraps around")?,
            abort,
            signature: word_before(&file, abort),
        });
    }
    sections.sort_by_key(|section| section.start);
    Ok(sections)
}

/// What the dynamic linker adds the load address to, by the place it writes to.
fn relative_addends(file: &object::File) -> anyhow::Result<HashMap<u64, u64>> {
    let relocations = file.dynamic_relocations().context("it has no dynamic relocations")?;
    let relative = |target| matches!(target, RelocationTarget::Absolute);
    let addends: HashMap<_, _> = relocations
        .filter(|(_, relocation)| relative(relocation.target()))
        .map(|(place, relocation)| (place, relocation.addend() as u64))
        .collect();
    if addends.is_empty() {
        bail!("it has no relative relocations");
    }
    Ok(addends)
}

/// Names of functions by address, of two at one address the exported one.
fn functions(file: &object::File) -> BTreeMap<u64, String> {
    let symbols = file.symbols().chain(file.dynamic_symbols());
    symbols
        .filter(|symbol| symbol.is_definition() && symbol.kind() == object::SymbolKind::Text)
        .filter_map(|symbol| Some((symbol.address(), short(symbol.name().ok()?))))
        .collect()
}

/// `_ZN10alloc_core3asm4arch8sections7pop_cpu17h..E` is `pop_cpu`; C names stay.
pub fn short(name: &str) -> String {
    match rustc_demangle::try_demangle(name) {
        Ok(name) => {
            let path = format!("{name:#}");
            path.rsplit("::").next().unwrap_or(&path).to_owned()
        }
        Err(_) => name.to_owned(),
    }
}

fn word_before(file: &object::File, address: u64) -> Option<u32> {
    let at = address.checked_sub(4)?;
    let bytes = file.sections().find_map(|s| s.data_range(at, 4).ok().flatten())?;
    Some(u32::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mangled_names_are_cut_to_the_function() {
        assert_eq!(
            short("_ZN10alloc_core3asm4arch8sections7pop_cpu17h6be3e2f362c7d4fbE"),
            "pop_cpu"
        );
        assert_eq!(short("_Znwm"), "_Znwm");
    }

    #[test]
    fn a_file_without_sections_is_an_error() {
        let error = read(&std::env::current_exe().unwrap()).unwrap_err();
        assert!(error.to_string().contains("__rseq_cs"), "{error}");
    }
}

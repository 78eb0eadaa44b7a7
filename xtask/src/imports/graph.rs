//! Which function of a library reaches which: its calls, jumps and the addresses that its code takes.
//!
//! Promises to leave nothing out that the code shows: a function reaches what it calls or jumps to, every
//! function and every slot of the linkage table whose address it takes, and every function that a static names
//! whose address it takes (a table of methods). So a call through a register is covered if the function that reaches it
//! took the address. What it cannot see is an address that was stored in memory at run time: [`Graph::reach`]
//! lists the functions that go on through writable memory.

use crate::code::Code;
use anyhow::{Context, bail};
use iced_x86::{FlowControl, Instruction};
use object::{
    Object, ObjectSection, ObjectSymbol, ObjectSymbolTable, RelocationFlags, RelocationTarget,
    SymbolKind, elf,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

/// Pseudo-entries: what the dynamic linker calls when it loads and unloads the library.
pub const ARRAYS: [&str; 2] = [".init_array", ".fini_array"];

/// Code without a symbol (linkage stubs) is taken in pieces of so many bytes.
const PIECE: u64 = 16;

/// The functions of one library and what they reach.
pub struct Graph {
    functions: BTreeMap<u64, Function>,
    /// By name: the exported functions and [`ARRAYS`], and where each goes on.
    entries: BTreeMap<String, Vec<u64>>,
}

#[derive(Default)]
struct Function {
    name: String,
    end: u64,
    calls: BTreeSet<u64>,
    imports: BTreeSet<String>,
    stored: bool,
}

/// What an entry reaches.
#[derive(Default)]
pub struct Reach {
    /// Imported functions, each with a way there.
    pub imports: BTreeMap<String, String>,
    /// Functions that call or jump to an address that lies in writable memory, each with a way there.
    pub stored: BTreeMap<String, String>,
}

/// What a linkage slot or a pointer in a static holds.
enum Slot {
    Import(String),
    Own(u64),
}

/// What the code of a library needs to be read.
struct Image {
    slots: BTreeMap<u64, Slot>,
    code: Vec<std::ops::Range<u64>>,
    /// Static data that no code changes: read-only after relocation.
    constant: Vec<std::ops::Range<u64>>,
    /// The part of it that holds one address in each word: the linkage table.
    linkage: Vec<std::ops::Range<u64>>,
}

impl Graph {
    /// Reads a built library.
    pub fn read(library: &Path) -> anyhow::Result<Graph> {
        let bytes =
            std::fs::read(library).with_context(|| format!("read {}", library.display()))?;
        let file = object::File::parse(&*bytes).context("it is not an ELF file")?;
        let code = Code::decode(&file)?;
        let image = Image::read(&file)?;
        let mut graph = Graph { functions: BTreeMap::new(), entries: BTreeMap::new() };
        for symbol in file.symbols().chain(file.dynamic_symbols()) {
            if symbol.kind() == SymbolKind::Text && symbol.is_definition() && symbol.size() > 0 {
                let name = symbol.name().context("a symbol without a name")?;
                let name = format!("{:#}", rustc_demangle::demangle(name));
                let end = symbol.address() + symbol.size();
                let function = graph.functions.entry(symbol.address()).or_default();
                if function.end < end {
                    *function = Function { name, end, ..Function::default() };
                }
            }
        }
        if graph.functions.is_empty() {
            bail!("it has no symbols: strip nothing");
        }
        for symbol in file.dynamic_symbols().filter(|symbol| symbol.is_definition()) {
            if symbol.kind() == SymbolKind::Text {
                let name = symbol.name()?.to_owned();
                graph.entries.insert(name, vec![symbol.address()]);
            }
        }
        for array in ARRAYS {
            let section = file.section_by_name(array);
            let range = section.map_or(0..0, |s| s.address()..s.address() + s.size());
            let named = image.slots.range(range).filter_map(|(_, slot)| match slot {
                Slot::Own(address) => Some(*address),
                Slot::Import(_) => None,
            });
            graph.entries.insert(array.to_owned(), named.collect());
        }
        let referred: BTreeSet<u64> = code.all().filter_map(refers_to).collect();
        for instruction in code.all() {
            graph.add(instruction, &image, &referred);
        }
        Ok(graph)
    }

    /// The names of all entries.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Whether there is a function of this name.
    pub fn has(&self, name: &str) -> bool {
        self.functions.values().any(|function| function.name == name)
    }

    /// What `entry` reaches, if functions named in `cut` go nowhere.
    pub fn reach(&self, entry: &str, cut: &[&str]) -> anyhow::Result<Reach> {
        let starts = self.entries.get(entry).with_context(|| format!("{entry} is not exported"))?;
        let mut ways: BTreeMap<u64, String> = BTreeMap::new();
        let mut queue: VecDeque<u64> = VecDeque::new();
        let mut reach = Reach::default();
        for &start in starts {
            let start = self.place(start);
            ways.insert(start, entry.to_owned());
            queue.push_back(start);
        }
        while let Some(at) = queue.pop_front() {
            let Some(function) = self.functions.get(&at) else { continue };
            let way = ways[&at].clone();
            if cut.contains(&function.name.as_str()) {
                continue;
            }
            for import in &function.imports {
                reach.imports.entry(import.clone()).or_insert_with(|| way.clone());
            }
            if function.stored {
                reach.stored.entry(function.name.clone()).or_insert_with(|| way.clone());
            }
            for &call in &function.calls {
                let next = self.place(call);
                let Some(function) = self.functions.get(&next) else { continue };
                ways.entry(next).or_insert_with(|| {
                    queue.push_back(next);
                    format!("{way} -> {}", function.name)
                });
            }
        }
        Ok(reach)
    }

    /// The function that an address lies in.
    fn place(&self, address: u64) -> u64 {
        match self.functions.range(..=address).next_back() {
            Some((&start, function)) if address < function.end => start,
            _ => address - address % PIECE,
        }
    }

    fn add(&mut self, instruction: &Instruction, image: &Image, referred: &BTreeSet<u64>) {
        let place = self.place(instruction.ip());
        let mut calls = Vec::new();
        let mut imports = Vec::new();
        let mut stored = false;
        let target = instruction.near_branch_target(); // 0: none
        calls.extend((target != 0 && self.place(target) != place).then_some(target));
        if let Some(address) = refers_to(instruction) {
            if image.is_code(address) {
                calls.push(address);
            } else {
                // Up to the next address that any code names: that is another static.
                let next = referred.range(address + 1..).next().copied().unwrap_or(u64::MAX);
                let end = if image.is_linkage(address) { address + 1 } else { next };
                for (_, slot) in image.slots.range(address..end) {
                    match slot {
                        Slot::Import(name) => imports.push(name.clone()),
                        Slot::Own(address) => calls.push(*address),
                    }
                }
                let is_indirect = matches!(
                    instruction.flow_control(),
                    FlowControl::IndirectCall | FlowControl::IndirectBranch
                );
                stored = is_indirect && !image.is_constant(address);
            }
        }
        let function = self.functions.entry(place).or_insert_with(|| Function {
            name: format!("stub {place:x}"),
            end: place + PIECE,
            ..Function::default()
        });
        function.calls.extend(calls.into_iter().filter(|&call| image.is_code(call)));
        function.imports.extend(imports);
        function.stored |= stored;
    }
}

impl Image {
    fn read(file: &object::File<'_>) -> anyhow::Result<Image> {
        let dynamic = file.dynamic_symbol_table().context("it has no dynamic symbols")?;
        let mut slots = BTreeMap::new();
        for (at, relocation) in file.dynamic_relocations().context("it has no relocations")? {
            let RelocationFlags::Elf { r_type } = relocation.flags() else { continue };
            let slot = match (r_type, relocation.target()) {
                (elf::R_X86_64_RELATIVE, _) => Slot::Own(relocation.addend() as u64),
                (
                    elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT | elf::R_X86_64_64,
                    RelocationTarget::Symbol(index),
                ) => {
                    let symbol = dynamic.symbol_by_index(index)?;
                    match symbol.is_definition() {
                        true => Slot::Own(symbol.address()),
                        false => Slot::Import(symbol.name()?.to_owned()),
                    }
                }
                _ => continue,
            };
            slots.insert(at, slot);
        }
        let (mut code, mut constant, mut linkage) = (Vec::new(), Vec::new(), Vec::new());
        for section in file.sections() {
            let range = section.address()..section.address() + section.size();
            match section.name()? {
                _ if section.kind() == object::SectionKind::Text => code.push(range),
                ".got" | ".got.plt" => linkage.push(range),
                ".data.rel.ro" | ".rodata" => constant.push(range),
                _ => {}
            }
        }
        constant.extend(linkage.iter().cloned());
        Ok(Image { slots, code, constant, linkage })
    }

    fn is_code(&self, address: u64) -> bool {
        self.code.iter().any(|range| range.contains(&address))
    }

    fn is_linkage(&self, address: u64) -> bool {
        self.linkage.iter().any(|range| range.contains(&address))
    }

    fn is_constant(&self, address: u64) -> bool {
        self.constant.iter().any(|range| range.contains(&address))
    }
}

/// The address that an operand names relative to the instruction.
fn refers_to(instruction: &Instruction) -> Option<u64> {
    instruction.is_ip_rel_memory_operand().then(|| instruction.ip_rel_memory_address())
}

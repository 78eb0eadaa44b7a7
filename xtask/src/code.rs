//! The machine code of a built library: its instructions by address, and its exported functions.
//!
//! Promises that every byte of the executable sections is decoded, anew from each function's start, and
//! that a byte sequence which is no instruction is one of [`Mnemonic::INVALID`].

use anyhow::{Context, ensure};
use iced_x86::{
    Decoder, DecoderOptions, FastFormatter, FlowControl, Instruction, InstructionInfoFactory,
    Mnemonic, OpAccess, Register,
};
use object::{Architecture, Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;
use std::path::Path;

/// The code of a library.
pub struct Code {
    instructions: BTreeMap<u64, Instruction>,
    exported: HashMap<String, u64>,
}

impl Code {
    /// Reads a library.
    pub fn read(library: &Path) -> anyhow::Result<Code> {
        let path = || format!("read {}", library.display());
        let bytes = std::fs::read(library).with_context(path)?;
        Code::decode(&object::File::parse(&*bytes).with_context(path)?)
    }

    /// Decodes the code of a file that is read already.
    pub fn decode(file: &object::File) -> anyhow::Result<Code> {
        ensure!(file.architecture() == Architecture::X86_64, "only x86-64 code can be read");
        let symbols = file.symbols().chain(file.dynamic_symbols());
        let functions: Vec<_> =
            symbols.filter(|s| s.is_definition() && s.kind() == SymbolKind::Text).collect();
        let starts: BTreeSet<_> = functions.iter().map(|symbol| symbol.address()).collect();
        let mut instructions = BTreeMap::new();
        for section in file.sections().filter(|section| section.kind() == SectionKind::Text) {
            let (first, bytes) = (section.address(), section.data()?);
            let end = first + bytes.len() as u64;
            let mut at = first;
            while at < end {
                let next = starts.range(at + 1..end).next().copied().unwrap_or(end);
                let bytes = &bytes[(at - first) as usize..(next - first) as usize];
                let decoder = Decoder::with_ip(64, bytes, at, DecoderOptions::NONE);
                instructions.extend(decoder.into_iter().map(|found| (found.ip(), found)));
                at = next;
            }
        }
        let exported = functions.iter().filter(|symbol| symbol.is_global());
        let exported = exported.map(|symbol| Ok((symbol.name()?.to_owned(), symbol.address())));
        Ok(Code { instructions, exported: exported.collect::<anyhow::Result<_>>()? })
    }

    /// The address of an exported function.
    pub fn exported(&self, symbol: &str) -> Option<u64> {
        self.exported.get(symbol).copied()
    }

    /// All instructions in order.
    pub fn all(&self) -> impl Iterator<Item = &Instruction> {
        self.instructions.values()
    }

    /// The instruction that starts at an address.
    pub fn at(&self, address: u64) -> Option<&Instruction> {
        self.instructions.get(&address)
    }

    /// The instructions that start in a range of addresses.
    pub fn range(&self, addresses: Range<u64>) -> impl DoubleEndedIterator<Item = &Instruction> {
        self.instructions.range(addresses).map(|(_, instruction)| instruction)
    }

    /// The last instruction that starts before an address.
    pub fn before(&self, address: u64) -> Option<&Instruction> {
        self.range(0..address).next_back()
    }
}

/// The text of an instruction, in Intel's syntax.
pub fn text(instruction: &Instruction) -> String {
    let mut text = String::new();
    FastFormatter::new().format(instruction, &mut text);
    text
}

/// Where a direct jump, conditional or not, goes.
pub fn jump_target(instruction: &Instruction) -> Option<u64> {
    match instruction.flow_control() {
        FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch => {
            Some(instruction.near_branch_target())
        }
        _ => None,
    }
}

/// Whether the processor may go on with the instruction that follows.
pub fn falls_through(instruction: &Instruction) -> bool {
    let flow = instruction.flow_control();
    let leaves = matches!(
        flow,
        FlowControl::UnconditionalBranch | FlowControl::IndirectBranch | FlowControl::Return
    );
    !leaves && !traps(instruction)
}

/// Whether the instruction is there in order not to be executed.
pub fn traps(instruction: &Instruction) -> bool {
    instruction.flow_control() == FlowControl::Exception
        || matches!(instruction.mnemonic(), Mnemonic::Int3 | Mnemonic::Hlt)
}

/// Whether the instruction fills the space between functions, and after calls that do not return.
pub fn is_padding(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
}

/// Why neither a hot path nor a section may have the instruction; none if both may.
pub fn forbidden(instruction: &Instruction) -> Option<&'static str> {
    let is_exchange = instruction.mnemonic() == Mnemonic::Xchg && reads_memory(instruction);
    match instruction.flow_control() {
        FlowControl::Call
        | FlowControl::IndirectCall
        | FlowControl::IndirectBranch
        | FlowControl::Interrupt => Some("calls"),
        _ if instruction.has_lock_prefix() || is_exchange => Some("locks"),
        FlowControl::Return => None,
        _ if uses_stack(instruction) => Some("uses the stack"),
        _ => None,
    }
}

/// Whether the instruction loads from memory.
pub fn reads_memory(instruction: &Instruction) -> bool {
    accesses(instruction).iter().any(|access| {
        !matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::NoMemAccess)
    })
}

/// Whether the instruction stores to memory.
pub fn writes_memory(instruction: &Instruction) -> bool {
    accesses(instruction).iter().any(|access| {
        !matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess)
    })
}

/// Whether the instruction changes a register.
pub fn writes_register(instruction: &Instruction, register: Register) -> bool {
    let mut factory = InstructionInfoFactory::new();
    factory.info(instruction).used_registers().iter().any(|used| {
        used.register().full_register() == register
            && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
    })
}

/// The offset of an operand in thread-local storage, if a register is added to it.
pub fn thread_offset(instruction: &Instruction) -> Option<u64> {
    let based =
        instruction.segment_prefix() == Register::FS && instruction.memory_base() != Register::None;
    based.then(|| instruction.memory_displacement64())
}

fn uses_stack(instruction: &Instruction) -> bool {
    let mut factory = InstructionInfoFactory::new();
    factory
        .info(instruction)
        .used_registers()
        .iter()
        .any(|used| matches!(used.register().full_register(), Register::RSP | Register::RBP))
}

/// How memory is accessed, the stack by `ret` left out.
fn accesses(instruction: &Instruction) -> Vec<OpAccess> {
    if instruction.flow_control() == FlowControl::Return {
        return Vec::new();
    }
    let mut factory = InstructionInfoFactory::new();
    factory.info(instruction).used_memory().iter().map(|memory| memory.access()).collect()
}

/// Code from the text of an assembler, and the addresses of its labels.
#[cfg(test)]
pub fn assemble(source: &str) -> (Code, HashMap<String, u64>) {
    let folder = tempfile::tempdir().unwrap();
    let (text, object) = (folder.path().join("a.s"), folder.path().join("a.o"));
    std::fs::write(&text, format!(".intel_syntax noprefix\n{source}\n")).unwrap();
    let mut cc = std::process::Command::new("cc");
    tools::output(cc.arg("-c").arg(&text).arg("-o").arg(&object)).unwrap();
    let bytes = std::fs::read(object).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let labels = file.symbols().map(|label| (label.name().unwrap().to_owned(), label.address()));
    (Code::decode(&file).unwrap(), labels.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_and_stores_are_counted_where_memory_is_accessed() {
        let cases = [
            ("mov rax, fs:0", true, false),
            ("mov [rax], rcx", false, true),
            ("movzx eax, byte ptr [rcx]", true, false),
            ("inc qword ptr [rax]", true, true),
            ("cmp dword ptr [rax], 0", true, false),
            ("cmpxchg [rdi], rsi", true, true),
            ("bt dword ptr [rax], 1", true, false),
            ("setne byte ptr [rax]", false, true),
            ("rep stosb", false, true),
            ("movups [rdi], xmm0", false, true),
            ("lea rcx, [rip+0x100]", false, false),
            ("prefetchw [rax]", false, false),
            ("prefetcht0 [rax]", false, false),
            ("nop word ptr cs:[rax+rax*1+0x0]", false, false),
            ("ret", false, false),
        ];
        for (line, loads, stores) in cases {
            let (code, _) = assemble(line);
            let instruction = code.at(0).unwrap();
            let found = (reads_memory(instruction), writes_memory(instruction));
            assert_eq!(found, (loads, stores), "{line}");
        }
    }
}

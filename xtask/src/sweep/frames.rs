//! What unwinders read of a built library, and whether it is true.
//!
//! Promises a line for each instruction that no entry of `.eh_frame` covers, and for each at which the entry puts
//! the caller elsewhere than the stack pointer's way from the function's start says.
//!
//! The way is followed over all branches, from each function's start and from each abort handler, where the kernel
//! continues a section with the stack as it was. What the walk can't follow (a stack pointer that is set, not
//! moved) it leaves; not in the functions with sections, each instruction of which must have been walked.

use crate::code::{self, Code};
use anyhow::{Context, ensure};
use gimli::{BaseAddresses, CieOrFde, EhFrame, LittleEndian, UnwindContext, UnwindSection};
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectSection, ObjectSymbol};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use tools::sections::Section;

/// DWARF's number of the stack pointer and of the return address (System V psABI, x86-64, figure 3.36).
pub const RSP: u16 = 7;
/// See [`RSP`].
pub const RETURN: u16 = 16;

/// The registers by DWARF's numbers.
const REGISTERS: [Register; 16] = [
    Register::RAX,
    Register::RDX,
    Register::RCX,
    Register::RBX,
    Register::RSI,
    Register::RDI,
    Register::RBP,
    Register::RSP,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

/// Functions of the C runtime's start files, which have no entries and never run while a program does.
const START_FILES: &[&str] =
    &["deregister_tm_clones", "register_tm_clones", "__do_global_dtors_aux", "frame_dummy"];

/// Functions that are not called: a child begins there, or a thread with a command, on a stack that ends there.
const WITHOUT_CALLER: &[&str] = &["enter", "command_entry"];

/// Where a frame has a register of its caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// At this distance from the canonical frame address.
    Memory(i64),
    /// In this register.
    Register(u16),
    /// Elsewhere.
    Other,
}

/// A row of `.eh_frame`: how to unwind from a range of instructions.
#[derive(Clone, Debug)]
pub struct Row {
    /// Address after the last one.
    pub end: u64,
    /// The canonical frame address: a register and a distance; none if it is an expression.
    pub cfa: Option<(u16, i64)>,
    /// Where the caller's registers are that are not in place.
    pub saved: Vec<(u16, Place)>,
}

/// All of them, by their first address, and the functions.
#[derive(Clone)]
pub struct Frames {
    rows: BTreeMap<u64, Row>,
    functions: BTreeMap<u64, String>,
    text: Range<u64>,
}

impl Frames {
    /// Reads `.eh_frame` and the symbols.
    pub fn read(library: &Path) -> anyhow::Result<Frames> {
        let bytes = std::fs::read(library).with_context(|| library.display().to_string())?;
        let file = object::File::parse(&*bytes).context("it is not an ELF file")?;
        let section =
            |name| file.section_by_name(name).with_context(|| format!("it has no {name}"));
        let (table, text) = (section(".eh_frame")?, section(".text")?);
        let frames = EhFrame::new(table.data()?, LittleEndian);
        let bases = BaseAddresses::default().set_eh_frame(table.address()).set_text(text.address());
        let (mut rows, mut context) = (BTreeMap::new(), UnwindContext::new());
        let mut entries = frames.entries(&bases);
        while let Some(entry) = entries.next()? {
            let CieOrFde::Fde(entry) = entry else { continue };
            let entry = entry.parse(EhFrame::cie_from_offset)?;
            let mut table = entry.rows(&frames, &bases, &mut context)?;
            while let Some(row) = table.next_row()? {
                rows.insert(row.start_address(), Row::read(row));
            }
        }
        ensure!(!rows.is_empty(), "its .eh_frame is empty");
        let functions = file.symbols().chain(file.dynamic_symbols());
        let functions = functions
            .filter(|s| s.is_definition() && s.kind() == object::SymbolKind::Text)
            .filter_map(|s| Some((s.address(), tools::sections::short(s.name().ok()?))))
            .collect();
        Ok(Frames { rows, functions, text: text.address()..text.address() + text.size() })
    }

    /// The row for an instruction.
    pub fn row(&self, at: u64) -> Option<&Row> {
        self.rows.range(..=at).next_back().map(|(_, row)| row).filter(|row| at < row.end)
    }

    /// The function that an address lies in: from its start to the next one's.
    pub fn function(&self, at: u64) -> Option<(&str, Range<u64>)> {
        let (&start, name) = self.functions.range(..=at).next_back()?;
        let end = self.functions.range(at + 1..).next().map_or(self.text.end, |(&next, _)| next);
        Some((name, start..end))
    }

    /// A copy without the rows of the function at an address, for the control.
    pub fn without(&self, at: u64) -> Frames {
        let mut rest = self.clone();
        if let Some((_, span)) = self.function(at) {
            rest.rows.retain(|start, _| !span.contains(start));
        }
        rest
    }

    /// A copy that puts the caller of an instruction a word further up, for the control.
    pub fn shifted(&self, at: u64) -> Frames {
        let mut wrong = self.clone();
        if let Some((_, row)) = wrong.rows.range_mut(..=at).next_back() {
            row.cfa = row.cfa.map(|(register, offset)| (register, offset + 8));
        }
        wrong
    }

    /// What is missing or wrong, and how many instructions were walked.
    pub fn examine(&self, code: &Code, sections: &[Section]) -> (Vec<String>, usize) {
        let mut faults = Vec::new();
        let is_start_file = |name: &str| START_FILES.contains(&name);
        for instruction in code.range(self.text.clone()).filter(|found| !code::is_padding(found)) {
            let name = self.function(instruction.ip()).map_or("?", |(name, _)| name);
            if self.row(instruction.ip()).is_none() && !is_start_file(name) {
                faults.push(format!("{name}: unwinders know nothing of {}", place(instruction)));
            }
        }
        let mut walked = HashMap::new();
        let starts = self.functions.keys().copied().filter(|at| self.text.contains(at));
        for start in starts.chain(sections.iter().map(|section| section.abort)) {
            self.walk(code, start, &mut walked, &mut faults);
        }
        for section in sections {
            let Some((name, span)) = self.function(section.start) else { continue };
            for missed in code.range(span).filter(|found| is_run(found)) {
                if !walked.contains_key(&missed.ip()) {
                    faults.push(format!("{name}: no way leads to {}", place(missed)));
                }
            }
        }
        (faults, walked.len())
    }

    /// Follows the stack pointer from `start`, where the return address is on top of the stack.
    fn walk(
        &self,
        code: &Code,
        start: u64,
        walked: &mut HashMap<u64, Stack>,
        faults: &mut Vec<String>,
    ) {
        let Some((name, span)) = self.function(start) else { return };
        let mut open = vec![(start, Stack { depth: 8, caller: None })];
        while let Some((at, stack)) = open.pop() {
            let Some(instruction) = code.at(at) else { continue };
            if !span.contains(&at) || walked.insert(at, stack).is_some_and(|before| before == stack)
            {
                continue;
            }
            match self.row(at) {
                Some(row) if row.saved(RETURN).is_none() && WITHOUT_CALLER.contains(&name) => {
                    continue;
                }
                Some(row) if !stack.agrees_with(row) => faults.push(format!(
                    "{name}: at {at:x} ({}) unwinders read {:?} {:?}, but {stack:?}",
                    code::text(instruction),
                    row.cfa,
                    row.saved
                )),
                _ => {}
            }
            let after = code::falls_through(instruction).then(|| instruction.next_ip());
            let target = code::jump_target(instruction);
            if let Some(stack) = stack.after(instruction) {
                open.extend(target.into_iter().chain(after).map(|to| (to, stack)));
            }
        }
    }
}

impl Row {
    fn read(row: &gimli::UnwindTableRow<usize>) -> Row {
        let cfa = match *row.cfa() {
            gimli::CfaRule::RegisterAndOffset { register, offset } => Some((register.0, offset)),
            gimli::CfaRule::Expression(_) => None,
        };
        let saved = row.registers().map(|(register, rule)| {
            let place = match *rule {
                gimli::RegisterRule::Offset(offset) => Place::Memory(offset),
                gimli::RegisterRule::Register(other) => Place::Register(other.0),
                _ => Place::Other,
            };
            (register.0, place)
        });
        Row { end: row.end_address(), cfa, saved: saved.collect() }
    }

    /// Where a register of the caller's is; none: where it was, or, of the return address, nowhere.
    pub fn saved(&self, register: u16) -> Option<Place> {
        self.saved.iter().find(|(number, _)| *number == register).map(|(_, place)| *place)
    }
}

/// The stack at an instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stack {
    /// Bytes from the stack pointer to where it was before the call.
    depth: i64,
    /// The register that has the return address, if it is not on the stack.
    caller: Option<u16>,
}

impl Stack {
    fn agrees_with(self, row: &Row) -> bool {
        let caller = self.caller.map_or(Place::Memory(-8), Place::Register);
        let found = row.saved(RETURN).unwrap_or(Place::Other);
        match row.cfa {
            Some((RSP, offset)) => offset == self.depth && found == caller,
            // By another register, whose value is not followed.
            Some(_) => found == caller,
            None => false,
        }
    }

    /// The state after an instruction; none if it can't be known.
    fn after(self, instruction: &Instruction) -> Option<Stack> {
        let number = |register| REGISTERS.iter().position(|&known| known == register);
        let register = number(instruction.op0_register());
        let moved = |by| Some(Stack { depth: self.depth + by, ..self });
        match instruction.mnemonic() {
            Mnemonic::Push if self.depth == 0 => (register == self.caller.map(usize::from))
                .then_some(Stack { depth: 8, caller: None }),
            Mnemonic::Push => moved(8),
            Mnemonic::Pop if self.depth == 8 => {
                Some(Stack { depth: 0, caller: Some(register? as u16) })
            }
            Mnemonic::Pop => moved(-8),
            mnemonic @ (Mnemonic::Add | Mnemonic::Sub)
                if instruction.op0_register() == Register::RSP
                    && instruction.op1_kind() != OpKind::Register
                    && instruction.op1_kind() != OpKind::Memory =>
            {
                let amount = instruction.immediate(1) as i64;
                moved(if mnemonic == Mnemonic::Sub { amount } else { -amount })
            }
            _ => match instruction.flow_control() {
                // What they put on the stack is gone when they are back.
                FlowControl::Call | FlowControl::IndirectCall => Some(self),
                _ => (!code::writes_register(instruction, Register::RSP)).then_some(self),
            },
        }
    }
}

/// Whether it is code that runs: neither padding nor the signature before an abort handler.
pub fn is_run(instruction: &Instruction) -> bool {
    !code::is_padding(instruction) && instruction.mnemonic() != Mnemonic::Ud1
}

fn place(instruction: &Instruction) -> String {
    format!("{:x}: {}", instruction.ip(), code::text(instruction))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "
        .org 0x10, 0x90
        push rax
        call away
        pop rax
        pop rdx
        syscall
        push rdx
        je short 0f
        jmp away
        .org 0x20, 0x90
        0: ret
        .org 0x90, 0x90
        away: ret";

    /// Rows of `CODE`: from, depth, and the register with the return address.
    const ROWS: [(u64, i64, Option<u16>); 5] =
        [(0x10, 8, None), (0x11, 16, None), (0x17, 8, None), (0x18, 0, Some(1)), (0x1b, 8, None)];

    fn frames(rows: &[(u64, i64, Option<u16>)]) -> Frames {
        let ends = rows.iter().skip(1).map(|row| row.0).chain([0x21]);
        let row = |(&(start, depth, caller), end): (&(u64, i64, Option<u16>), u64)| {
            let place = caller.map_or(Place::Memory(-8), Place::Register);
            (start, Row { end, cfa: Some((RSP, depth)), saved: vec![(RETURN, place)] })
        };
        let functions = BTreeMap::from([(0x10, "share".to_owned())]);
        Frames { rows: rows.iter().zip(ends).map(row).collect(), functions, text: 0x10..0x21 }
    }

    fn faults(frames: &Frames) -> Vec<String> {
        frames.examine(&code::assemble(CODE).0, &[]).0
    }

    #[test]
    fn what_is_said_rightly_passes() {
        let frames = frames(&ROWS);
        let (faults, walked) = frames.examine(&code::assemble(CODE).0, &[]);
        assert_eq!((faults, walked), (Vec::new(), 9));
    }

    #[test]
    fn each_row_that_is_wrong_or_missing_is_found() {
        for (index, &(at, ..)) in ROWS.iter().enumerate() {
            let found = faults(&frames(&ROWS).shifted(at));
            assert!(found.iter().any(|fault| fault.contains(&format!("at {at:x} "))), "{found:?}");
            // Without the row, the one before it reaches to the next.
            let mut rows = ROWS.to_vec();
            rows.remove(index);
            assert_ne!(faults(&frames(&rows)), Vec::<String>::new(), "{at:x}");
        }
        let found = faults(&frames(&ROWS).without(0x10));
        assert_eq!(found.len(), 9, "{found:?}");
    }
}

//! The hot path of a function, read from objdump's text.
//!
//! Promises to follow what the processor executes when every conditional branch falls through, from
//! an entry to its first `ret`, over direct jumps. Called by `golden`; `sweep` reads instructions here too.

use anyhow::{Context, bail};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

/// The code of a library: its instructions by address, its exported functions by name.
pub struct Disassembly {
    code: BTreeMap<u64, String>,
    exported: HashMap<String, u64>,
}

/// What a path executes.
#[derive(Debug, Default, PartialEq)]
pub struct Cost {
    /// Instructions, the `ret` included.
    pub instructions: usize,
    /// Instructions that read memory.
    pub loads: usize,
    /// Instructions that write memory.
    pub stores: usize,
    /// Conditional branches, none of them taken.
    pub branches: usize,
    /// Instructions that a hot path must not have, each with the reason.
    pub forbidden: Vec<String>,
}

impl Disassembly {
    /// Reads `objdump --disassemble --no-show-raw-insn -M intel` and `nm --dynamic --defined-only`.
    pub fn parse(objdump: &str, nm: &str) -> Self {
        let code = objdump.lines().filter_map(|line| {
            let (address, text) = line.split_once(":\t")?;
            // One space between words, no comment ("# 2900 <x>"), no symbol ("<slow+0x10>").
            let text = text.split(['#', '<']).next()?;
            let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            Some((u64::from_str_radix(address.trim(), 16).ok()?, text))
        });
        let exported = nm.lines().filter_map(|line| {
            let mut words = line.split_whitespace();
            let (address, kind, name) = (words.next()?, words.next()?, words.next()?);
            let name = name.split('@').next()?;
            "TWi"
                .contains(kind)
                .then(|| Some((name.to_owned(), u64::from_str_radix(address, 16).ok()?)))?
        });
        Disassembly { code: code.collect(), exported: exported.collect() }
    }

    /// All instructions with their addresses, in order.
    pub fn all(&self) -> impl Iterator<Item = (u64, &str)> {
        self.range(0..u64::MAX)
    }

    /// The instructions that start in a range of addresses.
    pub fn range(&self, addresses: Range<u64>) -> impl Iterator<Item = (u64, &str)> {
        self.code.range(addresses).map(|(&at, text)| (at, text.as_str()))
    }

    /// The last instruction that starts before an address.
    pub fn before(&self, address: u64) -> Option<(u64, &str)> {
        self.code.range(..address).next_back().map(|(&at, text)| (at, text.as_str()))
    }

    /// The first instruction that starts after an address.
    pub fn after(&self, address: u64) -> Option<(u64, &str)> {
        self.range(address + 1..u64::MAX).next()
    }

    /// Follows the hot path of `symbol`.
    pub fn walk(&self, symbol: &str) -> anyhow::Result<Cost> {
        let mut at = *self.exported.get(symbol).context("the library does not export it")?;
        let mut cost = Cost::default();
        let mut seen = HashSet::new();
        loop {
            let text = self.code.get(&at).with_context(|| format!("no code at {at:x}"))?;
            if !seen.insert(at) {
                bail!("its hot path loops at {at:x}: {text}");
            }
            let instruction = Instruction::read(text);
            cost.count(&instruction, at);
            match instruction.next() {
                Next::Falls => {
                    let after = self.code.range(at + 1..).next();
                    at = *after.with_context(|| format!("nothing follows {at:x}: {text}"))?.0;
                }
                Next::Jumps(target) => at = target,
                Next::Ends => return Ok(cost),
                Next::Traps => bail!("its hot path ends in a trap at {at:x}: {text}"),
            }
        }
    }
}

impl Cost {
    fn count(&mut self, instruction: &Instruction, at: u64) {
        self.instructions += 1;
        self.loads += usize::from(instruction.reads_memory());
        self.stores += usize::from(instruction.writes_memory());
        self.branches += usize::from(instruction.is_conditional_branch());
        for reason in instruction.forbidden() {
            self.forbidden.push(format!("{reason} at {at:x}: {}", instruction.text));
        }
    }
}

/// One instruction, taken apart.
pub struct Instruction<'a> {
    text: &'a str,
    locked: bool,
    /// Its mnemonic, without prefixes.
    pub name: &'a str,
    operands: Vec<&'a str>,
}

enum Next {
    Falls,
    Jumps(u64),
    Ends,
    Traps,
}

impl<'a> Instruction<'a> {
    /// Takes apart what [`Disassembly`] holds.
    pub fn read(text: &'a str) -> Self {
        let (mut rest, mut locked) = (text, false);
        let name = loop {
            let (word, tail) = rest.split_once(' ').unwrap_or((rest, ""));
            match word {
                "lock" => locked = true,
                "rep" | "repz" | "repnz" | "bnd" | "notrack" | "data16" | "cs" | "ds" => {}
                _ => break (word, tail),
            }
            rest = tail;
        };
        let operands = name.1.split(',').map(str::trim).filter(|operand| !operand.is_empty());
        Instruction { text, locked, name: name.0, operands: operands.collect() }
    }

    /// Why neither a hot path nor a section may have it.
    pub fn forbidden(&self) -> impl Iterator<Item = &'static str> {
        let reasons = [
            (self.calls(), "calls"),
            (self.is_locked(), "locks"),
            (self.uses_stack(), "uses the stack"),
        ];
        reasons.into_iter().filter_map(|(holds, reason)| holds.then_some(reason))
    }

    /// Whether it is a jump, conditional or not.
    pub fn is_jump(&self) -> bool {
        self.name == "jmp" || self.is_conditional_branch()
    }

    fn next(&self) -> Next {
        match self.name {
            "ret" => Next::Ends,
            "ud2" | "ud1" | "int3" | "hlt" | "(bad)" => Next::Traps,
            // An indirect jump leaves the path; `calls` has counted it.
            "jmp" => self.target().map_or(Next::Ends, Next::Jumps),
            _ => Next::Falls,
        }
    }

    /// Where a direct jump or call goes.
    pub fn target(&self) -> Option<u64> {
        u64::from_str_radix(self.operands.first()?, 16).ok()
    }

    fn calls(&self) -> bool {
        matches!(self.name, "call" | "syscall" | "sysenter" | "int")
            || self.name == "jmp" && self.target().is_none()
    }

    fn is_locked(&self) -> bool {
        self.locked || self.name == "xchg" && self.operands.iter().any(|o| is_memory(o))
    }

    fn uses_stack(&self) -> bool {
        let registers = ["rsp", "esp", "rbp", "ebp"];
        matches!(self.name, "push" | "pop" | "pushf" | "popf" | "enter" | "leave")
            || self.operands.iter().any(|operand| registers.iter().any(|r| operand.contains(r)))
    }

    fn is_conditional_branch(&self) -> bool {
        self.name.starts_with("loop") || self.name.starts_with('j') && self.name != "jmp"
    }

    fn reads_memory(&self) -> bool {
        let stores_only =
            self.name.starts_with("mov") || self.name.starts_with("vmov") || self.name == "stos";
        let stores_only = stores_only && !matches!(self.name, "movs" | "movbe");
        let first_is_read = !stores_only && !self.name.starts_with("set");
        !self.touches_nothing()
            && self
                .operands
                .iter()
                .enumerate()
                .any(|(i, o)| is_memory(o) && (i > 0 || first_is_read))
    }

    /// Whether it stores to memory.
    pub fn writes_memory(&self) -> bool {
        let reads_only = ["cmp", "test", "bt", "jmp", "call", "push", "mul", "div", "idiv", "imul"];
        !self.touches_nothing()
            && !reads_only.contains(&self.name)
            && self.operands.first().is_some_and(|operand| is_memory(operand))
    }

    /// Its operand looks like memory, but it neither reads nor writes any.
    fn touches_nothing(&self) -> bool {
        matches!(self.name, "lea" | "nop" | "nopw" | "nopl") || self.name.starts_with("prefetch")
    }
}

fn is_memory(operand: &str) -> bool {
    operand.contains(" PTR ") || operand.contains('[')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(lines: &str) -> anyhow::Result<Cost> {
        let text: String = lines.lines().map(|line| format!("  {}\n", line.trim())).collect();
        let text = text.replace(": ", ":\t");
        Disassembly::parse(&text, "0000000000000010 T entry@@V1\n0000000000000010 D data\n")
            .walk("entry")
    }

    #[test]
    fn conditional_branches_fall_through_and_jumps_are_followed() {
        let cost = walk(
            "10: endbr64
             14: lea rcx,[rip+0x100] # 120 <table>
             1b: mov rax,QWORD PTR fs:0x0
             24: je 60 <slow>
             2a: jmp 40 <entry+0x30>
             2c: ud2
             40: inc QWORD PTR [rax]
             44: mov BYTE PTR [rax+rcx*1],dl
             48: cmp DWORD PTR [rax],0x0
             4c: prefetchw BYTE PTR [rax]
             50: nop WORD PTR cs:[rax+rax*1+0x0]
             54: ret
             60: call 900 <refill>",
        );
        let expected =
            Cost { instructions: 11, loads: 3, stores: 2, branches: 1, forbidden: vec![] };
        assert_eq!(cost.unwrap(), expected);
    }

    #[test]
    fn what_a_hot_path_must_not_have_is_found() {
        let cases = [
            ("call 900 <refill>", "calls"),
            ("call QWORD PTR [rip+0x20]", "calls"),
            ("jmp QWORD PTR [rip+0x20] # 3f <x>", "calls"),
            ("jmp rax", "calls"),
            ("syscall", "calls"),
            ("lock cmpxchg QWORD PTR [rdi],rsi", "locks"),
            ("lock inc DWORD PTR [rdi]", "locks"),
            ("xchg QWORD PTR [rdi],rax", "locks"),
            ("push rbx", "uses the stack"),
            ("pop rbx", "uses the stack"),
            ("sub rsp,0x18", "uses the stack"),
            ("mov rax,QWORD PTR [rsp+0x8]", "uses the stack"),
            ("mov rbp,rax", "uses the stack"),
        ];
        for (line, reason) in cases {
            let cost = walk(&format!("10: {line}\n18: ret")).expect(line);
            assert_eq!(cost.forbidden.len(), 1, "{line}: {:?}", cost.forbidden);
            assert!(cost.forbidden[0].starts_with(reason), "{line}: {:?}", cost.forbidden);
        }
        for line in ["xchg rax,rdx", "cmpxchg QWORD PTR [rdi],rsi", "xchg ax,ax", "jne 80 <x>"] {
            let cost = walk(&format!("10: {line}\n18: ret")).expect(line);
            assert_eq!(cost.forbidden, Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn a_path_without_an_end_is_an_error() {
        for lines in ["10: jmp 10 <entry>", "10: nop", "10: ud2", "10: jmp 999 <gone>"] {
            assert!(walk(lines).is_err(), "{lines}");
        }
    }
}

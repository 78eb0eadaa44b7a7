//! The hot path of a function.
//!
//! Promises to follow what the processor executes when every conditional branch falls through, from
//! an entry to its first `ret`, over direct jumps. A loop is passed once: the branch at which it begins
//! again is taken then.

use crate::code::{self, Code};
use anyhow::{Context, bail};
use iced_x86::{FlowControl, Instruction};
use std::collections::HashMap;

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

/// Follows the hot path of the function at `at`.
pub fn walk(code: &Code, mut at: u64) -> anyhow::Result<Cost> {
    let mut cost = Cost::default();
    let mut visits = HashMap::new();
    loop {
        let instruction = code.at(at).with_context(|| format!("no code at {at:x}"))?;
        let place = || format!("{at:x}: {}", code::text(instruction));
        let visits = visits.entry(at).and_modify(|visits| *visits += 1).or_insert(1);
        if *visits > 2 {
            bail!("its hot path loops at {}", place());
        }
        if code::traps(instruction) {
            bail!("its hot path ends in a trap at {}", place());
        }
        cost.count(instruction);
        at = match instruction.flow_control() {
            FlowControl::UnconditionalBranch => instruction.near_branch_target(),
            // An indirect jump leaves the path; it is among the forbidden.
            FlowControl::Return | FlowControl::IndirectBranch => return Ok(cost),
            FlowControl::ConditionalBranch if *visits == 2 => instruction.near_branch_target(),
            _ => instruction.next_ip(),
        };
    }
}

impl Cost {
    fn count(&mut self, instruction: &Instruction) {
        self.instructions += 1;
        self.loads += usize::from(code::reads_memory(instruction));
        self.stores += usize::from(code::writes_memory(instruction));
        self.branches += usize::from(instruction.flow_control() == FlowControl::ConditionalBranch);
        if let Some(reason) = code::forbidden(instruction) {
            let (at, text) = (instruction.ip(), code::text(instruction));
            self.forbidden.push(format!("{reason} at {at:x}: {text}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(lines: &str) -> anyhow::Result<Cost> {
        let source = format!(".globl entry\n.type entry, @function\nentry:\n{lines}");
        let (code, _) = code::assemble(&source);
        super::walk(&code, code.exported("entry").context("no entry")?)
    }

    #[test]
    fn a_loop_is_passed_once_and_an_endless_one_is_an_error() {
        let cost = walk("again: cmp rax, rcx\nje 1f\ninc rcx\njmp again\n1: ret").unwrap();
        assert_eq!((cost.instructions, cost.branches), (7, 2));
        let error = walk("again: inc rcx\njmp again\nret").unwrap_err();
        assert!(error.to_string().starts_with("its hot path loops"), "{error}");
    }

    #[test]
    fn conditional_branches_fall_through_and_jumps_are_followed() {
        let cost = walk(
            "endbr64
             lea rcx, [rip+0x100]
             mov rax, fs:0
             je slow
             jmp on
             ud2
             on: inc qword ptr [rax]
             mov [rax+rcx], dl
             cmp dword ptr [rax], 0
             prefetchw [rax]
             nop word ptr cs:[rax+rax*1+0x0]
             ret
             slow: call on",
        );
        let expected =
            Cost { instructions: 11, loads: 3, stores: 2, branches: 1, forbidden: vec![] };
        assert_eq!(cost.unwrap(), expected);
    }

    #[test]
    fn what_a_hot_path_must_not_have_is_found() {
        let cases = [
            ("call away", "calls"),
            ("call qword ptr [rip+0x20]", "calls"),
            ("jmp qword ptr [rip+0x20]", "calls"),
            ("jmp rax", "calls"),
            ("syscall", "calls"),
            ("int 0x80", "calls"),
            ("lock cmpxchg [rdi], rsi", "locks"),
            ("lock inc dword ptr [rdi]", "locks"),
            ("xchg [rdi], rax", "locks"),
            ("push rbx", "uses the stack"),
            ("pop rbx", "uses the stack"),
            ("sub rsp, 0x18", "uses the stack"),
            ("mov rax, [rsp+0x8]", "uses the stack"),
            ("mov rbp, rax", "uses the stack"),
        ];
        for (line, reason) in cases {
            let cost = walk(&format!("{line}\nret\naway: ret")).expect(line);
            assert_eq!(cost.forbidden.len(), 1, "{line}: {:?}", cost.forbidden);
            assert!(cost.forbidden[0].starts_with(reason), "{line}: {:?}", cost.forbidden);
        }
        for line in ["xchg rax, rdx", "cmpxchg [rdi], rsi", "xchg ax, ax", "jne away"] {
            let cost = walk(&format!("{line}\nret\naway: ret")).expect(line);
            assert_eq!(cost.forbidden, Vec::<String>::new(), "{line}");
        }
    }

    #[test]
    fn a_path_without_an_end_is_an_error() {
        for lines in ["0: jmp 0b", "nop", "ud2", "0: jmp 0b + 0x999"] {
            assert!(walk(lines).is_err(), "{lines}");
        }
    }
}

//! The lint of the sections: what their instructions must and must not be, read from objdump.
//!
//! Promises a line for each broken rule of alloc-core's `arch/x86_64/sections.rs` that can be seen in the
//! code: S1 announcement right before the section, S2 no call, system call, stack or lock, S3 the
//! commit last, S4 the shard index loaded inside and not before, S5 the abort handler outside and behind its
//! signature; and no jump into a section's middle. Called by `sweep`; shares the reading of instructions with `golden`.

use crate::golden::path::{Disassembly, Instruction};
use tools::sections::Section;

/// The signature before each abort handler on x86-64.
const SIGNATURE: u32 = 0x5305_3053;

/// The way to a section, on which its index must not be loaded: a line of code.
const BEFORE_BYTES: u64 = 64;

/// What is wrong with one section.
pub fn examine(code: &Disassembly, section: &Section) -> Vec<String> {
    let mut faults = Vec::new();
    let mut fault = |text: String| faults.push(format!("{}: {text}", section.name));
    if section.words != [0, 0] {
        fault(format!("version and flags are {:?}, not 0", section.words));
    }
    if section.span().is_empty() {
        fault("its length is 0".to_owned());
    }
    if section.span().contains(&section.abort) {
        fault("abort_ip lies inside the section".to_owned());
    }
    if section.signature != Some(SIGNATURE) {
        fault("the signature is not before abort_ip".to_owned());
    }
    match code.before(section.start).map(|(_, text)| text) {
        Some(text) if announces(text) => {}
        text => fault(format!("its rseq_cs store is not right before it, but {text:?}")),
    }
    let inside: Vec<_> = code.range(section.span()).collect();
    if !inside.iter().any(|(_, text)| loads_index(text)) {
        fault("it does not load its shard's index".to_owned());
    }
    let before = code.range(section.start.saturating_sub(BEFORE_BYTES)..section.start);
    for (at, text) in before.filter(|(_, text)| loads_index(text)) {
        fault(format!("the shard's index is loaded before its announcement at {at:x}: {text}"));
    }
    for &(at, text) in &inside {
        let instruction = Instruction::read(text);
        for reason in instruction.forbidden() {
            fault(format!("{reason} at {at:x}: {text}"));
        }
        if matches!(instruction.name, "ret" | "ud1" | "ud2" | "(bad)") {
            fault(format!("ends before its commit at {at:x}: {text}"));
        }
    }
    match (inside.first(), inside.last()) {
        (Some(&(at, _)), Some(&(last, text))) => {
            if at != section.start {
                fault("its start is not the start of an instruction".to_owned());
            }
            if code.after(last).map(|(at, _)| at) != Some(section.post) {
                fault("its end is not the end of an instruction".to_owned());
            }
            if !Instruction::read(text).writes_memory() || text.contains("fs:") {
                fault(format!("its last instruction is no store: {text}"));
            }
        }
        _ => fault("there is no code in it".to_owned()),
    }
    for (at, text) in code.all() {
        let instruction = Instruction::read(text);
        let into = instruction.is_jump().then(|| instruction.target()).flatten();
        let middle = section.start + 1..section.post;
        if into.is_some_and(|to| middle.contains(&to)) && !section.span().contains(&at) {
            fault(format!("a jump enters its middle at {at:x}: {text}"));
        }
    }
    faults
}

/// Whether the section's shard index is `mm_cid`: read at 24 of the rseq area.
pub fn uses_mm_cid(code: &Disassembly, section: &Section) -> bool {
    code.range(section.span()).any(|(_, text)| text.contains("fs:[") && text.contains("+0x18]"))
}

/// `movsx rax,WORD PTR fs:[r9+0x4]` or `mov eax,DWORD PTR fs:[r9+0x18]`: `cpu_id` or `mm_cid` into a register.
fn loads_index(text: &str) -> bool {
    let source = text.strip_prefix("mov").and_then(|rest| rest.split_once(','));
    source.is_some_and(|(_, from)| {
        from.contains("fs:[") && (from.ends_with("+0x4]") || from.ends_with("+0x18]"))
    })
}

/// `mov QWORD PTR fs:[r9+0x8],r10`: a store to `rseq_cs`.
fn announces(text: &str) -> bool {
    text.strip_prefix("mov QWORD PTR fs:[").is_some_and(|rest| rest.contains("+0x8],r"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
    0f:\tmov    r9,QWORD PTR [rip+0x10]
    10:\tmov    QWORD PTR fs:[r9+0x8],r10
    20:\tmov    eax,DWORD PTR fs:[r9+0x4]
    24:\tcmp    eax,DWORD PTR [r11]
    28:\tjae    50 <x>
    30:\tmov    QWORD PTR [rcx+r8*8],r10
    38:\tret
    40:\tud1    edi,DWORD PTR [rip+0x53053053]
    50:\tjmp    90 <slow>
";

    fn section() -> Section {
        Section {
            name: "x".to_owned(),
            descriptor: 0,
            words: [0, 0],
            start: 0x20,
            post: 0x38,
            abort: 0x50,
            signature: Some(SIGNATURE),
        }
    }

    fn faults(text: &str, section: &Section) -> Vec<String> {
        examine(&Disassembly::parse(text, ""), section)
    }

    #[test]
    fn a_section_by_the_rules_passes() {
        assert_eq!(faults(GOOD, &section()), Vec::<String>::new());
    }

    #[test]
    fn each_broken_rule_is_found() {
        let broken: [(&str, &str, &str); 10] = [
            ("cmp    eax,DWORD PTR [r11]", "call   90 <f>", "calls"),
            ("cmp    eax,DWORD PTR [r11]", "syscall", "calls"),
            ("cmp    eax,DWORD PTR [r11]", "push   rax", "stack"),
            ("cmp    eax,DWORD PTR [r11]", "mov    eax,DWORD PTR [rsp+0x8]", "stack"),
            ("cmp    eax,DWORD PTR [r11]", "lock inc QWORD PTR [r11]", "locks"),
            ("cmp    eax,DWORD PTR [r11]", "ret", "ends before"),
            ("QWORD PTR [rcx+r8*8],r10", "r10,QWORD PTR [rcx+r8*8]", "no store"),
            ("mov    QWORD PTR fs:[r9+0x8],r10", "nop", "right before"),
            ("jmp    90 <slow>", "jmp    24 <x>", "enters its middle"),
            ("    20:\t", "    21:\t", "start of an instruction"),
        ];
        for (old, new, word) in broken {
            let text = GOOD.replace(old, new);
            assert_ne!(text, GOOD);
            let found = faults(&text, &section());
            assert!(found.iter().any(|fault| fault.contains(word)), "{new}: {found:?}");
        }
    }

    /// The CPU may be another one when the announcement is made: what a thread does then, no stop of the sweep
    /// shows, since each stop aborts what is announced and what is not goes on by itself.
    #[test]
    fn an_index_that_is_loaded_before_the_announcement_is_found() {
        let load = "mov    eax,DWORD PTR fs:[r9+0x4]";
        for index in ["0x4", "0x18"] {
            let moved = GOOD.replace(load, "nop").replace(
                "    10:\t",
                &format!("    08:\t{}\n    10:\t", load.replace("0x4", index)),
            );
            let found = faults(&moved, &section());
            assert!(found.iter().any(|fault| fault.contains("does not load")), "{found:?}");
            assert!(
                found.iter().any(|fault| fault.contains("before its announcement")),
                "{found:?}"
            );
        }
        // That a thread is registered is asked of cpu_id, too: that is no load of the index.
        let asked = GOOD.replace(load, "cmp    DWORD PTR fs:[r9+0x4],0x0");
        let found = faults(&asked, &section());
        assert!(found.iter().any(|fault| fault.contains("does not load")), "{found:?}");
    }

    #[test]
    fn each_malformed_descriptor_is_found() {
        let good = section();
        let broken = [
            (Section { words: [0, 2], ..good.clone() }, "version and flags"),
            (Section { abort: 0x28, ..good.clone() }, "inside"),
            (Section { signature: Some(1), ..good.clone() }, "signature"),
            (Section { post: 0x34, ..good.clone() }, "end of an instruction"),
            (Section { post: 0x20, ..good.clone() }, "length is 0"),
            (Section { post: 0x30, ..good.clone() }, "no store"),
        ];
        for (section, word) in broken {
            let found = faults(GOOD, &section);
            assert!(found.iter().any(|fault| fault.contains(word)), "{word}: {found:?}");
        }
    }

    #[test]
    fn the_index_is_read_from_the_code() {
        assert!(!uses_mm_cid(&Disassembly::parse(GOOD, ""), &section()));
        let text = GOOD.replace("fs:[r9+0x4]", "fs:[r9+0x18]");
        assert!(uses_mm_cid(&Disassembly::parse(&text, ""), &section()));
    }
}

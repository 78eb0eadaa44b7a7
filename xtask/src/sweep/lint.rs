//! The lint of the sections: what their instructions must and must not be.
//!
//! Promises a line for each broken rule of alloc-core's `arch/x86_64/sections.rs` that can be seen in the
//! code: S1 announcement right before the section, S2 no call, system call, stack or lock, S3 the
//! commit last, S4 the shard index loaded inside and not before, and with `mm_cid` the sign of `cpu_id` read too, S5 the abort handler outside and behind its
//! signature; and no jump into a section's middle.

use crate::code::{self, Code};
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};
use tools::sections::Section;

/// The signature before each abort handler on x86-64.
const SIGNATURE: u32 = 0x5305_3053;

/// Offsets in `struct rseq` (include/uapi/linux/rseq.h).
const CPU_ID: u64 = 4;
/// See [`CPU_ID`]: the upper half, which has the sign.
const CPU_ID_UPPER: u64 = 6;
/// See [`CPU_ID`].
const RSEQ_CS: u64 = 8;
/// See [`CPU_ID`].
const MM_CID: u64 = 24;

/// The way to a section, on which its index must not be loaded: a line of code.
const BEFORE_BYTES: u64 = 64;

/// What is wrong with one section.
pub fn examine(code: &Code, section: &Section) -> Vec<String> {
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
    match code.before(section.start) {
        Some(store) if announces(store) => {}
        other => {
            let other = other.map(code::text);
            fault(format!("its rseq_cs store is not right before it, but {other:?}"));
        }
    }
    let inside: Vec<_> = code.range(section.span()).collect();
    if !inside.iter().any(|instruction| loads_index(instruction)) {
        fault("it does not load its shard's index".to_owned());
    }
    if uses_mm_cid(code, section) && !proves_registration(&inside) {
        fault("it uses mm_cid without a look at cpu_id".to_owned());
    }
    let before = code.range(section.start.saturating_sub(BEFORE_BYTES)..section.start);
    for load in before.filter(|instruction| loads_index(instruction)) {
        fault(format!("the shard's index is loaded before its announcement at {}", place(load)));
    }
    for instruction in &inside {
        if let Some(reason) = code::forbidden(instruction) {
            fault(format!("{reason} at {}", place(instruction)));
        }
        if instruction.flow_control() == FlowControl::Return || code::traps(instruction) {
            fault(format!("ends before its commit at {}", place(instruction)));
        }
    }
    match (inside.first(), inside.last()) {
        (Some(first), Some(last)) => {
            if first.ip() != section.start {
                fault("its start is not the start of an instruction".to_owned());
            }
            if last.next_ip() != section.post {
                fault("its end is not the end of an instruction".to_owned());
            }
            if !code::writes_memory(last) || last.segment_prefix() == Register::FS {
                fault(format!("its last instruction is no store: {}", code::text(last)));
            }
        }
        _ => fault("there is no code in it".to_owned()),
    }
    let middle = section.start + 1..section.post;
    for jump in code.all().filter(|jump| !section.span().contains(&jump.ip())) {
        if code::jump_target(jump).is_some_and(|to| middle.contains(&to)) {
            fault(format!("a jump enters its middle at {}", place(jump)));
        }
    }
    faults
}

/// Whether the section's shard index is `mm_cid`, not `cpu_id`.
pub fn uses_mm_cid(code: &Code, section: &Section) -> bool {
    let mut inside = code.range(section.span());
    inside.any(|instruction| code::thread_offset(instruction) == Some(MM_CID))
}

/// Whether `cpu_id`, which is negative in a thread that is not registered, is compared, or its sign is in the register before `mm_cid` is
/// added by `or`.
fn proves_registration(inside: &[&Instruction]) -> bool {
    let reads = |instruction: &Instruction, mnemonic, offset| {
        instruction.mnemonic() == mnemonic && code::thread_offset(instruction) == Some(offset)
    };
    let adds = |pair: &[&Instruction]| {
        let [sign, add] = pair else { return false };
        reads(sign, Mnemonic::Movsx, CPU_ID_UPPER)
            && reads(add, Mnemonic::Or, MM_CID)
            && sign.op0_register().full_register() == add.op0_register().full_register()
    };
    inside.iter().any(|instruction| reads(instruction, Mnemonic::Cmp, CPU_ID))
        || inside.windows(2).any(adds)
}

/// `movsx rax, word ptr fs:[r9+4]`, `mov eax, fs:[r9+24]` or `or ax, fs:[r9+24]`: `cpu_id` or `mm_cid` into a register.
fn loads_index(instruction: &Instruction) -> bool {
    matches!(
        instruction.mnemonic(),
        Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsx | Mnemonic::Movsxd | Mnemonic::Or
    ) && instruction.op1_kind() == OpKind::Memory
        && matches!(code::thread_offset(instruction), Some(CPU_ID | MM_CID))
}

/// `mov fs:[r9+8], r10`: a store to `rseq_cs`.
fn announces(instruction: &Instruction) -> bool {
    instruction.mnemonic() == Mnemonic::Mov
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_register().is_gpr64()
        && code::thread_offset(instruction) == Some(RSEQ_CS)
}

fn place(instruction: &Instruction) -> String {
    format!("{:x}: {}", instruction.ip(), code::text(instruction))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
        mov r9, [rip+0x10]
        mov fs:[r9+0x8], r10
        start: mov eax, fs:[r9+0x4]
        middle: cmp eax, [r11]
        jae abort
        mov [rcx+r8*8], r10
        post: ret
        ud1 edi, [rip+0x53053053]
        abort: jmp slow
        slow: ret";

    fn assemble(source: &str) -> (Code, Section) {
        let (code, labels) = code::assemble(source);
        let section = Section {
            name: "x".to_owned(),
            function: 0,
            descriptor: 0,
            words: [0, 0],
            start: labels["start"],
            post: labels["post"],
            abort: labels["abort"],
            signature: Some(SIGNATURE),
        };
        (code, section)
    }

    fn faults(source: &str) -> Vec<String> {
        let (code, section) = assemble(source);
        examine(&code, &section)
    }

    #[test]
    fn a_section_by_the_rules_passes() {
        assert_eq!(faults(GOOD), Vec::<String>::new());
    }

    #[test]
    fn each_broken_rule_is_found() {
        let broken: [(&str, &str, &str); 9] = [
            ("cmp eax, [r11]", "call slow", "calls"),
            ("cmp eax, [r11]", "syscall", "calls"),
            ("cmp eax, [r11]", "push rax", "stack"),
            ("cmp eax, [r11]", "mov eax, [rsp+0x8]", "stack"),
            ("cmp eax, [r11]", "lock inc qword ptr [r11]", "locks"),
            ("cmp eax, [r11]", "ret", "ends before"),
            ("mov [rcx+r8*8], r10", "mov r10, [rcx+r8*8]", "no store"),
            ("mov fs:[r9+0x8], r10", "nop", "right before"),
            ("jmp slow", "jmp middle", "enters its middle"),
        ];
        for (old, new, word) in broken {
            let source = GOOD.replace(old, new);
            assert_ne!(source, GOOD);
            let found = faults(&source);
            assert!(found.iter().any(|fault| fault.contains(word)), "{new}: {found:?}");
        }
    }

    /// The CPU may be another one when the announcement is made: what a thread does then, no stop of the sweep
    /// shows, since each stop aborts what is announced and what is not goes on by itself.
    #[test]
    fn an_index_that_is_loaded_before_the_announcement_is_found() {
        let load = "mov eax, fs:[r9+0x4]";
        for index in ["0x4", "0x18"] {
            let early = load.replace("0x4", index);
            let moved =
                GOOD.replace(load, "nop").replacen("mov fs:", &format!("{early}\nmov fs:"), 1);
            let found = faults(&moved);
            assert!(found.iter().any(|fault| fault.contains("does not load")), "{found:?}");
            assert!(
                found.iter().any(|fault| fault.contains("before its announcement")),
                "{found:?}"
            );
        }
        // A comparison with cpu_id tells whether the thread is registered: that is no load of the index.
        let found = faults(&GOOD.replace(load, "cmp dword ptr fs:[r9+0x4], 0x0"));
        assert!(found.iter().any(|fault| fault.contains("does not load")), "{found:?}");
    }

    #[test]
    fn each_malformed_descriptor_is_found() {
        let (code, good) = assemble(GOOD);
        let broken = [
            (Section { words: [0, 2], ..good.clone() }, "version and flags"),
            (Section { abort: good.start, ..good.clone() }, "inside"),
            (Section { signature: Some(1), ..good.clone() }, "signature"),
            (Section { start: good.start + 1, ..good.clone() }, "start of an instruction"),
            (Section { post: good.post - 1, ..good.clone() }, "end of an instruction"),
            (Section { post: good.start, ..good.clone() }, "length is 0"),
            (Section { post: good.post - 4, ..good.clone() }, "no store"),
        ];
        for (section, word) in broken {
            let found = examine(&code, &section);
            assert!(found.iter().any(|fault| fault.contains(word)), "{word}: {found:?}");
        }
    }

    #[test]
    fn the_index_is_read_from_the_code() {
        let (code, section) = assemble(GOOD);
        assert!(!uses_mm_cid(&code, &section));
        let (code, section) = assemble(&GOOD.replace("fs:[r9+0x4]", "fs:[r9+0x18]"));
        assert!(uses_mm_cid(&code, &section));
    }

    #[test]
    fn mm_cid_needs_the_sign_of_cpu_id() {
        let found = |index: &str| {
            let (code, section) = assemble(&GOOD.replace("mov eax, fs:[r9+0x4]", index));
            assert!(uses_mm_cid(&code, &section));
            examine(&code, &section)
        };
        let good = "movsx rax, word ptr fs:[r9+0x6]\nor ax, word ptr fs:[r9+0x18]";
        assert_eq!(found(good), Vec::<String>::new());
        let other = "movsx rdx, word ptr fs:[r9+0x6]\nor ax, word ptr fs:[r9+0x18]";
        for index in ["mov eax, fs:[r9+0x18]", other] {
            let found = found(index);
            assert!(
                found.iter().any(|fault| fault.contains("without a look at cpu_id")),
                "{index}: {found:?}"
            );
        }
    }
}

//! Programs with a profile, linked in each way: `examples/profiled_service.rs` checks what it leaves behind.

#![cfg(not(feature = "portable"))]

mod examples;

use std::path::Path;
use std::process::Command;

/// Runs the program with each setting that serves sampled objects in another way.
fn assert_serves(program: &Path) {
    for conf in ["", "hardened:1", "guard:10", "mode:atomic"] {
        let mut command = Command::new(program);
        let output = command.env("RSALLOC_CONF", conf).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program:?}, {conf:?}: {}\n{said}", output.status);
        assert!(said.is_empty(), "{program:?}, {conf:?}: {said}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(" stacks, "), "{output:?}");
    }
}

#[test]
fn a_service_that_is_profiled_now_and_then_leaves_nothing_behind() {
    assert_serves(&examples::built("profiled_service", "profiled_service"));
}

/// Static programs have no dynamic linker that says where their unwind tables are.
#[test]
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
#[ignore = "builds two programs, 40 s: the gate `static` runs it"]
fn static_programs_have_their_stacks() {
    for (name, flags) in [
        ("static", "-C target-feature=+crt-static -C relocation-model=static"),
        ("static-pie", "-C target-feature=+crt-static -C relocation-model=pie"),
    ] {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "rsalloc", "--example", "profiled_service"])
            .args(["--target", "x86_64-unknown-linux-gnu", "--target-dir"])
            .arg(&target)
            .env("RUSTFLAGS", flags)
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .status()
            .expect("cargo starts");
        assert!(status.success(), "{name}: does not build");
        let program = target.join("x86_64-unknown-linux-gnu/debug/examples/profiled_service");
        let bytes = std::fs::read(&program).expect("it is built");
        assert!(!has_interpreter(&bytes), "{name} is not static");
        // ELF header, e_type: an executable at a fixed address, or one that may lie anywhere.
        assert_eq!(bytes[16], if name == "static" { 2 } else { 3 }, "{name}");
        assert_serves(&program);
    }
}

/// Whether a file names a dynamic linker (elf(5): PT_INTERP among the program headers).
#[cfg(all(target_arch = "x86_64", target_env = "gnu"))]
fn has_interpreter(elf: &[u8]) -> bool {
    let number = |at: usize, len: usize| {
        elf[at..at + len].iter().rev().fold(0, |high, &low| high << 8 | usize::from(low))
    };
    let (first, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).any(|header| number(first + header * size, 4) == 3)
}

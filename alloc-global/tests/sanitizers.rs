//! A program that is built with a sanitizer, the allocator included: nothing is reported that is not so, and what is so
//! is reported.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Builds `sanitized` with `-Zsanitizer=NAME`, in a folder of its own. A compiler that can't is a failure: nothing would
/// be tested.
fn build(sanitizer: &str) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sanitizer-{sanitizer}"));
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("sanitized/Cargo.toml");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .arg("--manifest-path")
        .arg(manifest)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", format!("-Zsanitizer={sanitizer} -Cunsafe-allow-abi-mismatch=sanitizer"))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .unwrap();
    assert!(status.success(), "this toolchain does not build with -Zsanitizer={sanitizer}");
    target.join(TARGET).join("debug/sanitized")
}

fn run(program: &Path, part: &str) -> (Output, String) {
    let mut command = Command::new(program);
    let variables = ["LSAN_OPTIONS", "TSAN_OPTIONS", "ASAN_OPTIONS", "RSALLOC_CONF"];
    for variable in variables {
        command.env_remove(variable);
    }
    let output = command.arg(part).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, text)
}

fn assert_quiet(program: &Path, part: &str) {
    let (output, text) = run(program, part);
    assert!(output.status.success() && text.is_empty(), "{part}: {}\n{text}", output.status);
}

fn assert_reported(program: &Path, part: &str, what: &str) {
    let (output, text) = run(program, part);
    assert!(!output.status.success() && text.contains(what), "{part}: {}\n{text}", output.status);
}

#[test]
fn leaks_are_told_from_what_the_heap_points_to() {
    let program = build("leak");
    assert_quiet(&program, "reachable");
    assert_reported(&program, "leak", "10000 byte(s) leaked in 100 allocation(s)");
}

#[test]
fn races_are_told_from_objects_that_pass_from_thread_to_thread() {
    let program = build("thread");
    assert_quiet(&program, "threads");
    assert_reported(&program, "race", "ThreadSanitizer: data race");
}

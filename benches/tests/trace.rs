//! Record and replay: programs with known calls, files that are no traces, allocators that are wrong.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// Calls of `rounds` in calls.c.
const ROUNDS: u64 = 7 * 1000;

#[test]
fn what_a_program_calls_is_what_is_replayed() {
    let trace = record("rounds", "rounds.trace");
    let said = compile(&trace);
    assert_eq!(said["name"], "calls");
    assert_eq!((&said["threads"], &said["calls"]), (&1.into(), &ROUNDS.into()));
    assert_eq!(
        (&said["left"], &said["unknown"], &said["implied"]),
        (&0.into(), &0.into(), &0.into())
    );
    // In the last round the first object has 5000 B, the others 15 and 100.
    assert_eq!((&said["peak_objects"], &said["peak_bytes"]), (&3.into(), &5115.into()));
    let bytes = std::fs::metadata(&trace).unwrap().len() - 4096;
    assert!(bytes < 6 * ROUNDS, "{bytes} B for {ROUNDS} calls");
    let cost = run(&trace);
    assert_eq!((&cost["operations"], &cost["left"]), (&ROUNDS.into(), &0.into()));
    assert!(cost["ns_per_operation"].as_f64().unwrap() > 0.0);
}

#[test]
fn what_a_program_leaves_is_left_and_counts_as_memory() {
    let trace = record("left", "left.trace");
    let said = compile(&trace);
    assert_eq!((&said["calls"], &said["left"]), (&10.into(), &10.into()));
    let cost = run(&trace);
    assert_eq!(cost["left"], 10);
    let bytes = |name: &str| cost[name].as_u64().unwrap();
    assert!(bytes("peak_rss_bytes") > bytes("start_rss_bytes") + (10 << 20), "{cost}");
    assert!(bytes("final_rss_bytes") < bytes("start_rss_bytes") + (1 << 20), "{cost}");
}

#[test]
fn threads_free_what_others_made() {
    let trace = record("threads", "threads.trace");
    let said = compile(&trace);
    // The C library allocates for a thread.
    let own = said["calls"].as_u64().unwrap() - 2 * ROUNDS - 4 * 1000;
    assert!(said["threads"] == 2 && own <= 4, "{said}");
    for _ in 0..20 {
        assert_eq!(run(&trace)["operations"], said["calls"]);
    }
}

#[test]
fn children_write_nothing_into_the_trace() {
    let said = compile(&record("fork", "fork.trace"));
    assert_eq!((&said["threads"], &said["calls"]), (&1.into(), &ROUNDS.into()));
}

#[test]
fn one_trace_for_each_process_if_asked_for() {
    let folder = fresh_folder("many");
    let output = recorded("fork", &folder.join("%p.trace"));
    assert!(output.status.success());
    let traces: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    // Fork records nothing; the program that the child becomes has the child's number.
    assert_eq!(traces.len(), 2, "{traces:?}");
    assert!(traces.iter().all(|trace| compile(trace)["calls"] == ROUNDS));
}

#[test]
fn a_killed_program_leaves_all_it_called() {
    let path = fresh_folder("killed").join("killed.trace");
    assert!(recorded("killed", &path).status.code().is_none(), "killed by a signal");
    assert_eq!(compile(&path)["calls"], ROUNDS);
}

#[test]
fn a_program_may_close_all_files() {
    assert_eq!(compile(&record("closed", "closed.trace"))["calls"], 10 * ROUNDS);
}

#[test]
fn only_the_named_program_is_recorded() {
    let folder = fresh_folder("only");
    for (name, is_there) in [("calls", true), ("call", false), ("calls-and-more", false)] {
        let path = folder.join(name);
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{} rounds; true", program().display()));
        record_by(&mut command, &path).env("RSALLOC_RECORD_ONLY", name);
        assert!(command.status().unwrap().success());
        assert_eq!(path.exists(), is_there, "{name}");
        if is_there {
            assert_eq!(compile(&path)["calls"], ROUNDS);
        }
    }
}

#[test]
fn a_file_that_is_no_whole_trace_is_one_line() {
    let trace = record("rounds", "whole.trace");
    let bytes = std::fs::read(&trace).unwrap();
    let folder = fresh_folder("damaged");
    let refused = |name: &str, bytes: &[u8], words: &str| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        let output = replay(&["compile".as_ref(), &path, &folder.join("program")], None);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{name} was taken");
        assert!(said.contains(words), "{name}: {said}");
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
    };
    refused("cut", &bytes[..bytes.len() - 1], "cut short");
    refused("cut-at-a-chunk", &bytes[..4096], "cut short");
    refused("foreign", b"not a trace at all", "no trace of `rsalloc record`");
    refused("empty", b"", "no trace");
    // Without what one of the chunks has.
    let mut holed = std::fs::read(record("closed", "holed.trace")).unwrap();
    holed[4096..4096 + 32768].fill(0);
    refused("holed", &holed, "missing");
    let program = folder.join("a-text");
    std::fs::write(&program, "no program").unwrap();
    let output = replay(&["run".as_ref(), &program], None);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("no program of `replay compile`"));
}

/// The control: each kind of wrong allocator is seen, and the same one without the defect is not.
#[test]
fn wrong_allocators_are_red() {
    let trace = record("rounds", "control.trace");
    let program = trace.with_extension("program");
    compile(&trace);
    for (defect, words) in [
        ("NONE", None),
        ("DIRTY", Some("Calloc of 15 B: calloc gave it with bytes that are not zero")),
        ("FORGETS", Some("Resize of 5000 B: realloc lost its contents")),
        ("CROOKED", Some("Aligned of 100 B: it is not aligned as asked for")),
    ] {
        let flags = ["-shared", "-fPIC", "-fno-builtin", &format!("-D{defect}")];
        let library = compile_c("broken.c", &format!("{defect}.so"), &flags);
        let output = replay(&["run".as_ref(), &program], Some(&library));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.success(), words.is_none(), "{defect}: {said}");
        assert!(said.contains(words.unwrap_or_default()), "{defect}: {said}");
    }
}

/// A program whose operations are in the wrong order never has its turn.
#[test]
fn a_wrong_order_is_red() {
    let trace = record("rounds", "order.trace");
    compile(&trace);
    let program = trace.with_extension("program");
    let mut bytes = std::fs::read(&program).unwrap();
    // Behind four words and one for the thread: the first operation, which makes an object, and the
    // fourth, which resizes it, change places.
    let (first, fourth) = bytes[40..].split_at_mut(3 * 24);
    first[..24].swap_with_slice(&mut fourth[..24]);
    std::fs::write(&program, &bytes).unwrap();
    let output = replay(&["run".as_ref(), &program], None);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("it is never this operation's turn"), "{said}");
}

// How it is done.

fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

fn fresh_folder(name: &str) -> PathBuf {
    let folder = scratch().join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// librsalloc_record.so, which cargo builds for no test by itself.
fn recorder() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = scratch().join("recorder");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "record", "--target-dir"]).arg(&target);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(cargo.status().unwrap().success(), "the recorder does not build");
        target.join("debug/librsalloc_record.so")
    })
}

fn compile_c(source: &str, name: &str, flags: &[&str]) -> PathBuf {
    let out = scratch().join(name);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(source);
    let mut cc = Command::new("cc");
    cc.args(["-O0", "-pthread"]).args(flags).arg(source).arg("-o").arg(&out);
    assert!(cc.status().unwrap().success(), "{name} does not compile");
    out
}

fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| compile_c("calls.c", "calls", &[]))
}

fn record_by<'a>(command: &'a mut Command, trace: &Path) -> &'a mut Command {
    command.env("LD_PRELOAD", recorder()).env("RSALLOC_RECORD", trace)
}

fn recorded(what: &str, trace: &Path) -> Output {
    record_by(Command::new(program()).arg(what), trace).output().unwrap()
}

/// Records calls.c doing `what`.
fn record(what: &str, name: &str) -> PathBuf {
    let trace = fresh_folder(name).join(name);
    let output = recorded(what, &trace);
    assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
    trace
}

fn replay(arguments: &[&Path], library: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_replay"));
    command.args(arguments).env_remove("LD_PRELOAD");
    if let Some(library) = library {
        command.env("LD_PRELOAD", library);
    }
    command.output().unwrap()
}

fn answer(arguments: &[&Path]) -> Value {
    let output = replay(arguments, None);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Makes a program beside the trace; what it does.
fn compile(trace: &Path) -> Value {
    answer(&["compile".as_ref(), trace, &trace.with_extension("program")])
}

fn run(trace: &Path) -> Value {
    answer(&["run".as_ref(), &trace.with_extension("program")])
}

//! What the tests of the C interface share: the library under test, and the run of one test's body in
//! child processes, on plain glibc and on librsalloc.so in each mode.
//!
//! The body runs on plain glibc too, so that an assertion which glibc itself does not meet is a
//! wrong assertion, not a wrong allocator.
#![allow(dead_code)] // Each test file uses a part.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Tells a child which mode it runs in.
const MODE_VARIABLE: &str = "RSALLOC_TEST_MODE";

/// What serves a child's allocations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Glibc,
    Rseq,
    OwnRegistration,
    Atomic,
    Hardened,
    Guarded,
}

pub const ON_RSALLOC: [Mode; 5] =
    [Mode::Rseq, Mode::OwnRegistration, Mode::Atomic, Mode::Hardened, Mode::Guarded];
pub const ALL: [Mode; 6] =
    [Mode::Glibc, Mode::Rseq, Mode::OwnRegistration, Mode::Atomic, Mode::Hardened, Mode::Guarded];

/// Defines tests whose bodies run in a child in every mode.
#[macro_export]
macro_rules! in_each_mode {
    ($($(#[$attr:meta])* fn $name:ident() $body:block)*) => { $(
        #[test]
        $(#[$attr])*
        fn $name() {
            $crate::common::in_each_mode(stringify!($name), || $body);
        }
    )* };
}

/// In the parent: runs this very test in a child for each mode. In the child: runs `body`.
pub fn in_each_mode(test: &str, body: impl FnOnce()) {
    if mode().is_some() {
        return body();
    }
    for mode in ALL {
        let output = child(mode, test).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        // Without the count a test that was not found would pass.
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{test} on {mode:?}: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
        );
        for line in String::from_utf8_lossy(&output.stderr).lines() {
            line.strip_prefix(NOTE).into_iter().for_each(note);
        }
    }
}

/// For a body that ends its process. In the parent: runs it in a child in `mode` and returns the child's output. In the
/// child: runs it and returns `None`.
pub fn outcome(mode: Mode, test: &str, body: impl FnOnce()) -> Option<Output> {
    if self::mode().is_some() {
        body();
        return None;
    }
    Some(child(mode, test).output().unwrap())
}

/// This process's mode; `None` in the parent.
pub fn mode() -> Option<Mode> {
    let name = std::env::var(MODE_VARIABLE).ok()?;
    ALL.into_iter().find(|m| format!("{m:?}") == name)
}

/// Whether this is a child on librsalloc.so.
pub fn on_rsalloc() -> bool {
    mode().is_some_and(|m| m != Mode::Glibc)
}

/// A command that runs one test of this test program in a mode.
pub fn child(mode: Mode, test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    in_mode(&mut command, mode);
    command
}

/// Has `command` run in `mode`.
pub fn in_mode(command: &mut Command, mode: Mode) {
    command.env(MODE_VARIABLE, format!("{mode:?}")).env_remove("LD_PRELOAD");
    command.env_remove("RSALLOC_CONF").env_remove("GLIBC_TUNABLES");
    if mode != Mode::Glibc {
        command.env("LD_PRELOAD", library());
    }
    match mode {
        Mode::Glibc | Mode::Rseq => {}
        Mode::OwnRegistration => {
            command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
        }
        Mode::Atomic => {
            command.env("RSALLOC_CONF", "mode:atomic");
        }
        Mode::Hardened => {
            command.env("RSALLOC_CONF", "hardened:1,guard:16");
        }
        Mode::Guarded => {
            command.env("RSALLOC_CONF", "guard:2");
        }
    }
}

/// librsalloc.so as users get it. Cargo builds another one beside a test, with unwinding and so with std.
/// `RSALLOC_TEST_PROFILE=dev` builds it with debug assertions.
pub fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| library_with(&[]))
}

/// As [`library`], with features of tests, in a folder of its own.
pub fn library_with(features: &[&str]) -> PathBuf {
    let profile = std::env::var("RSALLOC_TEST_PROFILE").unwrap_or_else(|_| "release".into());
    let target = scratch().join(format!("library{}", features.join("-")));
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "rsalloc-preload", "--lib", "--profile", &profile])
        .args(["--features", &features.join(",")])
        .args(["--features", if cfg!(feature = "portable") { "portable" } else { "" }])
        // Cargo builds tests with unwinding, whatever the profile says; this is no test.
        .args(["--config", &format!("profile.{profile}.panic='abort'"), "--target-dir"])
        .arg(&target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("LD_PRELOAD")
        .status()
        .unwrap();
    assert!(status.success(), "librsalloc.so does not build");
    let folder = if profile == "dev" { "debug" } else { &profile };
    install(&target.join(folder))
}

/// Copies what cargo built in `folder` to the name that it is installed by.
fn install(folder: &Path) -> PathBuf {
    let library = folder.join("librsalloc.so");
    let copy = folder.join(format!("librsalloc.so.{}", std::process::id()));
    std::fs::copy(folder.join("librsalloc_preload.so"), &copy).unwrap();
    // A rename: another test may be loading the old file.
    std::fs::rename(copy, &library).unwrap();
    library
}

/// A folder for the files of tests.
pub fn scratch() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Compiles C (or C++, by the compiler's name) into `scratch()/name`, once for all tests of a process. `cc` is there
/// wherever Rust links; for another compiler that is missing this gives `None`, after [`skip`].
///
/// A file that a test may run appears by a rename: one that is being written cannot be run (ETXTBSY), and another test may
/// be running the file before it.
pub fn compile(compiler: &str, name: &str, source: &str, arguments: &[&str]) -> Option<PathBuf> {
    static DONE: Mutex<Vec<(String, u64)>> = Mutex::new(Vec::new());
    let what = hash_of(&(compiler, source, arguments));
    // Held while the compiler works: a second test that wants the same program waits for it.
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    let out = scratch().join(name);
    if done.contains(&(name.to_owned(), what)) && out.exists() {
        return Some(out);
    }
    let extension = if compiler == "cc" { "c" } else { "cc" };
    let (file, fresh) = (scratch().join(format!("{name}.{extension}")), unfinished(&out));
    replace(&file, source.as_bytes());
    let mut command = Command::new(compiler);
    command.arg(&file).arg("-o").arg(&fresh).args(arguments);
    match command.status() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && compiler != "cc" => {
            skip(&format!("{name}: there is no {compiler}"));
            return None;
        }
        status => assert!(status.unwrap().success(), "{name} does not compile"),
    }
    std::fs::rename(fresh, &out).unwrap();
    done.retain(|(known, _)| known != name);
    done.push((name.to_owned(), what));
    Some(out)
}

/// Writes a file as a whole: a reader sees the old contents or the new ones.
fn replace(path: &Path, contents: &[u8]) {
    let fresh = unfinished(path);
    std::fs::write(&fresh, contents).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

/// Where this process makes a file that will be `path`.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap().to_owned();
    name.push(format!(".{}", std::process::id()));
    path.with_file_name(name)
}

fn hash_of(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Copies a program so that it can be run at once. A copy that this process made itself could be busy (ETXTBSY): a child
/// that another test's thread starts meanwhile has the descriptor that it is written by, until it runs its own program.
pub fn copy_program(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-f").args([from, to]).status().unwrap();
    assert!(status.success(), "{} cannot be copied", from.display());
}

/// For a test that needs a missing tool: a [`note`], and on a CI machine a failure.
pub fn skip(what: &str) {
    note(what);
    assert!(std::env::var_os("CI").is_none(), "not tested: {what}");
}

/// Writes past the test harness's capture that something was not tested.
pub fn note(what: &str) {
    // The harness captures only the print macros.
    std::io::stderr().write_all(format!("{NOTE} {}\n", what.trim()).as_bytes()).unwrap();
}

const NOTE: &str = "NOT TESTED:";

/// `LD_PRELOAD` of several libraries.
pub fn preload(libraries: &[&Path]) -> OsString {
    libraries.iter().map(|l| l.as_os_str()).collect::<Vec<_>>().join(":".as_ref())
}

pub mod c;
pub mod filter;

//! The examples that tests run. Cargo builds them beside the tests of the whole package, but not for `--test NAME`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

const SOURCES: [&str; 3] = ["src", "examples", "../alloc-core/src"];

/// The file that an example is: the one beside the tests if no source is newer, else one that is built now.
pub fn built(example: &str, file: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a path");
    let beside = tests.ancestors().nth(2).expect("target/debug").join("examples").join(file);
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let newest = SOURCES.iter().map(|folder| newest_in(&root.join(folder))).max();
    if beside.metadata().and_then(|file| file.modified()).ok() > newest {
        return beside;
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples");
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "rsalloc", "--example", example]);
    cargo.current_dir(root).arg("--target-dir").arg(&target);
    assert!(cargo.status().expect("cargo starts").success(), "{example} does not build");
    target.join("debug/examples").join(file)
}

/// When the newest file in a folder was written.
fn newest_in(folder: &Path) -> SystemTime {
    let entries = std::fs::read_dir(folder).expect("a folder of sources");
    let times = entries.map(|entry| {
        let path = entry.expect("it can be read").path();
        let written = || path.metadata().and_then(|file| file.modified()).expect("it is there");
        if path.is_dir() { newest_in(&path) } else { written() }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

//! The programs that travel to the guests, built once, and the initramfs that holds them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::cell::Cell;
use super::fetch;
use super::initramfs::Initramfs;
use super::plan::{self, Plan};
use crate::storm;

/// Test programs of alloc-core that run alone.
const TESTS: [&str; 3] = ["fork", "sections", "stress"];

/// The storm's victim for what is the whole machine's to set.
pub const VICTIM: &str = "refuse";

/// The guest's first program. Orphans become its children. The folder `release` is where the commands
/// look for what was built.
const INIT: &str = "\
#!/bin/busybox sh
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /tmp
$bb ln -s busybox /bin/timeout
$bb ln -s bin /release
$bb mount -t proc none /proc
$bb mount -t sysfs none /sys
$bb mount -t devtmpfs none /dev
$bb mkdir -p /dev/pts
$bb mount -t devpts -o ptmxmode=666 none /dev/pts
$bb [ -e /dev/ptmx ] || $bb ln -s pts/ptmx /dev/ptmx
$bb mount -t debugfs none /sys/kernel/debug
$bb mount -t tracefs none /sys/kernel/tracing
$bb ip link set lo up
echo UP > /dev/ttyS1
/bin/lab vm guest PLAN
$bb poweroff -f
";

/// Names in the guest's /bin and where the files are here.
pub struct Programs {
    programs: Vec<(String, PathBuf)>,
    /// Taken along as they are.
    files: Vec<(String, Vec<u8>)>,
}

impl Programs {
    /// Builds them.
    pub fn build() -> Result<Programs> {
        tools::build_release(&["rsalloc-preload", "rsalloc-cli", "benches"])?;
        let release = tools::release_dir()?;
        let mut programs = tests()?;
        // By the plans' name for it, and by cargo's, which what runs here and there knows.
        for name in ["librsalloc.so", "librsalloc_preload.so"] {
            programs.push((name.to_owned(), tools::library()?));
        }
        for name in ["rsalloc", "workload"] {
            programs.push((name.to_owned(), release.join(name)));
        }
        let own = std::env::current_exe().context("where is this program?")?;
        // It has the sweep; both are built alike, into one folder.
        tools::run(&mut tools::cargo(&[
            "build",
            "--profile",
            "tools",
            "--quiet",
            "--package",
            "xtask",
        ]))?;
        programs.push(("xtask".to_owned(), own.with_file_name("xtask")));
        programs.push(("lab".to_owned(), own));
        programs.push((VICTIM.to_owned(), storm::build(&fetch::cache()?, VICTIM)?));
        Ok(Programs { programs, files: Vec::new() })
    }

    /// Takes another file along.
    pub fn add(&mut self, name: &str, path: PathBuf) {
        self.programs.push((name.to_owned(), path));
    }

    /// Takes these files along, and no others that were given this way.
    pub fn set_files(&mut self, files: Vec<(String, Vec<u8>)>) {
        self.files = files;
    }

    /// The files for `cell`.
    pub fn initramfs(&self, cell: &Cell, plan: &Plan) -> Result<Vec<u8>> {
        let mut initramfs = Initramfs::new(cell.glibc.folders()?);
        initramfs.file("init", INIT.replace("PLAN", plan::PATH).as_bytes());
        let busybox = fetch::busybox()?;
        let shell = fs::read(&busybox).with_context(|| format!("read {}", busybox.display()))?;
        initramfs.file("bin/busybox", &shell);
        for (name, path) in &self.programs {
            initramfs.program(&format!("bin/{name}"), path)?;
        }
        self.files.iter().for_each(|(name, bytes)| initramfs.file(name, bytes));
        initramfs.file(plan::PATH.trim_start_matches('/'), &serde_json::to_vec(plan)?);
        Ok(initramfs.finish())
    }
}

/// The test programs, as cargo says where it left them.
fn tests() -> Result<Vec<(String, PathBuf)>> {
    let mut cargo =
        tools::cargo(&["test", "--package", "rsalloc-core", "--no-run", "--message-format=json"]);
    cargo.args(TESTS.iter().flat_map(|test| ["--test", test]));
    let text = tools::output(&mut cargo)?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut found = Vec::new();
    for message in messages.filter(|message| message["profile"]["test"] == true) {
        let name = message["target"]["name"].as_str().unwrap_or_default();
        let package = message["package_id"].as_str().unwrap_or_default();
        let path = message["executable"].as_str();
        if let Some(path) = path.filter(|_| package.contains("alloc-core") && TESTS.contains(&name))
        {
            found.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    ensure!(found.len() == TESTS.len(), "cargo built {} of the test programs", found.len());
    Ok(found)
}

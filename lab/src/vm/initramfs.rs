//! The files of a guest, as the kernel wants them: a cpio archive in the "newc" form.
//!
//! Promises that a program comes with every library that `ldd` names, those of the C library from the folders given.
//! Source of the form: the kernel's `driver-api/early-userspace/buffer-format`.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use cpio::newc;

const LIBRARIES: &str = "lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive that grows.
pub struct Initramfs {
    bytes: Vec<u8>,
    held: BTreeSet<String>,
    libc: [PathBuf; 2],
    count: u32,
}

impl Initramfs {
    /// An empty one, with the folders that hold the C library.
    pub fn new(libc: [PathBuf; 2]) -> Initramfs {
        Initramfs { bytes: Vec::new(), held: BTreeSet::new(), libc, count: 0 }
    }

    /// Adds a file.
    pub fn file(&mut self, name: &str, bytes: &[u8]) {
        let parents: Vec<_> = name.match_indices('/').map(|(at, _)| &name[..at]).collect();
        for parent in parents {
            if self.held.insert(parent.to_owned()) {
                self.entry(parent, DIRECTORY, &[]);
            }
        }
        if self.held.insert(name.to_owned()) {
            self.entry(name, PROGRAM, bytes);
        }
    }

    /// Adds a program or library, without what only a debugger reads, and the libraries it needs.
    pub fn program(&mut self, name: &str, path: &Path) -> Result<()> {
        self.file(name, &stripped(path)?);
        for library in libraries(path)? {
            let file = library.file_name().context("a library without a name")?;
            let own = self.libc.iter().map(|folder| folder.join(file)).find(|path| path.exists());
            let path = own.unwrap_or(library);
            let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match file == LOADER {
                true => self.file(&format!("lib64/{file}"), &bytes),
                false => self.file(&format!("{LIBRARIES}/{file}"), &bytes),
            }
        }
        Ok(())
    }

    /// The finished archive.
    pub fn finish(self) -> Vec<u8> {
        newc::trailer(self.bytes).expect("a vector takes all bytes")
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.count += 1;
        let entry = newc::Builder::new(name).ino(self.count).mode(mode).nlink(1);
        let mut writer = entry.write(&mut self.bytes, bytes.len() as u32);
        let written = writer.write_all(bytes).and_then(|()| writer.finish());
        written.expect("a vector takes all bytes");
    }
}

fn stripped(path: &Path) -> Result<Vec<u8>> {
    let scratch = tempfile::NamedTempFile::new().context("no temporary folder: set TMPDIR")?;
    let mut objcopy = Command::new("objcopy");
    tools::output(objcopy.arg("--strip-debug").args([path, scratch.path()]))?;
    fs::read(scratch.path()).context("read what objcopy made")
}

fn libraries(path: &Path) -> Result<Vec<PathBuf>> {
    let text = tools::output(Command::new("ldd").arg(path))?;
    // "name => path (address)", or "path (address)" for the loader.
    let paths =
        text.lines().filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
    Ok(paths.map(PathBuf::from).collect())
}

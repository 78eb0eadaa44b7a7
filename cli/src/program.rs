//! The program to be run: found as `execvp` would, and examined before LD_PRELOAD is tried on it.
//!
//! Promises that a program which the dynamic linker would not load librsalloc.so into is named as
//! such, instead of running on another allocator unnoticed.

use crate::elf::{self, Kind, Libc};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a program cannot be run on rsalloc.
#[derive(Debug)]
pub enum Unusable {
    /// No such program.
    NotFound(OsString),
    /// It is there, but may not be executed.
    NotExecutable(PathBuf),
    /// LD_PRELOAD has no effect on it, and why.
    NoPreload(PathBuf, &'static str),
    /// It runs on this C library, and there is no library of this name for it.
    NoLibrary(PathBuf, Libc, &'static str),
}

impl Unusable {
    /// As shells have it: 127 not found, 126 found but not runnable.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::NotFound(_)) { 127 } else { 126 }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(name) => {
                write!(f, "{}: program not found", name.to_string_lossy())
            }
            Self::NotExecutable(path) => {
                write!(f, "{}: not an executable file", path.display())
            }
            Self::NoPreload(path, why) => {
                write!(f, "{} {why}: LD_PRELOAD has no effect on it", path.display())
            }
            Self::NoLibrary(path, libc, name) => {
                let path = path.display();
                write!(
                    f,
                    "{path} runs on {libc}, and no {name} for {libc} is installed: name one by --lib (docs/platforms.md says how to build it)"
                )
            }
        }
    }
}

impl std::error::Error for Unusable {}

/// A program that LD_PRELOAD works on.
pub struct Usable {
    /// Where it is.
    pub path: PathBuf,
    /// What is started first: the program, or the interpreter of a script.
    pub binary: PathBuf,
    /// What that runs on.
    pub libc: Libc,
}

/// The program of this name, if LD_PRELOAD works on it.
pub fn usable(name: &OsStr) -> Result<Usable, Unusable> {
    let path = find(name)?;
    if gains_privileges(&path) {
        return Err(Unusable::NoPreload(path, "is setuid, setgid or has capabilities"));
    }
    let binary = interpreter_of_script(&path).unwrap_or_else(|| path.clone());
    let why = match elf::kind(&binary) {
        Kind::Dynamic(libc) => return Ok(Usable { path, binary, libc }),
        Kind::Unknown => return Ok(Usable { path, binary, libc: Libc::OWN }),
        Kind::Static => "is statically linked",
        Kind::OtherMachine => "is built for another architecture",
    };
    Err(Unusable::NoPreload(binary, why))
}

fn find(name: &OsStr) -> Result<PathBuf, Unusable> {
    let not_found = || Unusable::NotFound(name.to_os_string());
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match path.metadata() {
            Err(_) => Err(not_found()),
            Ok(_) if !is_executable(&path) => Err(Unusable::NotExecutable(path)),
            Ok(_) => Ok(path),
        };
    }
    let places = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&places)
        .map(|folder| folder.join(name))
        .find(|path| !name.is_empty() && is_executable(path))
        .ok_or_else(not_found)
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// True if the kernel will set AT_SECURE, under which the dynamic linker ignores LD_PRELOAD.
fn gains_privileges(path: &Path) -> bool {
    let Ok(meta) = path.metadata() else { return false };
    // SAFETY: neither has preconditions.
    let (uid, gid) = unsafe { (libc::getuid(), libc::getgid()) };
    let setuid = meta.mode() & libc::S_ISUID != 0 && meta.uid() != uid;
    let setgid = meta.mode() & libc::S_ISGID != 0 && meta.gid() != gid;
    setuid || setgid || (uid != 0 && has_capabilities(path))
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    let name = c"security.capability";
    // SAFETY: both names end with a zero; size 0 asks for the length only.
    unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) > 0 }
}

/// The program behind `#!`, if `path` is a script.
fn interpreter_of_script(path: &Path) -> Option<PathBuf> {
    let mut line = Vec::new();
    BufReader::new(std::fs::File::open(path).ok()?).read_until(b'\n', &mut line).ok()?;
    let rest = line.strip_prefix(b"#!")?.trim_ascii();
    let end = rest.iter().position(|b| b.is_ascii_whitespace()).unwrap_or(rest.len());
    Some(OsString::from_vec(rest[..end].to_vec()).into())
}

//! The start of a program on librsalloc.so: finds the library, sets the environment.
//!
//! Promises to keep what the environment holds already (LD_PRELOAD, RSALLOC_CONF, GLIBC_TUNABLES)
//! and to start no program that the library would not be loaded into.

use crate::elf::{self, Libc, Mark};
use crate::foreign;
use crate::program::{self, Unusable, Usable};
use anyhow::{Context, Result, bail};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};

/// A library that programs are run on.
pub struct Library {
    /// Its name where it is installed.
    pub installed: &'static str,
    /// Its name in cargo's target folder.
    pub built: &'static str,
    /// What no other library has.
    pub mark: Mark,
}

/// As packages install it, and as cargo leaves it in its target folder.
const ALLOCATOR: Library = Library {
    installed: "librsalloc.so.0",
    built: "librsalloc_preload.so",
    mark: Mark::Symbol("rsalloc_print_settings"),
};

/// Names of the options in [`How`], which mean nothing for a process that runs already.
pub const OPTIONS: [&str; 4] = ["conf", "lib", "own", "atomic"];

/// How a program is to be served.
#[derive(clap::Args, Clone)]
pub struct How {
    /// A setting for RSALLOC_CONF; several are separated by commas
    #[arg(long, value_name = "KEY:VALUE,...")]
    pub conf: Vec<String>,
    /// The librsalloc.so.0 to use, instead of the one beside this command
    #[arg(long, value_name = "PATH")]
    pub lib: Option<PathBuf>,
    /// Keep libc from registering rseq, so that rsalloc registers its own
    #[arg(long, conflicts_with = "atomic")]
    pub own: bool,
    /// Use the atomic path, without rseq
    #[arg(long)]
    pub atomic: bool,
}

/// `rsalloc run`: becomes the program. Settings of other allocators that have no effect are named first.
pub fn run(how: &How, program: &[OsString]) -> Result<ExitCode> {
    let mut command = command(how, program)?;
    let texts = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let own = std::env::var("RSALLOC_CONF").unwrap_or_default();
    if let Some(line) = foreign::line(texts, &format!("{own},{}", how.conf.join(","))) {
        crate::output::say(format_args!("{line}"));
    }
    let error = command.exec();
    Err(error).with_context(|| format!("cannot run {}", program[0].to_string_lossy()))
}

/// The command that starts `program`, its name and arguments, on the library.
pub fn command(how: &How, program: &[OsString]) -> Result<Command> {
    let usable = program::usable(&program[0])?;
    let mut command = Command::new(&usable.path);
    command.arg0(&program[0]).args(&program[1..]);
    set_environment(&mut command, how, &usable)?;
    Ok(command)
}

/// The command that starts this command's own executable with `subcommand`, on the library.
pub fn probe(how: &How, subcommand: &str) -> Result<Command> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("rsalloc").arg(subcommand);
    let own = std::env::current_exe().context("cannot find this command itself")?;
    set_environment(
        &mut command,
        how,
        &Usable { path: own.clone(), binary: own, libc: Libc::OWN },
    )?;
    Ok(command)
}

/// How a program that ended is passed on. As shells have it: a signal reads 128 and its number.
pub fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    ExitCode::from(code as u8)
}

fn set_environment(command: &mut Command, how: &How, program: &Usable) -> Result<()> {
    preload(command, &library(&ALLOCATOR, how.lib.as_deref(), program)?, program.libc)?;
    let mut conf: Vec<&str> = how.conf.iter().map(String::as_str).collect();
    if how.atomic {
        conf.push("mode:atomic");
    }
    if !conf.is_empty() {
        append(command, "RSALLOC_CONF", conf.join(",").as_ref(), ",");
    }
    if how.own {
        append(command, "GLIBC_TUNABLES", "glibc.pthread.rseq=0".as_ref(), ":");
    }
    Ok(())
}

/// Has the dynamic linker load `library` into what `command` starts, before all others.
pub fn preload(command: &mut Command, library: &Path, libc: Libc) -> Result<()> {
    if library.as_os_str().as_bytes().iter().any(|b| b" :".contains(b)) {
        bail!(
            "LD_PRELOAD cannot name {}: it splits at spaces and colons; move the library",
            library.display()
        );
    }
    prepend(command, "LD_PRELOAD", library.as_os_str(), ":");
    if libc == Libc::Glibc && libc_has_libraries_beside() {
        append(command, "LD_PRELOAD", "libpthread.so.0:libdl.so.2".as_ref(), ":");
    }
    Ok(())
}

/// Whether libc is a glibc before 2.34, which has in libpthread and libdl what a preloaded library uses. Such a library
/// does without in a program that does not load them.
#[cfg(target_env = "gnu")]
fn libc_has_libraries_beside() -> bool {
    // SAFETY: no preconditions; a string that is never freed.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) };
    let minor = version.to_str().ok().and_then(|text| text.split('.').nth(1)?.parse::<u32>().ok());
    minor.is_some_and(|minor| minor < 34)
}

#[cfg(not(target_env = "gnu"))]
fn libc_has_libraries_beside() -> bool {
    false
}

/// The library asked for, or one for the program's C library: in the folder of this command, or where packages have
/// libraries. In cargo's target folder `deps` holds the library that was built with the command; the one above it may be older.
pub fn library(library: &Library, asked: Option<&Path>, program: &Usable) -> Result<PathBuf> {
    let wanted = program.libc;
    let Library { installed, built, mark } = *library;
    if let Some(path) = asked {
        let path = path.canonicalize().with_context(|| format!("no library {}", path.display()))?;
        if let Some(why) = elf::why_not(&path, mark) {
            bail!("{} {why}: --lib takes a {installed}", path.display());
        }
        if let Some(libc) = elf::libc_of(&path).filter(|&libc| libc != wanted) {
            bail!(
                "{} is for {libc}, and {} runs on {wanted}: --lib takes a {installed} for {wanted}",
                path.display(),
                program.binary.display()
            );
        }
        return Ok(path);
    }
    let own = std::env::current_exe().context("cannot find this command's own folder")?;
    let folder = own.parent().context("this command is in no folder")?;
    // Without the number of the interface: as a folder for compilers has it.
    let plain = installed.trim_end_matches(".0");
    let beside = [("deps", built), ("", installed), ("", plain), ("", built)];
    let arch = std::env::consts::ARCH;
    // Debian, Fedora, others.
    let multiarch = match wanted {
        Libc::Glibc => format!("../lib/{arch}-linux-gnu"),
        Libc::Musl => format!("../lib/{arch}-linux-musl"),
    };
    let folders = [&*multiarch, "../lib64", "../lib"];
    let installed_in = folders.iter().flat_map(|folder| [(*folder, installed), (*folder, plain)]);
    let mut paths = beside
        .into_iter()
        .chain(installed_in)
        .map(|(place, name)| folder.join(place).join(name))
        .chain([folder.join(format!("../{arch}-unknown-linux-musl/release")).join(built)])
        .chain(built_with(folder).map(|folder| folder.join(built)));
    let found = paths.find_map(|path| {
        let path = path.canonicalize().ok()?;
        (elf::libc_of(&path).unwrap_or(Libc::OWN) == wanted).then_some(path)
    });
    match found {
        Some(path) => Ok(path),
        None if wanted != Libc::OWN => {
            Err(Unusable::NoLibrary(program.binary.clone(), wanted, installed).into())
        }
        None => bail!("no {installed} beside {} or in ../lib; name it by --lib", own.display()),
    }
}

/// The folder that cargo built the library in, for a command that `cargo install` put where it is: it installs no libraries.
fn built_with(own: &Path) -> Option<&'static Path> {
    let is_by_cargo = own.join("../.crates.toml").is_file();
    option_env!("RSALLOC_BUILT_IN").filter(|_| is_by_cargo).map(Path::new)
}

fn prepend(command: &mut Command, name: &str, value: &OsStr, separator: &str) {
    let old = std::env::var_os(name).unwrap_or_default();
    join(command, name, value, &old, separator);
}

fn append(command: &mut Command, name: &str, value: &OsStr, separator: &str) {
    let old = std::env::var_os(name).unwrap_or_default();
    join(command, name, &old, value, separator);
}

fn join(command: &mut Command, name: &str, first: &OsStr, second: &OsStr, separator: &str) {
    let mut both = first.to_os_string();
    if !first.is_empty() && !second.is_empty() {
        both.push(separator);
    }
    both.push(second);
    command.env(name, both);
}

//! Modules of a kernel, for a guest that has no modprobe.
//!
//! Promises the modules asked for with all that they depend on, each after those it needs; what is built into the
//! kernel is left out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::fetch::Kernel;

/// The folder in the guest; the order of the names is the order to load them in.
pub const FOLDER: &str = "modules";

/// The files for the guest.
pub fn files(kernel: &Kernel, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let all = below(&kernel.modules()?)?;
    names.iter().try_for_each(|name| add(name, &all, &mut files))?;
    let named = |(index, (name, bytes)): (usize, (String, Vec<u8>))| {
        (format!("{FOLDER}/{index:02}-{name}.ko"), bytes)
    };
    Ok(files.into_iter().enumerate().map(named).collect())
}

fn add(name: &str, all: &[PathBuf], files: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let is_it = |path: &&PathBuf| {
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        file.split_once(".ko").is_some_and(|(own, _)| own.replace('-', "_") == name)
    };
    let (Some(path), false) = (all.iter().find(is_it), files.iter().any(|(n, _)| n == name)) else {
        return Ok(());
    };
    let module = unpacked(path)?;
    for needed in needs(&module) {
        add(&needed, all, files)?;
    }
    files.push((name.to_owned(), module));
    Ok(())
}

/// Debian 12 leaves modules as they are, later ones pack them.
fn unpacked(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "ko") {
        return fs::read(path).with_context(|| format!("read {}", path.display()));
    }
    let output = Command::new("xz").arg("-dc").arg(path).output().context("cannot start xz")?;
    anyhow::ensure!(output.status.success(), "{} is no module", path.display());
    Ok(output.stdout)
}

/// The names after "depends=" in the module's own description.
fn needs(module: &[u8]) -> Vec<String> {
    let words = module.split(|&byte| byte == 0);
    let list = words.filter_map(|word| word.strip_prefix(b"depends=")).next().unwrap_or_default();
    let names = list.split(|&byte| byte == b',').filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).replace('-', "_")).collect()
}

fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(below(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_read_from_it() {
        assert_eq!(
            needs(b"\0license=GPL\0depends=nf-netlink,libcrc32c\0x"),
            ["nf_netlink", "libcrc32c"]
        );
        assert!(needs(b"depends=\0").is_empty());
    }
}

//! Tarballs and checksums.

use super::sysroot::Platform;
use super::{Out, Release, VERSION, copy, library, shell};
use anyhow::Context;
use std::fs;
use std::path::{Path, PathBuf};
use tools::{output, run};

/// Makes a tarball of the release, whose folder may stand anywhere, and one of the debug files.
pub fn tarballs(release: &Release<'_>) -> anyhow::Result<()> {
    let Release { platform, out, .. } = release;
    let name = format!("rsalloc-{VERSION}-{}-linux-gnu", platform.arch);
    relocatable(*platform, out, &out.folder.join(&name))?;
    tar(release, &out.folder, &name, &format!("{name}.tar.gz"))?;
    tar(release, &out.debug(), "usr", &format!("{name}-debug.tar.gz"))
}

/// Lays the release out as a folder that may stand anywhere.
pub fn relocatable(platform: Platform, out: &Out, folder: &Path) -> anyhow::Result<()> {
    let usr = out.root().join("usr");
    for file in files(&usr)? {
        // One folder of libraries, as on systems that know no other.
        let text = file.to_string_lossy().replace(&format!("lib/{}/", platform.multiarch), "lib/");
        copy(&usr.join(&file), &folder.join(text))?;
    }
    let link = folder.join("lib/librsalloc.so");
    fs::remove_file(&link).and_then(|()| std::os::unix::fs::symlink(library::FILE, &link))?;
    let pc = folder.join("lib/pkgconfig/rsalloc.pc");
    let text = fs::read_to_string(&pc)?
        .replace("${pcfiledir}/../../../..", "${pcfiledir}/../..")
        .replace(&format!("lib/{}", platform.multiarch), "lib");
    fs::write(&pc, text).with_context(|| format!("cannot write {}", pc.display()))
}

/// Packs `folder/what`: each file with the time of the commit, owned by root, in the order of the names.
fn tar(release: &Release<'_>, folder: &Path, what: &str, to: &str) -> anyhow::Result<()> {
    let script = format!(
        "chmod -R u=rwX,go=rX {what}
         tar --sort=name --owner=0 --group=0 --numeric-owner --format=gnu --mtime=@{} -cf - {what} | gzip -9n >{}",
        release.source.epoch,
        release.out.packages().join(to).display()
    );
    run(&mut shell(&script, folder))
}

/// Writes SHA256SUMS of all packages.
pub fn checksums(release: &Release<'_>) -> anyhow::Result<()> {
    let folder = release.out.packages();
    let names: Vec<_> =
        files(&folder)?.into_iter().map(|file| file.display().to_string()).collect();
    let sums = output(std::process::Command::new("sha256sum").args(names).current_dir(&folder))?;
    super::write(&folder.join("SHA256SUMS"), sums)
}

/// The files and links in a folder and those below it, named from it, in order.
pub fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        let entries = fs::read_dir(&next).with_context(|| format!("no {}", next.display()))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path().strip_prefix(folder)?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

//! A release built twice, from two folders.

use super::sysroot::{self, Platform};
use super::{Out, Source, archive, build, release};
use anyhow::{Context, ensure};
use std::fs;
use std::path::Path;
use tools::{root, run};

/// Copies the sources to two folders of other names and depths, builds in both and compares all files.
pub fn main(platform: Platform, scratch: &Path) -> anyhow::Result<()> {
    let tools = sysroot::prepare(platform)?;
    let places = [scratch.join("one"), scratch.join("another/deeper/folder")];
    // Both before anything is built, which takes minutes: a commit between them would have another time.
    let epoch = build::epoch()?;
    for place in &places {
        let source = place.join("source");
        if place.exists() {
            fs::remove_dir_all(place)?;
        }
        fs::create_dir_all(&source)?;
        let copy = format!("git ls-files -z | xargs -0 cp --parents -t '{}'", source.display());
        run(&mut super::shell(&copy, root()))?;
    }
    let mut outs = Vec::new();
    for place in &places {
        let (root, target) = (place.join("source"), place.join("build"));
        let built = Source { root, target, epoch: epoch.clone() };
        let out = Out::new(&place.join("dist"), platform.arch)?;
        release(&built, &tools, &out)?;
        outs.push(out);
    }
    let [first, second] = &outs[..] else { unreachable!() };
    let count = compare(&first.packages(), &second.packages())?;
    println!(
        "{count} packages are the same, bit for bit, from {} and {}",
        places[0].display(),
        places[1].display()
    );
    Ok(())
}

/// Fails for the first file that differs or is in one folder only; how many there are.
fn compare(one: &Path, other: &Path) -> anyhow::Result<usize> {
    let (mut files, others) = (archive::files(one)?, archive::files(other)?);
    ensure!(files == others, "other files: {files:?} and {others:?}");
    // The sums last: they differ for any other file.
    files.sort_by_key(|file| file.ends_with("SHA256SUMS"));
    ensure!(!files.is_empty(), "no files");
    for file in &files {
        let read = |folder: &Path| {
            fs::read(folder.join(file)).with_context(|| format!("cannot read {}", file.display()))
        };
        let (a, b) = (read(one)?, read(other)?);
        let differs = a.iter().zip(&b).position(|(a, b)| a != b);
        ensure!(
            a == b,
            "{} differs from byte {} on ({} and {} bytes); diffoscope shows where",
            file.display(),
            differs.unwrap_or(a.len().min(b.len())),
            a.len(),
            b.len()
        );
    }
    Ok(files.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_that_differs_and_a_file_that_lacks_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        for (place, text) in [(&one, "same"), (&other, "same")] {
            fs::create_dir(place).unwrap();
            fs::write(place.join("file"), text).unwrap();
        }
        assert_eq!(compare(&one, &other).unwrap(), 1);
        fs::write(other.join("file"), "some").unwrap();
        let said = compare(&one, &other).unwrap_err().to_string();
        assert!(said.contains("file differs from byte 1 on"), "{said}");
        fs::write(one.join("more"), "").unwrap();
        assert!(compare(&one, &other).unwrap_err().to_string().contains("other files"));
    }
}

//! The defects that the models must find, and the copy of the engine that has them.
//!
//! Promises that each is a change of text which still applies, exactly once: a defect that has lost its
//! place is an error, not a pass. All are in one copy, switched on one at a time, so it is built once.

mod caches;
mod memory;
mod sync;

use anyhow::{Context, ensure};
use std::path::Path;

/// A defect of the engine.
pub struct Defect {
    pub name: &'static str,
    /// The model that must find it.
    pub model: &'static str,
    /// Below `alloc-core/src`.
    file: &'static str,
    /// What the text is, and what takes its place; `BAD` in it says whether the defect is wanted.
    changes: &'static [(&'static str, &'static str)],
}

/// The package of the copy: with the name of the original, cargo would take one for the other.
pub const MODELS: &str = "rsalloc-loom-defects";

/// All of them.
pub fn all() -> impl Iterator<Item = &'static Defect> {
    [caches::DEFECTS, sync::DEFECTS, memory::DEFECTS].into_iter().flatten()
}

/// Writes the engine with its defects, and the models, to `copy`.
pub fn write(root: &Path, copy: &Path) -> anyhow::Result<()> {
    for part in ["alloc-core/src", "loom"] {
        copy_folder(&root.join(part), &copy.join(part))?;
    }
    for file in ["Cargo.toml", "Cargo.lock"] {
        let file = copy.join("loom").join(file);
        let text = read(&file)?.replace("\"rsalloc-loom\"", &format!("{MODELS:?}"));
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    for defect in all() {
        let file = copy.join("alloc-core/src").join(defect.file);
        let mut text = read(&file)?;
        for (from, to) in defect.changes {
            let name = defect.name;
            let places = text.matches(from).count();
            ensure!(places == 1, "{}: the place of {name} is there {places} times", defect.file);
            text =
                text.replace(from, &to.replace("BAD", &format!("crate::world::mutant({name:?})")));
        }
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()?.is_dir() {
            true if entry.file_name() == "target" => {}
            true => copy_folder(&from, &to)?,
            false => drop(
                std::fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?,
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_defect_has_its_place() {
        let copy = tempfile::tempdir().unwrap();
        write(tools::root(), copy.path()).unwrap();
        for defect in all() {
            let text = read(&copy.path().join("alloc-core/src").join(defect.file)).unwrap();
            let switches = text.matches(&format!("mutant({:?})", defect.name)).count();
            assert_eq!(switches, defect.changes.len(), "{}", defect.name);
        }
    }
}

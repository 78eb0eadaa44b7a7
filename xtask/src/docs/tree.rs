//! The files of the repository as text.

use anyhow::Context;
use std::path::Path;
use std::process::Command;

/// One file.
pub struct File {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Its text; nothing of a photograph or a table of samples.
    pub text: String,
}

/// All files that git knows, by their paths.
pub struct Tree {
    files: Vec<File>,
}

const TEXTS: &[&str] = &["rs", "md", "toml", "txt", "c", "cc", "cpp", "h", "sh", "map", "svg"];

impl Tree {
    /// Reads the files below `root`.
    pub fn read(root: &Path) -> anyhow::Result<Tree> {
        let mut list = Command::new("git");
        list.args(["ls-files", "--cached", "--others", "--exclude-standard"]).current_dir(root);
        let names = tools::output(&mut list)?;
        let mut files = Vec::new();
        for path in names.lines() {
            let whole = root.join(path);
            let is_text = match Path::new(path).extension().and_then(|end| end.to_str()) {
                Some(end) => TEXTS.contains(&end),
                None => true,
            };
            // A file that was just removed is still in git's list; a link has the text of another file.
            if whole.is_file() && !whole.is_symlink() {
                let text = match is_text {
                    true => {
                        std::fs::read_to_string(&whole).with_context(|| format!("read {path}"))?
                    }
                    false => String::new(),
                };
                files.push(File { path: path.to_owned(), text });
            }
        }
        // Files that git does not track yet come first in its list.
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Tree { files })
    }

    /// A tree of a test.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let file =
            |(path, text): &(&str, &str)| File { path: (*path).into(), text: (*text).into() };
        Tree { files: files.iter().map(file).collect() }
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.files.iter()
    }

    /// The file at `path`.
    pub fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether there is a file or a folder at `path`.
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.files.iter().any(|file| {
            file.path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }

    /// The documents.
    pub fn documents(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".md"))
    }
}

impl File {
    /// The folder it lies in, with a `/` at the end, or nothing.
    pub fn folder(&self) -> &str {
        self.path.rfind('/').map_or("", |at| &self.path[..=at])
    }

    /// Its name without folder and ending.
    pub fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name.split('.').next().unwrap_or_default()
    }

    /// Whether it is a note of experiments, which names the code of its day.
    pub fn is_note(&self) -> bool {
        self.path.starts_with("docs/lab/") || self.path.starts_with("docs/benchmarks/")
    }
}

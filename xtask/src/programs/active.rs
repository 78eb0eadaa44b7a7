//! Evidence that the library was at work inside a program.
//!
//! Collected by `trial` while its programs run. A preloaded library comes before libc in the
//! search order, so a process that has it mapped takes malloc from it; a program whose executable
//! defines malloc itself is the exception (rustc does).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The names of the processes in which the library was seen.
#[derive(Default)]
pub struct Witness {
    seen: BTreeSet<String>,
    wanted: BTreeSet<String>,
}

impl Witness {
    /// From now on `name` must be seen before the end.
    pub fn want(&mut self, name: &str) {
        // The kernel keeps 15 bytes of a process's name.
        self.wanted.insert(name.chars().take(15).collect());
    }

    /// Looks at `pid` and its descendants.
    pub fn look(&mut self, pid: i32, library: &Path) {
        if self.missing().is_none() {
            return;
        }
        for pid in tree(pid) {
            if let Ok(name) = fs::read_to_string(format!("/proc/{pid}/comm"))
                && !self.seen.contains(name.trim_end())
                && is_mapped(pid, library)
            {
                self.seen.insert(name.trim_end().to_owned());
            }
        }
    }

    /// A wanted name that has not been seen.
    pub fn missing(&self) -> Option<&str> {
        self.wanted.iter().find(|name| !self.seen.contains(*name)).map(String::as_str)
    }
}

/// Whether a process runs with `library`.
fn is_mapped(pid: i32, library: &Path) -> bool {
    let library = library.to_string_lossy();
    fs::read_to_string(format!("/proc/{pid}/maps"))
        .is_ok_and(|maps| maps.lines().any(|line| line.ends_with(&*library)))
}

/// A process and all that descend from it.
pub fn tree(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for thread in threads {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
    }
    found
}

//! Evidence that the library was at work inside a program, and in which mode.
//!
//! Collected by `trial` while its programs run. Our own library publishes its mode in each process,
//! preloaded or linked, and `rsalloc check` reads it: set by the first allocation, it cannot be
//! there unless malloc was really ours. Any other library counts as seen when it is mapped; one
//! that must run per CPU, when the kernel says that the threads have rseq areas as well.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use super::mode::Mode;
use crate::criu::registration;

/// How it is established that a library is in use in a process.
pub enum Proof {
    /// `inspector` reads that it runs in `mode`.
    Published { inspector: PathBuf, mode: Mode },
    /// It is mapped.
    Mapped,
    /// It is mapped, and the process has rseq areas, which libc was told not to register.
    MappedPerCpu,
}

/// The names of the processes that must be seen with the library, and what was seen.
pub struct Witness {
    library: PathBuf,
    proof: Proof,
    wanted: BTreeMap<String, Sight>,
}

/// What was seen of the processes of one name.
#[derive(Clone, PartialEq)]
enum Sight {
    Nothing,
    AtWork,
    OtherMode(String),
}

impl Witness {
    /// Nothing seen, nothing wanted.
    pub fn new(library: &Path, proof: Proof) -> Witness {
        Witness { library: library.to_owned(), proof, wanted: BTreeMap::new() }
    }

    /// From now on a process called `name` must be seen before the end.
    pub fn want(&mut self, name: &str) {
        // The kernel keeps 15 bytes of a process's name.
        self.wanted.entry(name.chars().take(15).collect()).or_insert(Sight::Nothing);
    }

    /// Examines `pid` and its descendants, and notes what it sees.
    pub fn observe(&mut self, pid: i32) {
        if self.wanted.values().all(|sight| *sight == Sight::AtWork) {
            return;
        }
        for pid in tree(pid) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let unseen = self.wanted.get(name.trim_end()).is_some_and(|s| *s == Sight::Nothing);
            if unseen {
                let sight = self.sight(pid);
                self.wanted.insert(name.trim_end().to_owned(), sight);
            }
        }
    }

    /// Fails if a wanted process was not seen at work in the mode.
    pub fn verdict(self) -> Result<()> {
        for (name, sight) in self.wanted {
            match sight {
                Sight::AtWork => (),
                Sight::Nothing => bail!("the library was not seen in {name}"),
                Sight::OtherMode(how) => bail!("{name} ran in {how}"),
            }
        }
        Ok(())
    }

    fn sight(&self, pid: i32) -> Sight {
        match &self.proof {
            Proof::Published { inspector, mode } => published(inspector, *mode, pid),
            Proof::Mapped if self.maps(pid) => Sight::AtWork,
            // Registered by the first call into the library: until then it is not there yet.
            Proof::MappedPerCpu if self.maps(pid) && has_rseq_areas(pid) => Sight::AtWork,
            Proof::Mapped | Proof::MappedPerCpu => Sight::Nothing,
        }
    }

    fn maps(&self, pid: i32) -> bool {
        let library = self.library.to_string_lossy();
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        maps.lines().any(|line| line.ends_with(&*library))
    }
}

fn published(inspector: &Path, mode: Mode, pid: i32) -> Sight {
    let answer = Command::new(inspector).args(["check", "--json", &pid.to_string()]).output();
    let answer = answer.map(|output| output.stdout).unwrap_or_default();
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
    match (answer["active"].as_bool(), answer["report"]["mode"].as_str()) {
        (Some(true), Some(found)) if found == mode.published() => Sight::AtWork,
        (Some(true), Some(found)) => Sight::OtherMode(format!("mode {found} instead of {mode}")),
        _ => Sight::Nothing,
    }
}

fn has_rseq_areas(pid: i32) -> bool {
    registration::of(pid).is_ok_and(|threads| threads.iter().any(Option::is_some))
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// The verdict on this very process, with a stand-in for `rsalloc` that gives `answer`.
    fn verdict(answer: &str) -> String {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let inspector = scratch.path().join("rsalloc");
        fs::write(&inspector, format!("#!/bin/sh\necho '{answer}'\n")).expect("a script");
        fs::set_permissions(&inspector, PermissionsExt::from_mode(0o755)).expect("executable");
        let proof = Proof::Published { inspector, mode: Mode::Own };
        let mut witness = Witness::new(&scratch.path().join("x.so"), proof);
        let name = fs::read_to_string("/proc/self/comm").expect("a name");
        witness.want(name.trim_end());
        witness.observe(std::process::id() as i32);
        witness.verdict().map_or_else(|error| error.to_string(), |()| "at work".to_owned())
    }

    #[test]
    fn only_the_mode_that_was_asked_for_counts() {
        let published = |mode| format!(r#"{{"active":true,"report":{{"mode":"{mode}"}}}}"#);
        assert_eq!(verdict(&published("rseq_own")), "at work");
        assert!(verdict(&published("atomic")).contains("in mode atomic instead of own"));
        assert!(verdict(r#"{"active":false,"report":null}"#).contains("was not seen"));
        assert!(verdict("no JSON").contains("was not seen"));
    }

    /// `sleep` under libc's registration, and without it.
    #[test]
    fn rseq_areas_are_seen_and_missed() {
        for (tunable, wanted) in [("glibc.pthread.rseq=1", true), ("glibc.pthread.rseq=0", false)] {
            let mut sleep = Command::new("sleep");
            let mut sleep = sleep.arg("60").env("GLIBC_TUNABLES", tunable).spawn().expect("sleep");
            let comm = format!("/proc/{}/comm", sleep.id());
            while fs::read_to_string(&comm).is_ok_and(|name| name.trim_end() != "sleep") {
                std::thread::yield_now();
            }
            // libc's start-up takes a moment.
            let until = std::time::Instant::now() + std::time::Duration::from_millis(500);
            let mut found = false;
            while !found && std::time::Instant::now() < until {
                found = has_rseq_areas(sleep.id() as i32);
            }
            sleep.kill().expect("it is ours");
            sleep.wait().expect("it is ours");
            assert_eq!(found, wanted, "{tunable}");
        }
    }
}

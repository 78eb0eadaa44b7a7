//! The ways the library is made to run, as environment variables.
//!
//! Knows nothing of the programs.

use std::fmt;
use std::path::Path;

/// What `--mode` accepts.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Modes {
    /// rseq area registered by libc (nothing set)
    Rseq,
    /// rseq area registered by the library (libc's switched off by its tunable)
    Own,
    /// no rseq (RSALLOC_CONF=mode:atomic)
    Atomic,
    /// The three, one after the other
    All,
}

/// One mode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// libc's registration.
    Rseq,
    /// The library's own registration.
    Own,
    /// The atomic path.
    Atomic,
}

impl Modes {
    /// The modes it stands for.
    pub fn list(self) -> &'static [Mode] {
        match self {
            Modes::Rseq => &[Mode::Rseq],
            Modes::Own => &[Mode::Own],
            Modes::Atomic => &[Mode::Atomic],
            Modes::All => &[Mode::Rseq, Mode::Own, Mode::Atomic],
        }
    }
}

impl Mode {
    /// What it sets beside LD_PRELOAD.
    pub fn setting(self) -> Option<(&'static str, &'static str)> {
        match self {
            Mode::Rseq => None,
            Mode::Own => Some(("GLIBC_TUNABLES", "glibc.pthread.rseq=0")),
            Mode::Atomic => Some(("RSALLOC_CONF", "mode:atomic")),
        }
    }

    /// Its name in what the library publishes.
    pub fn published(self) -> &'static str {
        match self {
            Mode::Rseq => "rseq_libc",
            Mode::Own => "rseq_own",
            Mode::Atomic => "atomic",
        }
    }

    /// The whole environment that puts a program on `library` in this mode.
    pub fn environment(self, library: &Path) -> Vec<(&'static str, String)> {
        let mut variables = vec![("LD_PRELOAD", library.display().to_string())];
        variables.extend(self.setting().map(|(name, value)| (name, value.to_owned())));
        variables
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mode::Rseq => "rseq",
            Mode::Own => "own",
            Mode::Atomic => "atomic",
        })
    }
}

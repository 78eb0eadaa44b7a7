//! The allocator that a trial's programs run on: the environment that puts it in place, and how it
//! is seen to be there.

use std::path::Path;

use super::Library;
use super::active::{Proof, Witness};
use super::mode::Mode;

/// See the head of the file.
pub struct Setup {
    /// What is set for the programs under test.
    pub environment: Vec<(&'static str, String)>,
    /// None if there is no library to look for.
    pub witness: Option<Witness>,
    /// Whether the workspace's Rust programs link the library instead of having it preloaded.
    pub links_ours: bool,
}

impl Setup {
    /// The allocator that the programs bring.
    pub fn without() -> Setup {
        Setup { environment: Vec::new(), witness: None, links_ours: false }
    }

    /// `library` in `mode`.
    pub fn with(library: &Library, mode: Mode) -> Setup {
        let proof = match &library.inspector {
            Some(inspector) => Proof::Published { inspector: inspector.clone(), mode },
            None => Proof::Mapped,
        };
        Setup {
            environment: mode.environment(&library.path),
            witness: Some(Witness::new(&library.path, proof)),
            links_ours: library.inspector.is_some(),
        }
    }

    /// `library` preloaded, with `settings`; always preloaded, never linked.
    pub fn preloaded(library: &Path, settings: &[(&'static str, &str)], proof: Proof) -> Setup {
        let settings = settings.iter().map(|&(name, value)| (name, value.to_owned()));
        let preload = ("LD_PRELOAD", library.display().to_string());
        Setup {
            environment: std::iter::once(preload).chain(settings).collect(),
            witness: Some(Witness::new(library, proof)),
            links_ours: false,
        }
    }
}

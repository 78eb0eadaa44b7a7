//! What the victim runs on: glibc's malloc, or the library in one of its modes.

use anyhow::Result;

/// An allocator and its mode.
pub struct Kind {
    /// The name in tables.
    pub name: &'static str,
    setting: Option<(&'static str, &'static str)>,
    /// Mode and shard index as the library publishes them; none: glibc's malloc.
    pub published: Option<(&'static str, &'static str)>,
    /// Whether its threads have rseq registered.
    pub is_registered: bool,
}

/// The library in each of its modes.
pub const MODES: [Kind; 4] = [
    Kind {
        name: "libc",
        setting: None,
        published: Some(("rseq_libc", "cpu_id")),
        is_registered: true,
    },
    Kind {
        name: "own",
        setting: Some(("GLIBC_TUNABLES", "glibc.pthread.rseq=0")),
        published: Some(("rseq_own", "cpu_id")),
        is_registered: true,
    },
    Kind {
        name: "mm_cid",
        setting: Some(("RSALLOC_CONF", "index:mm_cid")),
        published: Some(("rseq_libc", "mm_cid")),
        is_registered: true,
    },
    Kind {
        name: "atomic",
        setting: Some(("RSALLOC_CONF", "mode:atomic")),
        published: Some(("atomic", "cpu_id")),
        is_registered: true,
    },
];

/// glibc's malloc, with which the library's modes are compared.
pub const GLIBC: Kind = Kind { name: "glibc", setting: None, published: None, is_registered: true };

impl Kind {
    /// The library, on libc's registration, publishing its statistics in a file.
    pub fn publishing(file: &std::path::Path) -> Kind {
        // Kinds live as long as the program.
        let setting = format!("publish:{}", file.display()).leak();
        Kind { name: "publish", setting: Some(("RSALLOC_CONF", setting)), ..MODES[0] }
    }

    /// Whether the mode uses restartable sections.
    pub fn has_sections(&self) -> bool {
        self.published.is_some_and(|(mode, _)| mode != "atomic")
    }

    /// Whether `mm_cid` numbers the shards.
    pub fn is_by_mm_cid(&self) -> bool {
        self.published.is_some_and(|(_, index)| index == "mm_cid")
    }

    /// The whole environment of the victim.
    pub fn environment(&self) -> Result<Vec<(&'static str, String)>> {
        let mut variables = vec![("LC_ALL", "C".to_owned())];
        if self.published.is_some() {
            let library = tools::library()?;
            variables.push(("LD_PRELOAD", library.display().to_string()));
        }
        variables.extend(self.setting.map(|(name, value)| (name, value.to_owned())));
        Ok(variables)
    }
}

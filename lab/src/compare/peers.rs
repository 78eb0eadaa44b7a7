//! The allocators of the comparison and where each one's library is found.
//!
//! A peer is a name, a library for `LD_PRELOAD` and an environment; a new one is a new line in [`ALL`], or `NAME=LIBRARY`
//! for one run. Installs Debian packages, and has `crates` build the peers that come as crates.

use super::crates::{self, Recipe};
use super::sample;
use anyhow::{Context, bail, ensure};
use benches::named::Named;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An allocator that is ready to be measured.
pub struct Peer {
    /// Its name in the tables.
    pub name: &'static str,
    /// What it was built from.
    pub version: String,
    /// Whether it is ours, so that it is compared and not compared with.
    pub ours: bool,
    /// What `LD_PRELOAD` names; none for the C library's own.
    pub preload: Option<PathBuf>,
    /// The environment it needs.
    pub environment: &'static [(&'static str, &'static str)],
    /// What caches it must be seen to have.
    pub caches: Caches,
    /// The program that runs the rows.
    pub program: PathBuf,
    /// Programs of other rows, and their names.
    pub others: Vec<(PathBuf, &'static [Named])>,
    /// What the program says about the allocator that served it; none: what `preload` says.
    pub says: Option<&'static str>,
}

/// What caches a peer must be seen to have, for its figures to be what they are called.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Caches {
    /// Any.
    Any,
    /// One for each CPU; the allocator reports it when asked, and registers rseq by itself.
    PerCpu,
}

impl Peer {
    /// The program that runs `row`.
    pub fn program_of(&self, row: &str) -> &Path {
        let mut others = self.others.iter();
        let other = others.find(|(_, rows)| rows.iter().any(|own| own.name == row));
        other.map_or(&self.program, |(program, _)| program)
    }
}

struct Entry {
    name: &'static str,
    source: Source,
    environment: &'static [(&'static str, &'static str)],
}

enum Source {
    /// librsalloc.so of this build.
    Ours,
    /// The C library, nothing preloaded.
    Libc,
    /// A library of a Debian package.
    Debian { package: &'static str, library: &'static str },
    /// A library that the user named.
    File(PathBuf),
    /// A crate that benches/peers pins.
    Crate { name: &'static str, recipe: Recipe },
}

const ALL: &[Entry] = &[
    Entry { name: "rsalloc", source: Source::Ours, environment: &[] },
    Entry {
        name: "rsalloc-atomic",
        source: Source::Ours,
        environment: &[("RSALLOC_CONF", "mode:atomic")],
    },
    Entry { name: "glibc", source: Source::Libc, environment: &[] },
    Entry {
        name: "jemalloc",
        source: Source::Debian { package: "libjemalloc2", library: "libjemalloc.so.2" },
        environment: &[],
    },
    Entry {
        name: "mimalloc2",
        source: Source::Debian { package: "libmimalloc2.0", library: "libmimalloc.so.2.0" },
        environment: &[],
    },
    Entry {
        name: "gperftools",
        source: Source::Debian {
            package: "libtcmalloc-minimal4",
            library: "libtcmalloc_minimal.so.4",
        },
        environment: &[],
    },
    Entry {
        name: "mimalloc2-crate",
        source: Source::Crate {
            name: "libmimalloc-sys",
            recipe: Recipe::Compile {
                sources: &["c_src/mimalloc/v2/src/static.c"],
                include: "c_src/mimalloc/v2/include",
                flags: MIMALLOC,
            },
        },
        environment: &[],
    },
    Entry {
        name: "mimalloc3",
        source: Source::Crate {
            name: "libmimalloc-sys",
            recipe: Recipe::Compile {
                sources: &["c_src/mimalloc/v3/src/static.c"],
                include: "c_src/mimalloc/v3/include",
                flags: MIMALLOC,
            },
        },
        environment: &[],
    },
    Entry {
        name: "snmalloc",
        source: Source::Crate {
            name: "snmalloc-sys",
            recipe: Recipe::Compile {
                sources: &[
                    "upstream/src/snmalloc/override/new.cc",
                    "upstream/src/snmalloc/override/malloc.cc",
                ],
                include: "upstream/src",
                flags: &["-std=c++20", "-mcx16", "-DSNMALLOC_USE_WAIT_ON_ADDRESS=1"],
            },
        },
        environment: &[],
    },
    Entry {
        name: "rpmalloc",
        source: Source::Crate {
            name: "rpmalloc-sys",
            recipe: Recipe::Compile {
                sources: &["rpmalloc/rpmalloc/rpmalloc.c"],
                include: "rpmalloc/rpmalloc",
                flags: &["-D_GNU_SOURCE", "-DENABLE_PRELOAD=1", "-DENABLE_OVERRIDE=1"],
            },
        },
        environment: &[],
    },
    Entry {
        name: "tcmalloc",
        source: Source::Crate {
            name: "libtcmalloc-sys",
            recipe: Recipe::Archive {
                archive: "libtcmalloc.a",
                exports: &[
                    ("malloc", "TCMallocInternalMalloc"),
                    ("free", "TCMallocInternalFree"),
                    ("calloc", "TCMallocInternalCalloc"),
                    ("realloc", "TCMallocInternalRealloc"),
                    ("memalign", "TCMallocInternalMemalign"),
                    ("aligned_alloc", "TCMallocInternalAlignedAlloc"),
                    ("posix_memalign", "TCMallocInternalPosixMemalign"),
                    ("malloc_usable_size", "TCMallocInternalMallocSize"),
                ],
            },
        },
        // It registers rseq by itself; where libc has registered before, its caches are per thread.
        environment: &[("GLIBC_TUNABLES", "glibc.pthread.rseq=0")],
    },
];

const MIMALLOC: &[&str] = &[
    "-DMI_MALLOC_OVERRIDE",
    "-DMI_SHARED_LIB",
    "-DMI_SHARED_LIB_EXPORT",
    "-DMI_BUILD_RELEASE",
    "-fvisibility=hidden",
];

/// Rows that an allocator which does nothing can run: one thread, one size, few objects live.
pub const FLOOR_ROWS: [&str; 8] = [
    "same-16",
    "same-64",
    "same-1024",
    "same-32k",
    "batch-fifo",
    "batch-lifo",
    "calloc-256",
    "calloc-16k",
];

/// Ours and the floor.
pub fn with_floor() -> anyhow::Result<Vec<Peer>> {
    let folder = tools::release_dir()?.with_file_name("peers");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let library = folder.join("libfloor.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O3", "-fno-builtin-malloc", "-o"]).arg(&library);
    tools::output(cc.arg(tools::root().join("benches/peers/floor.c")))?;
    select(&["rsalloc".to_owned(), format!("floor={}", library.display())])
}

/// The peers of these names, all if there are none, installed and found.
pub fn select(names: &[String]) -> anyhow::Result<Vec<Peer>> {
    let own = own(names)?;
    let wanted = ALL.iter().filter(|e| names.is_empty() || names.iter().any(|n| n == e.name));
    let wanted: Vec<_> = wanted.chain(&own).collect();
    let packages = wanted.iter().filter_map(|entry| match entry.source {
        Source::Debian { package, .. } => Some(package),
        _ => None,
    });
    tools::apt_install(&packages.collect::<Vec<_>>())?;
    wanted.into_iter().map(find).collect()
}

/// Peers that are given as `NAME=LIBRARY`; an error for a name that means nothing, before anything is built.
pub fn check(names: &[String]) -> anyhow::Result<()> {
    own(names).map(|_| ())
}

fn own(names: &[String]) -> anyhow::Result<Vec<Entry>> {
    let mut own = Vec::new();
    for name in names.iter().filter(|name| !ALL.iter().any(|entry| entry.name == *name)) {
        let Some((name, path)) = name.split_once('=') else {
            let known: Vec<_> = ALL.iter().map(|entry| entry.name).collect();
            bail!("no allocator {name}; there are: {}, and NAME=LIBRARY.so", known.join(", "));
        };
        let is_taken = name.is_empty() || ALL.iter().any(|entry| entry.name == name);
        ensure!(!is_taken, "{name}={path}: the name is empty or an allocator's that is there");
        let path = PathBuf::from(path);
        let path = path.canonicalize().with_context(|| format!("no library {}", path.display()))?;
        // Names live as long as the program.
        let name: &'static str = name.to_owned().leak();
        own.push(Entry { name, source: Source::File(path), environment: &[] });
    }
    Ok(own)
}

fn find(entry: &Entry) -> anyhow::Result<Peer> {
    let (version, preload) = match &entry.source {
        Source::Ours => {
            let mut head = Command::new("git");
            head.args(["describe", "--always", "--dirty"]).current_dir(tools::root());
            let version = tools::output(&mut head).unwrap_or_else(|_| "no git".to_owned());
            (version.trim().to_owned(), Some(tools::library()?))
        }
        Source::Libc => {
            (tools::version("libc6").unwrap_or_else(|| "not Debian's".to_owned()), None)
        }
        Source::Debian { package, library } => {
            let files = tools::output(Command::new("dpkg").args(["-L", package]))?;
            let path = files
                .lines()
                .map(PathBuf::from)
                .find(|path| path.file_name().is_some_and(|name| name == *library))
                .with_context(|| format!("package {package} has no {library}"))?;
            let version = tools::version(package).context("it was installed a moment ago")?;
            (format!("{package} {version}"), Some(path))
        }
        // Without its folder, which says something about this machine only.
        Source::File(path) => {
            let name = path.file_name().unwrap_or_default();
            (name.to_string_lossy().into_owned(), Some(path.clone()))
        }
        Source::Crate { name, recipe } => {
            let (version, library) = crates::library(entry.name, name, recipe)?;
            (version, Some(library))
        }
    };
    if let Some(path) = preload.as_ref().filter(|path| !path.is_file()) {
        bail!("{} is not there; was the build stopped?", path.display());
    }
    let ours = matches!(entry.source, Source::Ours);
    let program = tools::release_dir()?.join("workload");
    let Entry { name, environment, .. } = *entry;
    let caches = if name == "tcmalloc" { Caches::PerCpu } else { Caches::Any };
    let peer = Peer {
        name,
        version,
        ours,
        preload,
        environment,
        caches,
        program,
        others: Vec::new(),
        says: None,
    };
    sample::check_caches(&peer)?;
    Ok(peer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_name_shows_the_right_ones() {
        let check = |name: &str| check(&["glibc".to_owned(), name.to_owned()]);
        assert!(check("rpmalloc").is_ok());
        let error = check("other").unwrap_err().to_string();
        assert!(error.starts_with("no allocator other; there are: rsalloc, "), "{error}");
        let file = tools::root().join("Cargo.toml");
        assert!(check(&format!("mine={}", file.display())).is_ok());
        assert!(check(&format!("glibc={}", file.display())).is_err(), "there is one");
        assert!(check("mine=/nowhere/libmine.so").is_err());
    }
}

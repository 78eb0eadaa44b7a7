//! What a virtual machine is made of: QEMU, kernels, C libraries and busybox, all from Debian.
//!
//! Promises that everything lies under `vm` beside the builds and is fetched once.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::debian::{self, Wanted};

/// A kernel that is booted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kernel {
    /// How its release begins.
    pub version: &'static str,
    suite: &'static str,
    /// What it says in `AT_RSEQ_FEATURE_SIZE`; 0: nothing.
    pub feature_size: u32,
    /// Whether it knows `rseq_debug=1`.
    pub has_debug: bool,
}

/// All of them, the oldest first.
pub const KERNELS: [Kernel; 4] = [
    Kernel { version: "5.10", suite: "bullseye", feature_size: 0, has_debug: false },
    Kernel { version: "6.1", suite: "bookworm", feature_size: 0, has_debug: false },
    Kernel { version: "6.12", suite: "trixie", feature_size: 28, has_debug: false },
    Kernel { version: "7", suite: "trixie-backports", feature_size: 33, has_debug: true },
];

/// A C library that the programs run on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Glibc {
    /// Its version.
    pub version: &'static str,
    suite: &'static str,
}

/// Debian 12's.
pub const GLIBC_36: Glibc = Glibc { version: "2.36", suite: "bookworm" };
/// One that registers all that the kernel has.
pub const GLIBC_41: Glibc = Glibc { version: "2.41", suite: "trixie" };

impl Kernel {
    /// Whether threads have an `mm_cid`.
    pub fn has_mm_cid(&self) -> bool {
        self.feature_size >= 28
    }

    /// The image to boot.
    pub fn image(&self) -> Result<PathBuf> {
        let folder = self.folder()?;
        let images = files(&folder.join("boot"))
            .chain(files(&folder.join("usr/lib/modules")).map(|release| release.join("vmlinuz")));
        let mut images = images.filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("vmlinuz") && path.is_file()
        });
        images.next().with_context(|| format!("no kernel in {}", folder.display()))
    }

    /// The folder with its modules.
    pub fn modules(&self) -> Result<PathBuf> {
        let folder = self.folder()?;
        // The second is where Debian 12 has them.
        let mut releases =
            files(&folder.join("usr/lib/modules")).chain(files(&folder.join("lib/modules")));
        let release = releases.next();
        Ok(release.with_context(|| format!("no modules in {}", folder.display()))?.join("kernel"))
    }

    fn folder(&self) -> Result<PathBuf> {
        let folder = cache()?.join(format!("linux-{}", self.version));
        let parts = ["linux-image-", "linux-binary-", "linux-modules-"];
        debian::provide(self.suite, &Wanted::Parts("linux-image-cloud-amd64", &parts), &folder)?;
        Ok(folder)
    }
}

impl Glibc {
    /// The folders that hold its libraries.
    pub fn folders(&self) -> Result<[PathBuf; 2]> {
        let folder = cache()?.join(format!("glibc-{}", self.version));
        debian::provide(self.suite, &Wanted::Only(&["libc6", "libgcc-s1"]), &folder)?;
        Ok(["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|path| folder.join(path)))
    }
}

/// A folder with QEMU and its libraries.
pub fn qemu() -> Result<PathBuf> {
    // Debian 12's own panics with some kernels and many CPUs.
    let folder = cache()?.join("qemu");
    debian::provide("trixie", &Wanted::Complete("qemu-system-x86"), &folder)?;
    Ok(folder)
}

/// A shell that needs no library.
pub fn busybox() -> Result<PathBuf> {
    let folder = cache()?.join("busybox");
    debian::provide("trixie", &Wanted::Only(&["busybox-static"]), &folder)?;
    ["bin/busybox", "usr/bin/busybox"]
        .map(|path| folder.join(path))
        .into_iter()
        .find(|path| path.is_file())
        .context("the package busybox-static holds no busybox")
}

/// Where all this is kept.
pub fn cache() -> Result<PathBuf> {
    Ok(tools::release_dir()?.with_file_name("vm"))
}

fn files(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

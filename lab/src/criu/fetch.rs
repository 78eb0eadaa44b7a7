//! A CRIU that works, from Debian's packages, in a folder of its own.
//!
//! Debian 12's own is too old for newer kernels. It is run through its own loader with its own libraries.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::images::Criu;
use crate::debian::{self, Wanted};

/// CRIU, fetched if it is not there yet, and known to work on this kernel.
pub fn criu() -> Result<Criu> {
    // SAFETY: no duties.
    ensure!(unsafe { libc::geteuid() } == 0, "CRIU dumps and restores as root only: run as root");
    let folder = folder()?;
    let loader = folder.join("usr/lib64/ld-linux-x86-64.so.2");
    let criu =
        Criu::new(loader, folder.join("usr/lib/x86_64-linux-gnu"), folder.join("usr/sbin/criu"));
    criu.check().context("this kernel can't do it (`criu check`)")?;
    Ok(criu)
}

/// The folder with CRIU and its libraries, fetched if it is not there yet.
pub fn folder() -> Result<PathBuf> {
    let folder = tools::release_dir()?.with_file_name("criu");
    debian::provide("trixie", &Wanted::Complete("criu"), &folder)?;
    Ok(folder)
}

//! What machine, kernel and C library the guest turns out to be.
//!
//! So that the host sees whether the cell is what it is called. Printed as JSON by a task.

use std::ffi::CStr;
use std::fs;

use anyhow::Result;
use serde::{Deserialize, Serialize};

/// `AT_RSEQ_FEATURE_SIZE` of `linux/auxvec.h`.
const AT_RSEQ_FEATURE_SIZE: libc::c_ulong = 27;

/// The facts.
#[derive(Serialize, Deserialize)]
pub struct Facts {
    /// Of the kernel.
    pub release: String,
    /// As a list of ranges, like the next two.
    pub online: String,
    pub possible: String,
    pub nodes: String,
    /// Of the C library.
    pub glibc: String,
    /// What the C library registered; 0: nothing.
    pub rseq_size: u32,
    /// What the kernel offers; 0: it does not say.
    pub feature_size: u64,
    /// Whether the kernel kills a process that breaks the ABI.
    pub rseq_debug: bool,
}

/// Prints them.
pub fn facts() -> Result<()> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let facts = Facts {
        release: read("/proc/sys/kernel/osrelease"),
        online: read("/sys/devices/system/cpu/online"),
        possible: read("/sys/devices/system/cpu/possible"),
        nodes: read("/sys/devices/system/node/online"),
        glibc: glibc(),
        rseq_size: rseq_size(),
        // SAFETY: no duties.
        feature_size: unsafe { libc::getauxval(AT_RSEQ_FEATURE_SIZE) },
        rseq_debug: read("/proc/cmdline").contains("rseq_debug=1")
            && !read("/sys/kernel/debug/rseq/debug").starts_with('N'),
    };
    println!("{}", serde_json::to_string(&facts)?);
    Ok(())
}

fn glibc() -> String {
    // SAFETY: gives a constant text.
    unsafe { CStr::from_ptr(libc::gnu_get_libc_version()) }.to_string_lossy().into_owned()
}

fn rseq_size() -> u32 {
    // SAFETY: a name that ends in zero.
    let size = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__rseq_size".as_ptr()) };
    // SAFETY: of this type in glibc (sys/rseq.h), and constant.
    if size.is_null() { 0 } else { unsafe { *size.cast::<u32>() } }
}

//! The aborts that this machine's own kernel makes: `cargo lab vm --here`.
//!
//! Promises that the hammer ran in each mode and that the kernel aborted sections by the thousand, or
//! an error. Tracefs is mounted in a namespace of this process: the machine's mounts stay as they are.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::cell::{HAMMER_HERE, HAMMER_PERIOD_US};
use super::guest::Fixups;

const MODES: [(&str, Option<(&str, &str)>); 3] = [
    ("libc", None),
    ("own", Some(("GLIBC_TUNABLES", "glibc.pthread.rseq=0"))),
    ("mm_cid", Some(("RSALLOC_CONF", "index:mm_cid"))),
];

/// Runs the command.
pub fn run() -> Result<()> {
    tools::build_release(&["rsalloc-preload", "rsalloc-cli"])?;
    let library = tools::library()?;
    mount_tracefs().context("the kernel's count of aborts can't be had: run as root")?;
    let own = std::env::current_exe().context("where is this program?")?;
    for (name, setting) in MODES {
        let fixups = Fixups::count().context("no tracepoint rseq:rseq_ip_fixup, or no perf")?;
        let mut hammer = Command::new(&own);
        hammer
            .args(["vm", "hammer", HAMMER_HERE.signals, HAMMER_PERIOD_US, "0"])
            .env("LD_PRELOAD", &library);
        hammer.env_remove("GLIBC_TUNABLES").env_remove("RSALLOC_CONF").envs(setting);
        let said = tools::output(&mut hammer).context(name)?;
        let count = fixups.read().context("the count can't be read")?;
        println!("{name:<8}{count:>6} sections aborted by the kernel, {}", said.trim());
        let least = HAMMER_HERE.aborts;
        ensure!(count >= least, "{name}: {count} aborts show nothing, {least} would");
    }
    Ok(())
}

fn mount_tracefs() -> Result<()> {
    let check = |result: i32, what: &str| {
        ensure!(result == 0, "{what}: {}", std::io::Error::last_os_error());
        Ok(())
    };
    let none = std::ptr::null();
    // SAFETY: all texts end in zero; this process has one thread.
    unsafe {
        check(libc::unshare(libc::CLONE_NEWNS), "unshare")?;
        let private = libc::MS_REC | libc::MS_PRIVATE;
        check(libc::mount(none, c"/".as_ptr(), none, private, none.cast()), "make mounts private")?;
        let (kind, place) = (c"tracefs".as_ptr(), c"/sys/kernel/tracing".as_ptr());
        check(libc::mount(kind, place, kind, 0, none.cast()), "mount tracefs")
    }
}

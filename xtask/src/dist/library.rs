//! librsalloc.so.0, linked from the archive that cargo builds.
//!
//! cargo's own library has no symbol versions, since rustc brings a version script that allows none, and refers to what glibc
//! before 2.34 has in libpthread and libdl as if every program had those. Here these references are weak, so that the library
//! needs libc.so.6 alone and loads into every program; the engine does without where they are null. What libc.so.6 itself has only
//! since a later version is referred to without a version.

use super::build::Built;
use super::versions;
use anyhow::Context;
use std::fs;
use std::path::Path;
use std::process::Command;
use tools::{output, root, run};

/// The name, which is the soname as well.
pub const FILE: &str = "librsalloc.so.0";

/// The newest version of glibc's symbols that each file may need, by its place under `usr`.
pub const OLDEST: [(&str, (u32, u32)); 2] = [("library", (2, 17)), ("command", (2, 31))];

/// What glibc before 2.34 does not have in libc.so.6.
const BESIDE_LIBC: [&str; 8] = [
    "dladdr",
    "dlclose",
    "dlerror",
    "dlopen",
    "dlsym",
    "pthread_key_create",
    "pthread_key_delete",
    "pthread_setspecific",
];

/// What libc.so.6 has only since a version after the promised one.
const NEWER: [&str; 1] = ["getcpu"];

/// How it is linked; `alloc-preload/build.rs` has the same for cargo's library, and the reasons.
const LINKED: &str = "-Wl,-soname,librsalloc.so.0,-z,nodelete,-z,now,-z,relro,-z,noexecstack,-z,start-stop-visibility=hidden,\
                      --gc-sections,--as-needed,--build-id=sha1,--hash-style=gnu,-O1";

/// Links it to `to`, by files in `scratch`.
pub fn link(built: &Built, scratch: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    let members = output(Command::new("ar").arg("t").arg(&built.archive))?;
    let own =
        members.lines().find(|name| name.starts_with("rsalloc_preload")).context("no code")?;
    run(Command::new("ar").arg("x").arg(&built.archive).arg(own).current_dir(scratch))?;
    // By a name without a hash: the linker writes it into the symbols.
    let object = scratch.join("rsalloc.o");
    let mut objcopy = Command::new(&built.objcopy);
    objcopy.args(BESIDE_LIBC.map(|name| format!("--weaken-symbol={name}")));
    run(objcopy.arg(scratch.join(own)).arg(&object))?;
    let script = root().join("alloc-preload/exports.map");
    let mut cc = Command::new(&built.cc);
    cc.args(["-shared", "-nodefaultlibs", LINKED, "-o"]).arg(to).arg(&object).arg(&built.archive);
    run(cc.arg(format!("-Wl,--version-script={}", script.display())).arg("-lc"))?;
    let mut bytes = fs::read(to).with_context(|| format!("cannot read {}", to.display()))?;
    for name in NEWER {
        versions::take_off(&mut bytes, name)
            .with_context(|| format!("`{name}` of {}", to.display()))?;
    }
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

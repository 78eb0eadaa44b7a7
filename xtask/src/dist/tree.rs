//! Where the files of a release are, from `/`, as Debian has them.

use super::build::Built;
use super::{Out, VERSION, copy, library, shell, sysroot::Platform, write};
use anyhow::{Context, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tools::{output, root, run};

/// Lays out what was built.
pub fn lay_out(platform: Platform, built: &Built, out: &Out) -> anyhow::Result<()> {
    let usr = out.root().join("usr");
    let folder = out.root().join(platform.library_folder());
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let library = folder.join(library::FILE);
    library::link(built, &out.folder.join("link"), &library)?;
    split_debug(&built.objcopy, &library, &out.debug())?;
    run(Command::new("chmod").arg("644").arg(&library))?;
    std::os::unix::fs::symlink(library::FILE, folder.join("librsalloc.so"))?;

    let archive = folder.join("librsalloc.a");
    run(Command::new(&built.objcopy)
        .args(["--strip-debug", "--remove-section=.comment", "--enable-deterministic-archives"])
        .arg(&built.archive)
        .arg(&archive))?;
    let command = usr.join("bin/rsalloc");
    copy(&built.command, &command)?;
    split_debug(&built.objcopy, &command, &out.debug())?;

    copy(&root().join("alloc-preload/include/rsalloc.h"), &usr.join("include/rsalloc.h"))?;
    let pc = PC.replace("@version@", VERSION).replace("@multiarch@", platform.multiarch);
    write(&folder.join("pkgconfig/rsalloc.pc"), pc)?;
    run(Command::new(&built.pages).arg("generate").arg(&usr))?;
    write(&usr.join("share/man/man3/librsalloc.3"), library_page()?)?;
    let documents = usr.join("share/doc/rsalloc");
    for name in ["README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        let file = root().join(name);
        if file.is_file() {
            copy(&file, &documents.join(name))?;
        }
    }
    let examples = root().join("examples/install");
    for entry in fs::read_dir(&examples).with_context(|| format!("no {}", examples.display()))? {
        let file = entry?.path();
        copy(&file, &documents.join("examples").join(file.file_name().unwrap_or_default()))?;
    }
    copy(&root().join("alloc-preload/man/example.c"), &documents.join("examples/example.c"))
}

/// Moves the debug information of a program or library to a file that debuggers find by its build id.
fn split_debug(objcopy: &str, file: &Path, folder: &Path) -> anyhow::Result<()> {
    let debug = folder.join(debug_file(file)?);
    fs::create_dir_all(debug.parent().context("a file in no folder")?)?;
    run(Command::new(objcopy)
        .args(["--only-keep-debug", "--compress-debug-sections"])
        .arg(file)
        .arg(&debug))?;
    run(Command::new(objcopy).args(["--strip-unneeded", "--remove-section=.comment"]).arg(file))?;
    run(Command::new(objcopy).arg(format!("--add-gnu-debuglink={}", debug.display())).arg(file))?;
    run(Command::new("chmod").arg("644").arg(&debug))
}

/// Where the debug information of `file` is, by its build id.
pub fn debug_file(file: &Path) -> anyhow::Result<PathBuf> {
    let notes = output(Command::new("readelf").args(["-n", "-W"]).arg(file))?;
    let id = notes.lines().find_map(|line| Some(line.split_once("Build ID: ")?.1.trim()));
    let id = id.with_context(|| format!("{} has no build id", file.display()))?;
    ensure!(id.len() == 40, "a build id of another length: {id}");
    Ok(format!("usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]).into())
}

/// librsalloc(3), with the example program in it.
fn library_page() -> anyhow::Result<String> {
    let read = |name: &str| {
        let path = root().join("alloc-preload/man").join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let program = read("example.c")?.replace('\\', "\\e");
    Ok(read("librsalloc.3")?.replace("@version@", VERSION).replace("@example@\n", &program))
}

const PC: &str = "prefix=${pcfiledir}/../../../..
libdir=${prefix}/lib/@multiarch@
includedir=${prefix}/include

Name: rsalloc
Description: memory allocator with per-CPU caches on restartable sequences
Version: @version@
Libs: -L${libdir} -lrsalloc
Libs.private: -lpthread -ldl
Cflags: -I${includedir}
";

/// Compresses the man pages, as distributions want them.
pub fn compress_pages(root: &Path) -> anyhow::Result<()> {
    run(&mut shell("find usr/share/man -type f ! -name '*.gz' -exec gzip -9n {} +", root))
}

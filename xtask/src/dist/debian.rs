//! .deb packages, by dpkg-deb: `librsalloc0` (the library), `librsalloc-dev` (header, archive, librsalloc(3)), `rsalloc` (the
//! command) and one with debug files for each that has code.
//!
//! Three and not one, as Debian's policy wants it: a container takes the library alone, and two sonames can be installed
//! beside each other. cargo-deb makes one package of one crate, so these are made here.

use super::archive::files;
use super::tree::{compress_pages, debug_file};
use super::{Release, VERSION, copy, shell, write};
use anyhow::Context;
use std::fs;
use std::path::Path;
use std::process::Command;
use tools::{output, run};

/// The revision of the packaging.
const REVISION: &str = "1";
const MAINTAINER: &str = "rsalloc maintainers <maintainers@rsalloc.example>";

/// A package.
struct Package {
    name: &'static str,
    section: &'static str,
    /// The files in it, by the beginnings of their paths under `usr`; `LIB` is the folder of libraries.
    files: &'static [&'static str],
    depends: &'static str,
    summary: &'static str,
    /// Lines of the description.
    text: &'static [&'static str],
    /// What has debug information.
    code: Option<&'static str>,
}

const PACKAGES: [Package; 3] = [
    Package {
        name: "librsalloc0",
        section: "libs",
        files: &["LIB/librsalloc.so.0"],
        depends: "libc6 (>= 2.17)",
        summary: "memory allocator with per-CPU caches - library",
        text: &[
            "rsalloc is a replacement for the C library's malloc. It keeps its",
            "caches per CPU instead of per thread, by restartable sequences (rseq)",
            "of the Linux kernel. Memory grows with CPUs, not with threads.",
            "",
            "This package has the library, to be preloaded into programs by",
            "LD_PRELOAD or /etc/ld.so.preload.",
        ],
        code: Some("LIB/librsalloc.so.0"),
    },
    Package {
        name: "librsalloc-dev",
        section: "libdevel",
        files: &[
            "LIB/librsalloc.so",
            "LIB/librsalloc.a",
            "LIB/pkgconfig/",
            "include/",
            "share/man/man3/",
            "share/doc/rsalloc/examples/example.c",
        ],
        depends: "librsalloc0 (= VERSION)",
        summary: "memory allocator with per-CPU caches - development files",
        text: &[
            "rsalloc is a replacement for the C library's malloc.",
            "",
            "This package has the header of its own functions (statistics,",
            "release, check, profile, settings), the static library and the",
            "manual librsalloc(3).",
        ],
        code: None,
    },
    Package {
        name: "rsalloc",
        section: "utils",
        files: &[
            "bin/",
            "share/man/man1/",
            "share/bash-completion/",
            "share/zsh/",
            "share/fish/",
            "share/doc/rsalloc/",
        ],
        depends: "libc6 (>= 2.31), libgcc-s1 | libgcc1, librsalloc0 (= VERSION)",
        summary: "memory allocator with per-CPU caches - command",
        text: &[
            "rsalloc is a replacement for the C library's malloc.",
            "",
            "This package has the command that runs programs on it, says which",
            "processes are on it and what they hold, profiles heaps, and has",
            "memory given back.",
        ],
        code: Some("bin/rsalloc"),
    },
];

/// Makes them.
pub fn packages(release: &Release<'_>) -> anyhow::Result<()> {
    let root = release.out.root();
    let mut left = files(&root.join("usr"))?;
    // Files that two packages name are in the first.
    for package in &PACKAGES {
        let folder = release.out.folder.join("deb").join(package.name);
        let is_in = |path: &Path| {
            let text = path
                .to_string_lossy()
                .replace(&format!("lib/{}", release.platform.multiarch), "LIB");
            package.files.iter().any(|begin| {
                if begin.ends_with('/') { text.starts_with(begin) } else { text == *begin }
            })
        };
        let (own, others) = left.into_iter().partition::<Vec<_>, _>(|path| is_in(path));
        left = others;
        for file in own {
            place(&root.join("usr").join(&file), &folder, package, &file.to_string_lossy())?;
        }
        build(release, package, &folder)?;
        debug_package(release, package)?;
    }
    anyhow::ensure!(left.is_empty(), "in no package: {left:?}");
    Ok(())
}

/// Puts a file where Debian has it.
fn place(from: &Path, folder: &Path, package: &Package, path: &str) -> anyhow::Result<()> {
    let path = match path.strip_prefix("share/doc/rsalloc/") {
        // What they say is in `copyright`.
        Some("LICENSE-MIT" | "LICENSE-APACHE") => return Ok(()),
        Some("CHANGELOG.md") => format!("share/doc/{}/changelog", package.name),
        Some(name) => format!("share/doc/{}/{name}", package.name),
        None => path.replace("zsh/site-functions", "zsh/vendor-completions"),
    };
    let to = folder.join("usr").join(path);
    if let Ok(link) = fs::read_link(from) {
        fs::create_dir_all(to.parent().context("a file in no folder")?)?;
        return std::os::unix::fs::symlink(link, &to).context("cannot link");
    }
    copy(from, &to)
}

fn build(release: &Release<'_>, package: &Package, folder: &Path) -> anyhow::Result<()> {
    let name = package.name;
    compress_pages_of(folder)?;
    documents(release, name, folder)?;
    let control = folder.join("DEBIAN");
    let version = format!("{VERSION}-{REVISION}");
    let depends = package.depends.replace("VERSION", &version);
    let text: Vec<_> = package
        .text
        .iter()
        .map(|line| if line.is_empty() { " .".into() } else { format!(" {line}") })
        .collect();
    let fields = format!(
        "Package: {name}\nSource: rsalloc\nVersion: {version}\nArchitecture: {}\nMaintainer: {MAINTAINER}\n\
         Installed-Size: {}\nDepends: {depends}\nSection: {}\nPriority: optional\nMulti-Arch: {}\nDescription: {}\n{}\n",
        release.platform.debian,
        kilobytes(folder)?,
        package.section,
        if name == "rsalloc" { "foreign" } else { "same" },
        package.summary,
        text.join("\n")
    );
    write(&control.join("control"), fields)?;
    if name == "librsalloc0" {
        write(&control.join("triggers"), "activate-noawait ldconfig\n")?;
        write(&control.join("symbols"), symbols()?)?;
        write(&control.join("shlibs"), "librsalloc 0 librsalloc0\n")?;
        write(&control.join("prerm"), PRERM)?;
        run(Command::new("chmod").arg("755").arg(control.join("prerm")))?;
    }
    pack(release, name, folder)
}

/// Without it, each program of the system would say that it cannot preload the library.
const PRERM: &str = r#"#!/bin/sh
set -e
if [ "$1" = remove ] && [ -f /etc/ld.so.preload ] && grep -q 'librsalloc\.so' /etc/ld.so.preload; then
    echo "librsalloc0: taken out of /etc/ld.so.preload" >&2
    sed 's![^[:space:]:]*librsalloc\.so[^[:space:]:]*!!g; /^[[:space:]:]*$/d' /etc/ld.so.preload >/etc/ld.so.preload.new
    if [ -s /etc/ld.so.preload.new ]; then
        mv /etc/ld.so.preload.new /etc/ld.so.preload
    else
        rm -f /etc/ld.so.preload.new /etc/ld.so.preload
    fi
fi
"#;

fn debug_package(release: &Release<'_>, package: &Package) -> anyhow::Result<()> {
    let Some(code) = package.code else { return Ok(()) };
    let name = format!("{}-dbgsym", package.name);
    let path = code.replace("LIB", &format!("lib/{}", release.platform.multiarch));
    let debug = debug_file(&release.out.root().join("usr").join(path))?;
    let folder = release.out.folder.join("deb").join(&name);
    copy(&release.out.debug().join(&debug), &folder.join(&debug))?;
    fs::create_dir_all(folder.join("usr/share/doc"))?;
    std::os::unix::fs::symlink(package.name, folder.join("usr/share/doc").join(&name))?;
    let version = format!("{VERSION}-{REVISION}");
    let id = debug
        .to_string_lossy()
        .replace("usr/lib/debug/.build-id/", "")
        .replace('/', "")
        .replace(".debug", "");
    let fields = format!(
        "Package: {name}\nSource: rsalloc\nVersion: {version}\nAuto-Built-Package: debug-symbols\nArchitecture: {}\n\
         Maintainer: {MAINTAINER}\nInstalled-Size: {}\nDepends: {} (= {version})\nSection: debug\nPriority: optional\n\
         Multi-Arch: same\nDescription: debug symbols for {}\nBuild-Ids: {id}\n",
        release.platform.debian,
        kilobytes(&folder)?,
        package.name,
        package.name
    );
    write(&folder.join("DEBIAN/control"), fields)?;
    pack(release, &name, &folder)
}

fn documents(release: &Release<'_>, name: &str, folder: &Path) -> anyhow::Result<()> {
    let documents = folder.join("usr/share/doc").join(name);
    write(&documents.join("copyright"), COPYRIGHT)?;
    // There is no request for a package that its first version could close.
    let overrides = format!("{name}: initial-upload-closes-no-bugs\n");
    write(&folder.join("usr/share/lintian/overrides").join(name), overrides)?;
    let mut date = Command::new("date");
    let date = output(
        date.args(["-u", "-R", "-d", &format!("@{}", release.source.epoch)]).env("LC_ALL", "C"),
    )?;
    let entry = format!(
        "rsalloc ({VERSION}-{REVISION}) unstable; urgency=medium\n\n  * Release {VERSION}.\n\n -- {MAINTAINER}  {date}"
    );
    write(&documents.join("changelog.Debian"), entry)?;
    run(&mut shell("gzip -9n changelog*", &documents))
}

fn compress_pages_of(folder: &Path) -> anyhow::Result<()> {
    if folder.join("usr/share/man").is_dir() { compress_pages(folder) } else { Ok(()) }
}

/// The exported symbols, from the release that brought each: `dpkg-shlibdeps` reads it.
fn symbols() -> anyhow::Result<String> {
    let list = fs::read_to_string(tools::root().join("alloc-preload/exports.txt"))?;
    let mut lines = vec![format!(" RSALLOC_0.1@RSALLOC_0.1 {VERSION}")];
    for line in list.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, version) = match line.strip_prefix("sections ") {
            Some(name) => (name, "Base"),
            None => line.split_once(' ').unwrap_or((line, "Base")),
        };
        lines.push(format!(" {name}@{version} {VERSION}"));
    }
    lines.sort();
    Ok(format!("librsalloc.so.0 librsalloc0 #MINVER#\n{}\n", lines.join("\n")))
}

fn kilobytes(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for file in files(folder)? {
        bytes += fs::symlink_metadata(folder.join(file))?.len().div_ceil(1024) * 1024;
    }
    Ok(bytes / 1024)
}

fn pack(release: &Release<'_>, name: &str, folder: &Path) -> anyhow::Result<()> {
    let sums = "find usr -type f | LC_ALL=C sort | xargs md5sum >DEBIAN/md5sums
                chmod -R u=rwX,go=rX .; [ ! -d usr/bin ] || chmod 755 usr/bin/*";
    run(&mut shell(sums, folder))?;
    let file = format!("{name}_{VERSION}-{REVISION}_{}.deb", release.platform.debian);
    let mut deb = Command::new("dpkg-deb");
    deb.args(["--root-owner-group", "-Zxz", "--build"]).arg(folder);
    deb.arg(release.out.packages().join(file));
    // More threads would cut the archive in other places.
    deb.env("SOURCE_DATE_EPOCH", &release.source.epoch).env("DPKG_DEB_THREADS_MAX", "1");
    output(&mut deb).map(drop)
}

const COPYRIGHT: &str = include_str!("copyright");

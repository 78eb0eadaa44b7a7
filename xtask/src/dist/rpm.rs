//! .rpm packages, by cargo-generate-rpm: `rsalloc` (library and command) and `rsalloc-devel`.

use super::archive::files;
use super::{Release, VERSION, shell, sysroot, write};
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use tools::run;

/// The tool, with its version.
const TOOL: (&str, &str) = ("cargo-generate-rpm", "0.21.1");

/// Each package: its name, what it is, what it needs.
const PACKAGES: [(&str, &str, &str); 2] = [
    (
        "rsalloc",
        "Memory allocator with per-CPU caches on restartable sequences",
        "glibc = \">= 2.31\"\nlibgcc = \"*\"\n",
    ),
    (
        "rsalloc-devel",
        "Header and static library of the allocator rsalloc",
        "rsalloc = \"= VERSION\"\n",
    ),
];

/// Makes them.
pub fn packages(release: &Release<'_>) -> anyhow::Result<()> {
    let tool = sysroot::cargo_tool(TOOL)?;
    let root = release.out.folder.join("rpm");
    let copy = format!("cp -a '{}' '{}'", release.out.root().display(), root.display());
    run(&mut shell(&copy, &release.out.folder))?;
    super::tree::compress_pages(&root)?;
    let usr = root.join("usr");
    // The tool copies what a link leads to, so what the linker looks for is a script that names the library.
    let link = root.join(release.platform.library_folder()).join("librsalloc.so");
    std::fs::remove_file(&link)?;
    write(&link, format!("/* GNU ld script */\nINPUT ( {} )\n", super::library::FILE))?;
    for (name, summary, requires) in PACKAGES {
        let mut text = format!(
            "name = \"{name}\"\nversion = \"{VERSION}\"\nrelease = \"1\"\nlicense = \"MIT OR Apache-2.0\"\n\
             summary = \"{summary}\"\nurl = \"https://github.com/rsalloc/rsalloc\"\nauto-req = \"disabled\"\n\
             post_install_script = \"exec /sbin/ldconfig\"\npost_uninstall_script = \"exec /sbin/ldconfig\"\n\
             description = \"{DESCRIPTION}\"\nassets = [\n"
        );
        for file in files(&usr)? {
            let path = file
                .to_string_lossy()
                .replace(&format!("lib/{}", release.platform.multiarch), "lib64");
            if is_devel(&path) == (name == "rsalloc-devel") {
                asset(&mut text, &usr.join(&file), &path)?;
            }
        }
        write!(text, "]\n[requires]\n{}", requires.replace("VERSION", &format!("{VERSION}-1")))?;
        if name == "rsalloc-devel" {
            write!(text, "[provides]\n\"pkgconfig(rsalloc)\" = \"= {VERSION}\"\n")?;
        }
        let metadata = release.out.folder.join(format!("{name}.rpm.toml"));
        write(&metadata, text)?;
        let file = release
            .out
            .packages()
            .join(format!("{name}-{VERSION}-1.{}.rpm", release.platform.arch));
        let mut rpm = Command::new(&tool);
        rpm.args([
            "--package",
            "cli",
            "--payload-compress",
            "gzip",
            "--arch",
            release.platform.arch,
        ]);
        rpm.args(["--source-date", &release.source.epoch])
            .arg("--metadata-overwrite")
            .arg(metadata);
        run(rpm.arg("--output").arg(file).current_dir(&release.source.root))?;
    }
    Ok(())
}

const DESCRIPTION: &str = "rsalloc is a replacement for the C library's malloc. It keeps its caches per CPU instead of per \
                           thread, by restartable sequences of the Linux kernel.";

fn is_devel(path: &str) -> bool {
    let begins = ["include/", "lib64/pkgconfig/", "share/man/man3/", "lib64/librsalloc.a"];
    path == "lib64/librsalloc.so" || begins.iter().any(|begin| path.starts_with(begin))
}

fn asset(text: &mut String, file: &Path, path: &str) -> anyhow::Result<()> {
    let mode = match path {
        _ if path.starts_with("bin/") || path.starts_with("lib64/librsalloc.so.") => "755",
        _ => "644",
    };
    let kind = if path.starts_with("share/doc/") || path.starts_with("share/man/") {
        ", doc = true"
    } else {
        ""
    };
    writeln!(
        text,
        "{{ source = \"{}\", dest = \"/usr/{path}\", mode = \"{mode}\"{kind} }},",
        file.display()
    )?;
    Ok(())
}

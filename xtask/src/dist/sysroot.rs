//! The libc that a release is built against: Debian 11's, glibc 2.31, in a folder of its own, for either architecture.
//!
//! Promises: packages come by apt, which checks their signatures; nothing is installed, and no root is needed. What is there
//! already is not fetched again.

use super::{shell, write};
use anyhow::{Context, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tools::run;

/// A platform that releases are made for.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// As Rust and the kernel name the architecture.
    pub arch: &'static str,
    /// As Debian names it.
    pub debian: &'static str,
    /// The target of rustc.
    pub triple: &'static str,
    /// Debian's folder of libraries, and its prefix for tools of another architecture.
    pub multiarch: &'static str,
}

const PLATFORMS: [Platform; 2] = [
    Platform {
        arch: "x86_64",
        debian: "amd64",
        triple: "x86_64-unknown-linux-gnu",
        multiarch: "x86_64-linux-gnu",
    },
    Platform {
        arch: "aarch64",
        debian: "arm64",
        triple: "aarch64-unknown-linux-gnu",
        multiarch: "aarch64-linux-gnu",
    },
];

impl Platform {
    /// Where the library is, from `/`.
    pub fn library_folder(&self) -> PathBuf {
        Path::new("usr/lib").join(self.multiarch)
    }

    /// Whether this machine runs its programs.
    pub fn is_here(&self) -> bool {
        self.arch == std::env::consts::ARCH
    }

    /// A tool of binutils or gcc.
    pub fn tool(&self, name: &str) -> String {
        if self.is_here() { name.to_owned() } else { format!("{}-{name}", self.multiarch) }
    }
}

/// The platform of an architecture's name.
pub fn platform(arch: &str) -> anyhow::Result<Platform> {
    match PLATFORMS.into_iter().find(|platform| platform.arch == arch) {
        Some(platform) => Ok(platform),
        None => bail!("there are x86_64 and aarch64"),
    }
}

/// What a release is built with.
pub struct Tools {
    /// For what.
    pub platform: Platform,
    /// A C compiler, which links against the old libc.
    pub cc: PathBuf,
    /// The rustc to use, where the one at hand has no std for the platform.
    pub rustc: Option<PathBuf>,
}

/// Debian's packages: libc, and the library that unwinds. The linker reads both, and no program of theirs runs.
const PACKAGES: [&str; 3] = ["libc6", "libc6-dev", "libgcc-s1"];

/// Fetches what is not there.
pub fn prepare(platform: Platform) -> anyhow::Result<Tools> {
    let folder = tools::release_dir()?.with_file_name("dist-tools");
    let gcc = platform.tool("gcc");
    if !tools::has(&gcc) {
        let package = if platform.is_here() {
            "gcc".to_owned()
        } else {
            format!("gcc-{}", platform.multiarch)
        };
        tools::apt_install(&[&package])?;
    }
    let root = folder.join(format!("glibc-2.31-{}", platform.debian));
    if !root.exists() {
        fetch(platform, &folder, &root)
            .context("no glibc of Debian 11 (bullseye); apt-get and dpkg are needed")?;
    }
    let cc = folder.join(format!("cc-{}", platform.arch));
    let (root, multiarch) = (root.display(), platform.multiarch);
    write(
        &cc,
        format!(
            "#!/bin/sh\nexec {gcc} --sysroot={root} -B{root}/usr/lib/{multiarch} -L{root}/usr/lib/{multiarch} \
             -L{root}/lib/{multiarch} \"$@\" -Wl,--build-id=sha1\n"
        ),
    )?;
    run(Command::new("chmod").arg("+x").arg(&cc))?;
    Ok(Tools { platform, cc, rustc: rustc(platform)? })
}

fn fetch(platform: Platform, folder: &Path, root: &Path) -> anyhow::Result<()> {
    let debian = platform.debian;
    let apt = folder.join(format!("apt-{debian}"));
    let path = apt.display();
    fs::create_dir_all(&apt)?;
    write(
        &apt.join("sources.list"),
        "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bullseye main\n",
    )?;
    write(
        &apt.join("apt.conf"),
        format!(
            "Dir \"{path}\"; Dir::State \"{path}/state\"; Dir::State::status \"{path}/status\"; Dir::Cache \"{path}/cache\";\n\
             Dir::Etc::sourcelist \"{path}/sources.list\"; Dir::Etc::sourceparts \"/dev/null\"; APT::Sandbox::User \"root\";\n\
             Acquire::Check-Valid-Until \"false\"; APT::Architectures {{\"{debian}\";}}; APT::Architecture \"{debian}\";\n"
        ),
    )?;
    let packages = PACKAGES.join(" ");
    // Links to absolute paths would lead out of the folder.
    let script = format!(
        "mkdir -p state/lists/partial cache/archives/partial etc/apt/apt.conf.d etc/apt/preferences.d unpacked; : >status
         export APT_CONFIG={path}/apt.conf
         apt-get -qq update; apt-get -qq download {packages}
         for package in *.deb; do dpkg-deb -x $package unpacked; done
         find unpacked -lname '/*' | while read link; do ln -sfn \"{}$(readlink $link)\" $link; done
         mv unpacked {}",
        root.display(),
        root.display()
    );
    run(&mut shell(&script, &apt))
}

/// Debian sid's rustc, as `xtask/cross.sh` fetches it, where the toolchain at hand has no std for the platform.
fn rustc(platform: Platform) -> anyhow::Result<Option<PathBuf>> {
    let sysroot = tools::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let std = Path::new(sysroot.trim()).join("lib/rustlib").join(platform.triple).join("lib");
    if std.is_dir() {
        return Ok(None);
    }
    run(Command::new("xtask/cross.sh").arg("compiler").current_dir(tools::root()))?;
    Ok(Some(tools::root().join("target/cross/rustc")))
}

/// A tool of crates.io, installed in the target folder: it is too large to be linked into this program.
pub fn cargo_tool((name, version): (&str, &str)) -> anyhow::Result<PathBuf> {
    let folder =
        tools::release_dir()?.with_file_name("dist-tools").join(format!("{name}-{version}"));
    let program = folder.join("bin").join(name);
    if !program.exists() {
        println!("installing {name} {version} in {}", folder.display());
        let mut install = tools::cargo(&["install", "--quiet", "--locked", "--debug", "--root"]);
        install.arg(&folder).args(["--version", version, name]);
        run(install.env_remove("CARGO_TARGET_DIR"))
            .with_context(|| format!("cannot install {name} {version} from crates.io"))?;
    }
    Ok(program)
}

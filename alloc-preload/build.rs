//! Names the library as it is installed, marks it as one that `dlclose` leaves in memory (see `load` in rsalloc-core's
//! engine), keeps the linker's names of sections out of its exports (see `config` in rsalloc-core), and finds out whether
//! the architecture has a folder in `src/arch`: `cfg(sections)`.

use std::env::{var, var_os};
use std::path::Path;

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,librsalloc.so.0");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,start-stop-visibility=hidden");
    println!("cargo::rustc-check-cfg=cfg(sections)");
    let folder = Path::new("src/arch").join(var("CARGO_CFG_TARGET_ARCH").unwrap());
    if folder.is_dir() && var_os("CARGO_FEATURE_PORTABLE").is_none() {
        println!("cargo::rustc-cfg=sections");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/arch");
}

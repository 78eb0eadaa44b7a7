//! Tells the command where cargo builds the library, which `cargo install` does not install. A release is built without: its
//! library is beside the command, and it names no folder of the machine that built it.

use std::env::{var, var_os};
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=RSALLOC_RELEASE");
    if var_os("RSALLOC_RELEASE").is_some() {
        return;
    }
    let out = var("OUT_DIR").unwrap();
    // PROFILE/build/PACKAGE-HASH/out
    if let Some(profile) = Path::new(&out).ancestors().nth(3) {
        println!("cargo::rustc-env=RSALLOC_BUILT_IN={}", profile.join("deps").display());
    }
}

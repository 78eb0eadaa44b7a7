//! Names the library as it is installed, and marks it as one that `dlclose` leaves in memory: see `load` in
//! rsalloc-core's engine.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,librsalloc.so");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}

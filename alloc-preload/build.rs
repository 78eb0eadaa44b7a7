//! Marks librsalloc.so as a library that `dlclose` leaves in memory: see alloc-core's engine::load.

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}

//! The sections as the kernel sees them, and what a stop promises about those in flight.

#[cfg(not(feature = "portable"))]
#[cfg_attr(target_arch = "x86_64", path = "sections/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "sections/aarch64.rs")]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod code;

#[cfg(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(feature = "portable")))]
#[path = "sections/all.rs"]
mod all;

#[cfg(not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(feature = "portable"))))]
#[test]
#[ignore = "this build has no sections"]
fn every_section() {}

//! The sections as the kernel sees them, and what a stop promises about those in flight.

#[cfg(all(target_arch = "x86_64", not(feature = "portable")))]
#[path = "sections/x86_64.rs"]
mod x86_64;

#[cfg(not(all(target_arch = "x86_64", not(feature = "portable"))))]
#[test]
#[ignore = "this build has no sections"]
fn every_section() {}

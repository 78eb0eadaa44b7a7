//! librsalloc.so: rsalloc as the C library's allocator, for `LD_PRELOAD`.
//!
//! Promises what glibc 2.36 documents for each function (limits, errno, corner cases), from before
//! the first constructor until after the last destructor.
//!
//! I1. `DT_NEEDED` is `libc.so.6` and nothing else.
//! I2. No function here calls another *exported* one by name: the program may have replaced that.
//!     Shared work goes through private functions and `rsalloc_core`.
//! I3. Nothing here allocates for itself.
#![no_std]

// Cargo builds tests with unwinding, which without a nightly needs std's panic runtime.
#[cfg(panic = "unwind")]
extern crate std;

mod api;
#[cfg(sections)]
mod arch;
mod c_abi;
#[cfg(sections)]
mod clone;
#[cfg(feature = "counters")]
mod counters;
#[cfg(sections)]
mod cxx;
mod errno;
mod exit;
mod jemalloc;
mod mall;
mod mallocx;
mod posix;
mod print;
#[cfg(sections)]
mod vfork;

#[cfg(not(sections))]
const _: () = assert!(
    !rsalloc_core::internals::arch::HAS_SECTIONS,
    "rsalloc-core has sections: this library needs a folder for the architecture in `arch`"
);

// I1. The libc crate links libc only while no other crate of the build asks for its `std` feature;
// without this line the command's dependencies would leave the library with unversioned symbols.
#[link(name = "c")]
unsafe extern "C" {}

#[cfg(not(panic = "unwind"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort has no preconditions.
    unsafe { libc::abort() }
}

/// The unwinder's hook, which precompiled `core` refers to; nothing unwinds here. Hidden: exported,
/// it would replace libstd's own in programs that link libstd dynamically, such as rustc.
#[cfg(not(panic = "unwind"))]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[cfg(not(panic = "unwind"))]
core::arch::global_asm!(".hidden rust_eh_personality");

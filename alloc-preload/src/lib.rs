//! librsalloc.so: the C interface.
#![no_std]

#[cfg(panic = "unwind")]
extern crate std;

alloc_core::c_malloc!(malloc);
alloc_core::c_free!(free);

#[cfg(not(panic = "unwind"))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort has no preconditions.
    unsafe { libc::abort() }
}

/// Debug builds of `core` refer to it; nothing unwinds here.
#[cfg(not(panic = "unwind"))]
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

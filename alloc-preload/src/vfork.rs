//! vfork(2), around which the engine keeps the child away from sections, which the kernel does not protect there.
//!
//! Promises what libc's does: one return in the child, on the parent's stack, and one in the parent when
//! the child has ended or runs another program. The exported functions are in `arch`.

use core::ffi::c_int;
use rsalloc_core::internals::engine::init;
use rsalloc_core::internals::rseq::vfork::{begin, end};

use crate::errno;

/// Before the system call.
pub extern "C" fn begin_for_c() {
    // Before it, the child's first object would start the engine, which no parent had told of the child.
    init::ensure();
    begin();
}

/// In the parent, after it.
pub extern "C" fn end_for_c() {
    end();
}

/// What the parent returns if the system call gave this.
pub extern "C" fn failed(negative: c_int) -> c_int {
    errno::set(-negative);
    -1
}

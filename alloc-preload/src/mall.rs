//! glibc's own additions: mallopt(3), mallinfo(3), malloc_trim(3).
//!
//! The functions that print are in `print`.

use core::ffi::c_int;
use rsalloc_core::internals::describe::Arena;

/// glibc's `struct mallinfo2`; `usize` there, `int` in `struct mallinfo`.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct MallInfo<T> {
    arena: T,
    ordblks: T,
    smblks: T,
    hblks: T,
    hblkhd: T,
    usmblks: T,
    fsmblks: T,
    uordblks: T,
    fordblks: T,
    keepcost: T,
}

/// See malloc_trim(3): 1 if memory went back to the OS. The pad has no meaning here.
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(_pad: usize) -> c_int {
    crate::errno::keeping(|| (rsalloc_core::release() > 0) as c_int)
}

/// See mallopt(3): 1, also for unknown parameters, as glibc does; 0 for values that its manual calls out of range.
///
/// * `M_TRIM_THRESHOLD` sets what `dirty` of `RSALLOC_CONF` sets, which comes first: how much free memory stays
///   resident. A negative value, which turns trimming off in glibc, sets no limit.
/// * All others are about structures that do not exist here: there is no arena to count (`M_ARENA_MAX`,
///   `M_ARENA_TEST`), no top to pad (`M_TOP_PAD`), no threshold below which a large object would not be a span of
///   its own (`M_MMAP_THRESHOLD`, `M_MMAP_MAX`) and no fast bin (`M_MXFAST`); what `M_PERTURB` and `M_CHECK_ACTION`
///   are for, `hardened` does. A program asks for less memory or less speed by them, never for another result, so
///   they are accepted without effect.
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(param: c_int, value: c_int) -> c_int {
    match param {
        M_MXFAST => c_int::from((0..=MXFAST_MAX).contains(&value)),
        M_TRIM_THRESHOLD => {
            let limit = usize::try_from(value).unwrap_or(usize::MAX);
            crate::errno::keeping(|| rsalloc_core::limit_dirty(limit));
            1
        }
        _ => 1,
    }
}

/// malloc.h.
const M_MXFAST: c_int = 1;
const M_TRIM_THRESHOLD: c_int = -1;
/// The largest value that glibc has for it: 80 words of four bytes each, in bytes of a 64-bit word.
const MXFAST_MAX: c_int = 80 * size_of::<usize>() as c_int / 4;

/// See mallinfo2(3).
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> MallInfo<usize> {
    info(|number| number)
}

/// See mallinfo(3): as `mallinfo2`, but what does not fit an `int` reads INT_MAX, not a remainder.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> MallInfo<c_int> {
    info(|number| c_int::try_from(number).unwrap_or(c_int::MAX))
}

/// In glibc's terms small objects and free memory are the arenas, and large objects the mapped chunks:
/// `arena = uordblks + fordblks`, of which `keepcost` is in spans. Untouched address space is in none of them.
fn info<T: Default>(number: impl Fn(usize) -> T) -> MallInfo<T> {
    let s = rsalloc_core::stats();
    let arena = Arena::of(&s);
    MallInfo {
        arena: number(arena.total()),
        hblks: number(s.large_count),
        hblkhd: number(s.large_bytes),
        uordblks: number(arena.in_use),
        fordblks: number(arena.free),
        keepcost: number(s.dirty_bytes),
        ..MallInfo::default()
    }
}

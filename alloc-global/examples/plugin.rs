//! A plugin with an allocator of its own, which `tests/unload.rs` loads and unloads.

#[global_allocator]
static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;

/// Allocates and frees.
#[unsafe(no_mangle)]
pub extern "C" fn work() -> usize {
    (1..1000).map(|size| std::hint::black_box(vec![1u8; size]).len()).sum()
}

/// Whether the engine has started.
#[unsafe(no_mangle)]
pub extern "C" fn has_started() -> bool {
    rsalloc::report().mode != rsalloc::Mode::Unset
}

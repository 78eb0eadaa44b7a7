//! The architecture's part of the library: functions that Rust cannot express, as a contract that each folder fulfils.
//!
//! An architecture whose engine has sections has a folder here of its name; the build script finds it (`cfg(sections)`).
//! Others need none: without sections a child on its parent's memory needs no care, and the C++ runtime's own operators
//! call `malloc` and `free`, which is right too, only slower.
//!
//! # `children.rs`: vfork and clone
//!
//! | item | contract | tests |
//! |---|---|---|
//! | `vfork`, `__vfork` (exported) | `vfork::begin_for_c()`, then the system call. In the child: returns 0, on the parent's stack, which the child overwrites below its caller's frame: the return address waits in a register. In the parent: `vfork::end_for_c()`, then the child's id, or `vfork::failed(negative errno)` | `process` |
//! | `clone`, `__clone` (exported) | go on at `clone::start_child` with all arguments as they came | `process` |
//! | [`enter`] | see there | `process`, `unwinding` |
//!
//! # `jumps.rs`: the operators of C++
//!
//! Macros that each define functions which end in a jump, so that no frame of this library is unwound when what they jump
//! to throws. All have unwind information.
//!
//! | macro | contract |
//! |---|---|
//! | [`jump_to_symbol!`] | exported; jumps to what the dynamic linker bound the other name to, arguments as they came |
//! | [`jump_to_symbol_without_second!`] | the same, with the third argument as the second |
//! | [`jump_to_found!`] | calls Rust code that finds an address, jumps there; three words of arguments pass through |
//! | [`jump_to_slot!`] | jumps to the address in a static; the expression that fills it runs at the first call |
//! | [`call_or_jump!`] | calls a function of one or two words; if that gives null, jumps to another with the same words |
//! | [`address_of!`], [`weak_address_of!`] | the address that the dynamic linker bound a name to; the latter null if nothing defines it. By this library's own table: asks nothing at run time |
//! | [`image`] | the addresses of this library, by symbols of the static linker |
//!
//! Tests: `cxx`, `unwinding`, `library` (the exported names), `loader`.

#[cfg_attr(target_arch = "x86_64", path = "x86_64/mod.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64/mod.rs")]
mod selected;

pub(crate) use selected::{
    address_of, call_or_jump, jump_to_found, jump_to_slot, jump_to_symbol,
    jump_to_symbol_without_second, weak_address_of,
};
pub use selected::{enter, image};

const _: () = assert!(
    rsalloc_core::internals::arch::HAS_SECTIONS,
    "this library has a folder for the architecture, rsalloc-core has none: see `arch` of both"
);

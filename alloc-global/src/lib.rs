#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![no_std]

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod linux;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use linux::*;

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub mod profile;

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
mod elsewhere;

#[cfg(feature = "allocator-api2")]
mod api2;

/// Pages of docs/ whose examples are tests here.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../docs/rust.md")]
    mod rust {}
    #[doc = include_str!("../../docs/configure.md")]
    mod configure {}
}

/// The allocator, for a `#[global_allocator]`.
///
/// A free takes the size class from the layout and looks nothing up. With the feature `allocator-api2`, `RsAlloc` and
/// `&RsAlloc` are `Allocator`s of collections as well.
///
/// ```standalone_crate
/// use rsalloc::RsAlloc;
///
/// #[global_allocator]
/// static GLOBAL: RsAlloc = RsAlloc;
///
/// fn main() {
///     assert_eq!(vec![1; 1000].iter().sum::<i32>(), 1000);
/// }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RsAlloc;

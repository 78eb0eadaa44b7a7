//! rsalloc as a Rust global allocator.
//!
//! ```standalone_crate
//! use rsalloc::RsAlloc;
//!
//! #[global_allocator]
//! static GLOBAL: RsAlloc = RsAlloc;
//! # fn main() { assert_eq!(vec![1; 1000].iter().sum::<i32>(), 1000); }
//! ```
//!
//! `dealloc` takes the size class from the layout and looks nothing up. [`stats`], [`report`] and
//! [`settings`] say what the allocator holds and how it serves; [`release`] gives idle memory back;
//! [`check`] validates the whole heap. With the feature `allocator-api2`, `&RsAlloc` and `RsAlloc` are
//! `allocator_api2::alloc::Allocator`s as well.
//! # Platforms
//!
//! rsalloc runs on 64-bit Linux. Elsewhere [`RsAlloc`] is `std::alloc::System`, so that a program for several platforms
//! names its allocator without `cfg`; the functions and types of this page other than [`RsAlloc`] are not there then. Without
//! the default feature `system-elsewhere` such a build stops with an error instead.
#![no_std]

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod linux;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
pub use linux::*;

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
mod elsewhere;

#[cfg(feature = "allocator-api2")]
mod api2;

/// The allocator: `#[global_allocator] static GLOBAL: RsAlloc = RsAlloc;`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RsAlloc;

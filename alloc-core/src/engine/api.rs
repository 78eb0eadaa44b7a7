//! The functions of the crate's page: what the fronts call.
//!
//! Promises: the contract of each. The hot paths are the entries of `arch`; what they cannot do goes to
//! [`slow`](super::slow).

use super::request::Request;
use super::{fit, hardened, init, large, plain, sampled, settings, slow};
use crate::canary;
use crate::config::{Key, Origin};
use crate::cpu_cache::drain;
use crate::fail::Misuse;
use crate::object::{Contents, Fresh, Object};
use crate::os;
use crate::page_map;
use crate::profile::{self, ProfileError, countdown};
use crate::size_class::{CLASS, Class, class_of};
use crate::units::PAGE_BYTES;
use core::ptr::{self, NonNull};

crate::rust_alloc! {
    /// Allocates `size` bytes aligned to `align`, a power of two. Null when out of memory.
    allocate_aligned
}

crate::rust_dealloc! {
    /// Frees an object whose size and alignment at allocation are known: no look-up.
    free_sized
}

/// Allocates `size` bytes aligned to 16 (to 8 if `size <= 8`). A size of 0 gives a unique object. Null
/// when out of memory.
pub fn allocate(size: usize) -> *mut u8 {
    allocate_aligned(size, 8)
}

/// As [`allocate_aligned`], of which the `size` bytes are cleared.
pub fn allocate_zeroed(size: usize, align: usize) -> *mut u8 {
    allocate_and_clear(size, align, |_| size)
}

/// As [`allocate_aligned`], of which all that may be used is cleared: a program of C may grow an object by
/// `malloc_usable_size`, or by a `realloc` that leaves it in place.
pub fn allocate_cleared(size: usize, align: usize) -> *mut u8 {
    allocate_and_clear(size, align, |object| all_bytes(object, size))
}

/// Clears all that may be used of a fresh object of `size` bytes, unless it is null.
pub(crate) fn clear_all(object: *mut u8, size: usize) -> *mut u8 {
    if !object.is_null() {
        // SAFETY: the caller's fresh object of at least so many bytes.
        unsafe { object.write_bytes(0, all_bytes(object, size)) };
    }
    object
}

/// What may be used of a fresh object of `size` bytes.
fn all_bytes(object: *const u8, size: usize) -> usize {
    match class_of(size) {
        // Nearly always: the length is known before the object's page is looked up.
        class if class == page_map::class_at(object as usize) && is_plain(class) => {
            CLASS[class].size
        }
        // SAFETY: the object is fresh, so live.
        _ => unsafe { usable_size(object) },
    }
}

/// Whether all of an object of `class` may be used.
fn is_plain(class: Class) -> bool {
    class != 0 && !canary::is_on()
}

#[inline]
fn allocate_and_clear(size: usize, align: usize, bytes: impl Fn(*const u8) -> usize) -> *mut u8 {
    if size <= PAGE_BYTES / 2 {
        let object = allocate_aligned(size, align);
        if !object.is_null() {
            // SAFETY: a fresh object of at least so many bytes.
            unsafe { object.write_bytes(0, bytes(object)) };
        }
        return object;
    }
    let fresh = sampled::count_and_allocate(Request::new(size, align));
    let Some(Fresh { object, contents }) = fresh else {
        return ptr::null_mut();
    };
    let pointer = object.into_raw();
    if contents != Contents::Zero {
        // SAFETY: a fresh object of at least so many bytes.
        unsafe { pointer.write_bytes(0, bytes(pointer)) };
    }
    pointer
}

/// Frees an object of any front; null is ignored; a pointer of another allocator ends the process with
/// one line.
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
#[inline]
pub unsafe fn free(ptr: *mut u8) {
    // SAFETY: duty 1: the caller gives the object up.
    if let Some(object) = NonNull::new(ptr).map(|ptr| unsafe { Object::from_raw(ptr) }) {
        let class = page_map::class_at(ptr as usize);
        super::free(object, class, None);
    }
}

/// Bytes that the program may use at `ptr`, at least what it asked for; 0 for null.
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
pub unsafe fn usable_size(ptr: *const u8) -> usize {
    match page_map::class_at(ptr as usize) {
        class if is_plain(class) => CLASS[class].size,
        class => usable_size_slow(ptr as usize, class),
    }
}

/// Bytes that the program may use of an object that it asks for by this size and alignment, a power of two. Where all objects
/// are checked (`hardened`), these are what it asks for.
pub fn usable_size_of(size: usize, align: usize) -> usize {
    let request = Request::new(size, align);
    let unit = match request.class {
        _ if !init::ensure() || canary::is_on() => 1,
        0 if large::has_own_mapping(request) => os::page_bytes(),
        0 => PAGE_BYTES,
        class => return CLASS[class].size,
    };
    size.max(1).next_multiple_of(unit)
}

#[cold]
fn usable_size_slow(address: usize, class: Class) -> usize {
    match address {
        0 => 0,
        _ if canary::is_on() => hardened::usable_size(address, class),
        _ => large::bytes_at(address, Misuse::SizeOfFreed),
    }
}

/// Resizes `ptr` (null: allocates). Null when out of memory; `ptr` is untouched then. The alignment of
/// the result is that of [`allocate`].
///
/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
#[inline]
pub unsafe fn reallocate(ptr: *mut u8, size: usize) -> *mut u8 {
    if fit::shows_that_it_stays(ptr, size) && !sampled::watches_resizes() {
        return ptr;
    }
    // SAFETY: duty 1.
    unsafe { reallocate_slow(ptr, size) }
}

/// # Safety
/// 1. `ptr` is null or a live object of this allocator.
#[inline(never)]
unsafe fn reallocate_slow(ptr: *mut u8, size: usize) -> *mut u8 {
    match NonNull::new(ptr) {
        // SAFETY: duty 1.
        Some(ptr) if fit::may_stay(ptr.as_ptr(), size) => unsafe {
            plain::stay(ptr, Request::new(size, 1))
        },
        // SAFETY: duty 1.
        Some(ptr) => unsafe { super::resize(ptr, None, Request::new(size, 1)) },
        None => allocate(size),
    }
}

/// Resizes an object whose layout is known.
///
/// # Safety
/// 1. `ptr` is a live object that was allocated with `old_size` and `align`.
pub unsafe fn reallocate_sized(
    ptr: *mut u8,
    old_size: usize,
    align: usize,
    size: usize,
) -> *mut u8 {
    let resolve = |size| match align {
        0..=8 => Request::with_class(slow::small_class_of(size), size, align),
        _ => Request::new(size, align),
    };
    // SAFETY: duty 1.
    unsafe { super::resize(NonNull::new_unchecked(ptr), Some(resolve(old_size)), resolve(size)) }
}

/// Sets how many bytes of free pages may stay resident at least: the setting `dirty`. Returns whether it was set;
/// what `RSALLOC_CONF` or
/// `rsalloc set` says stays.
///
/// ```
/// if !rsalloc::limit_dirty(32 << 20) {
///     eprintln!("RSALLOC_CONF or `rsalloc set` says otherwise");
/// }
/// ```
pub fn limit_dirty(bytes: usize) -> bool {
    init::ensure() && settings::change(Key::Dirty, bytes, Origin::Call).is_ok()
}

/// Starts a sampled heap profile: one sample in so many allocated bytes on average, 0 for 512 KiB. What a former profile has
/// recorded is forgotten. Async-signal-safe; needs no memory of this allocator.
///
/// # Errors
/// A profile runs already, the interval is below 256 bytes or above 1 GiB, or the system gives no memory.
pub fn start_profile(interval_bytes: usize) -> Result<(), ProfileError> {
    if !init::ensure() {
        // A handler on top of init.
        return Err(ProfileError::IsSwitching);
    }
    profile::start(if interval_bytes == 0 { countdown::DEFAULT_INTERVAL } else { interval_bytes })
}

/// Stops the profile; what it has recorded stays until the next start. Async-signal-safe.
///
/// # Errors
/// No profile runs.
pub fn stop_profile() -> Result<(), ProfileError> {
    profile::stop()
}

/// [`start_profile`]: 0, or an errno.
///
/// A reader outside finds the address of this function in the published block, and may have a stopped thread call it at any time,
/// before init too.
pub extern "C" fn start_profile_for_c(interval_bytes: usize) -> i32 {
    start_profile(interval_bytes).map_or_else(ProfileError::errno, |()| 0)
}

/// [`stop_profile`], in the same way.
pub extern "C" fn stop_profile_for_c() -> i32 {
    stop_profile().map_or_else(ProfileError::errno, |()| 0)
}

/// Gives all cached and free memory back to the OS: that of each CPU's cache, of the tiers behind them, and free pages.
/// Returns the number of bytes.
///
/// ```
/// drop(vec![1u8; 100 << 20]);
/// println!("{} bytes given back", rsalloc::release());
/// ```
pub fn release() -> usize {
    drain::drain_all()
}

//! Which sizes an object of a class serves: where a resize leaves it in place, and how much a growing one gets.
//!
//! Promises: an object that stays where it is may be freed by its new size.
#![forbid(unsafe_code)]

use super::request::Request;
use crate::atomic::{AtomicU64, Ordering};
use crate::page_map;
use crate::size_class::{CLASS, CLASSES, Class, class_of, natural_align};

/// By class, the sizes that its objects may be resized to where they are: the least in the low half, how
/// many in the high half. None at first, and none if hardened: each object is checked then.
static IN_PLACE: [AtomicU64; 128] = [const { AtomicU64::new(0) }; 128];
const _: () = assert!(CLASSES <= 128);

/// Whether the object at `ptr` serves `size` as it is.
#[inline]
pub(super) fn may_stay(ptr: *const u8, size: usize) -> bool {
    serves(page_map::class_at(ptr as usize), size)
}

/// As [`may_stay`], but false for null and every address outside the page-map range, which needs no call.
#[inline]
pub(super) fn shows_that_it_stays(ptr: *const u8, size: usize) -> bool {
    serves(page_map::class_in_page_map(ptr as usize), size)
}

#[inline]
fn serves(class: Class, size: usize) -> bool {
    // Ordering: Relaxed, filled by init before any object exists.
    let sizes = IN_PLACE[class % IN_PLACE.len()].load(Ordering::Relaxed) as usize;
    size.wrapping_sub(sizes & u32::MAX as usize) < sizes >> 32
}

/// Lets objects stay in place: up to the class's size, and down to half of it as long as the object may be freed as
/// what it is then. For init.
pub(super) fn allow_in_place() {
    for class in 1..CLASSES {
        let most = CLASS[class].size;
        let below = (1..class).rev();
        let allowed = below.take_while(|&smaller| {
            CLASS[smaller].size > most / 2 && may_be_freed_as(class, CLASS[smaller].size)
        });
        let least = CLASS[allowed.last().unwrap_or(class) - 1].size.max(most / 2) + 1;
        let sizes = (most - least + 1) << 32 | least;
        // Ordering: Relaxed, published by READY.
        IN_PLACE[class].store(sizes as u64, Ordering::Relaxed);
    }
}

/// Whether an object of `class` may come back as one of `size` bytes: C's `free_sized` puts it into the
/// cache of that size, which promises the alignment of its own objects.
fn may_be_freed_as(class: Class, size: usize) -> bool {
    // A free of a size without a class looks for the object's own.
    class == 0 || natural_align(class) >= natural_align(class_of(size))
}

/// The request, enlarged for more growth: an object that grows by a little will do so again, and a quarter more saves
/// the next copies. Of the smallest such class whose objects may be freed as one of the request's size.
pub(super) fn enlarged(old: usize, request: Request) -> Request {
    let size = request.size;
    let generous = old + old / 4;
    if size <= old || size >= generous {
        return request;
    }
    let first = class_of(generous);
    if first == 0 {
        return Request::new(generous, request.align);
    }
    let fitting = (first..CLASSES).take(4).find(|&class| may_be_freed_as(class, size));
    fitting.map_or(request, |class| Request::new(CLASS[class].size, request.align))
}

//! Values that live as long as the process.
//!
//! Invariants:
//! I1. `FREE` is 0, or the address of memory mapped here that is handed out from there to the end of its OS page, each
//!     byte once.

use super::{Place, map, page_bytes};
use crate::atomic::{AtomicUsize, Ordering};

/// Where the next value may go.
static FREE: AtomicUsize = AtomicUsize::new(0);

/// Keeps `value` as long as the process lives, in an OS page for several of them; none if there is no memory.
pub fn keep<T: Send + Sync>(value: T) -> Option<&'static T> {
    const { assert!(size_of::<T>() > 0 && align_of::<T>() <= 64) };
    let place = reserve(size_of::<T>().next_multiple_of(64))? as *mut T;
    // SAFETY: I1: the bytes are this call's, aligned, and never unmapped.
    unsafe {
        place.write(value);
        Some(&*place)
    }
}

/// The address of `bytes` bytes, a multiple of 64.
fn reserve(bytes: usize) -> Option<usize> {
    if bytes > page_bytes() {
        return None;
    }
    // Ordering: Relaxed, the word carries no data; the exchange below confirms it.
    let free = FREE.load(Ordering::Relaxed);
    if (free.wrapping_neg() % page_bytes()) >= bytes {
        // Ordering: Relaxed, as above.
        let taken = FREE.compare_exchange(free, free + bytes, Ordering::Relaxed, Ordering::Relaxed);
        if taken.is_ok() {
            return Some(free);
        }
    }
    // The rest of the page, or of the one that another thread maps at the same time, stays unused.
    let page = map(Place::Anywhere, page_bytes()).ok()?;
    // Ordering: Relaxed, as above.
    FREE.store(page + bytes, Ordering::Relaxed);
    Some(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_values_stay_apart() {
        let kept = [(); 40].map(|()| keep([0_u8; 255]).unwrap());
        let values: [_; 40] = core::array::from_fn(|at| keep([at as u8; 255]).unwrap());
        assert!(kept.iter().all(|value| **value == [0; 255]));
        assert!(values.iter().enumerate().all(|(at, value)| **value == [at as u8; 255]));
        assert!(keep([0_u8; 1 << 17]).is_none());
    }
}

//! Keys of thread-specific data, for their destructors.
//!
//! Promises of a key of [`Order::Last`]: if a thread gives it a value, its destructor runs before the thread's memory
//! goes, even if the thread does so in a destructor of its last round. libc runs up to PTHREAD_DESTRUCTOR_ITERATIONS
//! rounds over the keys in ascending order (glibc nptl/nptl_deallocate_tsd.c, musl src/thread/pthread_key_create.c), so
//! the highest key comes behind all others in each round, and no code of the program behind it.

use crate::os;
use libc::{c_void, pthread_key_t};

/// What a destructor is.
pub type Destructor = unsafe extern "C" fn(*mut c_void);

/// Which key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// Any one: a value that is given in the last round may stay.
    Any,
    /// The highest one that is free.
    Last,
}

/// The most keys of any libc (glibc; musl 128).
const KEYS_MAX: usize = 1024;

/// A key with this destructor; none if there is none left.
pub fn create(order: Order, destructor: Destructor) -> Option<pthread_key_t> {
    if order == Order::Any {
        return os::make_thread_end_key(destructor);
    }
    let mut keys = [0; KEYS_MAX];
    let mut made = 0;
    let free = core::iter::from_fn(|| os::make_thread_end_key(destructor));
    for (slot, key) in keys.iter_mut().zip(free) {
        *slot = key;
        made += 1;
    }
    let last = *keys[..made].iter().max()?;
    for &key in keys[..made].iter().filter(|&&key| key != last) {
        // SAFETY: made above, and no thread has given it a value.
        unsafe { libc::pthread_key_delete(key) };
    }
    Some(last)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

    static RE_ARMED: AtomicU32 = AtomicU32::new(0);
    static WATCHED: AtomicU32 = AtomicU32::new(0);
    static ROUNDS: AtomicUsize = AtomicUsize::new(0);
    static UNDONE: AtomicUsize = AtomicUsize::new(0);

    /// PTHREAD_DESTRUCTOR_ITERATIONS of glibc and musl.
    const ROUNDS_MAX: usize = 4;

    /// Comes again in each round; in the last one it is the first to give the watched key a value.
    unsafe extern "C" fn again(value: *mut c_void) {
        let rounds = ROUNDS.fetch_add(1, Ordering::Relaxed) + 1;
        let key = if rounds == ROUNDS_MAX { &WATCHED } else { &RE_ARMED };
        // SAFETY: the keys exist.
        unsafe { libc::pthread_setspecific(key.load(Ordering::Relaxed), value) };
    }

    unsafe extern "C" fn undo(_: *mut c_void) {
        UNDONE.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the destructor of `watched` runs in a thread that gives it its value in its last round.
    fn is_undone(watched: pthread_key_t, re_armed: pthread_key_t) -> bool {
        WATCHED.store(watched, Ordering::Relaxed);
        RE_ARMED.store(re_armed, Ordering::Relaxed);
        ROUNDS.store(0, Ordering::Relaxed);
        UNDONE.store(0, Ordering::Relaxed);
        std::thread::spawn(move || {
            let value = (&raw const WATCHED).cast_mut().cast::<c_void>();
            // SAFETY: the key exists.
            unsafe { libc::pthread_setspecific(re_armed, value) };
        })
        .join()
        .unwrap();
        assert_eq!(ROUNDS.load(Ordering::Relaxed), ROUNDS_MAX);
        UNDONE.load(Ordering::Relaxed) == 1
    }

    #[test]
    fn the_last_key_is_undone_even_if_it_gets_its_value_in_the_last_round() {
        let any = create(Order::Any, undo).unwrap();
        let last = create(Order::Last, undo).unwrap();
        // musl hands keys out in turn, and begins again below `any`.
        let mut below = std::vec::Vec::new();
        let re_armed = loop {
            match create(Order::Any, again).unwrap() {
                key if key > any => break key,
                key => below.push(key),
            }
        };
        assert!(re_armed < last, "{any} {re_armed} {last}");
        // What registration had before, and what a musl program's thread died of.
        assert!(!is_undone(any, re_armed));
        assert!(is_undone(last, re_armed));
        for key in below.into_iter().chain([any, last, re_armed]) {
            // SAFETY: made above; the threads with values are gone.
            unsafe { libc::pthread_key_delete(key) };
        }
    }
}

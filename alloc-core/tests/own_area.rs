//! A thread's own rseq area in its last moments: the kernel has forgotten it before libc may reuse its memory, and
//! what the thread still allocates and frees does not register it again.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;

use modes::{in_modes, mode};
use rsalloc_core::internals::rseq::abi::{self, AREA_LEN, Area, RseqError};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const THREADS: u32 = 20;

fn main() {
    in_modes(&[mode("own")], LIMIT, |_| {
        use_heap();
        let mut key = 0;
        // SAFETY: the destructor is a function of this program.
        assert_eq!(unsafe { libc::pthread_key_create(&raw mut key, Some(last_words)) }, 0);
        KEY.store(key, Ordering::Relaxed);
        for _ in 0..THREADS {
            std::thread::spawn(live).join().expect("no panic");
        }
        let (known, unknown) = (KNOWN.load(Ordering::Relaxed), UNKNOWN.load(Ordering::Relaxed));
        assert_eq!(
            (known, unknown),
            (0, THREADS),
            "threads whose area the kernel still had, and had not"
        );
        assert_eq!(rsalloc_core::check(), Ok(()));
    });
}

static KEY: AtomicU32 = AtomicU32::new(0);
/// Threads whose area the kernel knew in their last moments, and did not know.
static KNOWN: AtomicU32 = AtomicU32::new(0);
static UNKNOWN: AtomicU32 = AtomicU32::new(0);

fn use_heap() {
    for size in [40, 4000, 300_000] {
        let object = rsalloc_core::allocate(size);
        assert!(!object.is_null());
        // SAFETY: live.
        unsafe { rsalloc_core::free(object) };
    }
}

fn live() {
    use_heap();
    assert!(is_registered(), "a thread that allocates has its area registered");
    set_round(1);
}

/// Destructors of a round run in any order; in the third round all of the engine's have run.
fn set_round(round: usize) {
    // SAFETY: the key exists; the value is a number, never followed.
    let set = unsafe { libc::pthread_setspecific(KEY.load(Ordering::Relaxed), round as *const _) };
    assert_eq!(set, 0);
}

unsafe extern "C" fn last_words(round: *mut libc::c_void) {
    match round as usize {
        round @ 1..=2 => set_round(round + 1),
        _ => {
            // The heap still serves the thread, another way.
            let is_known = is_registered();
            use_heap();
            let counter = if is_known || is_registered() { &KNOWN } else { &UNKNOWN };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Whether the kernel knows an area of the calling thread: it takes no second one.
fn is_registered() -> bool {
    struct Other(UnsafeCell<Area>);
    // SAFETY: written by the kernel alone.
    unsafe impl Sync for Other {}
    // SAFETY: integers.
    static OTHER: Other = Other(UnsafeCell::new(unsafe { std::mem::zeroed() }));
    // SAFETY: the area is a static, and one thread after the other uses it.
    match unsafe { abi::register(OTHER.0.get(), AREA_LEN) } {
        Err(RseqError::Invalid) => true,
        Err(error) => panic!("not the answer of a kernel with rseq: {error:?}"),
        Ok(()) => {
            // SAFETY: registered just now; the thread is in no section.
            assert_eq!(unsafe { abi::unregister(OTHER.0.get(), AREA_LEN) }, Ok(()));
            false
        }
    }
}

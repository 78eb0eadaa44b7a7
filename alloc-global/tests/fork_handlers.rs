//! A Rust program on `RsAlloc` in which another library registered its fork handlers first: they run while the forking
//! thread holds every lock of the allocator, and are served as ever.

use rsalloc::RsAlloc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[global_allocator]
static ALLOCATOR: RsAlloc = RsAlloc;

/// Requests of a handler: small ones, and every hundredth a large one.
const REQUESTS: usize = 4000;

static ARMED: AtomicBool = AtomicBool::new(false);
static RAN: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Before all constructors, so also before the engine's. musl does not look at `.preinit_array`.
#[used]
#[cfg_attr(not(target_env = "musl"), unsafe(link_section = ".preinit_array"))]
#[cfg_attr(target_env = "musl", unsafe(link_section = ".init_array.00001"))]
static FIRST: extern "C" fn() = register_first;

extern "C" fn register_first() {
    // SAFETY: the handlers live for ever.
    unsafe { libc::pthread_atfork(Some(prepare), Some(after), Some(after)) };
}

extern "C" fn prepare() {
    if ARMED.load(Ordering::SeqCst) {
        *KEPT.lock().unwrap() = all_requests().collect();
    }
}

extern "C" fn after() {
    if ARMED.load(Ordering::SeqCst) {
        let fresh: Vec<_> = all_requests().collect();
        let kept = std::mem::take(&mut *KEPT.lock().unwrap());
        let is_whole = kept.iter().zip(&fresh).all(|(kept, fresh)| kept == fresh);
        REFUSED.fetch_add(usize::from(!is_whole), Ordering::SeqCst);
    }
}

/// Vectors whose contents follow from their numbers.
fn all_requests() -> impl Iterator<Item = Vec<u8>> {
    RAN.fetch_add(1, Ordering::SeqCst);
    (0..REQUESTS).filter_map(|number| {
        let len = if number % 100 == 0 { 300_000 + number * 100 } else { 1 + number * 17 % 33_000 };
        let mut bytes = Vec::new();
        if bytes.try_reserve_exact(len).is_err() {
            REFUSED.fetch_add(1, Ordering::SeqCst);
            return None;
        }
        bytes.resize(len.min(64), number as u8);
        Some(bytes)
    })
}

#[test]
fn other_libraries_fork_handlers_are_served() {
    static STOP: AtomicBool = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for seed in 0..3 {
            scope.spawn(move || {
                while !STOP.load(Ordering::SeqCst) {
                    // However slow a fork is: fewer objects in all than the 1,024 standalone mappings that there may be during one
                    // (docs/adr/0019).
                    let kept: Vec<_> = (0..300).map(|i| vec![seed; i * 61 % 20_000]).collect();
                    assert!(kept.iter().flatten().all(|&byte| byte == seed));
                }
            });
        }
        ARMED.store(true, Ordering::SeqCst);
        for _ in 0..5 {
            // SAFETY: the child ends at once.
            let child = unsafe { libc::fork() };
            if child == 0 {
                let code = REFUSED.load(Ordering::SeqCst).min(1) as i32;
                // SAFETY: ends the child.
                unsafe { libc::_exit(code) };
            }
            let mut status = 0;
            // SAFETY: our own child.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "refused in the child");
        }
        ARMED.store(false, Ordering::SeqCst);
        STOP.store(true, Ordering::SeqCst);
    });
    assert_eq!(RAN.load(Ordering::SeqCst), 10, "the handlers did not run");
    assert_eq!(REFUSED.load(Ordering::SeqCst), 0);
}

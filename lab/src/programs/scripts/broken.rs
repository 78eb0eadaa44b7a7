//! A deliberately broken allocator to preload: glibc's malloc with one defect, chosen by
//! `--cfg defect="..."`: `none`, `flip` (changes one bit in a live object now and then) or
//! `overlap` (hands out a live object a second time now and then).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::Relaxed};

// SAFETY: glibc's own signatures. Each function below has the contract of the one it stands for, and its caller keeps that: what
// it passes on is what it was given.
unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(object: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_free(object: *mut c_void);
    fn __libc_memalign(align: usize, size: usize) -> *mut c_void;
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// Calls between two defects, and from choosing a victim to harming it: of small objects, and of
/// large ones, which some programs ask for only a few times.
const SMALL: Rhythm = Rhythm { every: 200, delay: 20 };
const LARGE: Rhythm = Rhythm { every: 4, delay: 1 };
const LARGE_FROM: usize = 64 << 10;

struct Rhythm {
    every: usize,
    delay: usize,
}

/// The objects of one rhythm.
struct Kind {
    calls: AtomicUsize,
    victim: AtomicPtr<c_void>,
    size: AtomicUsize,
}

impl Kind {
    const fn new() -> Kind {
        let victim = AtomicPtr::new(null_mut());
        Kind { calls: AtomicUsize::new(0), victim, size: AtomicUsize::new(0) }
    }
}

static KINDS: [Kind; 2] = [Kind::new(), Kind::new()];

/// Harms the victim of earlier, or makes `object` the next one.
fn tamper(object: *mut c_void, size: usize) -> *mut c_void {
    if cfg!(defect = "none") || object.is_null() {
        return object;
    }
    let large = size >= LARGE_FROM;
    let (kind, rhythm) = (&KINDS[usize::from(large)], if large { LARGE } else { SMALL });
    let call = kind.calls.fetch_add(1, Relaxed) % rhythm.every;
    if call == rhythm.every - rhythm.delay {
        kind.size.store(size, Relaxed);
        kind.victim.store(object, Relaxed);
    } else if call < rhythm.delay {
        let (victim, victim_size) = (kind.victim.load(Relaxed), kind.size.load(Relaxed));
        if !victim.is_null() && cfg!(defect = "flip") {
            kind.victim.store(null_mut(), Relaxed);
            // SAFETY: the victim is live, or `free` and `realloc` would have made it null; the half of its size lies within.
            // Two threads may race here: the defect is on purpose.
            unsafe { *victim.cast::<u8>().add(victim_size / 2) ^= 0x10 };
        }
        if !victim.is_null() && cfg!(defect = "overlap") && size <= victim_size {
            kind.victim.store(null_mut(), Relaxed);
            return victim;
        }
    }
    object
}

fn forget(object: *mut c_void) {
    for kind in &KINDS {
        let _ = kind.victim.compare_exchange(object, null_mut(), Relaxed, Relaxed);
    }
}

#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    // SAFETY: any size may be asked for.
    tamper(unsafe { __libc_malloc(size) }, size)
}

#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    // SAFETY: any product may be asked for.
    unsafe { __libc_calloc(count, size) }
}

#[unsafe(no_mangle)]
extern "C" fn realloc(object: *mut c_void, size: usize) -> *mut c_void {
    forget(object);
    // SAFETY: the caller's object is live or null, and glibc's.
    tamper(unsafe { __libc_realloc(object, size) }, size)
}

#[unsafe(no_mangle)]
extern "C" fn free(object: *mut c_void) {
    forget(object);
    // SAFETY: the caller's object is live or null, and glibc's.
    unsafe { __libc_free(object) }
}

#[unsafe(no_mangle)]
extern "C" fn memalign(align: usize, size: usize) -> *mut c_void {
    // SAFETY: the caller's alignment is a power of two.
    unsafe { __libc_memalign(align, size) }
}

#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    memalign(align, size)
}

#[unsafe(no_mangle)]
extern "C" fn posix_memalign(object: *mut *mut c_void, align: usize, size: usize) -> c_int {
    let found = memalign(align, size);
    // SAFETY: the caller lets `object` be written.
    unsafe { *object = found };
    if found.is_null() { 12 } else { 0 }
}

/// libc's own, by name: a program that links another allocator would find that one first.
#[unsafe(no_mangle)]
extern "C" fn malloc_usable_size(object: *mut c_void) -> usize {
    static FOUND: AtomicPtr<c_void> = AtomicPtr::new(null_mut());
    const LAZY: c_int = 1;
    let text = |text: &'static CStr| text.as_ptr();
    if FOUND.load(Relaxed).is_null() {
        // SAFETY: a library that is loaded, and a name that ends with 0.
        let libc = unsafe { dlopen(text(c"libc.so.6"), LAZY) };
        // SAFETY: as above.
        FOUND.store(unsafe { dlsym(libc, text(c"malloc_usable_size")) }, Relaxed);
    }
    let found = FOUND.load(Relaxed);
    // SAFETY: libc has this function, with this signature.
    let size: extern "C" fn(*mut c_void) -> usize = unsafe { std::mem::transmute(found) };
    size(object)
}

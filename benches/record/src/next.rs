//! The allocator below: the functions of the next library in the search order.
//!
//! Promises an answer at any time: while the dynamic linker looks them up it may allocate, and gets memory of a small
//! arena, whose objects are never freed.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_int, c_void};
use core::ptr::null_mut;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// An object, or null.
pub type Ptr = *mut c_void;

type OfSize = unsafe extern "C" fn(usize) -> Ptr;
type OfTwo = unsafe extern "C" fn(usize, usize) -> Ptr;
type Resize = unsafe extern "C" fn(Ptr, usize) -> Ptr;
type Free = unsafe extern "C" fn(Ptr);
type Memalign = unsafe extern "C" fn(*mut Ptr, usize, usize) -> c_int;

/// The functions.
pub struct Next {
    pub malloc: OfSize,
    pub calloc: OfTwo,
    pub realloc: Resize,
    pub free: Free,
    pub memalign: OfTwo,
    pub aligned_alloc: OfTwo,
    pub posix_memalign: Memalign,
}

const UNKNOWN: u32 = 0;
const ASKING: u32 = 1;
const KNOWN: u32 = 2;

static STATE: AtomicU32 = AtomicU32::new(UNKNOWN);

struct Slot(UnsafeCell<Option<Next>>);

// SAFETY: written once, between ASKING and KNOWN, by the thread that moved the state; read after KNOWN.
unsafe impl Sync for Slot {}

static NEXT: Slot = Slot(UnsafeCell::new(None));

/// The functions; none while they are looked up.
#[inline]
pub fn get() -> Option<&'static Next> {
    // Ordering: Acquire, pairs with the Release in `ask`.
    if STATE.load(Ordering::Acquire) != KNOWN && !ask() {
        return None;
    }
    // SAFETY: the state is KNOWN.
    unsafe { (*NEXT.0.get()).as_ref() }
}

#[cold]
fn ask() -> bool {
    // Ordering: Acquire on failure pairs with the Release below; else one thread comes through.
    let asked = STATE.compare_exchange(UNKNOWN, ASKING, Ordering::Acquire, Ordering::Acquire);
    if let Err(state) = asked {
        return state == KNOWN;
    }
    // SAFETY: the functions of these names have these types, by the C standard and POSIX.
    unsafe {
        let next = Next {
            malloc: core::mem::transmute::<Ptr, OfSize>(look_up(c"malloc")),
            calloc: core::mem::transmute::<Ptr, OfTwo>(look_up(c"calloc")),
            realloc: core::mem::transmute::<Ptr, Resize>(look_up(c"realloc")),
            free: core::mem::transmute::<Ptr, Free>(look_up(c"free")),
            memalign: core::mem::transmute::<Ptr, OfTwo>(look_up(c"memalign")),
            aligned_alloc: core::mem::transmute::<Ptr, OfTwo>(look_up(c"aligned_alloc")),
            posix_memalign: core::mem::transmute::<Ptr, Memalign>(look_up(c"posix_memalign")),
        };
        *NEXT.0.get() = Some(next);
    }
    // Ordering: Release, pairs with the Acquire in `get`.
    STATE.store(KNOWN, Ordering::Release);
    true
}

fn look_up(name: &CStr) -> Ptr {
    // SAFETY: the name ends with a zero.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if found.is_null() {
        const WORDS: &[u8] =
            b"rsalloc record: no allocator below: is the program linked to libc?\n";
        // SAFETY: a live buffer; abort has no preconditions.
        unsafe {
            libc::write(2, WORDS.as_ptr().cast(), WORDS.len());
            libc::abort()
        }
    }
    found
}

const ARENA_BYTES: usize = 64 << 10;
/// Before each object: its size.
const BEFORE: usize = 16;

#[repr(align(16))]
struct Arena(UnsafeCell<[u8; ARENA_BYTES]>);

// SAFETY: each byte is given out once.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; ARENA_BYTES]));
static USED: AtomicUsize = AtomicUsize::new(0);

/// An object of the arena, zeroed; null when it is full.
#[cold]
pub fn arena(size: usize) -> Ptr {
    let Some(len) = size.checked_add(BEFORE + 15).map(|len| len & !15) else { return null_mut() };
    // Ordering: Relaxed, the number carries no data.
    let at = USED.fetch_add(len, Ordering::Relaxed);
    if at.checked_add(len).is_none_or(|end| end > ARENA_BYTES) {
        return null_mut();
    }
    // SAFETY: these bytes lie in the arena and belong to this call alone.
    unsafe {
        let start = ARENA.0.get().cast::<u8>().add(at);
        start.cast::<usize>().write(size);
        start.add(BEFORE).cast()
    }
}

/// The size of an object of the arena; none if it is not of there.
#[inline]
pub fn arena_size(object: Ptr) -> Option<usize> {
    let offset = (object as usize).wrapping_sub(ARENA.0.get() as usize);
    // SAFETY: in the arena, so an object that `arena` gave, with its size before it.
    (offset < ARENA_BYTES).then(|| unsafe { *object.cast::<u8>().sub(BEFORE).cast::<usize>() })
}

//! What sanitizers in the process are told of the heap.
//!
//! LeakSanitizer looks for pointers in the memory of its own allocator and in what is named a root: the heap is one, or
//! all that is reachable only through it would be a leak. ThreadSanitizer does not see the sections, so it is told that
//! what a thread did to an object before its free happens before what the next owner does. As long as the page serves
//! one class, that is by the object's address; a thread that brings objects home takes them over, and what it did
//! before the page is free happens before what the page's next owner does.
//!
//! Promises: nothing without a sanitizer but one load on slow paths; nothing before [`start`], since a sanitizer that has
//! not started yet can't be called.

use crate::arch::{self, Sanitizers};
use crate::atomic::{AtomicUsize, Ordering};
use crate::units::PAGE_BYTES;

/// `(address)`.
type OfAddress = unsafe extern "C" fn(usize);
/// `(address, len)`.
type OfRange = unsafe extern "C" fn(usize, usize);

static ADD_ROOT: AtomicUsize = AtomicUsize::new(0);
static REMOVE_ROOT: AtomicUsize = AtomicUsize::new(0);
static ACQUIRE: AtomicUsize = AtomicUsize::new(0);
static RELEASE: AtomicUsize = AtomicUsize::new(0);

/// Whether one that restricts addresses is part of the process.
pub fn restricts_addresses() -> bool {
    let Sanitizers { asan, msan, tsan, .. } = arch::sanitizers();
    asan | msan | tsan != 0
}

/// Whether each call has to come to the slow paths, where ThreadSanitizer can be told of it.
pub fn wants_each_call() -> bool {
    let of = arch::sanitizers();
    of.tsan != 0 && of.is_malloc == 0
}

/// Whether ThreadSanitizer is told of objects.
#[inline]
pub fn is_told_of_objects() -> bool {
    // Ordering: Relaxed, code does not change.
    ACQUIRE.load(Ordering::Relaxed) != 0
}

/// Starts those that are there, if the process has not come to it yet, and tells them things from now on; whether
/// roots are to be named that there are already, and then [`roots_are_named`] to be called.
pub fn start() -> bool {
    let of = arch::sanitizers();
    for init in [of.tsan, of.lsan].into_iter().filter(|&init| init != 0) {
        // SAFETY: `void __tsan_init(void)` and `void __lsan_init(void)`, which do nothing the second time.
        unsafe { core::mem::transmute::<usize, unsafe extern "C" fn()>(init)() };
    }
    let has_roots = of.add_root != 0 && of.remove_root != 0;
    if has_roots {
        // Ordering: Relaxed, code does not change.
        ADD_ROOT.store(of.add_root, Ordering::Relaxed);
    }
    // libc calls malloc in threads that ThreadSanitizer does not know yet, where its functions crash.
    if of.acquire != 0 && of.release != 0 && of.is_malloc == 0 {
        // Ordering: Relaxed, as above.
        RELEASE.store(of.release, Ordering::Relaxed);
        ACQUIRE.store(of.acquire, Ordering::Relaxed); // Ordering: Relaxed, as above.
    }
    has_roots
}

/// From now on those that end are taken back. Not earlier: LeakSanitizer ends the process over one that it was not told of.
/// One that ended meanwhile stays named, and is not readable.
pub fn roots_are_named() {
    // Ordering: Relaxed, code does not change.
    REMOVE_ROOT.store(arch::sanitizers().remove_root, Ordering::Relaxed);
}

/// A range of the heap begins: what it points to is no leak. What of it is not readable is passed over.
pub fn add_root(address: usize, len: usize) {
    call_of_range(&ADD_ROOT, address, len);
}

/// A mapping of an object's own begins.
pub fn mapping_begins(address: usize, len: usize) {
    add_root(address, len);
    call_of_address(&ACQUIRE, mappings());
}

/// A mapping that began ends.
pub fn mapping_ends(address: usize, len: usize) {
    call_of_range(&REMOVE_ROOT, address, len);
    call_of_address(&RELEASE, mappings());
}

/// The name under which ThreadSanitizer knows all mappings: they come again at any address.
fn mappings() -> usize {
    (&raw const ADD_ROOT) as usize
}

/// The object has a new owner, or goes on from the thread that gave it up.
#[inline]
pub fn object_taken(address: usize) {
    if is_told_of_objects() {
        call_of_address(&ACQUIRE, address);
    }
}

/// As [`object_taken`], of each object.
#[inline]
pub fn objects_taken(addresses: &[usize]) {
    if is_told_of_objects() {
        addresses.iter().for_each(|&address| call_of_address(&ACQUIRE, address));
    }
}

/// The owner of the object gives it up.
#[inline]
pub fn object_given_up(address: usize) {
    if is_told_of_objects() {
        call_of_address(&RELEASE, address);
    }
}

/// The pages have a new owner.
#[inline]
pub fn pages_taken(address: usize, pages: usize) {
    if is_told_of_objects() {
        of_pages(address, pages).for_each(|page| call_of_address(&ACQUIRE, page));
    }
}

/// The owner of the pages gives them up.
#[inline]
pub fn pages_given_up(address: usize, pages: usize) {
    if is_told_of_objects() {
        of_pages(address, pages).for_each(|page| call_of_address(&RELEASE, page));
    }
}

/// The names of pages: their last bytes, where no object begins.
fn of_pages(address: usize, pages: usize) -> impl Iterator<Item = usize> {
    (1..=pages).map(move |page| address + page * PAGE_BYTES - 1)
}

#[cold]
fn call_of_range(function: &AtomicUsize, address: usize, len: usize) {
    // Ordering: Relaxed, code does not change.
    let function = function.load(Ordering::Relaxed);
    if function != 0 {
        // SAFETY: the functions of LeakSanitizer's interface; they read nothing of the range now.
        unsafe { core::mem::transmute::<usize, OfRange>(function)(address, len) };
    }
}

#[cold]
fn call_of_address(function: &AtomicUsize, address: usize) {
    // Ordering: Relaxed, code does not change.
    let function = function.load(Ordering::Relaxed);
    if function != 0 {
        // SAFETY: the functions of ThreadSanitizer's interface, which take any address for a name.
        unsafe { core::mem::transmute::<usize, OfAddress>(function)(address) };
    }
}

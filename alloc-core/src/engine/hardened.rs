//! The hardened side of the engine: each object checked when it is freed, resized and handed out; and which
//! calls get an object between guard pages.
//!
//! Promises: a second free, a write past the end, a write after free, and a pointer, size or alignment that is
//! not the object's end the process with one line, at the latest at the object's next free or use. Called by the
//! engine's slow functions where the process asked for it (`hardened:1`, `guard:N`); calls guard, canary and
//! the plain side. The entries are closed in a hardened process, so every call comes here.
//!
//! I1. A hardened object has room for its canary, which is at the end of its class or span; its address leads
//!     to that end (`bytes_at`), not what the program says.

use super::{allocate_plain, large, page_map};
use crate::atomic::{AtomicBool, Ordering};
use crate::canary::{self, Canary, State, WORD_BYTES};
use crate::config::{self, Key};
use crate::cpu_cache;
use crate::fail::{Misuse, deny};
use crate::guard;
use crate::object::{Fresh, Memory, Object};
use crate::os;
use crate::size_class::{CLASS, class_of_aligned};
use crate::slab;
use crate::units::OBJECT_MAX_BYTES;

/// `guard` in a hardened process that does not say otherwise: dear calls, and all calls are slow ones.
const GUARD_EVERY: usize = 1000;

static WATCHING: AtomicBool = AtomicBool::new(false);

/// Obeys the configuration. For init, before any object exists.
pub fn set_up(random: [u8; 16]) {
    if config::is_on(Key::Hardened) {
        config::set_default(Key::Guard, GUARD_EVERY);
        canary::arm(random);
    } else {
        super::resize::open_in_place();
    }
    let guarded = guard_every() != 0 && guard::open(guard_every());
    // Ordering: Relaxed, published by READY.
    WATCHING.store(guarded || canary::is_on(), Ordering::Relaxed);
}

/// One of how many slow calls gets a guarded object; 0: none.
pub fn guard_every() -> usize {
    config::number(Key::Guard).min(1 << 30)
}

/// Whether allocations come here.
#[inline]
pub fn is_watching() -> bool {
    // Ordering: Relaxed, a constant by now.
    WATCHING.load(Ordering::Relaxed)
}

/// As the engine's: a guarded object now and then, else a plain one, which is sealed if hardened.
pub fn allocate(size: usize, align: usize) -> Option<Fresh> {
    if guard::tick()
        && let Some(address) = guard::allocate(guarded_size(size, align), align)
    {
        // SAFETY: fresh from the guarded pool.
        return unsafe { Object::from_address(address) }.map(Fresh::zero);
    }
    if !canary::is_on() {
        return allocate_plain(size, align);
    }
    let fresh = allocate_plain(size + WORD_BYTES, align)?;
    let address = fresh.object.address();
    let (class, canary) = canary_at(address, Misuse::Corrupt);
    if class != 0 {
        let state = canary.state();
        deny(!matches!(state, State::Free | State::Fresh), Misuse::WriteAfterFree, address);
        let spoilt = state == State::Free && !canary.is_poisoned();
        deny(spoilt, Misuse::WriteAfterFree, address);
    }
    canary.seal(size);
    Some(fresh)
}

/// Bytes of a guarded object for a request. Where sized frees push without a look, another request of the
/// class may get the object next, so it has the size of its class; hardened, it ends where the request ends.
fn guarded_size(size: usize, align: usize) -> usize {
    match class_of_aligned(size, align) {
        class if canary::is_on() || class == 0 => size,
        class => CLASS[class].size,
    }
}

/// The object's class and canary. Ends the process if there is no object, in the words of `of_freed` if there
/// was one.
fn canary_at(address: usize, of_freed: Misuse) -> (usize, Canary) {
    let class = page_map::class_at(address);
    let bytes = match class {
        0 => large::bytes_at(address, of_freed),
        class => {
            deny(!slab::is_object_start(address, class), Misuse::InnerPointer, address);
            CLASS[class].size
        }
    };
    // SAFETY: an object of that class or span (I1).
    (class, Canary::of(unsafe { Memory::new(address, bytes) }))
}

/// Frees the object at `address`, not 0; `layout` is its size and alignment if the program names them.
pub fn free(address: usize, layout: Option<(usize, usize)>) {
    if guard::owns(address) {
        let size = guard::size_of(address, Misuse::DoubleFree);
        check_layout(address, size, layout);
        // SAFETY: the program gives the object up.
        return unsafe { guard::free(address) };
    }
    let (class, canary) = canary_at(address, Misuse::DoubleFree);
    match canary.is_unsealed() {
        true if class == 0 => {}
        _ => check_free(address, &canary, layout),
    }
    if class == 0 {
        return large::free(address);
    }
    canary.poison();
    cpu_cache::free(class, address);
}

/// Takes the object from the program, or ends the process.
fn check_free(address: usize, canary: &Canary, layout: Option<(usize, usize)>) {
    match canary.retire() {
        State::Live(size) => {
            deny(!canary.is_slack_whole(size), Misuse::PastEnd, address);
            check_layout(address, size, layout);
        }
        State::Free => deny(true, Misuse::DoubleFree, address),
        State::Fresh => deny(true, Misuse::NeverAllocated, address),
        State::Broken => deny(true, Misuse::PastEnd, address),
    }
}

fn check_layout(address: usize, size: usize, layout: Option<(usize, usize)>) {
    if let Some((named, align)) = layout {
        deny(named != size, Misuse::WrongSize, address);
        deny(!is_aligned(address, size, align), Misuse::WrongAlign, address);
    }
}

/// Whether the object may have been allocated with this alignment: not if its address is no multiple, nor if
/// its class is smaller than such an allocation's. (A larger class can be the stand-in for a busy one.)
fn is_aligned(address: usize, size: usize, align: usize) -> bool {
    let asked = class_of_aligned(size + WORD_BYTES, align);
    address.is_multiple_of(align)
        && match page_map::class_at(address) {
            0 if guard::owns(address) => align <= os::page_bytes(),
            0 => true,
            class => (1..=class).contains(&asked),
        }
}

/// As the engine's, for an object at `address` and the size that the program says it has, if it does.
pub fn reallocate(address: usize, named: Option<usize>, align: usize, size: usize) -> *mut u8 {
    if guard::owns(address) {
        let old = guard::size_of(address, Misuse::ResizeOfFreed);
        check_layout(address, old, named.map(|named| (named, align)));
        return move_object(address, old, align, size);
    }
    let (class, canary) = canary_at(address, Misuse::ResizeOfFreed);
    let old = live_size(address, class, &canary, Misuse::ResizeOfFreed);
    if !canary.is_unsealed() {
        deny(!canary.is_slack_whole(old), Misuse::PastEnd, address);
        check_layout(address, old, named.map(|named| (named, align)));
    }
    if class == 0 {
        return resize_large(address, old, align, size);
    }
    let fits = size <= canary.room() && size > canary.room() / 2;
    if fits && class_of_aligned(size + WORD_BYTES, align) == class {
        deny(!canary.reseal(old, size), Misuse::ResizeOfFreed, address);
        return address as *mut u8;
    }
    move_object(address, old, align, size)
}

/// In place or by page tables where the plain side would; the canary moves along.
fn resize_large(address: usize, old: usize, align: usize, size: usize) -> *mut u8 {
    if super::is_impossible(size, align) {
        return core::ptr::null_mut();
    }
    if size + WORD_BYTES > OBJECT_MAX_BYTES
        && align <= os::page_bytes()
        && let Some(moved) = large::resize(address, size + WORD_BYTES)
    {
        canary_at(moved, Misuse::Corrupt).1.seal(size);
        return moved as *mut u8;
    }
    move_object(address, old, align, size)
}

fn move_object(address: usize, old: usize, align: usize, size: usize) -> *mut u8 {
    let fresh = super::allocate_aligned_slow(size, align);
    if !fresh.is_null() {
        // SAFETY: a live object of `old` bytes and a fresh one, which don't overlap.
        unsafe { fresh.copy_from_nonoverlapping(address as *const u8, old.min(size)) };
        free(address, None);
    }
    fresh
}

/// Bytes that the program asked for at `address`, not 0.
pub fn usable_size(address: usize) -> usize {
    if guard::owns(address) {
        return guard::size_of(address, Misuse::SizeOfFreed);
    }
    let (class, canary) = canary_at(address, Misuse::SizeOfFreed);
    live_size(address, class, &canary, Misuse::SizeOfFreed)
}

/// Bytes that the program asked for; ends the process if it does not have the object.
fn live_size(address: usize, class: usize, canary: &Canary, of_freed: Misuse) -> usize {
    match canary.state() {
        _ if class == 0 && canary.is_unsealed() => {}
        State::Live(size) => return size,
        State::Free => deny(true, of_freed, address),
        State::Fresh => deny(true, Misuse::NeverAllocated, address),
        State::Broken => deny(true, Misuse::PastEnd, address),
    }
    canary.room()
}

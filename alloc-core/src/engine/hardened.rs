//! Checks of allocate, free and resize: each object is verified when it is freed, resized and handed out, and now and
//! then one gets guard pages.
//!
//! Promises: a second free, a write past the end, a write after free, and a pointer, size or alignment that is
//! not the object's end the process with one line, at the latest at the object's next free or use. The entries are closed
//! in a hardened process (`hardened:1`), so every call is checked.
//!
//! Invariants:
//! I1. A hardened object holds its canary, which is at the end of its class or span; its address leads
//!     to that end (`canary_at`), not what the program says.

use super::request::Request;
use super::{fit, large, plain};
use crate::atomic::{AtomicBool, Ordering};
use crate::canary::{self, Canary, State, WORD_BYTES};
use crate::config::{self, Key};
use crate::fail::{Misuse, deny};
use crate::guard;
use crate::object::{Fresh, Memory, Object};
use crate::os;
use crate::page_map;
use crate::parts;
use crate::size_class::{CLASS, Class};
use crate::slab;
use core::ptr::{self, NonNull};

/// `guard` in a hardened process that does not set it: guarded objects cost much, and all calls are slow ones.
const GUARD_EVERY: usize = 1000;

static WATCHING: AtomicBool = AtomicBool::new(false);

/// Obeys the configuration. For init, before any object exists.
pub fn set_up(random: [u8; 16]) {
    if config::is_on(Key::Hardened) {
        if parts::GUARD {
            config::set_implied(Key::Guard, GUARD_EVERY, Key::Hardened);
        }
        canary::arm(random);
    } else {
        fit::allow_in_place();
    }
    obey_guard();
}

/// Obeys the setting `guard`, at the start or later; false if the OS refuses the memory.
pub fn obey_guard() -> bool {
    let is_done = guard::sample(guard_every());
    // Ordering: Relaxed, a hint: a thread that sees it late is as one that came before.
    WATCHING.store(canary::is_on() || guard::is_sampling(), Ordering::Relaxed);
    is_done
}

/// One of how many slow calls gets a guarded object; 0: none.
pub fn guard_every() -> usize {
    if !parts::GUARD {
        return 0;
    }
    config::number(Key::Guard).min(1 << 30)
}

/// Whether allocations come here.
#[inline]
pub fn is_watching() -> bool {
    // Ordering: Relaxed, a hint; the canaries are a constant by now.
    WATCHING.load(Ordering::Relaxed)
}

/// As [`plain::allocate`]: a guarded object now and then, else a plain one, which is sealed if hardened.
pub fn allocate(request: Request) -> Option<Fresh> {
    if guard::tick()
        && let Some(object) = guard::allocate(guarded_size(request), request.align)
    {
        return Some(Fresh::zero(object));
    }
    if !canary::is_on() {
        return plain::allocate(request);
    }
    let fresh = plain::allocate(request.with_tail(WORD_BYTES))?;
    let address = fresh.object.address();
    let class = page_map::class_at(address);
    let canary = canary_at(address, class, Misuse::Corrupt);
    if class != 0 {
        let state = canary.state();
        deny(!matches!(state, State::Free | State::Fresh), Misuse::WriteAfterFree, address);
        let spoilt = state == State::Free && !canary.is_poisoned();
        deny(spoilt, Misuse::WriteAfterFree, address);
    }
    canary.seal(request.size);
    Some(fresh)
}

/// Bytes of a guarded object for a request. Where sized frees push without a look, another request of the
/// class may get the object next, so it has the size of its class; hardened, it ends where the request ends.
fn guarded_size(request: Request) -> usize {
    match request.class {
        class if canary::is_on() || class == 0 => request.size,
        class => CLASS[class].size,
    }
}

/// The canary of the object at `address`, of `class`. Ends the process if there is no object, in the words of
/// `of_freed` if there was one.
fn canary_at(address: usize, class: Class, of_freed: Misuse) -> Canary {
    let bytes = match class {
        0 => large::bytes_at(address, of_freed),
        class => {
            deny(!slab::is_object_start(address, class), Misuse::InnerPointer, address);
            CLASS[class].size
        }
    };
    // SAFETY: an object of that class or span (I1).
    Canary::of(unsafe { Memory::new(address, bytes) })
}

/// Takes an object from the program that it frees, and names as `named` if it does. Ends the process if it may not.
pub fn retire(object: &Object, class: Class, named: Option<Request>) {
    let address = object.address();
    if guard::owns(address) {
        return check_named(address, class, guard::size_of(address, Misuse::DoubleFree), named);
    }
    let canary = canary_at(address, class, Misuse::DoubleFree);
    if class == 0 && canary.is_unsealed() {
        return;
    }
    check_free(address, class, &canary, named);
    if class != 0 {
        canary.poison();
    }
}

/// Retires the canary, or ends the process.
fn check_free(address: usize, class: Class, canary: &Canary, named: Option<Request>) {
    match canary.retire() {
        State::Live(size) => {
            deny(!canary.is_slack_whole(size), Misuse::PastEnd, address);
            check_named(address, class, size, named);
        }
        State::Free => deny(true, Misuse::DoubleFree, address),
        State::Fresh => deny(true, Misuse::NeverAllocated, address),
        State::Broken => deny(true, Misuse::PastEnd, address),
    }
}

/// Ends the process if the object, of `size` bytes, is not what the program names.
fn check_named(address: usize, class: Class, size: usize, named: Option<Request>) {
    if let Some(named) = named {
        deny(named.size != size, Misuse::WrongSize, address);
        deny(
            !may_have_align(address, class, Request { size, ..named }),
            Misuse::WrongAlign,
            address,
        );
    }
}

/// Whether the object may have been allocated with the alignment of the request: not if its address is no
/// multiple, nor if its class is smaller than such an allocation's. (A larger class can be the stand-in for a busy one.)
fn may_have_align(address: usize, class: Class, request: Request) -> bool {
    address.is_multiple_of(request.align)
        && match class {
            0 if guard::owns(address) => request.align <= os::page_bytes(),
            0 => true,
            class => (1..=class).contains(&request.with_tail(WORD_BYTES).class),
        }
}

/// As [`plain::resize`].
///
/// # Safety
/// 1. `ptr` is a live object, or the process ends.
pub unsafe fn resize(ptr: NonNull<u8>, named: Option<Request>, request: Request) -> *mut u8 {
    let address = ptr.as_ptr().expose_provenance();
    let class = page_map::class_at(address);
    if guard::owns(address) {
        let old = guard::size_of(address, Misuse::ResizeOfFreed);
        check_named(address, class, old, named);
        // SAFETY: duty 1; the object has `old` bytes.
        return unsafe { plain::relocate(ptr, old, request) };
    }
    let canary = canary_at(address, class, Misuse::ResizeOfFreed);
    let old = live_size(address, class, &canary, Misuse::ResizeOfFreed);
    if !canary.is_unsealed() {
        deny(!canary.is_slack_whole(old), Misuse::PastEnd, address);
        check_named(address, class, old, named);
    }
    if request.is_impossible() {
        return ptr::null_mut();
    }
    let sealed = request.with_tail(WORD_BYTES);
    if class == 0 {
        // SAFETY: duty 1; the canary moves along.
        if let Some(moved) = unsafe { plain::resize_span(ptr, sealed) } {
            canary_at(moved as usize, 0, Misuse::Corrupt).seal(request.size);
            return moved;
        }
    } else if request.size <= canary.usable()
        && request.size > canary.usable() / 2
        && sealed.class == class
    {
        deny(!canary.reseal(old, request.size), Misuse::ResizeOfFreed, address);
        return ptr.as_ptr();
    }
    // SAFETY: duty 1; the object has `old` bytes.
    unsafe { plain::relocate(ptr, old, request) }
}

/// Bytes that the program asked for at `address`, an object of `class`.
pub fn usable_size(address: usize, class: Class) -> usize {
    if guard::owns(address) {
        return guard::size_of(address, Misuse::SizeOfFreed);
    }
    let canary = canary_at(address, class, Misuse::SizeOfFreed);
    live_size(address, class, &canary, Misuse::SizeOfFreed)
}

/// Bytes that the program asked for; ends the process if it does not have the object.
fn live_size(address: usize, class: Class, canary: &Canary, of_freed: Misuse) -> usize {
    match canary.state() {
        _ if class == 0 && canary.is_unsealed() => {}
        State::Live(size) => return size,
        State::Free => deny(true, of_freed, address),
        State::Fresh => deny(true, Misuse::NeverAllocated, address),
        State::Broken => deny(true, Misuse::PastEnd, address),
    }
    canary.usable()
}

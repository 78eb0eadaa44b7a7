//! The engine: allocate, free and resize, as short lists of calls to the tiers.
//!
//! Promises: a request is resolved once, in the slow entry, and an object's class is looked up once; both travel as
//! arguments. Where the process asked for checks and guard pages, they come before and after the same calls.
//!
//! ```text
//! malloc(size)                                  free(ptr)
//!   an entry (arch/*/entry.rs): class, pop        an entry: page map -> class, push
//!   slow::malloc, serve -> Request                slow::free, free_slow -> Class, Object
//!     engine::allocate                              engine::free
//!       [hardened::allocate]                          [hardened::retire]
//!       plain::allocate                               cpu_cache::free | large::free
//!         cpu_cache::allocate | large::allocate         flush -> depot | slab -> page_heap
//!           refill <- depot | slab <- page_heap
//! ```

pub mod api;
pub mod command;
mod fit;
pub mod fork;
mod hardened;
pub mod init;
pub mod large;
mod load;
mod plain;
pub mod request;
pub mod sampled;
mod scarce;
pub mod settings;
mod shortage;
pub mod slow;

pub use load::{end_process, keep_loaded, tell_at_end};

use crate::canary;
use crate::cpu_cache;
use crate::fail::{Misuse, deny};
use crate::object::{Fresh, Object};
use crate::page_heap::PAGE_HEAP;
use crate::profile;
use crate::sanitizer;
use crate::size_class::Class;
use crate::slab;
use crate::sync::WaitBudget;
use core::ptr::NonNull;
use request::Request;

/// Serves a request. None when out of memory.
#[cold]
pub(crate) fn allocate(request: Request) -> Option<Fresh> {
    if request.is_impossible() {
        return None;
    }
    if !init::ensure() {
        // A handler on top of init: the one tier that needs nothing of it.
        return large::allocate_standalone(request);
    }
    profile::follow_tracer();
    let _budget = WaitBudget::bounded();
    let fresh = match hardened::is_watching() {
        true => hardened::allocate(request),
        false => plain::allocate(request),
    };
    if PAGE_HEAP.take_release_wanted() {
        scarce::relieve();
    }
    let Some(fresh) = fresh else {
        shortage::tell_of_refusal(request);
        return None;
    };
    sanitizer::object_taken(fresh.object.address());
    Some(fresh)
}

/// Frees an object, which the page map says is of `class` and the program names as `named`, if it does. Ends the process
/// if it is none.
#[cold]
pub(crate) fn free(object: Object, class: Class, named: Option<Request>) {
    profile::follow_tracer();
    let _budget = WaitBudget::bounded();
    if canary::is_on() {
        hardened::retire(&object, class, named);
        if class != 0 {
            profile::forget(object.address());
        }
    } else {
        if let Some(named) = named {
            let is_smaller = slab::is_smaller_than(class, object.address(), named.class);
            deny(is_smaller, Misuse::WrongSize, object.address());
        }
        sanitizer::object_given_up(object.address());
    }
    match class {
        0 => large::free(object),
        class => cpu_cache::free(class, object),
    }
    init::tick();
}

/// Resizes the object at `ptr`, which the program names as `named`, if it does. Null when out of memory.
///
/// # Safety
/// 1. `ptr` is a live object. 2. It was allocated as `named`, if there is such a request.
pub(crate) unsafe fn resize(ptr: NonNull<u8>, named: Option<Request>, request: Request) -> *mut u8 {
    // SAFETY: duties 1 and 2, for either.
    unsafe {
        match canary::is_on() {
            true => {
                let _budget = WaitBudget::bounded();
                hardened::resize(ptr, named, request)
            }
            false => plain::resize(ptr, named, request),
        }
    }
}

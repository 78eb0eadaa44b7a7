//! The engine's atomics: plain memory with the layout of core's, and a shadow of loom's while threads run.
//!
//! Stands in for the engine's module of this name; see `world`. Every operation is where a thread may be
//! interrupted, by another thread, by a signal, or out of a section: see `machine`.

use crate::machine;
use crate::world::{self, Word};
use loom::sync::atomic as shadows;
use std::any::Any;
use std::rc::Rc;

pub use core::sync::atomic::{Ordering, compiler_fence};

pub const SPINS: u32 = 1;
pub const BACKOFF_YIELDS: u32 = 2;
pub const HUGE_SLOTS: usize = 8;
pub const DEFERRED_PLACES: usize = 2;
pub const CHILDREN_WATCHED: usize = 1;

/// Lets the others run, as a spinning processor does.
pub fn spin_loop() {
    loom::thread::yield_now();
}

/// Of the look-up of huge spans.
pub fn fence(order: Ordering) {
    if world::is_explored() {
        shadows::fence(order);
    }
}

/// The cheap half of an asymmetric barrier. With the dear half, which the kernel runs on every processor,
/// it is a full barrier (`os::membarrier` has the other one); loom has no way to interrupt a thread for it.
pub fn light_fence() {
    if crate::world::is_explored() {
        shadows::fence(Ordering::SeqCst);
    }
}

macro_rules! atomic {
    ($name:ident, $value:ty, $shadow:ty) => {
        #[derive(Debug, Default)]
        #[repr(transparent)]
        pub struct $name(core::sync::atomic::$name);

        impl $name {
            pub const fn new(value: $value) -> Self {
                Self(core::sync::atomic::$name::new(value))
            }

            pub const fn as_ptr(&self) -> *mut $value {
                self.0.as_ptr()
            }

            fn at(&self) -> usize {
                self.0.as_ptr() as usize
            }

            fn make(address: usize) -> Rc<dyn Any> {
                // SAFETY: the address of an atomic of this type, which lives as long as the model.
                let value = unsafe { (*(address as *const core::sync::atomic::$name)).load(SEQ) };
                Rc::new(<$shadow>::new(value as _))
            }

            fn keep(address: usize, shadow: &dyn Any) {
                let shadow = shadow.downcast_ref::<$shadow>().expect("one type for each address");
                // SAFETY: as in `make`; no other thread runs.
                unsafe {
                    let atomic = &*(address as *const Self);
                    atomic.note();
                    atomic.0.store(shadow.unsync_load() as _, SEQ);
                }
            }

            fn note(&self) {
                world::note(self.at(), size_of::<$value>() as u8, self.0.load(SEQ) as u64);
            }

            fn run<R>(
                &self,
                access: machine::Access,
                memory: impl FnOnce(&core::sync::atomic::$name) -> R,
                shadow: impl FnOnce(&$shadow) -> R,
            ) -> R {
                machine::before(access);
                match world::word(self.at(), Self::make, Self::keep) {
                    Word::Memory => {
                        if access == machine::Access::Write {
                            self.note();
                        }
                        memory(&self.0)
                    }
                    Word::Shadow(word) => {
                        shadow(word.downcast_ref().expect("one type for each address"))
                    }
                }
            }

            pub fn load(&self, order: Ordering) -> $value {
                self.run(machine::Access::Read, |m| m.load(SEQ), |t| t.load(order) as _)
            }

            pub fn store(&self, value: $value, order: Ordering) {
                let write = machine::Access::Write;
                self.run(write, |m| m.store(value, SEQ), |t| t.store(value as _, order))
            }

            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                let write = machine::Access::Write;
                self.run(write, |m| m.swap(value, SEQ), |t| t.swap(value as _, order) as _)
            }

            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.run(
                    machine::Access::Write,
                    |m| m.compare_exchange(old, new, SEQ, SEQ),
                    |t| {
                        t.compare_exchange(old as _, new as _, success, failure)
                            .map(|v| v as _)
                            .map_err(|v| v as _)
                    },
                )
            }

            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                self.compare_exchange(old, new, success, failure)
            }
        }
    };
}

macro_rules! sums {
    ($name:ident, $value:ty; $($operation:ident)*) => {
        impl $name {
            $(
                pub fn $operation(&self, value: $value, order: Ordering) -> $value {
                    self.run(
                        machine::Access::Write,
                        |m| m.$operation(value, SEQ),
                        |t| t.$operation(value, order),
                    )
                }
            )*
        }
    };
}

const SEQ: Ordering = Ordering::SeqCst;

atomic!(AtomicBool, bool, shadows::AtomicBool);
atomic!(AtomicU8, u8, shadows::AtomicU8);
atomic!(AtomicU32, u32, shadows::AtomicU32);
atomic!(AtomicU64, u64, shadows::AtomicU64);
atomic!(AtomicUsize, usize, shadows::AtomicUsize);
atomic!(AtomicIsize, isize, shadows::AtomicIsize);
sums!(AtomicU32, u32; fetch_add fetch_sub fetch_max fetch_min fetch_or);
sums!(AtomicU64, u64; fetch_add fetch_sub fetch_or);
sums!(AtomicUsize, usize; fetch_add fetch_sub fetch_max fetch_min fetch_or fetch_and);

/// A pointer, kept as its address.
#[derive(Debug)]
#[repr(transparent)]
pub struct AtomicPtr<T>(core::sync::atomic::AtomicPtr<T>);

impl<T> AtomicPtr<T> {
    pub const fn new(value: *mut T) -> Self {
        Self(core::sync::atomic::AtomicPtr::new(value))
    }

    fn word(&self) -> &AtomicUsize {
        // SAFETY: same size and alignment, and an address is a valid word.
        unsafe { &*core::ptr::from_ref(self).cast::<AtomicUsize>() }
    }

    pub fn load(&self, order: Ordering) -> *mut T {
        self.word().load(order) as *mut T
    }

    pub fn store(&self, value: *mut T, order: Ordering) {
        self.word().store(value as usize, order);
    }

    pub fn swap(&self, value: *mut T, order: Ordering) -> *mut T {
        self.word().swap(value as usize, order) as *mut T
    }

    pub fn compare_exchange(
        &self,
        old: *mut T,
        new: *mut T,
        success: Ordering,
        failure: Ordering,
    ) -> Result<*mut T, *mut T> {
        let result = self.word().compare_exchange(old as usize, new as usize, success, failure);
        result.map(|v| v as *mut T).map_err(|v| v as *mut T)
    }
}

/// A cell whose holder touches it alone: two that do so without an order between them are found.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct UnsafeCell<T>(core::cell::UnsafeCell<T>);

impl<T> UnsafeCell<T> {
    pub const fn new(value: T) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    pub fn get(&self) -> *mut T {
        let make = |_| -> Rc<dyn Any> { Rc::new(loom::cell::UnsafeCell::new(())) };
        if let Word::Shadow(cell) = world::word(self.0.get() as usize, make, |_, _| {}) {
            let cell = cell.downcast_ref::<loom::cell::UnsafeCell<()>>();
            cell.expect("one type for each address").with_mut(|_| ());
        }
        self.0.get()
    }
}

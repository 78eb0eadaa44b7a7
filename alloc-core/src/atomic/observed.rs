//! Core's atomics for the features that observe or disturb them: `counters` notes each write, `delays` may come before any operation.
//!
//! A failed exchange counts as a write too: it takes the cache line as a write does.

use crate::counters::wrote;
use crate::delays::before_access;
use core::sync::atomic as core_atomic;
use core::sync::atomic::Ordering;

macro_rules! observed {
    ($name:ident $(<$generic:ident>)?, $value:ty; $($operation:ident)*) => {
        /// Core's type of this name.
        #[derive(Debug)]
        #[repr(transparent)]
        pub struct $name $(<$generic>)? (core_atomic::$name $(<$generic>)?);

        impl $(<$generic>)? $name $(<$generic>)? {
            /// See core.
            pub const fn new(value: $value) -> Self {
                Self(core_atomic::$name::new(value))
            }

            /// See core.
            #[allow(dead_code)]
            pub const fn as_ptr(&self) -> *mut $value {
                self.0.as_ptr()
            }

            /// See core.
            #[track_caller]
            #[inline]
            pub fn load(&self, order: Ordering) -> $value {
                before_access();
                self.0.load(order) // Ordering: the caller's, here and below.
            }

            /// See core.
            #[track_caller]
            #[inline]
            pub fn store(&self, value: $value, order: Ordering) {
                before_access();
                wrote(self.0.as_ptr() as usize);
                self.0.store(value, order);
            }

            /// See core.
            #[allow(dead_code)]
            #[track_caller]
            #[inline]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                before_access();
                wrote(self.0.as_ptr() as usize);
                self.0.swap(value, order)
            }

            /// See core.
            #[allow(dead_code)]
            #[track_caller]
            #[inline]
            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                before_access();
                wrote(self.0.as_ptr() as usize);
                self.0.compare_exchange(old, new, success, failure)
            }

            /// See core.
            #[allow(dead_code)]
            #[track_caller]
            #[inline]
            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                before_access();
                wrote(self.0.as_ptr() as usize);
                self.0.compare_exchange_weak(old, new, success, failure)
            }

            /// See core.
            #[allow(dead_code)]
            #[track_caller]
            #[inline]
            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                f: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                before_access();
                wrote(self.0.as_ptr() as usize);
                self.0.fetch_update(set, fetch, f)
            }

            $(
                /// See core.
                #[allow(dead_code)]
                #[track_caller]
            #[inline]
                pub fn $operation(&self, value: $value, order: Ordering) -> $value {
                    before_access();
                    wrote(self.0.as_ptr() as usize);
                    self.0.$operation(value, order)
                }
            )*
        }
    };
}

observed!(AtomicBool, bool;);
observed!(AtomicU8, u8;);
observed!(AtomicU32, u32; fetch_add fetch_sub fetch_max fetch_min fetch_or);
observed!(AtomicU64, u64; fetch_add fetch_sub fetch_max fetch_min fetch_or);
observed!(AtomicUsize, usize; fetch_and fetch_add fetch_sub fetch_max fetch_min fetch_or);
observed!(AtomicIsize, isize; fetch_add fetch_sub);
observed!(AtomicPtr<T>, *mut T;);

macro_rules! zero {
    ($($name:ident)*) => { $(
        impl Default for $name {
            fn default() -> Self {
                Self(Default::default())
            }
        }
    )* };
}

zero!(AtomicBool AtomicU8 AtomicU32 AtomicU64 AtomicUsize AtomicIsize);

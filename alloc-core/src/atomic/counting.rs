//! Core's atomics with each write noted by `counters`, for the feature of that name.
//!
//! A failed exchange counts too: it takes the cache line as a write does.

use crate::counters::wrote;
use core::sync::atomic as core_atomic;
use core::sync::atomic::Ordering;

macro_rules! counting {
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
            #[inline]
            pub fn load(&self, order: Ordering) -> $value {
                self.0.load(order) // Ordering: the caller's, here and below.
            }

            /// See core.
            #[inline]
            pub fn store(&self, value: $value, order: Ordering) {
                wrote(self.0.as_ptr() as usize);
                self.0.store(value, order);
            }

            /// See core.
            #[allow(dead_code)]
            #[inline]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                wrote(self.0.as_ptr() as usize);
                self.0.swap(value, order)
            }

            /// See core.
            #[allow(dead_code)]
            #[inline]
            pub fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                wrote(self.0.as_ptr() as usize);
                self.0.compare_exchange(old, new, success, failure)
            }

            /// See core.
            #[allow(dead_code)]
            #[inline]
            pub fn compare_exchange_weak(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                wrote(self.0.as_ptr() as usize);
                self.0.compare_exchange_weak(old, new, success, failure)
            }

            /// See core.
            #[allow(dead_code)]
            #[inline]
            pub fn fetch_update(
                &self,
                set: Ordering,
                fetch: Ordering,
                f: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                wrote(self.0.as_ptr() as usize);
                self.0.fetch_update(set, fetch, f)
            }

            $(
                /// See core.
                #[allow(dead_code)]
                #[inline]
                pub fn $operation(&self, value: $value, order: Ordering) -> $value {
                    wrote(self.0.as_ptr() as usize);
                    self.0.$operation(value, order)
                }
            )*
        }
    };
}

counting!(AtomicBool, bool;);
counting!(AtomicU8, u8;);
counting!(AtomicU32, u32; fetch_add fetch_sub fetch_max fetch_min fetch_or);
counting!(AtomicU64, u64; fetch_add fetch_sub fetch_max fetch_min fetch_or);
counting!(AtomicUsize, usize; fetch_and fetch_add fetch_sub fetch_max fetch_min fetch_or);
counting!(AtomicIsize, isize; fetch_add fetch_sub);
counting!(AtomicPtr<T>, *mut T;);

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

//! Words that a lock guards, and that statistics and hints read without the lock.
//!
//! The accesses cost what plain ones do; they are atomic, so a reader without the lock gets some value that was there.

use crate::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

macro_rules! guarded {
    ($(#[$meta:meta])* $name:ident, $atomic:ty, $value:ty) => {
        $(#[$meta])*
        #[derive(Default)]
        #[repr(transparent)]
        pub struct $name($atomic);

        impl $name {
            /// With this value.
            pub const fn new(value: $value) -> Self {
                $name(<$atomic>::new(value))
            }
            /// The value; without the lock a snapshot.
            #[inline]
            pub fn get(&self) -> $value {
                // Ordering: Relaxed, the lock that guards the word orders it.
                self.0.load(Ordering::Relaxed)
            }
            /// Sets the value, under the lock.
            #[inline]
            pub fn set(&self, value: $value) {
                // Ordering: Relaxed, the lock that guards the word orders it.
                self.0.store(value, Ordering::Relaxed);
            }
        }
    };
}

guarded!(
    /// A word.
    Guarded, AtomicUsize, usize
);
guarded!(
    /// Half a word.
    Guarded32, AtomicU32, u32
);
guarded!(
    /// A word of a bitmap.
    Guarded64, AtomicU64, u64
);

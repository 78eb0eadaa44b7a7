//! Words that a lock guards.
//!
//! Promises: plain loads and stores, atomic ones so that who looks without the lock reads some value that was
//! there. Called by the shared tiers.

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
            /// The value; outside the lock a snapshot.
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
    /// A word that some lock guards and observers may glance at.
    Guarded, AtomicUsize, usize
);
guarded!(
    /// A half word that some lock guards and observers may glance at.
    Guarded32, AtomicU32, u32
);
guarded!(
    /// A bitmap word that some lock guards and observers may glance at.
    Guarded64, AtomicU64, u64
);

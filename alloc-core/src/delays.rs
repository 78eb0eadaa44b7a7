//! Delays before the engine's atomic operations, so that tests see interleavings which a scheduler makes once in millions.
//!
//! They exist with the feature `delays` only, which no shipped library has. Each place in the code where an atomic operation stands
//! belongs to one of [`GROUPS`] groups. One group is delayed at a time: were all, a thread would wait everywhere, and seldom
//! where it matters. What is decided by one look and done after another thread has changed what was looked at shows within
//! milliseconds when the group of the place between comes (docs/adr/0049).

#[cfg(feature = "delays")]
pub use on::*;

#[cfg(feature = "delays")]
mod on {
    use crate::os;
    use core::panic::Location;
    use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

    /// Groups of places.
    pub const GROUPS: u32 = 64;
    /// One operation in so many at a place of the chosen group is delayed, until there were [`DELAYS_MAX`].
    const ONE_IN: u64 = 4;
    /// Some places are passed thousands of times by one call.
    const DELAYS_MAX: u64 = 300;

    /// The group that is delayed; [`GROUPS`]: none.
    static CHOSEN: AtomicU32 = AtomicU32::new(GROUPS);
    /// Delays of the chosen group.
    static DELAYS: AtomicU64 = AtomicU64::new(0);
    /// State of the generator of random numbers.
    static RANDOM: AtomicU64 = AtomicU64::new(0);

    /// From now on other threads run first before some atomic operations at the places of `group`; [`GROUPS`]: before none.
    pub fn choose(group: u32) {
        CHOSEN.store(group, Ordering::Relaxed); // Ordering: Relaxed here and below, numbers that stand alone.
        DELAYS.store(0, Ordering::Relaxed); // Ordering: as above.
    }

    /// Called before each atomic operation.
    #[track_caller]
    #[inline]
    pub fn before_access() {
        let chosen = CHOSEN.load(Ordering::Relaxed); // Ordering: as above.
        if chosen < GROUPS && group_of(Location::caller()) == chosen && is_drawn() && is_left() {
            os::yield_now();
        }
    }

    fn is_left() -> bool {
        DELAYS.fetch_add(1, Ordering::Relaxed) < DELAYS_MAX // Ordering: as above.
    }

    fn group_of(place: &Location) -> u32 {
        let file =
            place.file().bytes().fold(0, |sum: u32, byte| sum * 31 % 65_521 + u32::from(byte));
        (file + place.line() * 7 + place.column()) % GROUPS
    }

    /// True once in [`ONE_IN`], by SplitMix64 (Steele, Lea, Flood 2014), as in `profile::countdown`.
    fn is_drawn() -> bool {
        let mut z = RANDOM.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed); // Ordering: as above.
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).is_multiple_of(ONE_IN)
    }
}

/// Nothing.
#[cfg(not(feature = "delays"))]
#[inline(always)]
#[allow(dead_code, reason = "called by `atomic::observed` alone")]
pub fn before_access() {}

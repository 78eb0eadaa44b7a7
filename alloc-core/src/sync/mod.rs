//! Locks and guarded words of the shared tiers.
//!
//! A leaf: called by every tier with a lock; calls os and asm.

mod guarded;
mod lock;
mod try_lock;

pub use guarded::{Guarded, Guarded32, Guarded64};
pub use lock::{Busy, Guard, Lock, Rank, held, set_held};
pub use try_lock::{TryGuard, TryLock};

//! Locks of the shared tiers, on which no signal handler waits for ever.
//!
//! A thread waits for a lock only if the lock's [`Rank`] is above the rank of every lock that the thread holds. Code nests
//! locks in rank order, so a request for the same or a lower rank comes from a signal handler on top of a holder; such a
//! request only tries, and gets [`Reentered`]. Waits go upwards only, so threads and their handlers can't wait for each
//! other in a circle. No circle closes through other libraries' locks either: an operation of the program waits for a
//! bounded time ([`WaitBudget`]), and every thread waits for a fork for a bounded time.
//!
//! Invariants:
//! I1. A lock's word is 0 (free), or the owner's thread id with marks in its lowest bits.
//! I2. The thread's word is at least the rank of each lock that the thread holds, from before it takes the lock until after
//!     it releases it, so there is no instant at which a handler could miss one. Locks whose guards the thread forgot don't
//!     count: nothing is half done under those, and the thread may use them again ([`Lock::forget`]).
//! I3. Guards are dropped in the reverse order of their making.
//! I4. Only the owner changes the marks of a word, except `SLEEPERS`.

mod backoff;
mod guarded;
mod lock;
mod rank;
#[cfg(test)]
mod tests;
mod try_lock;
mod wait_budget;

pub use backoff::Backoff;
pub use guarded::{Guarded, Guarded32, Guarded64};
pub use lock::{Guard, Lock};
pub use rank::Rank;
pub use try_lock::{TryGuard, TryLock};
pub use wait_budget::{WaitBudget, end_late_fork, is_barred};

/// The lock is taken, and the caller may not wait for it, or not any longer: it runs on top of a holder, or it holds another
/// lock that a fork on top of this lock's holder needs, or its [`WaitBudget`] is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reentered;

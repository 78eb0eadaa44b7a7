//! Refusals on demand, for tests: the n-th call of a kind fails with ENOMEM. Compiled to nothing
//! without the feature `faults`.

use super::Errno;

/// Kinds of calls that can be refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// mmap.
    Map,
    /// madvise.
    Advise,
    /// mprotect.
    Protect,
    /// mremap.
    Remap,
    /// rseq.
    Rseq,
    /// membarrier.
    Membarrier,
}

#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(super) fn check(_call: Call) -> Result<(), Errno> {
    Ok(())
}

#[cfg(feature = "faults")]
pub use on::*;

#[cfg(feature = "faults")]
mod on {
    use super::*;
    use crate::atomic::{AtomicU64, Ordering};

    static COUNT: AtomicU64 = AtomicU64::new(0);
    static FIRST: AtomicU64 = AtomicU64::new(u64::MAX);
    static LAST: AtomicU64 = AtomicU64::new(0);

    /// Refuses calls number `first..=last` from now on (counting from 0).
    pub fn refuse(first: u64, last: u64) {
        // Ordering: SeqCst throughout: a test switch, not a hot path.
        COUNT.store(0, Ordering::SeqCst);
        LAST.store(last, Ordering::SeqCst);
        FIRST.store(first, Ordering::SeqCst);
    }

    /// Calls seen since the last [`refuse`].
    pub fn count() -> u64 {
        // Ordering: SeqCst, as above.
        COUNT.load(Ordering::SeqCst)
    }

    pub(in super::super) fn check(_call: Call) -> Result<(), Errno> {
        // Ordering: SeqCst, as above.
        let n = COUNT.fetch_add(1, Ordering::SeqCst);
        let refused = n >= FIRST.load(Ordering::SeqCst) && n <= LAST.load(Ordering::SeqCst);
        if refused { Err(libc::ENOMEM) } else { Ok(()) }
    }
}

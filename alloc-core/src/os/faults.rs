//! System calls that fail on demand, for tests: the n-th call fails with ENOMEM, or a kind of call reports success without being
//! made. Without the feature `faults` this compiles to nothing.

use super::Errno;

/// Kinds of calls that can be refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    /// mmap.
    Map,
    /// mmap over an own mapping.
    MapOver,
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

#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(super) fn is_lied_to(_call: Call) -> bool {
    false
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
    /// A bit for each kind of call that reports success without being made.
    static LIES: AtomicU64 = AtomicU64::new(0);

    /// From now on calls of these kinds report success and do nothing; for [`Call::Map`], new memory does not read as zero.
    pub fn lie(about: &[Call]) {
        let bits = about.iter().fold(0, |bits, &call| bits | 1 << call as u64);
        // Ordering: SeqCst, a test switch, not a hot path.
        LIES.store(bits, Ordering::SeqCst);
    }

    pub(in super::super) fn is_lied_to(call: Call) -> bool {
        // Ordering: SeqCst, as above.
        LIES.load(Ordering::SeqCst) >> call as u64 & 1 == 1
    }

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

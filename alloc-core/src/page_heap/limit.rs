//! Limits of memory: near a soft one the heap gives memory back before it grows, beyond a hard one it refuses.
//!
//! What is compared is what the heap may have resident (spans that are held, touched or not, but for
//! the ends of slabs, dirty pages, huge spans, metadata) and what else of the process is resident and belongs to no file: stacks, variables, other allocators. It is looked
//! at only where a span is acquired or grows, and costs a load there without a limit.
//!
//! A bound that is a share of the container's limit, and what else is resident, are read again when the heap takes a span and a
//! second has passed (longer, if that takes more than a thousandth of the time), or what the heap has resident has changed by a
//! 64th of the bound.
//!
//! Growth pays for its purges: clean pages that spans took, or are about to take, allow as many dirty ones to be purged. A span
//! takes clean pages beside free dirty ones where those do not adjoin, or lie in segments of the other density. Where dirty pages
//! suffice there is no growth, and what is purged then is bounded by an allowance.
//!
//! Threads that take spans at once are compared together: an [`Admission`] counts until its span does.

use super::PageHeap;
use super::huge::HUGE;
use crate::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use crate::config::{self, Bound, Key};
use crate::os;
use crate::parts;
use crate::token_bucket::TokenBucket;
use crate::units::PAGE_BYTES;

/// No bound.
const NONE: usize = usize::MAX;
/// A purge at the limit gives back at least so much, if there is as much.
const PURGE_MIN_BYTES: usize = 1 << 20;
/// The bounds are read again when the heap has changed by this part of them.
const READ_PARTS: usize = 64;
/// Pages that may be purged although no growth needs them: as for decays.
static ALLOWANCE: TokenBucket = TokenBucket::new((64 << 20) / PAGE_BYTES, (16 << 20) / PAGE_BYTES);

/// The limits of a page heap.
pub struct Limits {
    /// Whether there is one.
    is_on: AtomicBool,
    /// Bytes, less what else of the process is resident. Kept as their complement: [`NONE`] is 0 then, so that the page
    /// heap is all zero at first and takes no place in the file (136 KiB).
    soft: AtomicUsize,
    hard: AtomicUsize,
    /// What the container allows, as it was last read, kept likewise; [`NONE`] if no bound is a share of it.
    container: AtomicUsize,
    /// The second from which on the bounds are read again.
    read_again_at: AtomicUsize,
    /// Bytes of the heap when they were read, and by how many that must have changed for them to be read again before.
    read_bytes: AtomicUsize,
    step: AtomicUsize,
    /// Whether caches should be released, since dirty pages do not suffice.
    wants_release: AtomicBool,
    /// Bytes of spans that are held and that their holders leave untouched.
    untouched: AtomicUsize,
    /// Clean pages that spans have taken, less what was purged for them.
    grown: AtomicUsize,
    /// Bytes that were admitted and are not yet counted as held. Wraps below 0 after a fork inside of an
    /// admission.
    admitted: AtomicUsize,
}

/// The right to take so many bytes; counted until it is dropped, which is when they are counted as held.
#[must_use]
pub struct Admission<'a> {
    limits: &'a Limits,
    /// 0 without a limit.
    bytes: usize,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.bytes != 0 {
            // Ordering: Relaxed, a value that steers policies.
            self.limits.admitted.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// What the limits are now, in bytes of this heap; none without one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Where the heap begins to give back.
    pub soft: Option<usize>,
    /// What it does not exceed.
    pub hard: Option<usize>,
}

impl Limits {
    pub(super) const fn new() -> Self {
        Limits {
            is_on: AtomicBool::new(false),
            soft: AtomicUsize::new(!NONE),
            hard: AtomicUsize::new(!NONE),
            container: AtomicUsize::new(!NONE),
            read_again_at: AtomicUsize::new(0),
            read_bytes: AtomicUsize::new(0),
            step: AtomicUsize::new(0),
            wants_release: AtomicBool::new(false),
            untouched: AtomicUsize::new(0),
            grown: AtomicUsize::new(0),
            admitted: AtomicUsize::new(0),
        }
    }
}

impl PageHeap {
    /// Obeys the settings `limit` and `limit_hard`, which have changed.
    pub fn obey_limits(&self) {
        if !parts::LIMITS {
            return;
        }
        let is_on = bounds().into_iter().any(|bound| bound != Bound::Off);
        if is_on || self.is_limited() {
            self.read_bounds(os::seconds());
        }
        // Ordering: Relaxed, it steers purging; a thread that sees it late is as one that came before.
        self.limits.is_on.store(is_on, Ordering::Relaxed);
    }

    /// Makes room for `bytes` more in spans; None if they may not be taken.
    #[inline]
    pub fn admit(&self, bytes: usize) -> Option<Admission<'_>> {
        // Ordering: Relaxed, as in `obey_limits`.
        match parts::LIMITS && self.limits.is_on.load(Ordering::Relaxed) {
            false => Some(Admission { limits: &self.limits, bytes: 0 }),
            true => self.admit_limited(bytes),
        }
    }

    #[cold]
    fn admit_limited(&self, bytes: usize) -> Option<Admission<'_>> {
        let now = os::seconds();
        let (used, dirty) = (self.used_bytes(), self.dirty_bytes());
        self.read_bounds_if_due(now, used + dirty);
        let Bounds { soft, hard } = self.bounds();
        let (soft, hard) = (soft.unwrap_or(NONE), hard.unwrap_or(NONE));
        // What fits in no case shall not keep others out while it is looked at.
        if bytes > hard {
            return None;
        }
        // Ordering: Relaxed, a value that steers policies.
        let before = self.limits.admitted.fetch_add(bytes, Ordering::Relaxed);
        let admission = Admission { limits: &self.limits, bytes };
        let used = used.saturating_add((before as isize).max(0) as usize);
        let wanted = used.saturating_add(bytes);
        let over = used.saturating_add(dirty.max(bytes)).saturating_sub(soft.min(hard));
        if over == 0 {
            return Some(admission);
        }
        if dirty > 0
            && (bytes > dirty || self.take_growth(over) || ALLOWANCE.spend(dirty / PAGE_BYTES, now))
        {
            self.purge(dirty.saturating_sub(over.max(PURGE_MIN_BYTES)) / PAGE_BYTES);
        }
        if wanted > soft {
            // Ordering: Relaxed, a hint.
            self.limits.wants_release.store(true, Ordering::Relaxed);
        }
        (wanted <= hard).then_some(admission)
    }

    /// Counts clean pages that a span took.
    #[inline]
    pub(super) fn add_grown(&self, pages: usize) {
        if pages > 0 && self.is_limited() {
            // Ordering: Relaxed, a value that steers purging.
            self.limits.grown.fetch_add(pages, Ordering::Relaxed);
        }
    }

    /// Whether growth since the last purge pays for one of `over` bytes, or of the least that is worth a purge; takes the payment.
    fn take_growth(&self, over: usize) -> bool {
        // Ordering: Relaxed, as in `add_grown`; a lost exchange leaves the purge to another thread.
        let grown = self.limits.grown.load(Ordering::Relaxed);
        let left = grown.saturating_sub(over.max(PURGE_MIN_BYTES) / PAGE_BYTES);
        grown * PAGE_BYTES >= over.min(PURGE_MIN_BYTES)
            && (self.limits.grown)
                .compare_exchange(grown, left, Ordering::Relaxed, Ordering::Relaxed) // Ordering: as above.
                .is_ok()
    }

    /// In the child of a fork: other threads take no more what they were admitted.
    pub fn forget_admitted(&self) {
        // Ordering: Relaxed, the child has one thread.
        self.limits.admitted.store(0, Ordering::Relaxed);
    }

    /// Whether caches should be released since this was last asked, which dirty pages do not suffice for.
    #[inline]
    pub fn take_release_wanted(&self) -> bool {
        // Ordering: Relaxed, a hint.
        parts::LIMITS
            && self.limits.wants_release.load(Ordering::Relaxed)
            && self.limits.wants_release.swap(false, Ordering::Relaxed)
    }

    /// Whether the soft limit is exceeded by what cannot be purged.
    pub fn is_above_soft_limit(&self) -> bool {
        parts::LIMITS && self.bounds().soft.is_some_and(|soft| self.used_bytes() > soft)
    }

    /// The limits now.
    pub fn bounds(&self) -> Bounds {
        // Ordering: Relaxed, values that stand alone.
        let [soft, hard] = [&self.limits.soft, &self.limits.hard]
            .map(|bound| Some(!bound.load(Ordering::Relaxed)).filter(|&bytes| bytes != NONE));
        Bounds { soft, hard }
    }

    /// Purges what is dirty above a limit, as far as the allowance lasts.
    #[inline]
    pub(super) fn trim_to_limits(&self) {
        // Ordering: Relaxed, as in `obey_limits`.
        if parts::LIMITS && self.limits.is_on.load(Ordering::Relaxed) {
            self.trim_to_limits_slow();
        }
    }

    #[cold]
    fn trim_to_limits_slow(&self) {
        let Bounds { soft, hard } = self.bounds();
        let least = soft.unwrap_or(NONE).min(hard.unwrap_or(NONE));
        let (kept, dirty) = (least.saturating_sub(self.used_bytes()), self.dirty_bytes());
        if dirty > kept && ALLOWANCE.spend((dirty - kept) / PAGE_BYTES, os::seconds()) {
            self.purge(kept / PAGE_BYTES);
        }
    }

    /// The words of the limits, for `publish`: soft, hard, the container's, each as its complement, 0 for
    /// none; and untouched bytes.
    pub const fn limit_counters(&self) -> [&AtomicUsize; 4] {
        let Limits { soft, hard, container, untouched, .. } = &self.limits;
        [soft, hard, container, untouched]
    }

    /// Whether there is a limit.
    pub fn is_limited(&self) -> bool {
        // Ordering: Relaxed, as in `obey_limits`.
        parts::LIMITS && self.limits.is_on.load(Ordering::Relaxed)
    }

    /// Bytes that the heap may have resident, without dirty pages.
    pub fn used_bytes(&self) -> usize {
        // Ordering: Relaxed, values that steer policies.
        let (metadata, untouched) = (&self.metadata, &self.limits.untouched);
        let [metadata, untouched] = [metadata, untouched].map(|word| word.load(Ordering::Relaxed));
        (self.held_bytes() + HUGE.bytes() + metadata).saturating_sub(untouched)
    }

    /// Counts bytes at the end of a span that its holder will leave untouched. If they are resident all the same, from a former
    /// use, they count as memory of others.
    pub fn add_untouched(&self, bytes: usize) {
        // Ordering: Relaxed, a value that steers policies.
        self.limits.untouched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what [`PageHeap::add_untouched`] counted, when the span is released.
    pub fn remove_untouched(&self, bytes: usize) {
        // Ordering: Relaxed, as above.
        self.limits.untouched.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn dirty_bytes(&self) -> usize {
        // Ordering: Relaxed, a value that steers policies.
        self.dirty.load(Ordering::Relaxed) * PAGE_BYTES
    }

    fn read_bounds_if_due(&self, now: usize, resident: usize) {
        let limits = &self.limits;
        // Ordering: Relaxed throughout, hints; the exchange confirms the first. It carries nothing: one thread reads.
        let due = limits.read_again_at.load(Ordering::Relaxed);
        let (read_at, step) =
            (limits.read_bytes.load(Ordering::Relaxed), limits.step.load(Ordering::Relaxed));
        let is_due = now >= due || resident.abs_diff(read_at) >= step;
        let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed); // Ordering: Relaxed, as above.
        if is_due && limits.read_again_at.compare_exchange(due, now + 1, order, failed).is_ok() {
            self.read_bounds(now);
        }
    }

    /// Reads what the bounds depend on. Async-signal-safe. Again if the settings have changed meanwhile: the thread that
    /// changed them may have been faster.
    fn read_bounds(&self, now: usize) {
        let mut read = None;
        loop {
            // Ordering: SeqCst: of two threads that store bounds, the one that does so last sees the settings of the other.
            fence(Ordering::SeqCst);
            let bounds = bounds();
            if read == Some(bounds) {
                return;
            }
            self.read_bounds_of(bounds, now);
            read = Some(bounds);
        }
    }

    fn read_bounds_of(&self, bounds: [Bound; 2], now: usize) {
        let begin = os::microseconds();
        let is_share = bounds.into_iter().any(Bound::is_share);
        let container = if is_share { os::container::memory_limit("") } else { None };
        // Ordering: Relaxed, a statistic.
        self.limits.container.store(!container.unwrap_or(NONE), Ordering::Relaxed);
        let machine = if is_share { os::container::machine_memory() } else { None };
        let others = os::container::anonymous_resident().unwrap_or(0);
        let resident = self.used_bytes() + self.dirty_bytes();
        let others = others.saturating_sub(resident);
        let mut least = NONE;
        for (place, bound) in [&self.limits.soft, &self.limits.hard].into_iter().zip(bounds) {
            let bytes = bound.bytes(container, machine);
            let bytes = bytes.map_or(NONE, |bytes| bytes.saturating_sub(others));
            least = least.min(bytes);
            // Ordering: Relaxed, values that stand alone.
            place.store(!bytes, Ordering::Relaxed);
        }
        self.limits.read_bytes.store(resident, Ordering::Relaxed); // Ordering: Relaxed, a hint.
        let step = (least / READ_PARTS).max(PURGE_MIN_BYTES);
        self.limits.step.store(step, Ordering::Relaxed); // Ordering: Relaxed, a hint.
        let took = os::microseconds().wrapping_sub(begin);
        // Ordering: Relaxed, a hint.
        self.limits.read_again_at.store(now + 1 + took / 1000, Ordering::Relaxed);
    }
}

/// The two settings.
fn bounds() -> [Bound; 2] {
    [Key::Limit, Key::LimitHard].map(|key| Bound::of_number(config::number(key)))
}

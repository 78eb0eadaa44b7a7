//! The deferred lists of huge spans: those that a thread creates or releases where the lock of the table can't be had.
//!
//! A signal handler on top of a holder can't have that lock. There is no lock and no waiting here: the next holder of the table's
//! lock moves created spans into the table, and unmaps released ones.
//!
//! Invariants:
//! I1. `Created::address` is 0 (free), `BUSY`, or the span's address, which has the mark `MOVING` while a holder of the table's
//!     lock has entered the span there. The thread that clears the word has the span.
//! I2. The owner of a span finds it in the word or in the table at every instant: it is entered in the table before the word is
//!     cleared.

// While a thread holds all locks, for a fork or the validator, handlers on top of it have only these lists.
use crate::atomic::DEFERRED_PLACES as PLACES;
use crate::atomic::{AtomicUsize, Ordering};
use crate::sums::Column;

const BUSY: usize = 1;
const MOVING: usize = 2;

struct Created {
    address: AtomicUsize,
    len: AtomicUsize,
}

/// A word that is 0 if no place is in use, the addresses, and the first length, which are as far apart.
pub type Places = (&'static AtomicUsize, Column<AtomicUsize>, &'static AtomicUsize);

/// The two lists; all zeroes is empty.
pub struct DeferredSpans {
    created: [Created; PLACES],
    /// Addresses of spans in the table that were released.
    released: [AtomicUsize; PLACES],
    /// At least the number of places of `created` in use, so that the lists are not searched when they are empty, as usual.
    created_count: AtomicUsize,
    /// The same of `released`.
    released_count: AtomicUsize,
}

impl DeferredSpans {
    /// Empty.
    pub const fn new() -> DeferredSpans {
        DeferredSpans {
            created: [const { Created { address: AtomicUsize::new(0), len: AtomicUsize::new(0) } };
                PLACES],
            released: [const { AtomicUsize::new(0) }; PLACES],
            created_count: AtomicUsize::new(0),
            released_count: AtomicUsize::new(0),
        }
    }

    /// Lists a created span; false if there is no place.
    pub fn insert(&self, address: usize, len: usize) -> bool {
        raise(&self.created_count);
        let claimed = self.created.iter().find(|created| claim(&created.address, 0, BUSY));
        if claimed.is_none() {
            lower(&self.created_count);
        }
        if let Some(created) = claimed {
            // Ordering: Release pairs with the Acquire in `find`: a thread that reads this length for the span that was here before
            // sees in its second load that the place was claimed.
            created.len.store(len, Ordering::Release);
            // Ordering: Release pairs with the Acquire in `find`.
            created.address.store(address, Ordering::Release);
        }
        claimed.is_some()
    }

    /// Length of the span at `address`, for its owner.
    pub fn len_of(&self, address: usize) -> Option<usize> {
        self.find(address).map(|(_, _, len)| len)
    }

    /// Takes the span at `address` off the list, for its owner to unmap, and returns its length.
    pub fn remove(&self, address: usize) -> Option<usize> {
        loop {
            let (created, seen, len) = self.find(address)?;
            if claim(&created.address, seen, 0) {
                lower(&self.created_count);
                return Some(len);
            }
        }
    }

    /// Lists the span at `address` as released; false if there is no place.
    pub fn release(&self, address: usize) -> bool {
        raise(&self.released_count);
        let is_listed = self.released.iter().any(|place| claim(place, 0, address));
        if !is_listed {
            lower(&self.released_count);
        }
        is_listed
    }

    /// Whether there may be released spans that are not unmapped yet.
    pub fn has_released(&self) -> bool {
        !is_zero(&self.released_count)
    }

    /// Takes the released spans off the list. The table's lock is held.
    pub fn take_released(&self) -> impl Iterator<Item = usize> {
        let take = |place: &AtomicUsize| {
            // Ordering: Relaxed, the address carries nothing else, and only the lock's holder clears it.
            if place.load(Ordering::Relaxed) == 0 {
                return None;
            }
            lower(&self.released_count);
            Some(place.swap(0, Ordering::Relaxed)) // Ordering: Relaxed, as above.
        };
        let places = if is_zero(&self.released_count) { &[][..] } else { &self.released };
        places.iter().filter_map(take)
    }

    /// Moves the created spans into the table: `enter` returns the entry, or none if the table has no space; `withdraw` undoes it if the
    /// owner has released the span meanwhile. The table's lock is held.
    pub fn move_created<E>(
        &self,
        mut enter: impl FnMut(usize, usize) -> Option<E>,
        mut withdraw: impl FnMut(E),
    ) {
        for created in self.in_use() {
            // Ordering: Relaxed, a hint; `claim` acquires.
            let address = created.address.load(Ordering::Relaxed);
            if address <= BUSY || !claim(&created.address, address, address | MOVING) {
                continue;
            }
            // Ordering: Relaxed, the claim acquired it.
            match enter(address, created.len.load(Ordering::Relaxed)) {
                None => drop(claim(&created.address, address | MOVING, address)),
                Some(_) if claim(&created.address, address | MOVING, 0) => {
                    lower(&self.created_count)
                }
                Some(entry) => withdraw(entry),
            }
        }
    }

    /// Where created spans are listed, for `publish`. A span whose address has a mark is not to be counted: its place is being
    /// filled, or the table has the span.
    pub const fn places(&'static self) -> Places {
        let Created { address, len } = &self.created[0];
        let column = Column { first: address, stride: size_of::<Created>(), count: PLACES };
        (&self.created_count, column, len)
    }

    /// All places, or none if none is in use.
    fn in_use(&self) -> &[Created] {
        if is_zero(&self.created_count) { &[] } else { &self.created }
    }

    /// The place of the span at `address`, the word as it was read, and the length.
    fn find(&self, address: usize) -> Option<(&Created, usize, usize)> {
        // As in the table, 0 and `BUSY` are no addresses.
        if address <= BUSY {
            return None;
        }
        self.in_use().iter().find_map(|created| {
            // Ordering: Acquire pairs with the Release in `insert`.
            let seen = created.address.load(Ordering::Acquire);
            if seen & !MOVING != address {
                return None;
            }
            // Ordering: Acquire pairs with the Release in `insert`; before the second load: the place may have another span by now.
            let len = created.len.load(Ordering::Acquire);
            // Ordering: Acquire pairs with `claim`: if the span has left, the table has it (I2). The owner's span is alive, so no other
            // span has its address.
            let again = created.address.load(Ordering::Acquire);
            (again & !MOVING == address).then_some((created, seen, len))
        })
    }
}

fn raise(count: &AtomicUsize) {
    // Ordering: Relaxed: a count is raised before the place is taken; a thread that has a span there has seen both.
    count.fetch_add(1, Ordering::Relaxed);
}

fn lower(count: &AtomicUsize) {
    // Ordering: Release pairs with the Acquire in `is_zero`: a thread that does not see its span counted any more finds the span in
    // the table (I2).
    count.fetch_sub(1, Ordering::Release);
}

fn is_zero(count: &AtomicUsize) -> bool {
    // Ordering: Acquire, as in `lower`.
    count.load(Ordering::Acquire) == 0
}

fn claim(word: &AtomicUsize, from: usize, to: usize) -> bool {
    // Ordering: Acquire and Release, the word owns the rest of its place.
    word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: usize = 0x7000_0000_0000;

    /// Number and bytes of the created spans without a mark.
    fn totals(spans: &DeferredSpans) -> (usize, usize) {
        // Ordering: Relaxed, there is one thread.
        let word = |word: &AtomicUsize| word.load(Ordering::Relaxed);
        let is_live = |address| address != 0 && address & (BUSY | MOVING) == 0;
        let live = spans.created.iter().filter(|created| is_live(word(&created.address)));
        live.fold((0, 0), |(count, bytes), created| (count + 1, bytes + word(&created.len)))
    }

    #[test]
    fn a_span_moves_once() {
        let spans = DeferredSpans::new();
        assert!(spans.insert(SPAN, 4096));
        assert_eq!((spans.len_of(SPAN), totals(&spans)), (Some(4096), (1, 4096)));
        spans.move_created(|_, _| None::<()>, |()| unreachable!());
        assert_eq!(spans.len_of(SPAN), Some(4096), "no space in the table");
        spans.move_created(|address, len| Some((address, len)), |_| unreachable!());
        assert_eq!((spans.len_of(SPAN), totals(&spans)), (None, (0, 0)));
    }

    /// By a signal handler on top of the thread that moves it.
    #[test]
    fn a_span_released_on_its_way_is_withdrawn() {
        let spans = DeferredSpans::new();
        spans.insert(SPAN, 4096);
        let mut withdrawn = 0;
        spans.move_created(
            |address, _| {
                assert_eq!(spans.len_of(address), Some(4096), "found on the way");
                assert_eq!(spans.remove(address), Some(4096));
                // The kernel gives the address again.
                assert!(spans.insert(address, 8192));
                Some(())
            },
            |()| withdrawn += 1,
        );
        assert_eq!((withdrawn, spans.len_of(SPAN)), (1, Some(8192)));
    }

    #[test]
    fn marks_are_no_spans() {
        let spans = DeferredSpans::new();
        assert!(spans.insert(SPAN, 4096));
        // Ordering: Relaxed, there is one thread.
        spans.created[1].address.store(BUSY, Ordering::Relaxed);
        for mark in [0, BUSY, MOVING, BUSY | MOVING] {
            assert_eq!((spans.len_of(mark), spans.remove(mark)), (None, None), "{mark}");
        }
        assert_eq!(spans.remove(SPAN), Some(4096));
    }

    #[test]
    fn places_run_out_and_come_back() {
        let spans = DeferredSpans::new();
        assert!((1..=PLACES).all(|n| spans.insert(n << 20, n) && spans.release(n << 20)));
        assert!(!spans.insert(SPAN, 1) && !spans.release(SPAN));
        assert_eq!(spans.take_released().count(), PLACES);
        assert_eq!(spans.remove(3 << 20), Some(3));
        assert!(spans.insert(SPAN, 1) && spans.release(SPAN));
    }
}

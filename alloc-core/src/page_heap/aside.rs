//! Huge spans that a signal handler makes or gives up where the table's lock can't be had.
//!
//! Promises: no lock, no waiting. What is made here moves into the table with the next holder of its
//! lock, and what is given up goes with him, so the places serve again. Called by huge alone.
//!
//! Invariants:
//! I1. `Made::address` is 0 (free), `BUSY`, or the span's address, with the mark `MOVING` while a holder
//!     of the table's lock has entered it there. Whoever clears the word has the span.
//! I2. The owner of a span finds it in the word or in the table at every instant: it is entered there
//!     before it is cleared here.

// While a thread holds all locks, for a fork or the validator, handlers above holders have nothing else.
use crate::atomic::DEFERRED_PLACES as PLACES;
use crate::atomic::{AtomicUsize, Ordering};

const BUSY: usize = 1;
const MOVING: usize = 2;

struct Made {
    address: AtomicUsize,
    len: AtomicUsize,
}

/// The two lists; all zeroes is valid.
pub struct Aside {
    made: [Made; PLACES],
    /// Addresses of spans in the table.
    given_up: [AtomicUsize; PLACES],
    /// At least the number of places in use, so that nobody looks at the usual none: of `made`.
    made_count: AtomicUsize,
    /// The same of `given_up`.
    given_up_count: AtomicUsize,
}

impl Aside {
    /// Empty.
    pub const fn new() -> Aside {
        Aside {
            made: [const { Made { address: AtomicUsize::new(0), len: AtomicUsize::new(0) } };
                PLACES],
            given_up: [const { AtomicUsize::new(0) }; PLACES],
            made_count: AtomicUsize::new(0),
            given_up_count: AtomicUsize::new(0),
        }
    }

    /// Notes a span; false if there is no place.
    pub fn insert(&self, address: usize, len: usize) -> bool {
        raise(&self.made_count);
        let claimed = self.made.iter().find(|made| claim(&made.address, 0, BUSY));
        if claimed.is_none() {
            lower(&self.made_count);
        }
        if let Some(made) = claimed {
            // Ordering: Release pairs with the Acquire in `find`: a thread that reads this length for the span that was
            // here before sees at its second look that the place was claimed.
            made.len.store(len, Ordering::Release);
            // Ordering: Release pairs with the Acquire in `find`.
            made.address.store(address, Ordering::Release);
        }
        claimed.is_some()
    }

    /// Length of the span at `address`, for its owner.
    pub fn len_of(&self, address: usize) -> Option<usize> {
        self.find(address).map(|(_, _, len)| len)
    }

    /// Forgets the span at `address`, which is its owner's to unmap; its length.
    pub fn remove(&self, address: usize) -> Option<usize> {
        loop {
            let (made, seen, len) = self.find(address)?;
            if claim(&made.address, seen, 0) {
                lower(&self.made_count);
                return Some(len);
            }
        }
    }

    /// Notes that the span at `address` is to be released; false if there is no place.
    pub fn give_up(&self, address: usize) -> bool {
        raise(&self.given_up_count);
        let is_noted = self.given_up.iter().any(|place| claim(place, 0, address));
        if !is_noted {
            lower(&self.given_up_count);
        }
        is_noted
    }

    /// Whether a span may have been given up that nobody has unmapped yet.
    pub fn has_given_up(&self) -> bool {
        !is_zero(&self.given_up_count)
    }

    /// The spans that were given up, each once. The table's lock is held.
    pub fn given_up(&self) -> impl Iterator<Item = usize> {
        let take = |place: &AtomicUsize| {
            // Ordering: Relaxed, the address is all there is, and only the lock's holder clears it.
            if place.load(Ordering::Relaxed) == 0 {
                return None;
            }
            lower(&self.given_up_count);
            Some(place.swap(0, Ordering::Relaxed)) // Ordering: Relaxed, as above.
        };
        let places = if is_zero(&self.given_up_count) { &[][..] } else { &self.given_up };
        places.iter().filter_map(take)
    }

    /// Moves what was made into the table: `enter` gives the entry, or none if there is no room;
    /// `withdraw` undoes it if the owner has released the span meanwhile. The table's lock is held.
    pub fn move_made<E>(
        &self,
        mut enter: impl FnMut(usize, usize) -> Option<E>,
        mut withdraw: impl FnMut(E),
    ) {
        for made in self.in_use() {
            // Ordering: Relaxed, a hint; `claim` acquires.
            let address = made.address.load(Ordering::Relaxed);
            if address <= BUSY || !claim(&made.address, address, address | MOVING) {
                continue;
            }
            // Ordering: Relaxed, the claim acquired it.
            match enter(address, made.len.load(Ordering::Relaxed)) {
                None => drop(claim(&made.address, address | MOVING, address)),
                Some(_) if claim(&made.address, address | MOVING, 0) => lower(&self.made_count),
                Some(entry) => withdraw(entry),
            }
        }
    }

    /// Number and bytes of what was made, but for what is being moved.
    pub fn totals(&self) -> (usize, usize) {
        // Ordering: Relaxed, statistics.
        let live = |made: &&Made| {
            let address = made.address.load(Ordering::Relaxed);
            address > BUSY && address & MOVING == 0
        };
        self.in_use().iter().filter(live).fold((0, 0), |(count, bytes), made| {
            (count + 1, bytes + made.len.load(Ordering::Relaxed)) // Ordering: Relaxed, as above.
        })
    }

    /// All places, or none if none serves.
    fn in_use(&self) -> &[Made] {
        if is_zero(&self.made_count) { &[] } else { &self.made }
    }

    /// Where the span at `address` is, the word as it was seen, and the length.
    fn find(&self, address: usize) -> Option<(&Made, usize, usize)> {
        // As in the table: the marks are no addresses.
        if address <= BUSY {
            return None;
        }
        self.in_use().iter().find_map(|made| {
            // Ordering: Acquire pairs with the Release in `insert`.
            let seen = made.address.load(Ordering::Acquire);
            if seen & !MOVING != address {
                return None;
            }
            // Ordering: Acquire pairs with the Release in `insert`; before the second look: the place may serve
            // another span by now.
            let len = made.len.load(Ordering::Acquire);
            // Ordering: Acquire pairs with `claim`: if the span has left, the table has it (I2). The owner's span is
            // alive, so its address is not another's.
            let again = made.address.load(Ordering::Acquire);
            (again & !MOVING == address).then_some((made, seen, len))
        })
    }
}

fn raise(count: &AtomicUsize) {
    // Ordering: Relaxed: a count is raised before the place is taken, and a thread that has a span there knows of both.
    count.fetch_add(1, Ordering::Relaxed);
}

fn lower(count: &AtomicUsize) {
    // Ordering: Release pairs with the Acquire in `is_zero`: a thread that does not find its span's count any more
    // finds the span in the table (I2).
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

    #[test]
    fn a_span_moves_once() {
        let aside = Aside::new();
        assert!(aside.insert(SPAN, 4096));
        assert_eq!((aside.len_of(SPAN), aside.totals()), (Some(4096), (1, 4096)));
        aside.move_made(|_, _| None::<()>, |()| unreachable!());
        assert_eq!(aside.len_of(SPAN), Some(4096), "no room in the table");
        aside.move_made(|address, len| Some((address, len)), |_| unreachable!());
        assert_eq!((aside.len_of(SPAN), aside.totals()), (None, (0, 0)));
    }

    /// As a handler on top of the one who moves it may.
    #[test]
    fn a_span_released_on_its_way_is_withdrawn() {
        let aside = Aside::new();
        aside.insert(SPAN, 4096);
        let mut withdrawn = 0;
        aside.move_made(
            |address, _| {
                assert_eq!(aside.len_of(address), Some(4096), "found on the way");
                assert_eq!(aside.remove(address), Some(4096));
                // The kernel gives the address again.
                assert!(aside.insert(address, 8192));
                Some(())
            },
            |()| withdrawn += 1,
        );
        assert_eq!((withdrawn, aside.len_of(SPAN)), (1, Some(8192)));
    }

    #[test]
    fn marks_are_no_spans() {
        let aside = Aside::new();
        assert!(aside.insert(SPAN, 4096));
        // Ordering: Relaxed, there is one thread.
        aside.made[1].address.store(BUSY, Ordering::Relaxed);
        for mark in [0, BUSY, MOVING, BUSY | MOVING] {
            assert_eq!((aside.len_of(mark), aside.remove(mark)), (None, None), "{mark}");
        }
        assert_eq!(aside.remove(SPAN), Some(4096));
    }

    #[test]
    fn places_run_out_and_come_back() {
        let aside = Aside::new();
        assert!((1..=PLACES).all(|n| aside.insert(n << 20, n) && aside.give_up(n << 20)));
        assert!(!aside.insert(SPAN, 1) && !aside.give_up(SPAN));
        assert_eq!(aside.given_up().count(), PLACES);
        assert_eq!(aside.remove(3 << 20), Some(3));
        assert!(aside.insert(SPAN, 1) && aside.give_up(SPAN));
    }
}

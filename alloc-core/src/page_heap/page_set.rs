//! Sets of a segment's pages.

use crate::sync::Guarded64;
use crate::units::SEGMENT_PAGES;

/// Words of a set.
pub(super) const WORDS: usize = SEGMENT_PAGES / 64;
const _: () = assert!(SEGMENT_PAGES.is_multiple_of(64));

/// A bit for each page; guarded by the segment's lock.
#[repr(transparent)]
pub(super) struct PageSet([Guarded64; WORDS]);

impl PageSet {
    /// The bits of the pages from `64 * index` on.
    pub fn word(&self, index: usize) -> u64 {
        self.0[index].get()
    }

    /// Whether `page` is in the set.
    pub fn has(&self, page: usize) -> bool {
        self.word(page / 64) >> (page % 64) & 1 == 1
    }

    /// Adds `page`.
    #[inline(never)]
    pub fn add(&self, page: usize) {
        self.0[page / 64].set(self.word(page / 64) | 1 << (page % 64));
    }

    /// Removes `page`.
    pub fn remove(&self, page: usize) {
        self.0[page / 64].set(self.word(page / 64) & !(1 << (page % 64)));
    }

    /// The first run of `pages` pages of the set that starts at a multiple of `align`, if both are at most 64. Tests 64 starts
    /// at a time; a search from run to run mispredicts a branch at each end.
    pub fn find_short_run(&self, pages: usize, align: usize) -> Option<usize> {
        if pages > 64 || align > 64 {
            return None;
        }
        let aligned = !0u64 / (!0 >> (64 - align));
        (0..WORDS).find_map(|index| {
            let behind = self.0.get(index + 1).map_or(0, |word| word.get());
            let mut starts = u128::from(self.word(index)) | u128::from(behind) << 64;
            // A bit stays if the `known` bits from it on are set.
            let mut known = 1;
            while known < pages {
                let more = known.min(pages - known);
                starts &= starts >> more;
                known += more;
            }
            let starts = starts as u64 & aligned;
            (starts != 0).then(|| index * 64 + starts.trailing_zeros() as usize)
        })
    }

    /// The first run of the set at or behind `from`: its first page, and the first page behind it.
    pub fn next_run(&self, from: usize) -> Option<(usize, usize)> {
        let start = self.find(from, |word| word)?;
        Some((start, self.find(start, |word| !word).unwrap_or(SEGMENT_PAGES)))
    }

    /// The first page at or behind `from` whose bit is set in what `wanted` makes of its word.
    fn find(&self, from: usize, wanted: impl Fn(u64) -> u64) -> Option<usize> {
        let mut mask = !0u64 << (from % 64);
        for index in from / 64..WORDS {
            let hits = wanted(self.word(index)) & mask;
            if hits != 0 {
                return Some(index * 64 + hits.trailing_zeros() as usize);
            }
            mask = !0;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> PageSet {
        PageSet([const { Guarded64::new(0) }; WORDS])
    }

    /// Runs of each length at each place, between runs that are one page too short.
    #[test]
    fn short_runs_are_found_where_they_are() {
        for (pages, align) in [(1, 1), (2, 1), (3, 1), (5, 2), (17, 4), (64, 1), (64, 64), (33, 16)]
        {
            for first in (0..=SEGMENT_PAGES - pages).step_by(align) {
                let set = empty();
                let mut page = 0;
                while page + pages < first {
                    (page..page + pages - 1).for_each(|page| set.add(page));
                    page += pages;
                }
                (first..first + pages).for_each(|page| set.add(page));
                assert_eq!(set.find_short_run(pages, align), Some(first), "{pages} at {align}");
                set.remove(first + pages / 2);
                let found = set.find_short_run(pages, align);
                assert_eq!(found, None, "{pages} at {align}: no run of that length is left");
            }
        }
    }

    #[test]
    fn runs_follow_each_other() {
        let set = empty();
        [3..5, 60..70, SEGMENT_PAGES - 1..SEGMENT_PAGES]
            .into_iter()
            .flatten()
            .for_each(|page| set.add(page));
        assert_eq!(set.next_run(0), Some((3, 5)));
        assert_eq!(set.next_run(5), Some((60, 70)));
        assert_eq!(set.next_run(65), Some((65, 70)));
        assert_eq!(set.next_run(70), Some((SEGMENT_PAGES - 1, SEGMENT_PAGES)));
        assert_eq!(empty().next_run(0), None);
    }
}

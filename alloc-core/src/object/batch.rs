//! A batch of objects on their way between two tiers.
//!
//! Invariants:
//! I1. The objects of a [`Batch`] are `addresses[start..end]`. They belong to the batch, and none is null.

use super::Object;
use crate::units::MAGAZINE_MAX;
use core::mem::MaybeUninit;

/// Objects on their way between two tiers, at most a magazine of them. What a tier can't place stays in the batch.
#[must_use = "the objects of a batch that is not passed on are lost"]
pub struct Batch {
    addresses: [MaybeUninit<usize>; MAGAZINE_MAX],
    start: usize,
    end: usize,
}

impl Batch {
    /// No objects.
    #[inline(always)]
    pub fn new() -> Batch {
        let mut batch = MaybeUninit::<Batch>::uninit();
        let fields = batch.as_mut_ptr();
        // A value with `start` and `end` would clear the addresses as well.
        // SAFETY: the addresses need no value.
        unsafe {
            (&raw mut (*fields).start).write(0);
            (&raw mut (*fields).end).write(0);
            batch.assume_init()
        }
    }

    /// One object.
    #[inline(always)]
    pub fn of(object: Object) -> Batch {
        let mut batch = Batch::new();
        batch.push(object);
        batch
    }

    /// The objects at `slots` (at most a magazine of them), without nulls.
    ///
    /// # Safety
    /// 1. The caller holds the objects, which belong to the batch from now on.
    pub unsafe fn from_slots(slots: &[usize]) -> Batch {
        let mut batch = Batch::new();
        // SAFETY: duty 1.
        unsafe { batch.add_slots(slots) };
        batch
    }

    /// Adds the objects at `slots`, for which there is space, without nulls.
    ///
    /// # Safety
    /// 1. As for [`Batch::from_slots`].
    #[inline(always)]
    pub unsafe fn add_slots(&mut self, slots: &[usize]) {
        // SAFETY: duty 1.
        unsafe {
            self.receive_slots(slots.len(), |into| {
                into.copy_from_slice(slots);
                into.len()
            });
        }
    }

    /// Number of objects.
    #[inline(always)]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there is no object.
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Number of objects that fit behind those in the batch.
    #[inline(always)]
    pub const fn space(&self) -> usize {
        MAGAZINE_MAX - self.end
    }

    /// The addresses of the objects, to look at.
    #[inline(always)]
    pub fn addresses(&self) -> &[usize] {
        // SAFETY: I1: initialised.
        unsafe {
            let first = self.addresses.as_ptr().add(self.start).cast();
            core::slice::from_raw_parts(first, self.len())
        }
    }

    /// Adds an object behind the others. The batch has space for it.
    #[inline(always)]
    pub fn push(&mut self, object: Object) {
        self.addresses[self.end].write(object.address());
        self.end += 1;
    }

    /// Takes the first object out.
    #[inline(always)]
    pub fn pop_first(&mut self) -> Option<Object> {
        let &first = self.addresses().first()?;
        self.forget_first(1);
        // SAFETY: I1: the batch held it.
        unsafe { Object::from_address(first) }
    }

    /// Adds what `fill` writes to the start of the space for at most `most` objects, and of which it returns the number.
    ///
    /// # Safety
    /// 1. `fill` writes as many addresses as it says. They are of objects that are the caller's from then on.
    #[inline(always)]
    pub unsafe fn receive(
        &mut self,
        most: usize,
        fill: impl FnOnce(&mut [MaybeUninit<usize>]) -> usize,
    ) {
        let most = most.min(self.space());
        self.end += fill(&mut self.addresses[self.end..self.end + most]);
        debug_assert!(self.end <= MAGAZINE_MAX);
    }

    /// As [`Batch::receive`], of slots, which may have nulls; those are left out.
    ///
    /// # Safety
    /// 1. What `fill` writes are nulls and addresses of objects that are the caller's from then on; it writes as
    ///    many as it says.
    #[inline(always)]
    pub unsafe fn receive_slots(&mut self, most: usize, fill: impl FnOnce(&mut [usize]) -> usize) {
        let before = self.len();
        // SAFETY: duty 1; nulls are taken out below.
        unsafe {
            self.receive(most, |space| {
                space.fill(MaybeUninit::new(0));
                // Just initialised.
                fill(core::slice::from_raw_parts_mut(space.as_mut_ptr().cast(), space.len()))
            });
        }
        // Without branches, to be vectorized: there is hardly ever a null.
        if self.addresses()[before..].iter().fold(false, |found, &address| found | (address == 0)) {
            self.drop_nulls();
        }
    }

    #[cold]
    fn drop_nulls(&mut self) {
        let mut kept = self.start;
        for at in self.start..self.end {
            // SAFETY: `start..end` is initialised.
            if unsafe { self.addresses[at].assume_init() } != 0 {
                self.addresses[kept] = self.addresses[at];
                kept += 1;
            }
        }
        self.end = kept;
    }

    /// The first `count` objects belong to the place that the caller has put them in.
    #[inline(always)]
    pub fn forget_first(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.start += count.min(self.len());
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// The last `count` objects belong to the place that the caller has put them in.
    #[inline(always)]
    pub fn forget_last(&mut self, count: usize) {
        debug_assert!(count <= self.len());
        self.end -= count.min(self.len());
    }

    /// All objects belong to the place that the caller has put them in.
    #[inline(always)]
    pub fn forget_all(&mut self) {
        (self.start, self.end) = (0, 0);
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Drop for Batch {
    #[inline(always)]
    fn drop(&mut self) {
        debug_assert!(self.is_empty(), "{} objects of a batch are lost", self.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch_of(slots: &[usize]) -> Batch {
        // SAFETY: numbers that nothing reads or writes.
        unsafe { Batch::from_slots(slots) }
    }

    #[test]
    fn objects_leave_a_batch_in_order_from_both_ends() {
        let mut batch = batch_of(&[8, 16, 24, 32, 40]);
        assert_eq!(batch.pop_first().map(Object::into_raw), Some(8 as *mut u8));
        batch.forget_last(1);
        batch.forget_first(1);
        assert_eq!((batch.addresses(), batch.len()), (&[24, 32][..], 2));
        batch.forget_all();
        assert_eq!((batch.pop_first(), batch.space()), (None, MAGAZINE_MAX));
    }

    #[test]
    fn a_batch_has_no_nulls() {
        for slots in [&[0, 8, 0, 0, 16][..], &[0, 0], &[8, 0], &[]] {
            let mut batch = batch_of(slots);
            assert!(slots.iter().filter(|&&slot| slot != 0).eq(batch.addresses()), "{slots:?}");
            batch.forget_all();
        }
    }

    #[test]
    fn a_batch_receives_no_more_than_fits() {
        let mut batch = batch_of(&[8; MAGAZINE_MAX - 1]);
        // SAFETY: as above.
        unsafe {
            batch.receive_slots(2, |space| {
                space.fill(16);
                space.len()
            });
        }
        assert_eq!((batch.len(), batch.addresses().last()), (MAGAZINE_MAX, Some(&16)));
        batch.forget_all();
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "1 objects of a batch are lost")]
    fn a_lost_object_is_seen() {
        drop(batch_of(&[8]));
    }
}

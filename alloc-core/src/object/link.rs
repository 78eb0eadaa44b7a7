//! Links to what lives as long as the process: segments, page entries, regions, tables.
//!
//! An all-zero link leads nowhere.
//!
//! Invariants:
//! I1. A link is null or was made of a `&'static T`.

use crate::atomic::{AtomicPtr, Ordering};
use core::ptr;

/// A word that leads to a `T` or nowhere.
#[repr(transparent)]
pub struct Link<T: 'static>(AtomicPtr<T>);

impl<T: Sync> Link<T> {
    /// Leads nowhere.
    pub const fn none() -> Link<T> {
        Link(AtomicPtr::new(ptr::null_mut()))
    }

    /// Where the link leads.
    #[inline]
    pub fn load(&self, order: Ordering) -> Option<&'static T> {
        // Ordering: the caller's, here and below.
        target(self.0.load(order))
    }

    /// Makes the link lead to `to`.
    #[inline]
    pub fn store(&self, to: Option<&'static T>, order: Ordering) {
        self.0.store(pointer(to), order);
    }

    /// Makes the link lead to `to` and returns where it led before.
    #[inline]
    pub fn swap(&self, to: Option<&'static T>, order: Ordering) -> Option<&'static T> {
        target(self.0.swap(pointer(to), order))
    }

    /// Makes the link lead to `to` if it leads to `from`, else returns where it leads.
    #[inline]
    pub fn compare_exchange(
        &self,
        from: Option<&'static T>,
        to: Option<&'static T>,
        success: Ordering,
        failure: Ordering,
    ) -> Result<(), Option<&'static T>> {
        let result = self.0.compare_exchange(pointer(from), pointer(to), success, failure);
        result.map(drop).map_err(target)
    }

    /// Where the link leads; the lock that guards the link is held, or the answer is a snapshot.
    #[inline]
    pub fn get(&self) -> Option<&'static T> {
        // Ordering: Acquire, which costs a load nothing on x86-64: without the lock, what it leads to is whole.
        self.load(Ordering::Acquire)
    }

    /// Makes the link lead to `to`; the lock that guards the link is held.
    #[inline]
    pub fn set(&self, to: Option<&'static T>) {
        // Ordering: Release pairs with the Acquire in `get`.
        self.store(to, Ordering::Release);
    }
}

impl<T: Sync> Default for Link<T> {
    fn default() -> Self {
        Link::none()
    }
}

fn pointer<T>(to: Option<&'static T>) -> *mut T {
    to.map_or(ptr::null_mut(), |to| ptr::from_ref(to).cast_mut())
}

fn target<T>(pointer: *mut T) -> Option<&'static T> {
    // SAFETY: I1.
    unsafe { pointer.as_ref() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::eq;

    #[test]
    fn a_link_leads_where_it_was_made_to_lead() {
        static WORDS: [u32; 2] = [1, 2];
        let (one, two) = (&WORDS[0], &WORDS[1]);
        let link = Link::none();
        assert!(link.get().is_none());
        link.set(Some(one));
        // Ordering: Relaxed, one thread runs.
        let order = Ordering::Relaxed;
        let refused = link.compare_exchange(None, Some(two), order, order);
        assert!(refused.is_err_and(|seen| seen.is_some_and(|seen| eq(seen, one))));
        assert!(link.compare_exchange(Some(one), Some(two), order, order).is_ok());
        assert!(link.swap(None, order).is_some_and(|seen| eq(seen, two)));
        assert!(link.load(order).is_none());
    }
}

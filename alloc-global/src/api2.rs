//! `RsAlloc` as an `Allocator` of collections (allocator-api2).

use super::RsAlloc;
use allocator_api2::alloc::{AllocError, Allocator};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

fn slice(ptr: *mut u8, len: usize) -> Result<NonNull<[u8]>, AllocError> {
    let ptr = NonNull::new(ptr).ok_or(AllocError)?;
    Ok(NonNull::slice_from_raw_parts(ptr, len))
}

/// Resizes by the rules of `Allocator`, where sizes may be 0.
///
/// # Safety
/// 1. `ptr` is a live block of `old`, or dangling if that has size 0; `new` has its alignment.
unsafe fn resize(ptr: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
    if old.align() != new.align() || old.size() == 0 || new.size() == 0 {
        let fresh = RsAlloc.allocate(new)?;
        let len = old.size().min(new.size());
        // SAFETY: duty 1; the fresh block does not overlap the old one.
        unsafe {
            fresh.cast::<u8>().copy_from_nonoverlapping(ptr, len);
            RsAlloc.deallocate(ptr, old);
        }
        return Ok(fresh);
    }
    // SAFETY: duty 1; neither size is 0.
    slice(unsafe { RsAlloc.realloc(ptr.as_ptr(), old, new.size()) }, new.size())
}

// SAFETY: blocks stay valid until freed, whichever copy of the unit struct frees them.
unsafe impl Allocator for RsAlloc {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            // The address is the alignment: not null, aligned, never touched.
            return slice(core::ptr::without_provenance_mut(layout.align()), 0);
        }
        // SAFETY: the size is not 0.
        slice(unsafe { self.alloc(layout) }, layout.size())
    }

    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return self.allocate(layout);
        }
        // SAFETY: the size is not 0.
        slice(unsafe { self.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the caller's duty is ours.
            unsafe { self.dealloc(ptr.as_ptr(), layout) }
        }
    }

    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's duty is ours.
        unsafe { resize(ptr, old, new) }
    }

    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's duty is ours.
        unsafe { resize(ptr, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's duty is ours.
        let grown = unsafe { resize(ptr, old, new) }?;
        // SAFETY: the block has `new.size()` bytes.
        unsafe {
            grown.cast::<u8>().add(old.size()).write_bytes(0, new.size() - old.size());
        }
        Ok(grown)
    }
}

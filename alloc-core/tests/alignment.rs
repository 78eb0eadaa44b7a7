//! What is resized keeps the alignment that was asked for, where memory moves by page tables too: these keep that of a page.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;

use modes::{MODES, in_modes};
use rsalloc_core::{allocate_aligned, check, free, free_sized, reallocate, reallocate_sized};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
/// Sizes that an object has one after the other: some in place, some moved, up and down.
const STEPS: [usize; 6] = [KIB * 600, KIB * 700, MIB * 2, MIB, MIB * 3, KIB * 560];
/// Beyond an OS page, beyond a page of the allocator, and beyond what a segment can align.
const ALIGNS: [usize; 4] = [8 * KIB, 128 * KIB, MIB, 32 * MIB];
/// Objects of each alignment: that all of them move to a multiple of it by chance does not happen.
const OBJECTS: usize = 6;

fn main() {
    in_modes(&MODES, LIMIT, |_| {
        ALIGNS.into_iter().for_each(a_known_layout_keeps_its_alignment);
        ALIGNS.into_iter().for_each(c_keeps_the_contents);
        assert_eq!(check(), Ok(()));
    });
}

struct Object {
    address: *mut u8,
    size: usize,
}

impl Object {
    fn new(size: usize, align: usize) -> Object {
        let address = allocate_aligned(size, align);
        assert!(!address.is_null() && (address as usize).is_multiple_of(align));
        Object { address, size }.mark()
    }

    fn mark(self) -> Object {
        // SAFETY: the first and the last byte of a live object.
        unsafe {
            self.address.write(1);
            self.address.add(self.size - 1).write(2);
        }
        self
    }

    /// The object, which has been moved to `address`.
    fn moved(self, address: *mut u8, size: usize) -> Object {
        assert!(!address.is_null());
        // SAFETY: bytes of a live object of that size.
        unsafe {
            assert_eq!(address.read(), 1, "the first byte");
            assert!(size < self.size || address.add(self.size - 1).read() == 2, "the last byte");
        }
        Object { address, size }.mark()
    }
}

fn a_known_layout_keeps_its_alignment(align: usize) {
    let mut objects: Vec<_> = (0..OBJECTS).map(|_| Object::new(STEPS[0], align)).collect();
    let mut moves = 0;
    for size in STEPS {
        let resize = |object: Object| {
            // SAFETY: live, with its layout.
            let address = unsafe { reallocate_sized(object.address, object.size, align, size) };
            moves += usize::from(address != object.address);
            assert!((address as usize).is_multiple_of(align), "{address:p} at {align}, {size} B");
            object.moved(address, size)
        };
        objects = objects.into_iter().map(resize).collect();
    }
    assert!(moves >= OBJECTS, "{moves} moves of {OBJECTS} objects at {align} show nothing");
    for object in objects {
        // SAFETY: live, with its layout.
        unsafe { free_sized(object.address, object.size, align) };
    }
}

/// C's realloc promises the natural alignment only.
fn c_keeps_the_contents(align: usize) {
    let mut objects: Vec<_> = (0..OBJECTS).map(|_| Object::new(STEPS[0], align)).collect();
    for size in STEPS {
        let resize = |object: Object| {
            // SAFETY: live.
            let address = unsafe { reallocate(object.address, size) };
            assert!((address as usize).is_multiple_of(16));
            object.moved(address, size)
        };
        objects = objects.into_iter().map(resize).collect();
    }
    // SAFETY: live.
    objects.into_iter().for_each(|object| unsafe { free(object.address) });
}

//! Every size at every alignment: what is freed by its layout goes where it came from.
//!
//! The entries compute the class of a layout in assembly, once to allocate and once to free.

use rsalloc_core::internals::page_map::class_at;
use rsalloc_core::internals::size_class::{class_of_aligned, object_size};
use std::collections::BTreeSet;

/// Small sizes, and those around each class and each table's end.
fn sizes() -> BTreeSet<usize> {
    let near = |size: usize| [size.saturating_sub(1), size, size + 1];
    let classes = (1..rsalloc_core::internals::size_class::CLASSES)
        .flat_map(|class| near(object_size(class)));
    (0..300).chain(classes).chain(near(300_000)).collect()
}

#[test]
fn objects_return_to_their_slab_by_their_layout() {
    for shift in 0..22 {
        let align = 1 << shift;
        for size in sizes() {
            // Capacity for the smallest class, where a wrong class would show.
            let tiny = [(); 8].map(|()| rsalloc_core::allocate(1));
            // Twice: from a slab, then from the cache that the free filled.
            for _ in 0..2 {
                let object = rsalloc_core::allocate_aligned(size, align);
                assert!((object as usize).is_multiple_of(align) && !object.is_null());
                let class = class_of_aligned(size, align);
                assert_eq!(class_at(object as usize), class, "{size} at {align}");
                // SAFETY: live, with its layout.
                unsafe { rsalloc_core::free_sized(object, size, align) };
            }
            // SAFETY: live.
            tiny.into_iter().for_each(|object| unsafe { rsalloc_core::free(object) });
        }
        assert_eq!(rsalloc_core::check(), Ok(()), "after alignment {align}");
    }
    rsalloc_core::release();
    assert_eq!(rsalloc_core::stats().live_bytes, 0);
}

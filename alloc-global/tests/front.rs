//! The Rust front: as the process's global allocator, and as an `Allocator` of collections.

use rsalloc::{Mode, RsAlloc};
use std::alloc::{GlobalAlloc, Layout};
use std::collections::{BTreeMap, HashMap};

#[global_allocator]
static GLOBAL: RsAlloc = RsAlloc;

#[test]
fn collections_keep_their_contents() {
    let map: BTreeMap<String, Vec<usize>> =
        (0..5000).map(|i| (format!("key {i}"), (0..i % 50).collect())).collect();
    let copy: HashMap<_, _> = map.clone().into_iter().collect();
    for i in 0..5000 {
        let expected: Vec<usize> = (0..i % 50).collect();
        assert_eq!(map[&format!("key {i}")], expected);
        assert_eq!(copy[&format!("key {i}")], expected);
    }
    drop((map, copy));
}

#[test]
fn the_allocator_is_active_and_reports_it() {
    let boxed = Box::new([7u8; 100_000]);
    assert_eq!(boxed[99_999], 7);
    assert_ne!(rsalloc::report().mode, Mode::Unset);
    assert!(rsalloc::stats().mapped_bytes > 100_000);
    // SAFETY: live.
    assert!(unsafe { RsAlloc.usable_size(boxed.as_ptr()) } >= 100_000);
}

#[test]
fn layouts_of_every_alignment() {
    for shift in 0..=30 {
        for size in [1, 8, 24, 100, 1024, 5000, 40_000, 300_000] {
            let layout = Layout::from_size_align(size, 1 << shift).unwrap();
            // SAFETY: the size is not 0; freed with its layout, grown within its bounds.
            unsafe {
                let ptr = GLOBAL.alloc_zeroed(layout);
                assert!(!ptr.is_null() && (ptr as usize).is_multiple_of(1 << shift), "{layout:?}");
                assert!(std::slice::from_raw_parts(ptr, size).iter().all(|&byte| byte == 0));
                ptr.write_bytes(0xA5, size);
                let grown = GLOBAL.realloc(ptr, layout, size * 2);
                assert!((grown as usize).is_multiple_of(1 << shift), "{layout:?} grown");
                assert!(std::slice::from_raw_parts(grown, size).iter().all(|&byte| byte == 0xA5));
                let layout = Layout::from_size_align(size * 2, 1 << shift).unwrap();
                GLOBAL.dealloc(grown, layout);
            }
        }
    }
}

#[test]
fn a_vector_grows_to_64_mib_and_back() {
    let mut vector = Vec::new();
    for i in 0..(64usize << 20) / 8 {
        vector.push(i);
    }
    assert!(vector.iter().enumerate().all(|(i, &value)| i == value));
    vector.truncate(1000);
    vector.shrink_to_fit();
    assert!(vector.iter().enumerate().all(|(i, &value)| i == value));
}

#[cfg(feature = "allocator-api2")]
#[test]
fn allocator_api2_vectors_grow_and_shrink() {
    let mut vector = allocator_api2::vec::Vec::new_in(RsAlloc);
    vector.extend(0..100_000u32);
    vector.truncate(10);
    vector.shrink_to_fit();
    assert_eq!(vector.as_slice(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    vector.clear();
    vector.shrink_to_fit();
    vector.push(1);
    assert_eq!(vector.as_slice(), [1]);
}

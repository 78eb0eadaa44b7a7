//! Single paths of the Rust front beside the system's allocator: `cargo bench -p benches`.
//!
//! Each function is one path through the tiers, so that a change to one shows by itself. What
//! criterion itself allocates comes from the system's allocator, outside the measured calls.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rsalloc::RsAlloc;
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;

/// Measures a path, which is so many allocations, on both allocators. A macro, because a path is
/// compiled once for each allocator: the front is there to be inlined.
macro_rules! beside_system {
    ($criterion:expr, $name:expr, $operations:expr, |$allocator:ident| $path:block) => {
        let mut group = $criterion.benchmark_group($name);
        group.throughput(Throughput::Elements($operations));
        let $allocator = RsAlloc;
        group.bench_function("rsalloc", |bencher| bencher.iter(|| $path));
        let $allocator = System;
        group.bench_function("system", |bencher| bencher.iter(|| $path));
        group.finish();
    };
}

criterion_group!(paths, hit, refill_and_flush, zeroed, growth, large);
criterion_main!(paths);

/// The cache hit: one object, allocated and freed.
fn hit(criterion: &mut Criterion) {
    for size in [16, 64, 1024, 32 << 10] {
        let layout = layout(size);
        beside_system!(criterion, &format!("hit {size} B"), 1, |allocator| {
            // SAFETY: the layout is not empty; the object is freed once, with its layout.
            unsafe { allocator.dealloc(black_box(allocator.alloc(black_box(layout))), layout) }
        });
    }
}

/// More objects than a shard holds: magazines move between the shard and the depot.
fn refill_and_flush(criterion: &mut Criterion) {
    let layout = layout(64);
    let mut objects = vec![std::ptr::null_mut(); 10_000];
    let count = objects.len() as u64;
    beside_system!(criterion, "refill and flush, 10,000 of 64 B", count, |allocator| {
        // SAFETY: the layout is not empty; each object is freed once, with its layout.
        unsafe {
            objects.iter_mut().for_each(|object| *object = allocator.alloc(layout));
            objects.iter().for_each(|object| allocator.dealloc(*object, layout));
        }
    });
}

/// Cleared memory, of a slab and of a span.
fn zeroed(criterion: &mut Criterion) {
    for size in [256, 1 << 20] {
        let layout = layout(size);
        beside_system!(criterion, &format!("zeroed {size} B"), 1, |allocator| {
            // SAFETY: the layout is not empty; the object is freed once, with its layout.
            unsafe { allocator.dealloc(black_box(allocator.alloc_zeroed(layout)), layout) }
        });
    }
}

/// A buffer that grows by 16 B at a time, from 16 B to 4 KiB.
fn growth(criterion: &mut Criterion) {
    const LAST: usize = 4096;
    beside_system!(criterion, "growth by 16 B to 4 KiB", LAST as u64 / 16, |allocator| {
        // SAFETY: the layouts are not empty; each one given is the buffer's at that moment.
        unsafe {
            let mut buffer = allocator.alloc(layout(16));
            for size in (32..=LAST).step_by(16) {
                buffer = allocator.realloc(buffer, layout(size - 16), size);
            }
            allocator.dealloc(buffer, layout(LAST));
        }
    });
}

/// A span of its own, one byte of it written.
fn large(criterion: &mut Criterion) {
    let layout = layout(1 << 20);
    beside_system!(criterion, "large 1 MiB", 1, |allocator| {
        // SAFETY: the layout is not empty; the object is live while written, and freed once.
        unsafe {
            let object = allocator.alloc(layout);
            object.write_volatile(1);
            allocator.dealloc(object, layout);
        }
    });
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a valid layout")
}

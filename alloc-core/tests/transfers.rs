//! Objects refilled and flushed, by class and by shard: exact, whatever threads, shards and drains moved them.

#[path = "support/cpus.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod cpus;
#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;
#[path = "support/objects.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod objects;

use cpus::Cpus;
use modes::{MODES, ModeCase, in_modes};
use objects::Random;
use rsalloc_core::internals::publish::collect_own_shards;
use rsalloc_core::internals::size_class::{CLASS, CLASSES, class_of};
use rsalloc_core::internals::sums::{ClassCounts, ShardCounts, Transferred};
use rsalloc_core::{allocate, free};
use std::time::Duration;

/// A class that nothing else in this program uses.
const SIZE: usize = 3072;

fn main() {
    // With `guard` and `hardened` objects come from elsewhere as well.
    in_modes(&MODES[..4], Duration::from_secs(60), |case| {
        one_by_one(case);
        many_threads();
    });
}

/// What is counted: by class, and the sum of the shards.
fn counted() -> ([ClassCounts; CLASSES], Transferred) {
    let (mut classes, mut of_shards) = ([ClassCounts::NONE; CLASSES], Transferred::default());
    let mut each_shard = |shard: &ShardCounts| {
        let transferred = shard.transferred.expect("this version counts it");
        of_shards.refilled += transferred.refilled;
        of_shards.flushed += transferred.flushed;
    };
    let stats = collect_own_shards(&mut classes, &mut each_shard).expect("readable");
    let sum = |number: fn(Transferred) -> usize| {
        classes.iter().filter_map(|class| class.transferred).map(number).sum::<usize>()
    };
    let [refilled, flushed] = [sum(|each| each.refilled), sum(|each| each.flushed)];
    assert_eq!((stats.refilled_objects, stats.flushed_objects), (refilled, flushed));
    assert!(of_shards.refilled <= refilled && of_shards.flushed <= flushed, "{of_shards:?}");
    (classes, of_shards)
}

/// What came up and did not go down is with the program or in a shard, in each class.
fn adds_up() {
    for (number, class) in counted().0.iter().enumerate().skip(1) {
        let Transferred { refilled, flushed } = class.transferred.expect("this version counts it");
        let above = class.handed_out - class.in_depot;
        assert_eq!(refilled.wrapping_sub(flushed), above, "class {number}: {class:?}");
    }
}

/// Of a class that was never used: the first refill takes a quarter of a batch, or eight; the second one a
/// whole batch.
fn one_by_one(case: &ModeCase) {
    let cpus = Cpus::allowed();
    cpus.move_to(0);
    let class = class_of(SIZE);
    let moved = || counted().0[class].transferred.unwrap();
    assert_eq!(moved(), Transferred::default());
    let batch = CLASS[class].batch;
    let first = 8.min(batch);
    let refilled: Vec<(usize, *mut u8)> = (0..first + batch)
        .map(|_| {
            let object = allocate(SIZE);
            (moved().refilled, object)
        })
        .collect();
    let counts: Vec<usize> = refilled.iter().map(|&(count, _)| count).collect();
    let expected: Vec<usize> = (0..first + batch)
        .map(|number| if number < first { first } else { first + batch })
        .collect();
    assert_eq!((counts, moved().flushed), (expected, 0), "{}", case.name);
    adds_up();
    // SAFETY: allocated above, freed once.
    refilled.into_iter().for_each(|(_, object)| unsafe { free(object) });
    adds_up();
    rsalloc_core::release();
    // All of them have left, by whatever way.
    assert_eq!(moved(), Transferred { refilled: first + batch, flushed: first + batch });
    adds_up();
    cpus.move_anywhere();
}

/// Threads of all CPUs, with drains and decays meanwhile.
fn many_threads() {
    let before = counted().1;
    std::thread::scope(|scope| {
        for thread in 1..=8u64 {
            scope.spawn(move || churn(thread));
        }
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(5));
            rsalloc_core::release();
        }
    });
    adds_up();
    let after = counted().1;
    let (up, down) = (after.refilled - before.refilled, after.flushed - before.flushed);
    assert!(up > 1_000 && down > 1_000, "{up} and {down}: nothing was tested");
}

fn churn(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut held: Vec<*mut u8> = Vec::new();
    for round in 0..40_000u64 {
        // Up and down, so that classes grow and decay.
        let is_up = round / 4_000 % 2 == 0;
        let pick = random.next();
        if pick % 4 < if is_up { 3 } else { 1 } {
            held.push(allocate(1 << ((pick >> 8) % 15)));
        } else if !held.is_empty() {
            let object = held.swap_remove((pick >> 8) as usize % held.len());
            // SAFETY: allocated above, freed once.
            unsafe { free(object) };
        }
    }
    // SAFETY: allocated above, freed once.
    held.into_iter().for_each(|object| unsafe { free(object) });
}

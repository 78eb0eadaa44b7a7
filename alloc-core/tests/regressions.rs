//! Sequences that once broke something, as the fuzz targets print them; see `cargo xtask fuzz`.
//!
//! To add one, paste the test that a failed run printed and name it after what broke. Sequences with
//! `Refuse` go to the module `faults`, which needs the feature of that name.

#[path = "fuzzed/conf.rs"]
mod conf;
#[path = "support/cpus.rs"]
mod cpus;
#[path = "fuzzed/heap.rs"]
mod heap;
#[allow(dead_code, reason = "shared with the fuzz targets")]
#[path = "fuzzed/objects.rs"]
mod objects;
#[allow(dead_code, reason = "the kept sequences need not use every step")]
#[path = "fuzzed/operations.rs"]
mod operations;
#[path = "fuzzed/reference.rs"]
mod reference;
#[path = "fuzzed/schedules.rs"]
mod schedules;
mod support;
#[allow(dead_code, reason = "as above")]
#[path = "fuzzed/tiers.rs"]
mod tiers;

use proptest::prelude::*;

fn reference_op() -> impl Strategy<Value = reference::Op> {
    use reference::Op::*;
    // Few classes, small and large, so that operations meet.
    let class = || prop_oneof![3 => 0..4usize, 1 => any::<usize>()];
    let count = || 0..=64usize;
    let object = || 1..usize::MAX / 2;
    prop_oneof![
        4 => class().prop_map(|class| Pop { class }),
        4 => (class(), object()).prop_map(|(class, object)| Push { class, object }),
        3 => (class(), count()).prop_map(|(class, count)| PopBatch { class, count }),
        3 => (class(), object(), count())
            .prop_map(|(class, object, count)| PushBatch { class, object, count }),
        2 => (class(), 0..600usize, any::<bool>())
            .prop_map(|(class, slots, wrong)| SetBounds { class, slots, wrong }),
        1 => any::<(usize, usize)>().prop_map(|(counter, delta)| Add { counter, delta }),
        2 => (class(), 0..600usize, 0..600usize)
            .prop_map(|(class, objects, slots)| State { class, objects, slots }),
        1 => class().prop_map(|class| Stopped { class }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    /// Whatever the state: the assembly does what its reference implementation does, to the last word.
    #[test]
    #[cfg_attr(
        not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(feature = "portable"))),
        ignore = "this build has no sections"
    )]
    fn sections_and_their_references_do_the_same(ops in prop::collection::vec(reference_op(), 1..200)) {
        reference::replay(&ops, None);
    }
}

#[test]
fn sample_of_operations() {
    use operations::{Op::*, replay};
    replay(
        &[
            Burst { size: 40, count: 300 },
            Zeroed { size: 300_000, shift: 16 },
            Reallocate { pick: 300, size: 1_200_000 },
            ReallocateSized { pick: 7, size: 100 },
            FreeMany { pick: 3, count: 290 },
            Release,
            FreeSized { pick: 0 },
            Aligned { size: 1, shift: 21 },
        ],
        None,
    );
}

#[test]
fn sample_of_tiers() {
    use tiers::{Op::*, replay};
    replay(
        &[
            Cache { bytes: 65_536 },
            Burst { size: 40, count: 300 },
            Migrate { cpu: 1 },
            FreeMany { pick: 0, count: 200 },
            Check,
            Burst { size: 5000, count: 40 },
            FreeMany { pick: 50, count: 100 },
            Drain,
            Migrate { cpu: 0 },
            Allocate { size: 262_144 },
            Release,
        ],
        None,
    );
}

/// A free that gave memory back waited for the stopper of the shards, which here waited for that free.
#[test]
fn a_free_does_not_wait_for_a_stop() {
    use operations::Op::*;
    use schedules::{Op::*, replay};
    replay(
        &[
            Run { thread: 0, op: Burst { size: 1500, count: 1000 } },
            Run { thread: 1, op: FreeMany { pick: 0, count: 60 } },
            Stop { steps: 1 },
            Run { thread: 0, op: FreeMany { pick: 0, count: 940 } },
        ],
        None,
    );
}

#[test]
fn sample_of_schedules() {
    use operations::Op::*;
    use schedules::{Op::*, replay};
    replay(
        &[
            Run { thread: 0, op: Burst { size: 40, count: 300 } },
            Migrate { thread: 1, cpu: 1 },
            Run { thread: 1, op: FreeMany { pick: 3, count: 200 } },
            Run { thread: 2, op: Release },
            End { thread: 0 },
            Stop { steps: 4 },
            Run { thread: 0, op: Burst { size: 40, count: 100 } },
            Run { thread: 3, op: Reallocate { pick: 120, size: 300_000 } },
            Run { thread: 3, op: Check },
            End { thread: 1 },
            Run { thread: 3, op: FreeSized { pick: 0 } },
            Run { thread: 1, op: FreeMany { pick: 0, count: 60 } },
            Run { thread: 2, op: Check },
        ],
        None,
    );
}

#[test]
fn sample_of_conf() {
    conf::replay(b"cache: 4m,mode:atomic , dirty:-1,,stats_at_exit:%p.json,mode", None);
}

/// A sized free of a size of 0 took the class of 0 bytes, whatever the alignment, and put a large span
/// among the objects of 8 bytes.
#[test]
fn an_empty_object_at_a_large_alignment_is_freed_by_its_layout() {
    use operations::{Op::*, replay};
    replay(
        &[
            Allocate { size: 0 },
            Aligned { size: 0, shift: 19 },
            FreeSized { pick: 0 },
            Aligned { size: 0, shift: 6 },
            FreeSized { pick: 0 },
            Check,
        ],
        None,
    );
}

/// Rounded up to the alignment such a size is 0, which has a class, whose objects are at hand.
#[test]
fn a_size_that_wraps_when_it_is_rounded_up_is_refused() {
    // The other tests count what the heap holds.
    let _alone = objects::alone();
    let small = rsalloc_core::allocate(1);
    // SAFETY: it was just allocated.
    unsafe { rsalloc_core::free(small) };
    for align in (4..=16).map(|shift| 1_usize << shift) {
        for below in [0, 1, align / 2, align - 2] {
            let object = rsalloc_core::allocate_aligned(usize::MAX - below, align);
            assert!(object.is_null(), "{align}: {below}");
        }
    }
}

/// A reallocation left objects in classes that are aligned less than what they were freed as, so that the
/// cache of 1024 bytes gave out an address that was no multiple of 1024.
#[test]
fn reallocated_objects_have_the_alignment_they_are_freed_with() {
    use operations::{Op::*, replay};
    // In place, and with room to grow.
    for size in [1152, 896] {
        replay(
            &[
                Allocate { size: 1000 },
                Burst { size, count: 3 },
                Burst { size: 1152, count: 3 },
                Reallocate { pick: 4, size: 1000 },
                FreeSized { pick: 0 },
                Aligned { size: 1024, shift: 10 },
            ],
            None,
        );
    }
}

/// A budget that shrinks takes nothing away at once: the check itself was wrong.
#[test]
fn a_smaller_budget_leaves_capacities_for_now() {
    use tiers::{Op::*, replay};
    replay(&[Allocate { size: 9 }, Cache { bytes: 1 }], None);
}

/// A wrong item brought its line breaks along.
#[test]
fn complaints_are_one_printable_line() {
    conf::replay(b"\n:\x1b[2J", None);
}

/// The largest number, plus one.
#[test]
fn cpu_lists_do_not_overflow() {
    conf::replay(b"0-18446744073709551615", None);
}

#[cfg(feature = "faults")]
mod faults {
    use crate::operations;

    /// A mapping that stands in for an object came back through the cache of its class and was given
    /// out where the class's alignment was asked for. How many refusals lead there depends on the heap.
    #[test]
    fn replacement_objects_have_the_alignment_of_their_class() {
        use operations::{Op::*, replay};
        for count in 16..24 {
            replay(
                &[
                    Exhaust,
                    Refuse { first: 0, count },
                    Allocate { size: 32_768 },
                    Check,
                    Free { pick: 1 },
                    Allocate { size: 32_768 },
                    FreeSized { pick: 0 },
                    Allocate { size: 32_768 },
                    FreeSized { pick: 1 },
                    Aligned { size: 32_768, shift: 15 },
                ],
                None,
            );
        }
    }

    #[test]
    fn sample_of_refusals() {
        use operations::{Op::*, replay};
        replay(
            &[
                Refuse { first: 0, count: 1000 },
                Burst { size: 300_000, count: 300 },
                Allocate { size: 40 << 20 },
                Check,
                Allocate { size: 40 << 20 },
            ],
            None,
        );
    }
}

/// What finds a defect must find one that was made.
mod controls {
    use crate::objects::Defect;
    use crate::{conf, operations, reference, schedules, tiers};

    fn turns_red(replay: impl FnOnce() + std::panic::UnwindSafe) -> bool {
        std::panic::catch_unwind(replay).is_err()
    }

    const DEFECTS: [Defect; 3] = [Defect::Contents, Defect::Overlap, Defect::Lost];

    #[test]
    fn a_defect_of_the_parser_is_found() {
        assert!(turns_red(|| conf::replay(b"cache:4m", Some(Defect::Contents))));
    }

    #[test]
    #[cfg_attr(
        not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(feature = "portable"))),
        ignore = "this build has no sections"
    )]
    fn a_reference_that_differs_is_found() {
        use reference::{Op::*, replay};
        let ops = [State { class: 3, objects: 1, slots: 4 }, Push { class: 3, object: 16 }];
        replay(&ops, None);
        assert!(turns_red(|| {
            replay(&ops, Some(Defect::Contents));
        }));
    }

    #[test]
    fn defects_are_found() {
        for defect in DEFECTS {
            assert!(
                turns_red(|| {
                    use operations::{Op::*, replay};
                    replay(&[Burst { size: 40, count: 2 }, Check], Some(defect));
                }),
                "{defect:?} in operations"
            );
            assert!(
                turns_red(|| {
                    use tiers::{Op::*, replay};
                    replay(&[Burst { size: 40, count: 2 }, Check], Some(defect));
                }),
                "{defect:?} in tiers"
            );
            assert!(
                turns_red(|| {
                    use operations::Op::*;
                    use schedules::{Op::*, replay};
                    let op = Burst { size: 40, count: 2 };
                    replay(&[Run { thread: 0, op }, Run { thread: 1, op: Check }], Some(defect));
                }),
                "{defect:?} in schedules"
            );
        }
    }
}

//! A kernel that says yes and does nothing: to madvise, to mmap in the place of a mapping, to membarrier, to
//! rseq. Cleared objects are zero, the heap is whole, nothing is taken for stopped that runs on.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;

use modes::{MODES, ModeCase, in_modes};
use rsalloc_core::internals::cpu_cache::exclusive::stop_all;
use rsalloc_core::internals::os::faults::{self, Call};
use rsalloc_core::internals::os::{self, Memory, Place, Zeroing};
use rsalloc_core::internals::rseq::abi;
use rsalloc_core::internals::sync::Backoff;
use rsalloc_core::{PurgeMethod, allocate, allocate_zeroed, check, free, release, report, stats};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// Of each kernel; three are lied about.
const OBJECTS: usize = 2_400;
const ROUND: usize = 400;
/// Above the smaller half of the sizes nothing is cleared that is known to be zero.
const SIZES: [usize; 8] = [40, 1_000, 33_000, 40_000, 60_000, 66_000, 90_000, 300_000];

fn main() {
    in_modes(&MODES, LIMIT, |case| {
        foreign_mappings_are_left_alone();
        a_moved_object_leaves_its_range_mapped();
        assert_eq!(
            (os::zeroing(), report().purge_method),
            (Zeroing::Advice, Some(PurgeMethod::Madvise)),
            "of a true kernel"
        );
        cleared_objects_are_zero("a true kernel");
        assert!(stats().purged_bytes_total > 0, "nothing was given back: nothing is tested");
        faults::lie(&[Call::Advise]);
        cleared_objects_are_zero("madvise does nothing");
        assert_eq!(
            (os::zeroing(), report().purge_method),
            (Zeroing::Mapping, Some(PurgeMethod::Mmap))
        );
        faults::lie(&[Call::Advise, Call::MapOver]);
        cleared_objects_are_zero("nor does mmap");
        assert_eq!(
            (os::zeroing(), report().purge_method),
            (Zeroing::Nothing, Some(PurgeMethod::Nothing))
        );
        faults::lie(&[Call::Map]);
        assert_eq!(os::probe(), Memory::NotZeroed);
        faults::lie(&[]);
        nothing_is_stopped_without_a_fence(case);
        no_thread_is_registered_in_word_only(case);
        assert_eq!(check(), Ok(()));
    });
}

/// Rounds of dirty objects that are given back, and of cleared ones in their place.
fn cleared_objects_are_zero(kernel: &str) {
    let (mut cleared, mut dirty) = (0, 0);
    for round in 0..OBJECTS / ROUND {
        let size = |index: usize| SIZES[(index + round) % SIZES.len()] + index % 50;
        let objects: Vec<_> =
            (0..ROUND).map(|index| (allocate(size(index)), size(index))).collect();
        for &(object, size) in &objects {
            assert!(!object.is_null());
            // SAFETY: a live object of that size.
            (0..size).step_by(2_048).for_each(|at| unsafe { object.add(at).write(0xaa) });
        }
        // SAFETY: live.
        objects.into_iter().for_each(|(object, _)| unsafe { free(object) });
        release();
        let objects: Vec<_> =
            (0..ROUND).map(|index| (allocate_zeroed(size(index), 8), size(index))).collect();
        for (object, size) in objects {
            assert!(!object.is_null());
            cleared += 1;
            // SAFETY: a live object of that size.
            let is_zero = (0..size).step_by(2_048).all(|at| unsafe { object.add(at).read() } == 0);
            dirty += usize::from(!is_zero);
            // SAFETY: live.
            unsafe { free(object) };
        }
    }
    assert_eq!((cleared, dirty), (OBJECTS, 0), "cleared objects, and dirty ones of them: {kernel}");
    assert_eq!(check(), Ok(()), "{kernel}");
}

fn foreign_mappings_are_left_alone() {
    let page = os::map(Place::Anywhere, os::page_bytes()).expect("a page");
    assert_eq!(os::map(Place::Exactly(page), os::page_bytes()), Err(libc::EEXIST));
    // SAFETY: mapped above.
    unsafe { os::unmap(page, os::page_bytes()) };
}

/// The range that a move left is a buffer for system calls as before.
fn a_moved_object_leaves_its_range_mapped() {
    const BYTES: usize = 1 << 20;
    let from = os::map(Place::Anywhere, BYTES).expect("memory");
    // SAFETY: mapped above, and moved.
    unsafe {
        (from as *mut u8).write(7);
        let moved = os::move_away(from, BYTES).expect("Linux 5.7");
        assert_eq!((moved as *mut u8).read(), 7);
        assert_ne!(moved, from);
        let zero = libc::open(c"/dev/zero".as_ptr(), libc::O_RDONLY);
        assert_eq!(libc::read(zero, from as *mut libc::c_void, BYTES), BYTES as isize);
        libc::close(zero);
        os::unmap(from, BYTES);
        os::unmap(moved, BYTES);
    }
}

/// Regions belong to the stopper only if the other CPUs were fenced.
fn nothing_is_stopped_without_a_fence(case: &ModeCase) {
    faults::lie(&[Call::Membarrier]);
    let stops = || stop_all(&mut Backoff::usual(), |_| ()).is_some();
    // One thread needs none: see `is_alone`.
    faults::refuse(u64::MAX, 0);
    assert!(stops(), "{}: one thread", case.name);
    assert_eq!(faults::count(), 0, "{}: calls to the OS", case.name);
    std::thread::scope(|scope| {
        let (end, wait) = std::sync::mpsc::channel::<()>();
        scope.spawn(move || wait.recv());
        nothing_is_stopped_beside_a_thread(case);
        drop(end);
    });
}

fn nothing_is_stopped_beside_a_thread(case: &ModeCase) {
    faults::lie(&[]);
    let stops = || stop_all(&mut Backoff::usual(), |_| ()).is_some();
    assert!(stops(), "{}: the kernel has the fence", case.name);
    faults::lie(&[Call::Membarrier]);
    assert!(!stops(), "{}: a fence that none was", case.name);
    assert!(!abi::membarrier::register() && !abi::membarrier::register_plain());
    release();
    faults::lie(&[]);
    assert!(stops(), "{}: it has it again", case.name);
}

/// A thread whose registration the kernel never saw has no `cpu_id`, and works all the same.
fn no_thread_is_registered_in_word_only(case: &ModeCase) {
    faults::lie(&[Call::Rseq]);
    assert_eq!(abi::query(), Err(abi::RseqError::Missing));
    let work = || {
        let objects: Vec<_> = (0..2_000).map(|index| allocate(16 + index % 500)).collect();
        let distinct: std::collections::HashSet<_> = objects.iter().collect();
        assert_eq!(distinct.len(), objects.len(), "{}", case.name);
        // SAFETY: live.
        objects.into_iter().for_each(|object| unsafe { free(object) });
    };
    std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(work))));
    faults::lie(&[]);
}

//! Huge objects: each keeps its length while the table that names them grows, and is replaced by one that served before.

use rsalloc_core::internals::page_heap::huge::HUGE;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;

const BYTES: usize = 33 << 20;
const PAGE: usize = 4096;
/// More than the first table has room for.
const LIVE: usize = 300;
/// Replacements of the grown table; from the third on each uses the memory of the one before the last.
const REPLACED: usize = 4;

/// The tests of this file look at the one table.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn make(number: usize) -> (usize, usize) {
    let bytes = BYTES + number * PAGE;
    let address = rsalloc_core::allocate(bytes) as usize;
    assert_ne!(address, 0);
    (address, bytes)
}

fn free(address: usize) {
    // SAFETY: live.
    unsafe { rsalloc_core::free(address as *mut u8) };
}

fn assert_len((address, bytes): (usize, usize)) {
    // SAFETY: live.
    assert_eq!(unsafe { rsalloc_core::usable_size(address as *const u8) }, bytes);
}

#[test]
fn lengths_stay_while_the_table_is_replaced() {
    let _alone = alone();
    let live: Vec<_> = (0..LIVE).map(make).collect();
    let mut kept = Vec::new();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asker = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) || rounds == 0 {
                live.iter().copied().for_each(assert_len);
                rounds += 1;
            }
        });
        let (mut table, mut replaced, mut calls) = (HUGE.table(), 0, 0);
        while replaced < REPLACED && !asker.is_finished() {
            // Side by side, so that their addresses differ, and their slots.
            let others: Vec<_> = (0..16).map(|number| make(LIVE + number)).collect();
            others.iter().copied().for_each(assert_len);
            others.into_iter().for_each(|(address, _)| free(address));
            replaced += usize::from(HUGE.table() != table);
            table = HUGE.table();
            calls += 1;
            assert!(calls < 100_000, "the table is never replaced");
            if calls % 16 == 0 {
                // The next ones lie at other addresses.
                kept.push(make(LIVE + calls));
            }
        }
        over.store(true, Ordering::Relaxed);
        asker.join().expect("each length as it was");
    });
    assert_eq!(rsalloc_core::check(), Ok(()));
    live.into_iter().chain(kept).for_each(|object| {
        assert_len(object);
        free(object.0);
    });
    assert_eq!(rsalloc_core::check(), Ok(()));
}

/// The address in the slot where the look-up of a small address begins.
fn first_slot() -> usize {
    match HUGE.table() {
        0 => 0,
        // Slots are of two words, and before them lies one with their number.
        // SAFETY: a table stays mapped.
        table => unsafe { ((table + 16) as *const usize).read_volatile() },
    }
}

/// The signal that ends a child which frees the address 1.
fn signal_of_free_of_one() -> i32 {
    // SAFETY: plain calls; the child ends here.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            rsalloc_core::free(std::ptr::without_provenance_mut(1));
            libc::_exit(0);
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 }
    }
}

#[test]
fn the_mark_of_an_empty_slot_is_no_span() {
    let _alone = alone();
    let (mut live, mut made) = (Vec::new(), 0);
    while first_slot() <= 1 {
        if live.len() == LIVE {
            // The next ones, of other lengths, lie at other addresses.
            live.drain(..).for_each(free);
        }
        live.push(make(made).0);
        made += 1;
        assert!(made < 20_000, "no span comes into the first slot");
    }
    live.into_iter().for_each(free);
    assert_eq!(first_slot(), 1, "another mark: nothing is tested");
    let totals = || (rsalloc_core::stats().huge_count, rsalloc_core::stats().huge_bytes);
    let before = totals();
    for address in [0, 1, 2, 3] {
        assert_eq!(HUGE.len_of(address), None, "{address}");
        // SAFETY: there is no span.
        assert!(!unsafe { HUGE.release(address) }, "{address}");
    }
    assert_eq!(totals(), before);
    assert_eq!(signal_of_free_of_one(), libc::SIGABRT);
    assert_eq!(rsalloc_core::check(), Ok(()));
}

//! The counters, where the feature is on.
//!
//! A line is *shared* from the second CPU on that writes to it. A write to it *moves* it if another CPU wrote to it
//! last: that is a certain cache miss. The numbers are statistics; two counts that race may lose one.

use crate::os;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const LINE_SHIFT: usize = 6;
const LINES: usize = 1 << 17;
/// Slots of the table that are searched for a line.
const PROBES: usize = 64;
/// In `owner`: more than one CPU has written to the line.
const SHARED: u64 = 1 << 32;
const NANOSECONDS: u64 = 1_000_000_000;
/// A load that takes 0.1 s on a machine takes up to 100 s where one thread translates 64 of its CPUs.
const SLOWDOWN: u64 = 1_000;
/// The words around the thread pointer belong to the thread, on whatever CPU it runs.
const OWN_BYTES: usize = 4096;

/// A cache line that was written to.
pub struct Line {
    /// Its address; 0: the slot is free.
    address: AtomicU64,
    /// The CPU that wrote last, plus 1, and whether it is shared.
    owner: AtomicU64,
    writes: AtomicU64,
    moves: AtomicU64,
}

static TABLE: [Line; LINES] = [const {
    Line {
        address: AtomicU64::new(0),
        owner: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        moves: AtomicU64::new(0),
    }
}; LINES];

static IS_ON: AtomicBool = AtomicBool::new(false);
static LOCKED: AtomicU64 = AtomicU64::new(0);
static CONTENDED: AtomicU64 = AtomicU64::new(0);
static UNTRACKED: AtomicU64 = AtomicU64::new(0);

/// What was counted of locks, and writes for which the table had no slot.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    /// Locks that were taken.
    pub locked: u64,
    /// Locks that another thread held when they were wanted; a failed try counts.
    pub contended: u64,
    /// Writes to lines that are not in the table.
    pub untracked: u64,
}

/// Sets all counts to zero and begins to count. Which lines are shared stays.
pub fn begin() {
    for line in &TABLE {
        line.writes.store(0, RELAXED);
        line.moves.store(0, RELAXED);
    }
    [&LOCKED, &CONTENDED, &UNTRACKED].into_iter().for_each(|counter| counter.store(0, RELAXED));
    IS_ON.store(true, RELAXED);
}

/// Stops counting.
pub fn end() -> Totals {
    IS_ON.store(false, RELAXED);
    Totals {
        locked: LOCKED.load(RELAXED),
        contended: CONTENDED.load(RELAXED),
        untracked: UNTRACKED.load(RELAXED),
    }
}

/// The lines that are shared: address, writes and moves.
pub fn shared() -> impl Iterator<Item = (usize, u64, u64)> {
    let shared = |line: &&Line| line.owner.load(RELAXED) & SHARED != 0;
    TABLE.iter().filter(shared).map(|line| {
        let address = line.address.load(RELAXED) as usize;
        (address, line.writes.load(RELAXED), line.moves.load(RELAXED))
    })
}

/// The time that policies see: with the machine's own they would act as if a CPU did some thousand calls in a second.
pub fn slowed(now: libc::timespec) -> libc::timespec {
    let nanoseconds = (now.tv_sec as u64 * NANOSECONDS + now.tv_nsec as u64) / SLOWDOWN;
    let (seconds, rest) = (nanoseconds / NANOSECONDS, nanoseconds % NANOSECONDS);
    libc::timespec { tv_sec: seconds as _, tv_nsec: rest as _ }
}

/// A lock was taken.
pub fn lock_taken() {
    count(&LOCKED);
}

/// A lock was wanted that another thread held.
pub fn lock_contended() {
    count(&CONTENDED);
}

/// The word at `address` is written to.
pub fn wrote(address: usize) {
    if address.wrapping_sub(os::thread_descriptor()).wrapping_add(OWN_BYTES) < 2 * OWN_BYTES {
        return;
    }
    let cpu = os::current_cpu() as u64 + 1;
    let Some(line) = line_at(address) else { return count(&UNTRACKED) };
    let owner = line.owner.load(RELAXED);
    let (last, was_shared) = (owner & !SHARED, owner & SHARED != 0);
    let is_moved = last != 0 && last != cpu;
    if is_moved || last == 0 {
        line.owner.store(cpu | if was_shared || is_moved { SHARED } else { 0 }, RELAXED);
    }
    if was_shared || is_moved {
        count(&line.writes);
    }
    if is_moved {
        count(&line.moves);
    }
}

/// All lines of these words are written to.
pub fn wrote_all(words: &[usize]) {
    let range = words.as_ptr_range();
    (range.start as usize..range.end as usize).step_by(1 << LINE_SHIFT).for_each(wrote);
}

fn line_at(address: usize) -> Option<&'static Line> {
    let wanted = (address >> LINE_SHIFT << LINE_SHIFT) as u64;
    let hash = (wanted >> LINE_SHIFT).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    for probe in 0..PROBES {
        let line = &TABLE[(hash as usize + probe) % LINES];
        let found = match line.address.load(RELAXED) {
            0 => line.address.compare_exchange(0, wanted, RELAXED, RELAXED).unwrap_or_else(|f| f),
            found => found,
        };
        // 0: the slot was free; this exchange took it.
        if found == wanted || found == 0 {
            return Some(line);
        }
    }
    None
}

fn count(counter: &AtomicU64) {
    if IS_ON.load(RELAXED) {
        counter.fetch_add(1, RELAXED);
    }
}

/// Ordering: Relaxed throughout; counters carry no data, and a race between two is a count more or less.
const RELAXED: Ordering = Ordering::Relaxed;

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[repr(align(64))]
    struct Own([usize; 8]);

    fn pin(cpu: usize) {
        // SAFETY: a set of zeroes is an empty one; both calls get live memory of the right size.
        unsafe {
            let mut set: libc::cpu_set_t = core::mem::zeroed();
            libc::CPU_SET(cpu, &mut set);
            assert_eq!(libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set), 0);
        }
    }

    #[test]
    fn writes_count_from_the_second_cpu_on() {
        if std::thread::available_parallelism().unwrap().get() < 2 {
            std::eprintln!("NOT TESTED: one CPU");
            return;
        }
        let line = std::boxed::Box::leak(std::boxed::Box::new(Own([0; 8])));
        let address = line.0.as_ptr() as usize;
        let seen =
            || shared().find(|(at, ..)| *at == address).map(|(_, writes, moves)| (writes, moves));
        begin();
        pin(0);
        (0..5).for_each(|word| wrote(address + 8 * word));
        assert_eq!(seen(), None, "one CPU only");
        pin(1);
        wrote(address);
        wrote(address + 63);
        assert_eq!(seen(), Some((2, 1)));
        pin(0);
        wrote_all(&line.0);
        assert_eq!(seen(), Some((3, 2)));
        end();
        wrote(address);
        assert_eq!(seen(), Some((3, 2)), "it has ended");
    }
}

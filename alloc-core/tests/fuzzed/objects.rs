//! What a program holds, and what must be in it.
//!
//! Promises that an object which overlaps another one, is misaligned or has lost its contents is
//! noticed. Shared by the fuzz targets, by `regressions.rs` and by the sequences of alloc-preload; knows
//! neither the allocator nor any operation.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// The heap is the process's, and `check` wants it quiet: each replay holds this.
static ALONE: Mutex<()> = Mutex::new(());

/// Waits for the other tests of the process.
pub fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A defect made on purpose: each must be found, or a check is blind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Defect {
    /// A byte of a live object changes.
    Contents,
    /// An object is given out that is still held.
    Overlap,
    /// An object is neither held nor given back.
    Lost,
    /// A slab's count of free objects is wrong.
    Count,
    /// A function that keeps errno changes it.
    Errno,
}

impl Defect {
    /// The one that the environment names; all other words are wrong.
    pub fn wanted(variable: &str) -> Option<Defect> {
        let word = std::env::var(variable).ok()?;
        use Defect::{Contents, Count, Errno, Lost, Overlap};
        let all = [Contents, Overlap, Lost, Count, Errno];
        let named = all.into_iter().find(|defect| format!("{defect:?}") == word);
        Some(named.unwrap_or_else(|| panic!("{variable}: there is no defect {word}")))
    }
}

/// A live object.
#[derive(Clone, Copy)]
pub struct Object {
    pub address: usize,
    /// Bytes that the program may use.
    pub usable: usize,
    /// The layout it was asked for with.
    pub size: usize,
    pub align: usize,
    seed: u8,
}

/// The live objects.
#[derive(Default)]
pub struct Objects {
    live: BTreeMap<usize, Object>,
    /// Their addresses, to pick one by a number.
    numbered: Vec<usize>,
    /// Usable bytes of all of them.
    pub bytes: usize,
    /// Objects that came and went so far.
    pub moves: u64,
    next: u8,
    defect: Option<Defect>,
}

impl Objects {
    /// None held.
    pub fn new(defect: Option<Defect>) -> Self {
        Objects { defect, ..Default::default() }
    }

    /// A fresh object: checked against the others, then stamped.
    pub fn add(&mut self, address: usize, usable: usize, size: usize, align: usize) {
        let address = match (self.defect, self.live.keys().next()) {
            (Some(Defect::Overlap), Some(&first)) => first,
            _ => address,
        };
        assert!(usable >= size, "{usable} usable bytes where {size} were asked for");
        assert!(address.is_multiple_of(align), "{address:#x} is not a multiple of {align}");
        if let Some((_, before)) = self.live.range(..=address).next_back() {
            assert!(before.address + before.usable <= address, "overlaps the object before");
        }
        if let Some((&behind, _)) = self.live.range(address..).next() {
            assert!(address + usable <= behind, "overlaps the object behind");
        }
        self.next = self.next.wrapping_add(1);
        let object = Object { address, usable, size, align, seed: self.next };
        offsets(usable).for_each(|at| object.byte(at, |byte, stamp| *byte = stamp));
        if self.defect == Some(Defect::Contents) {
            object.byte(0, |byte, _| *byte ^= 1);
        }
        self.live.insert(address, object);
        self.numbered.push(address);
        self.bytes += usable;
        self.moves += 1;
    }

    /// A live object by any number, counted from the youngest, if there is one.
    pub fn pick(&self, number: usize) -> Option<Object> {
        let address = self.numbered.get(self.index(number))?;
        self.live.get(address).copied()
    }

    fn index(&self, number: usize) -> usize {
        let len = self.count().max(1);
        len - 1 - number % len
    }

    /// The object is no longer held: checks its contents; none if it shall be lost on purpose.
    pub fn remove(&mut self, number: usize) -> Option<Object> {
        let object = self.pick(number)?;
        assert!(object.holds(object.address, object.usable), "contents changed");
        self.forget(number);
        (self.defect != Some(Defect::Lost)).then_some(object)
    }

    /// As [`Objects::remove`], for one that a reallocation has moved.
    pub fn forget(&mut self, number: usize) {
        let address = self.numbered.swap_remove(self.index(number));
        let object = self.live.remove(&address).expect("each number has an object");
        self.bytes -= object.usable;
        self.moves += 1;
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.numbered.len()
    }

    /// Shows each to `f`.
    pub fn each(&self, f: impl FnMut(&Object)) {
        self.live.values().for_each(f);
    }

    /// What is broken on purpose.
    pub fn defect(&self) -> Option<Defect> {
        self.defect
    }
}

impl Object {
    /// Whether the first `len` bytes at `address` are what was stamped into this object.
    pub fn holds(&self, address: usize, len: usize) -> bool {
        let moved = Object { address, ..*self };
        offsets(self.usable).filter(|&at| at < len).all(|at| {
            let mut same = false;
            moved.byte(at, |byte, stamp| same = *byte == stamp);
            same
        })
    }

    fn byte(&self, at: usize, f: impl FnOnce(&mut u8, u8)) {
        // Never 0, so that a stamp left behind is noticed in memory that must be zero.
        let stamp = self.seed.wrapping_mul(31).wrapping_add(at as u8) | 1;
        // SAFETY: in the object, which is live; the heap's own structures lie elsewhere.
        f(unsafe { &mut *((self.address + at) as *mut u8) }, stamp);
    }
}

/// Whether `len` bytes at `address` read as zero: all of them, or of large objects the places that
/// [`offsets`] stamps in objects at the same address.
pub fn is_zero(address: usize, len: usize) -> bool {
    let zero = |at: usize| {
        // SAFETY: in a live object.
        unsafe { *((address + at) as *const u8) == 0 }
    };
    match len {
        0..=65_536 => (0..len).all(zero),
        _ => (0..len).step_by(4096).chain(len - 64..len).all(zero),
    }
}

/// The bytes of an object that are stamped: both ends, and some multiples of 4 KiB between them.
fn offsets(len: usize) -> impl Iterator<Item = usize> {
    let step = (len / 16).next_multiple_of(4096).max(4096);
    let (head, tail) = (len.min(64), len.saturating_sub(64).max(len.min(64)));
    (0..head).chain((step..tail).step_by(step)).chain(tail..len)
}

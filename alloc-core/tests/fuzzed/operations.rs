//! Sequences of the public operations, held against the model of [`crate::objects`].
//!
//! A failing sequence is kept in `regressions.rs`.

use crate::heap::{self, Census, Refusals};
use crate::objects::{Defect, Object, Objects, alone, is_zero};
use rsalloc_core::internals::config::{self, Key};

/// What a program may do. `pick` is the number of a live object from the youngest, modulo how many.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Allocate {
        size: usize,
    },
    Aligned {
        size: usize,
        shift: u32,
    },
    Zeroed {
        size: usize,
        shift: u32,
    },
    /// realloc(3).
    Reallocate {
        pick: usize,
        size: usize,
    },
    /// Rust's, which keeps the alignment.
    ReallocateSized {
        pick: usize,
        size: usize,
    },
    Free {
        pick: usize,
    },
    FreeSized {
        pick: usize,
    },
    /// free(NULL) and free_sized(NULL, size).
    FreeNull {
        size: usize,
    },
    Burst {
        size: usize,
        count: usize,
    },
    FreeMany {
        pick: usize,
        count: usize,
    },
    Release,
    /// The budget of a shard.
    Cache {
        bytes: usize,
    },
    /// The OS refuses some calls from the `first` on.
    Refuse {
        first: u64,
        count: u64,
    },
    /// Takes all free pages that the heap has, so that a refusal is felt.
    Exhaust,
    Check,
}

impl Op {
    /// Whether it stops the shards: itself, or because the heap gives back what it caches before it says
    /// that there is no memory.
    pub fn may_stop_shards(&self) -> bool {
        use Op::*;
        match *self {
            Release | Check | Exhaust | Refuse { .. } => true,
            Allocate { size }
            | Aligned { size, .. }
            | Zeroed { size, .. }
            | Reallocate { size, .. }
            | ReallocateSized { size, .. }
            | Burst { size, .. } => size >= IMPOSSIBLE,
            _ => false,
        }
    }
}

/// What the program holds at most, so that a run stays short.
const BYTES_MAX: usize = 256 << 20;
const OBJECTS_MAX: usize = 4096;
/// More than any machine has addresses for: only null will do.
const IMPOSSIBLE: usize = 1 << 47;

/// Runs the sequence and gives everything back; panics if a promise is broken. How many objects came
/// and went.
pub fn replay(ops: &[Op], defect: Option<Defect>) -> u64 {
    let _alone = alone();
    let mut program = Program::start(defect);
    ops.iter().for_each(|&op| program.step(op));
    program.end()
}

/// A program, what it holds and what was there before it.
pub struct Program {
    objects: Objects,
    refusals: Refusals,
    before: Census,
    cache: usize,
}

impl Program {
    /// Holds nothing yet. The caller is [`alone`].
    pub fn start(defect: Option<Defect>) -> Self {
        Program {
            before: Census::take(),
            objects: Objects::new(defect),
            refusals: Refusals::default(),
            cache: config::number(Key::Cache),
        }
    }

    /// Gives everything back, which must be all that there was. How many objects came and went.
    pub fn end(mut self) -> u64 {
        self.step(Op::Check);
        self.free_many(0, usize::MAX);
        assert_eq!(Census::take(), self.before, "not everything came home");
        heap::check(&self.objects);
        config::set_number(Key::Cache, self.cache);
        self.objects.moves
    }

    /// The next operation.
    pub fn step(&mut self, op: Op) {
        match op {
            Op::Allocate { size } => self.allocate(size),
            Op::Aligned { size, shift } => self.aligned(size, 1 << shift, false),
            Op::Zeroed { size, shift } => self.aligned(size, 1 << shift, true),
            Op::Reallocate { pick, size } => self.reallocate(pick, size),
            Op::ReallocateSized { pick, size } => self.reallocate_sized(pick, size),
            Op::Free { pick } => self.free_many(pick, 1),
            Op::FreeSized { pick } => self.free_sized(pick),
            Op::FreeNull { size } => free_null(size),
            Op::Burst { size, count } => (0..count).for_each(|_| self.allocate(size)),
            Op::FreeMany { pick, count } => self.free_many(pick, count),
            Op::Release => drop(rsalloc_core::release()),
            Op::Cache { bytes } => config::set_number(Key::Cache, bytes),
            Op::Refuse { first, count } => self.refusals.begin(first, count),
            Op::Exhaust => self.exhaust(),
            Op::Check => {
                self.refusals.end();
                heap::check(&self.objects);
            }
        }
    }

    fn allocate(&mut self, size: usize) {
        if self.has_room(size) {
            self.receive(rsalloc_core::allocate(size), size, natural_align(size));
        }
    }

    fn exhaust(&mut self) {
        self.refusals.begin(0, u64::MAX);
        for size in [4 << 20, 512 << 10, 64 << 10] {
            let mut before = usize::MAX;
            while std::mem::replace(&mut before, self.objects.count()) != self.objects.count() {
                self.allocate(size);
            }
        }
        self.refusals.end();
    }

    fn aligned(&mut self, size: usize, align: usize, zeroed: bool) {
        if !self.has_room(size) {
            return;
        }
        let object = match zeroed {
            true => rsalloc_core::allocate_zeroed(size, align),
            false => rsalloc_core::allocate_aligned(size, align),
        };
        let must_be_zero = zeroed && !object.is_null();
        assert!(!must_be_zero || is_zero(object as usize, size), "not zeroed: {size}");
        self.receive(object, size, align);
    }

    fn receive(&mut self, object: *mut u8, size: usize, align: usize) {
        if self.is_given(object, size) {
            self.objects.add(object as usize, usable(object), size, align);
        }
    }

    /// Whether an object came; null must have a reason.
    fn is_given(&self, object: *mut u8, size: usize) -> bool {
        let possible = size < IMPOSSIBLE;
        assert!(possible || object.is_null(), "{size} bytes given");
        let excused = !possible || self.refusals.happened();
        assert!(excused || !object.is_null(), "null for {size} bytes");
        !object.is_null()
    }

    fn has_room(&self, size: usize) -> bool {
        let bytes = self.objects.bytes.saturating_add(size);
        size >= IMPOSSIBLE || (bytes <= BYTES_MAX && self.objects.count() < OBJECTS_MAX)
    }

    fn reallocate(&mut self, pick: usize, size: usize) {
        let Some(old) = self.objects.pick(pick).filter(|_| self.has_room(size)) else { return };
        // SAFETY: live.
        let moved = unsafe { rsalloc_core::reallocate(old.address as *mut u8, size) };
        self.moved(pick, old, moved, size, natural_align(size));
    }

    fn reallocate_sized(&mut self, pick: usize, size: usize) {
        let Some(old) = self.objects.pick(pick).filter(|_| self.has_room(size)) else { return };
        let pointer = old.address as *mut u8;
        // SAFETY: live, with its layout.
        let moved = unsafe { rsalloc_core::reallocate_sized(pointer, old.size, old.align, size) };
        self.moved(pick, old, moved, size, old.align);
    }

    /// After a reallocation: the contents are where the object is now.
    fn moved(&mut self, pick: usize, old: Object, object: *mut u8, size: usize, align: usize) {
        if !self.is_given(object, size) {
            assert!(old.holds(old.address, old.usable), "a failed reallocation changed contents");
            return;
        }
        let kept = old.size.min(size);
        assert!(old.holds(object as usize, kept), "contents lost by a reallocation to {size}");
        self.objects.forget(pick);
        self.objects.add(object as usize, usable(object), size, align);
    }

    fn free_sized(&mut self, pick: usize) {
        if let Some(object) = self.objects.remove(pick) {
            // SAFETY: live, with its layout.
            unsafe {
                rsalloc_core::free_sized(object.address as *mut u8, object.size, object.align)
            };
        }
    }

    fn free_many(&mut self, pick: usize, count: usize) {
        for _ in 0..count.min(self.objects.count()) {
            if let Some(object) = self.objects.remove(pick) {
                // SAFETY: live.
                unsafe { rsalloc_core::free(object.address as *mut u8) };
            }
        }
    }
}

fn free_null(size: usize) {
    // SAFETY: the entries take null as C's do.
    unsafe {
        rsalloc_core::free(std::ptr::null_mut());
        rsalloc_core::free_sized(std::ptr::null_mut(), size, 8);
    }
}

fn usable(object: *mut u8) -> usize {
    // SAFETY: a live object.
    unsafe { rsalloc_core::usable_size(object) }
}

fn natural_align(size: usize) -> usize {
    if size <= 8 { 8 } else { 16 }
}

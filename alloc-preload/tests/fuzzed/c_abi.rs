//! Sequences of calls of the C interface, held against the model of [`crate::objects`].
//!
//! The library is opened beside libc's own malloc and called through its exported functions alone, so
//! what is tested is what ships. Promises that null comes only with its reason in errno, that what keeps
//! errno does, that alignments and sizes are those of the manual pages, and that at the end as much is in
//! use as at the start.

use crate::library::{Library, errno, library, set_errno};
use crate::objects::{Defect, Object, Objects, alone, is_zero};
use libc::{EINVAL, ENOMEM, c_int};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr::null_mut;

/// What a program may do. `pick` is the number of a live object from the youngest, modulo how many.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Malloc {
        size: usize,
    },
    Calloc {
        count: usize,
        size: usize,
    },
    Realloc {
        pick: usize,
        size: usize,
    },
    ReallocNull {
        size: usize,
    },
    Reallocarray {
        pick: usize,
        count: usize,
        size: usize,
    },
    PosixMemalign {
        align: usize,
        size: usize,
    },
    AlignedAlloc {
        align: usize,
        size: usize,
    },
    Memalign {
        align: usize,
        size: usize,
    },
    Valloc {
        size: usize,
    },
    Pvalloc {
        size: usize,
    },
    Free {
        pick: usize,
    },
    /// By the sized free that belongs to where the object comes from, if there is one.
    FreeSized {
        pick: usize,
    },
    /// The three frees, of null.
    FreeNull {
        align: usize,
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
    Trim {
        pad: usize,
    },
    Check,
}

/// What the program holds at most, so that a run stays short.
const BYTES_MAX: usize = 256 << 20;
const OBJECTS_MAX: usize = 4096;
/// More than any machine has addresses for: only null will do.
const IMPOSSIBLE: usize = 1 << 47;
const PAGE: usize = 4096;
/// No error's number.
const UNTOUCHED: c_int = 1234;

/// Which sized free an object may be given to.
#[derive(Clone, Copy)]
enum Home {
    /// free_sized
    Sized,
    /// free_aligned_sized, with the alignment as it was asked for
    AlignedSized(usize),
    /// none
    Plain,
}

/// Runs the sequence and gives everything back; panics if a promise is broken. How many objects came
/// and went.
pub fn replay(ops: &[Op], defect: Option<Defect>) -> u64 {
    let _alone = alone();
    let c = library();
    let before = in_use(c);
    let objects = Objects::new(defect);
    let mut program = Program { c, objects, homes: BTreeMap::new() };
    ops.iter().for_each(|&op| program.step(op));
    program.step(Op::Check);
    program.free_many(0, usize::MAX);
    assert_eq!(in_use(c), before, "not everything came home");
    program.step(Op::Check);
    program.objects.moves
}

/// Bytes in objects of classes; number and bytes of large ones.
fn in_use(c: &Library) -> [usize; 3] {
    // SAFETY: no preconditions.
    let info = unsafe {
        (c.malloc_trim)(0);
        (c.mallinfo2)()
    };
    [info.uordblks, info.hblks, info.hblkhd]
}

struct Program {
    c: &'static Library,
    objects: Objects,
    homes: BTreeMap<usize, Home>,
}

// SAFETY, for each block: objects are live and this program's own, sizes and alignments those they were
// asked for with, and the functions are the library's under their own types.
impl Program {
    fn step(&mut self, op: Op) {
        let c = self.c;
        match op {
            // SAFETY: see above.
            Op::Malloc { size } => self.plain(size, || unsafe { (c.malloc)(size) }),
            Op::Calloc { count, size } => self.calloc(count, size),
            Op::Realloc { pick, size } => {
                // SAFETY: see above.
                self.reallocate(pick, Some(size), |old| unsafe { (c.realloc)(old, size) });
            }
            Op::ReallocNull { size } => {
                // SAFETY: see above.
                self.plain(size, || unsafe { (c.realloc)(null_mut(), size) });
            }
            Op::Reallocarray { pick, count, size } => {
                let len = count.checked_mul(size);
                // SAFETY: see above.
                self.reallocate(pick, len, |old| unsafe { (c.reallocarray)(old, count, size) });
            }
            Op::PosixMemalign { align, size } => self.posix_memalign(align, size),
            Op::AlignedAlloc { align, size } => {
                // SAFETY: see above.
                let call = || unsafe { (c.aligned_alloc)(align, size) };
                self.aligned(align, Some(size), Home::AlignedSized(align), call);
            }
            Op::Memalign { align, size } => {
                // SAFETY: see above.
                self.aligned(align, Some(size), Home::Plain, || unsafe {
                    (c.memalign)(align, size)
                });
            }
            Op::Valloc { size } => {
                // SAFETY: see above.
                self.aligned(PAGE, Some(size), Home::Plain, || unsafe { (c.valloc)(size) });
            }
            Op::Pvalloc { size } => {
                let len = size.checked_next_multiple_of(PAGE);
                // SAFETY: see above.
                self.aligned(PAGE, len, Home::Plain, || unsafe { (c.pvalloc)(size) });
            }
            Op::Free { pick } => self.free_many(pick, 1),
            Op::FreeSized { pick } => self.free_sized(pick),
            Op::FreeNull { align, size } => self.free_null(align, size),
            Op::Burst { size, count } => {
                (0..count).for_each(|_| self.step(Op::Malloc { size }));
            }
            Op::FreeMany { pick, count } => self.free_many(pick, count),
            Op::Trim { pad } => {
                // SAFETY: see above.
                let trimmed = self.keeping(|| unsafe { (c.malloc_trim)(pad) });
                assert!((0..=1).contains(&trimmed), "malloc_trim gave {trimmed}");
            }
            // SAFETY: see above.
            Op::Check => assert_eq!(unsafe { (c.rsalloc_check)() }, 0, "the heap is not sound"),
        }
    }

    /// An object of `size` bytes by `call`.
    fn plain(&mut self, size: usize, call: impl FnOnce() -> *mut c_void) {
        self.aligned(1, Some(size), Home::Sized, call);
    }

    /// An object of `size` bytes, none if they are more than a number holds, by `call`.
    fn aligned(
        &mut self,
        align: usize,
        size: Option<usize>,
        home: Home,
        call: impl FnOnce() -> *mut c_void,
    ) {
        let size = size.unwrap_or(usize::MAX);
        if !self.is_within_limits(size) {
            return;
        }
        set_errno(UNTOUCHED);
        let object = call();
        let rounded = align.checked_next_power_of_two();
        let refusal = if rounded.is_none() { EINVAL } else { ENOMEM };
        let impossible = size >= IMPOSSIBLE || rounded.is_none_or(|align| align >= IMPOSSIBLE);
        if judged(object, impossible, errno(), refusal) {
            self.receive(object, size, rounded.unwrap_or(1), home);
        }
    }

    fn calloc(&mut self, count: usize, size: usize) {
        let c = self.c;
        let len = count.checked_mul(size);
        self.aligned(1, len, Home::Sized, || {
            // SAFETY: see above.
            let object = unsafe { (c.calloc)(count, size) };
            let must_be_zero = !object.is_null();
            assert!(!must_be_zero || is_zero(object as usize, count * size), "calloc: not zeroed");
            object
        });
    }

    fn posix_memalign(&mut self, align: usize, size: usize) {
        if !self.is_within_limits(size) {
            return;
        }
        let c = self.c;
        let untouched = UNTOUCHED as usize as *mut c_void;
        let mut out = untouched;
        // SAFETY: see above.
        let call = || unsafe { (c.posix_memalign)(&mut out, align, size) };
        let result =
            self.leaving(|&result| if result == ENOMEM { ENOMEM } else { UNTOUCHED }, call);
        let good = align.is_power_of_two() && align >= size_of::<usize>();
        let impossible = size >= IMPOSSIBLE || align >= IMPOSSIBLE;
        let expected = match (good, impossible) {
            (false, _) => EINVAL,
            (true, true) => ENOMEM,
            (true, false) => 0,
        };
        assert_eq!(result, expected, "posix_memalign({align}, {size})");
        match result {
            0 => self.receive(out, size, align, Home::Plain),
            _ => assert_eq!(out, untouched, "posix_memalign failed and wrote its result"),
        }
    }

    fn receive(&mut self, object: *mut c_void, size: usize, align: usize, home: Home) {
        let natural = if size <= 8 { 8 } else { 16 };
        let usable = self.usable(object);
        self.objects.add(object as usize, usable, size, align.max(natural));
        self.homes.insert(object as usize, home);
    }

    /// `call` resizes the object to `size` bytes, none if they are more than a number holds.
    fn reallocate(
        &mut self,
        pick: usize,
        size: Option<usize>,
        call: impl FnOnce(*mut c_void) -> *mut c_void,
    ) {
        let size = size.unwrap_or(usize::MAX);
        if size == 0 {
            return self.give_back(pick, |program, old| {
                let gone = program.keeping(|| call(old.address as *mut c_void));
                assert!(gone.is_null(), "an object from a reallocation to 0 bytes");
            });
        }
        let Some(old) = self.objects.pick(pick).filter(|_| self.is_within_limits(size)) else {
            return;
        };
        set_errno(UNTOUCHED);
        let object = call(old.address as *mut c_void);
        if !judged(object, size >= IMPOSSIBLE, errno(), ENOMEM) {
            assert!(old.holds(old.address, old.usable), "a failed reallocation changed contents");
            return;
        }
        let kept = old.size.min(size);
        assert!(old.holds(object as usize, kept), "contents lost by a reallocation to {size}");
        self.objects.forget(pick);
        self.homes.remove(&old.address);
        self.receive(object, size, 1, Home::Sized);
    }

    fn free_sized(&mut self, pick: usize) {
        self.give_back(pick, |program, object| {
            let (c, pointer) = (program.c, object.address as *mut c_void);
            let home = program.homes[&object.address];
            // SAFETY: see above.
            program.keeping(|| unsafe {
                match home {
                    Home::Sized => (c.free_sized)(pointer, object.size),
                    Home::AlignedSized(align) => {
                        (c.free_aligned_sized)(pointer, align, object.size);
                    }
                    Home::Plain => (c.free)(pointer),
                }
            });
        });
    }

    fn free_many(&mut self, pick: usize, count: usize) {
        for _ in 0..count.min(self.objects.count()) {
            self.give_back(pick, |program, object| {
                let c = program.c;
                // SAFETY: see above.
                program.keeping(|| unsafe { (c.free)(object.address as *mut c_void) });
            });
        }
    }

    fn free_null(&self, align: usize, size: usize) {
        let c = self.c;
        // SAFETY: see above.
        self.keeping(|| unsafe {
            (c.free)(null_mut());
            (c.free_sized)(null_mut(), size);
            (c.free_aligned_sized)(null_mut(), align, size);
            assert_eq!((c.malloc_usable_size)(null_mut()), 0);
        });
    }

    /// `free` gives the object back, if there is one and it shall not be lost.
    fn give_back(&mut self, pick: usize, free: impl FnOnce(&Self, Object)) {
        let Some(object) = self.objects.pick(pick) else { return };
        assert_eq!(
            self.usable(object.address as *mut c_void),
            object.usable,
            "usable bytes changed"
        );
        if let Some(object) = self.objects.remove(pick) {
            free(self, object);
        }
        self.homes.remove(&object.address);
    }

    fn usable(&self, object: *mut c_void) -> usize {
        // SAFETY: see above.
        self.keeping(|| unsafe { (self.c.malloc_usable_size)(object) })
    }

    /// Calls what promises to leave errno alone.
    fn keeping<R>(&self, call: impl FnOnce() -> R) -> R {
        self.leaving(|_| UNTOUCHED, call)
    }

    /// Calls what promises to leave errno as `expected` says of its result.
    fn leaving<R>(&self, expected: impl FnOnce(&R) -> c_int, call: impl FnOnce() -> R) -> R {
        set_errno(UNTOUCHED);
        let result = call();
        if self.objects.defect() == Some(Defect::Errno) {
            set_errno(ENOMEM);
        }
        assert_eq!(errno(), expected(&result), "errno changed");
        result
    }

    fn is_within_limits(&self, size: usize) -> bool {
        let bytes = self.objects.bytes.saturating_add(size);
        size >= IMPOSSIBLE || (bytes <= BYTES_MAX && self.objects.count() < OBJECTS_MAX)
    }
}

/// Whether an object came; null must be due, and with `refusal` in errno.
fn judged(object: *mut c_void, impossible: bool, errno: c_int, refusal: c_int) -> bool {
    assert_eq!(object.is_null(), impossible, "null, or not, where the other was due");
    assert!(!impossible || errno == refusal, "errno {errno} where {refusal} was due");
    !impossible
}

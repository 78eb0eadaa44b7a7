//! The objects of a replay: a table of places outside the measured heap, and what is written to objects.
//!
//! Promises that an object which lost a byte, was given out twice, was not clear or not aligned is noticed. What is
//! written: the first byte of each cache line of the first 4 KiB, then one in each 4 KiB, the last byte, and a mark in
//! the first eight.
//!
//! I1. The object of a place belongs to the thread whose operation has the place's turn.
#![allow(unsafe_code)]

use super::flat::{Operation, Verb};
use memmap2::MmapMut;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const LINE: usize = 64;
const PAGE: usize = 4096;
/// Objects up to here are written line by line.
const LINES_END: usize = 4096;

/// Turn and address of each place.
pub struct Places {
    memory: MmapMut,
    len: usize,
}

/// What is wrong with an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The allocator gave null.
    OutOfMemory,
    /// Its mark is not the one that was written.
    Damaged,
    /// An object of `calloc` does not read as zero.
    NotClear,
    /// It is not where it was asked for.
    NotAligned,
    /// Its contents did not come along when it was resized.
    NotMoved,
}

impl Fault {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Fault::OutOfMemory => "there is no memory for it",
            Fault::Damaged => "it does not hold what was written to it",
            Fault::NotClear => "calloc gave it with bytes that are not zero",
            Fault::NotAligned => "it is not aligned as asked for",
            Fault::NotMoved => "realloc lost its contents",
        }
    }
}

impl Places {
    /// A table of `len` places; its pages are there already.
    pub fn new(len: usize) -> Self {
        let bytes = (8 * len).max(1);
        let mut memory = MmapMut::map_anon(bytes).expect("no memory for the table of objects");
        memory.fill(0);
        Places { memory, len }
    }

    /// Bytes of the table.
    pub fn bytes(&self) -> u64 {
        self.memory.len().next_multiple_of(PAGE) as u64
    }

    /// The place with this number, none if the table ends before.
    #[inline(always)]
    fn place(&self, index: u32) -> Option<&AtomicU64> {
        // SAFETY: the mapping is aligned, has `len` words, and any bits are a word.
        let all: &[AtomicU64] =
            unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) };
        all.get(index as usize)
    }

    /// Whether it is `operation`'s turn.
    #[inline(always)]
    pub fn is_turn(&self, operation: &Operation) -> bool {
        // Ordering: Acquire, pairs with the Release in `run`: what the operation before did is seen.
        let turn = |place: &AtomicU64| (place.load(Ordering::Acquire) >> 48) as u16;
        self.place(operation.place).is_some_and(|place| turn(place) == operation.turn)
    }

    /// Does `operation`, whose turn it is (I1).
    #[inline(always)]
    pub fn run(&self, operation: &Operation) -> Result<(), Fault> {
        let Some(place) = self.place(operation.place) else { return Err(Fault::Damaged) };
        // Ordering: Relaxed, `is_turn` has acquired it.
        let object = (place.load(Ordering::Relaxed) & ((1 << 48) - 1)) as *mut u8;
        let (size, turn) = (operation.size as usize, operation.turn);
        let mark = mark(operation.place, turn);
        let before = self::mark(operation.place, turn.wrapping_sub(1));
        // SAFETY: `object` is null or the live object of this place (I1), of `old` or `size` bytes as the
        // trace says; new objects have the bytes that were asked for.
        let fresh = unsafe {
            match operation.verb {
                Verb::Malloc => {
                    let fresh = libc::malloc(size).cast();
                    fill(fresh, 0, size, mark)?;
                    fresh
                }
                Verb::Calloc => {
                    let fresh = libc::calloc(1, size).cast();
                    check_clear(fresh, size)?;
                    fill(fresh, 0, size, mark)?;
                    fresh
                }
                Verb::Aligned => {
                    let align = (1usize << operation.align).max(size_of::<usize>());
                    let mut fresh: *mut c_void = std::ptr::null_mut();
                    if libc::posix_memalign(&mut fresh, align, size) != 0 {
                        return Err(Fault::OutOfMemory);
                    }
                    if !(fresh as usize).is_multiple_of(align) {
                        return Err(Fault::NotAligned);
                    }
                    fill(fresh.cast(), 0, size, mark)?;
                    fresh.cast()
                }
                Verb::Resize => {
                    let old = operation.old as usize;
                    check(object, old, before)?;
                    let fresh = libc::realloc(object.cast(), size).cast();
                    check_moved(fresh, old.min(size), before)?;
                    fill(fresh, old, size, mark)?;
                    fresh
                }
                Verb::Free => {
                    check(object, size, before)?;
                    libc::free(object.cast());
                    std::ptr::null_mut()
                }
                Verb::FreeSized => {
                    check(object, size, before)?;
                    free_sized(object, size);
                    std::ptr::null_mut()
                }
                Verb::Start => return Err(Fault::Damaged),
            }
        };
        let word = fresh as u64 | u64::from(turn.wrapping_add(1)) << 48;
        // Ordering: Release, pairs with the Acquire in `is_turn`.
        place.store(word, Ordering::Release);
        Ok(())
    }

    /// Frees what is live; how many objects that were. All threads are done.
    pub fn free_all(&self) -> u64 {
        let mut count = 0;
        for place in (0..self.len as u32).filter_map(|index| self.place(index)) {
            // Ordering: Relaxed, the end of the threads has ordered it.
            let object = place.load(Ordering::Relaxed) & ((1 << 48) - 1);
            if object != 0 {
                // SAFETY: live, and no other thread's.
                unsafe { libc::free(object as *mut c_void) };
                count += 1;
            }
        }
        count
    }
}

/// What the operation at a place and turn leaves in the object.
#[inline(always)]
fn mark(place: u32, turn: u16) -> u64 {
    (u64::from(place) << 16 | u64::from(turn)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// Writes the mark, and bytes from `from` on.
///
/// # Safety
/// 1. `object` is null or has `size` bytes.
#[inline(always)]
unsafe fn fill(object: *mut u8, from: usize, size: usize, mark: u64) -> Result<(), Fault> {
    if object.is_null() {
        // An object of no bytes may be null.
        return if size == 0 { Ok(()) } else { Err(Fault::OutOfMemory) };
    }
    // SAFETY: duty 1.
    unsafe {
        let lines = from.next_multiple_of(LINE).max(LINE)..size.min(LINES_END);
        lines.step_by(LINE).for_each(|at| object.add(at).write_volatile(1));
        let pages = from.next_multiple_of(PAGE).max(LINES_END)..size;
        pages.step_by(PAGE).for_each(|at| object.add(at).write_volatile(1));
        if size > 8 {
            object.add(size - 1).write_volatile(mark as u8);
        }
        let bytes = mark.to_le_bytes();
        if size >= 8 {
            object.cast::<[u8; 8]>().write_volatile(bytes);
        } else {
            (0..size).for_each(|at| object.add(at).write_volatile(bytes[at]));
        }
    }
    Ok(())
}

/// # Safety
/// 1. `object` is null or has `size` bytes.
#[inline(always)]
unsafe fn check(object: *mut u8, size: usize, mark: u64) -> Result<(), Fault> {
    // SAFETY: duty 1.
    let is_whole = unsafe {
        starts_with(object, size, mark)
            && (size <= 8 || object.add(size - 1).read_volatile() == mark as u8)
    };
    if is_whole { Ok(()) } else { Err(Fault::Damaged) }
}

/// # Safety
/// 1. `object` is null or has `kept` bytes.
#[inline(always)]
unsafe fn check_moved(object: *mut u8, kept: usize, mark: u64) -> Result<(), Fault> {
    if object.is_null() {
        return Err(Fault::OutOfMemory);
    }
    // SAFETY: duty 1.
    if unsafe { starts_with(object, kept, mark) } { Ok(()) } else { Err(Fault::NotMoved) }
}

/// # Safety
/// 1. `object` is null or has `size` bytes.
#[inline(always)]
unsafe fn check_clear(object: *mut u8, size: usize) -> Result<(), Fault> {
    if object.is_null() || size == 0 {
        return Ok(());
    }
    // SAFETY: duty 1, and there is a first byte.
    let dirt = unsafe { object.read_volatile() | object.add(size - 1).read_volatile() };
    if dirt == 0 { Ok(()) } else { Err(Fault::NotClear) }
}

/// # Safety
/// 1. `object` is null or has `size` bytes.
#[inline(always)]
unsafe fn starts_with(object: *const u8, size: usize, mark: u64) -> bool {
    if object.is_null() {
        return size == 0;
    }
    let bytes = mark.to_le_bytes();
    // SAFETY: duty 1.
    unsafe {
        if size >= 8 {
            object.cast::<[u8; 8]>().read_volatile() == bytes
        } else {
            (0..size).all(|at| object.add(at).read_volatile() == bytes[at])
        }
    }
}

/// C23's function where the allocator has it, else `free`.
///
/// # Safety
/// 1. `object` is live, of `size` bytes, and not from an aligned allocation.
unsafe fn free_sized(object: *mut u8, size: usize) {
    type FreeSized = unsafe extern "C" fn(*mut c_void, usize);
    static FOUND: OnceLock<Option<FreeSized>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        // SAFETY: the name ends with a zero, and the function of that name has this type.
        unsafe { std::mem::transmute(libc::dlsym(libc::RTLD_DEFAULT, c"free_sized".as_ptr())) }
    });
    // SAFETY: duty 1.
    unsafe {
        match found {
            Some(function) => function(object.cast(), size),
            None => libc::free(object.cast()),
        }
    }
}

/// Starts a thread with C's own function, which allocates less than Rust's; whether that could be done.
pub fn start_thread<T: Sync>(
    run: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: &'static T,
) -> bool {
    // SAFETY: zeroes, initialised by the next line; the argument lives for ever and may be shared.
    unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        let mut thread = 0;
        let argument = std::ptr::from_ref(argument).cast_mut().cast();
        let ok = |error: c_int| error == 0;
        ok(libc::pthread_attr_init(&mut attributes))
            && ok(libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED))
            && ok(libc::pthread_attr_setstacksize(&mut attributes, 256 << 10))
            && ok(libc::pthread_create(&mut thread, &attributes, run, argument))
    }
}

/// The argument of a thread that [`start_thread`] started.
///
/// # Safety
/// 1. `argument` is what such a thread was given, and of this type.
pub unsafe fn argument<T: Sync>(argument: *mut c_void) -> &'static T {
    // SAFETY: duty 1.
    unsafe { &*argument.cast::<T>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(verb: Verb, turn: u16, size: u64, old: u64) -> Operation {
        Operation { verb, place: 0, turn, align: 6, size, old }
    }

    fn object(places: &Places) -> *mut u8 {
        (places.place(0).unwrap().load(Ordering::Relaxed) & ((1 << 48) - 1)) as *mut u8
    }

    #[test]
    fn a_life_is_checked_at_each_step() {
        let places = Places::new(1);
        for (turn, size) in [0, 1, 7, 8, 9, 64, 5000, 100_000].into_iter().enumerate() {
            let (first, size) = (4 * turn as u16, size as u64);
            for verb in [Verb::Malloc, Verb::Calloc, Verb::Aligned] {
                let places = Places::new(1);
                let steps = [
                    operation(verb, 0, size, 0),
                    operation(Verb::Resize, 1, 2 * size + 1, size),
                    operation(Verb::Free, 2, 2 * size + 1, 0),
                ];
                for step in &steps {
                    assert!(places.is_turn(step), "{step:?}");
                    assert_eq!(places.run(step), Ok(()), "{step:?}");
                }
            }
            assert_eq!(places.run(&operation(Verb::Malloc, first, size, 0)), Ok(()));
            assert_eq!(places.run(&operation(Verb::FreeSized, first + 1, size, 0)), Ok(()));
        }
        assert_eq!(places.free_all(), 0);
    }

    #[test]
    fn a_damaged_object_is_noticed_in_front_and_at_the_end() {
        for at in [0, 7, 99] {
            let places = Places::new(1);
            places.run(&operation(Verb::Malloc, 0, 100, 0)).unwrap();
            // SAFETY: the object has 100 bytes.
            unsafe { *object(&places).add(at) ^= 0x40 };
            let free = places.run(&operation(Verb::Free, 1, 100, 0));
            assert_eq!(free, Err(Fault::Damaged), "byte {at}");
            let resize = places.run(&operation(Verb::Resize, 1, 200, 100));
            assert_eq!(resize, Err(Fault::Damaged), "byte {at}");
            assert_eq!(places.free_all(), 1);
        }
    }

    #[test]
    fn a_turn_is_waited_for() {
        let places = Places::new(1);
        assert!(!places.is_turn(&operation(Verb::Free, 1, 8, 0)));
        places.run(&operation(Verb::Malloc, 0, 8, 0)).unwrap();
        assert!(places.is_turn(&operation(Verb::Free, 1, 8, 0)));
        assert!(!places.is_turn(&operation(Verb::Malloc, 0, 8, 0)));
        assert!(!places.is_turn(&Operation { place: 7, ..operation(Verb::Free, 1, 8, 0) }));
        assert_eq!(places.free_all(), 1);
    }
}

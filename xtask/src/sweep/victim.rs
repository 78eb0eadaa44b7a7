//! The victim: a child that calls every entry of the library and keeps books on what it gets.
//!
//! Promises to notice, without allocating by any way but the calls under test, an object handed out
//! twice (its mark is overwritten), one lost (the bytes in use do not come back to what they were), a
//! refused call and whatever the library's own validator finds. Between [`PHASES`] it stops by SIGSTOP,
//! for the tracer to set its traps. Started by `tracer` as this program with `--victim`; on SIGUSR1
//! it allocates and frees on top of whatever was interrupted.

use std::ffi::CStr;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What an exit code of the victim means; 0 is "all is well".
pub const VERDICTS: &[(i32, &str)] = &[
    (40, "the library misses a function"),
    (41, "an allocation was refused"),
    (42, "an object was handed out twice: its contents changed while it was held"),
    (43, "bytes in use differ from before: an object was lost or counted twice"),
    (44, "rsalloc_check found the heap broken"),
    (45, "more objects are held than the victim can keep"),
    (46, "libc registered rseq where it should not have, or the other way round"),
];
const MISSING: i32 = 40;
const REFUSED: i32 = 41;
const TWICE: i32 = 42;
const LOST: i32 = 43;
const BROKEN: i32 = 44;
const FULL: i32 = 45;
const REGISTRATION: i32 = 46;

/// What is allocated and freed between two stops.
pub struct Phase {
    size: usize,
    count: usize,
    /// `malloc` itself is aborted each time, so that its slow function finds a class that is not empty.
    pub shaken: bool,
}

/// A size that is new makes its class grow from nothing; the second time it is warm; the large counts
/// are above what a class may hold, so that it is refilled and flushed.
pub const PHASES: &[Phase] = &[
    Phase { size: 48, count: 8, shaken: false },
    Phase { size: 48, count: 24, shaken: false },
    Phase { size: 512, count: 700, shaken: false },
    Phase { size: 512, count: 700, shaken: false },
    Phase { size: 48, count: 24, shaken: true },
    Phase { size: 48, count: 24, shaken: true },
];

const ALIGN: usize = 16;
/// An alignment that every object has.
const WORD: usize = 8;
const HELD_MAX: usize = 1024;
const HANDLED_MAX: usize = 128;

/// Objects that the handler holds, and the size it asks for.
static HANDLED: [AtomicUsize; HANDLED_MAX] = [const { AtomicUsize::new(0) }; HANDLED_MAX];
static SIZE: AtomicUsize = AtomicUsize::new(0);
static MALLOC: AtomicUsize = AtomicUsize::new(0);
static FREE: AtomicUsize = AtomicUsize::new(0);

/// glibc's `struct mallinfo2`.
#[repr(C)]
struct MallInfo2 {
    words: [usize; 10],
}

type Alloc = extern "C" fn(usize) -> usize;
type Alloc2 = extern "C" fn(usize, usize) -> usize;
type PosixMemalign = extern "C" fn(&mut usize, usize, usize) -> i32;
type Free = extern "C" fn(usize);
type FreeSized = extern "C" fn(usize, usize);
type FreeAligned = extern "C" fn(usize, usize, usize);

/// Runs all phases and ends the process.
pub fn main() -> ! {
    // SAFETY: of this type in glibc (sys/rseq.h), and constant.
    let libc_has_it = unsafe { *find::<*const u32>(c"__rseq_size") } != 0;
    if libc_has_it == std::env::var_os("GLIBC_TUNABLES").is_some() {
        end(REGISTRATION);
    }
    let calls = Calls::find();
    MALLOC.store(calls.malloc[0] as usize, Ordering::Relaxed);
    FREE.store(calls.free[0] as usize, Ordering::Relaxed);
    let handler = on_signal as extern "C" fn(i32) as usize;
    // SAFETY: the handler uses only what is set above.
    unsafe { libc::signal(libc::SIGUSR1, handler) };
    // Whatever the lazy binding of these allocates is in the books before they are opened.
    let mut held = [0; HELD_MAX];
    calls.phase(&mut held, 1024, 32);
    let before = calls.in_use();
    for &Phase { size, count, .. } in PHASES {
        stop();
        calls.phase(&mut held, size, count);
        if calls.in_use() != before {
            end(LOST);
        }
        if (calls.check)() != 0 {
            end(BROKEN);
        }
    }
    stop();
    end(0);
}

struct Calls {
    malloc: [Alloc; 4],
    calloc: [Alloc2; 2],
    aligned_alloc: Alloc2,
    realloc: Alloc2,
    posix_memalign: PosixMemalign,
    free: [Free; 3],
    free_sized: [FreeSized; 2],
    free_aligned_sized: FreeAligned,
    mallinfo2: extern "C" fn() -> MallInfo2,
    check: extern "C" fn() -> i32,
}

impl Calls {
    fn find() -> Calls {
        // SAFETY: each name is the C function of that type.
        unsafe {
            Calls {
                malloc: [
                    find(c"malloc"),
                    find(c"__libc_malloc"),
                    find(c"_Znwm"),
                    find(c"_ZnwmRKSt9nothrow_t"),
                ],
                calloc: [find(c"calloc"), find(c"__libc_calloc")],
                aligned_alloc: find(c"aligned_alloc"),
                realloc: find(c"realloc"),
                posix_memalign: find(c"posix_memalign"),
                free: [find(c"free"), find(c"__libc_free"), find(c"_ZdlPv")],
                free_sized: [find(c"free_sized"), find(c"_ZdlPvm")],
                free_aligned_sized: find(c"free_aligned_sized"),
                mallinfo2: find(c"mallinfo2"),
                check: find(c"rsalloc_check"),
            }
        }
    }

    /// Allocates `count` objects by all ways in turn, then frees them by all ways in turn.
    fn phase(&self, held: &mut [usize; HELD_MAX], size: usize, count: usize) {
        SIZE.store(size, Ordering::Relaxed);
        for (turn, slot) in held[..count].iter_mut().enumerate() {
            *slot = self.allocate(turn, size);
            mark(*slot, size);
        }
        for (turn, slot) in held[..count].iter_mut().enumerate() {
            verify(*slot, size);
            // Not the way that allocated the same object each time.
            self.free(turn + turn / WAYS, *slot, size);
        }
        // A handler that interrupts these frees leaves one more, perhaps in a slot already passed.
        while let Some(slot) = HANDLED.iter().find(|slot| slot.load(Ordering::Relaxed) != 0) {
            let object = slot.swap(0, Ordering::Relaxed);
            verify(object, size);
            self.free(0, object, size);
        }
    }

    fn allocate(&self, turn: usize, size: usize) -> usize {
        let mut object = 0;
        match turn % 9 {
            way @ 0..4 => object = self.malloc[way](size),
            way @ 4..6 => object = self.calloc[way - 4](1, size),
            6 => object = (self.aligned_alloc)([WORD, ALIGN][turn / 9 % 2], size),
            7 => object = (self.realloc)(0, size),
            _ if (self.posix_memalign)(&mut object, ALIGN, size) != 0 => end(REFUSED),
            _ => {}
        }
        if object == 0 {
            end(REFUSED);
        }
        object
    }

    fn free(&self, turn: usize, object: usize, size: usize) {
        match turn % WAYS {
            way @ 0..3 => self.free[way](object),
            way @ 3..5 => self.free_sized[way - 3](object, size),
            _ => (self.free_aligned_sized)(object, ALIGN, size),
        }
    }

    fn in_use(&self) -> usize {
        (self.mallinfo2)().words[UORDBLKS]
    }
}

/// Ways to free.
const WAYS: usize = 6;
/// The word of `struct mallinfo2` with the bytes in use.
const UORDBLKS: usize = 7;

/// Allocates two objects, keeps the first and frees the second: takes what the interrupted call was
/// about to take, and puts another one in its place. (The same one put back would hide it: commits add to
/// top, so what comes back to where it was is as if nothing had happened.)
extern "C" fn on_signal(_: i32) {
    let (malloc, free) = (MALLOC.load(Ordering::Relaxed), FREE.load(Ordering::Relaxed));
    // SAFETY: stored by `main` from functions of these types.
    let (malloc, free): (Alloc, Free) = unsafe {
        (std::mem::transmute::<usize, Alloc>(malloc), std::mem::transmute::<usize, Free>(free))
    };
    let size = SIZE.load(Ordering::Relaxed);
    let (first, second) = (malloc(size), malloc(size));
    if first == 0 || second == 0 {
        end(REFUSED);
    }
    mark(first, size);
    mark(second, size);
    verify(second, size);
    free(second);
    let slot = HANDLED.iter().find(|slot| slot.load(Ordering::Relaxed) == 0);
    match slot {
        Some(slot) => slot.store(first, Ordering::Relaxed),
        None => end(FULL),
    }
}

/// A number that no other holder of the object writes.
static NEXT: AtomicUsize = AtomicUsize::new(1);

/// Writes a fresh number into the first and the last word, and its complement into the second.
fn mark(object: usize, size: usize) {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let words = object as *mut usize;
    // SAFETY: the library says that the object is ours; it has at least three words.
    unsafe {
        words.write_volatile(number);
        words.add(1).write_volatile(!number);
        words.add(size / 8 - 1).write_volatile(number ^ object);
    }
}

/// Ends the process unless the object reads as it was marked; then unmarks it, so that a second
/// holder fails too.
fn verify(object: usize, size: usize) {
    let words = object as *mut usize;
    // SAFETY: as in `mark`.
    let read = |at| unsafe { words.add(at).read_volatile() };
    let number = read(0);
    if number == 0 || read(1) != !number || read(size / 8 - 1) != number ^ object {
        end(TWICE);
    }
    // SAFETY: as in `mark`.
    unsafe { words.write_volatile(0) };
}

/// # Safety
/// 1. `T` is the type of the function of this name.
unsafe fn find<T: Copy>(name: &CStr) -> T {
    assert_eq!(size_of::<T>(), size_of::<usize>());
    // SAFETY: the name is zero-terminated.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if address.is_null() {
        end(MISSING);
    }
    // SAFETY: duty 1; a pointer is as large as a function pointer.
    unsafe { std::mem::transmute_copy(&address) }
}

fn stop() {
    // SAFETY: raise has no preconditions; the tracer goes on.
    unsafe { libc::raise(libc::SIGSTOP) };
}

fn end(code: i32) -> ! {
    // SAFETY: _exit has no preconditions, and runs nothing of ours.
    unsafe { libc::_exit(code) }
}

//! The process that is dumped and restored: this program again, in a mode of its own.
//!
//! Eight threads call malloc, calloc, realloc and free without pause, pass objects to each other,
//! and compare every byte of an object whenever they touch it; after each round a thread goes
//! through all it holds, then beats. Objects on a shelf stay longer: one of them is replaced in a round now and then,
//! so that each link of a chain holds some. The main thread trims, so that remote caches are emptied too.
//! A thread that finds a wrong byte names it on standard error, tells the board and touches nothing any
//! more. Started by `process`.
//!
//! I1: an object begins with [`MARK`], by which the control finds objects in an image.
//! I2: standard error is written to only on failure: a restore insists on the file's size.
//! I3: a wrong byte does not end the process: a restore fails if its process ends before CRIU has let it go, and
//! what the process found would be taken for CRIU's failure.
//! I4: the main thread enters no section while others hammer: trimming and checking stop the shards. A pre-dump
//! would leave it unprotected there (docs/adr/0007-criu-snapshots.md); the control has it allocate for that.

use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;

use super::board::{Answer, Board, WORKERS};

/// The first word of every object.
pub const MARK: u64 = 0x6a5f_0b9d_c3e1_7742;
/// Of `linux/membarrier.h`.
const PRIVATE_EXPEDITED_RSEQ: libc::c_int = 1 << 7;

const SLOTS: usize = 500;
const STEPS_PER_ROUND: usize = 2000;
/// Bytes of a shelved object: larger than most, so that short-lived objects share few pages with it.
const SHELVED_BYTES: usize = 16 << 10;
const ROUNDS_PER_SHELVED: usize = 8;
const PAUSE: Duration = Duration::from_millis(20);

static EXCHANGE: [Mutex<Object>; 64] = [const { Mutex::new(Object::NONE) }; 64];

/// Options of a victim.
#[derive(Clone, Copy, Default, clap::Args)]
pub struct Options {
    /// Objects that each thread keeps on a shelf
    #[arg(long, hide = true, default_value_t = 0)]
    pub shelf: usize,
    /// The first thread allocates and frees without pause; another trims
    #[arg(long, hide = true)]
    pub first_allocates: bool,
}

/// Runs until it is killed, or process `harness` is gone.
pub fn main(board: &Path, harness: i32, options: Options) -> Result<()> {
    let board: &Board = Box::leak(Box::new(Board::open(board)?));
    for index in usize::from(options.first_allocates)..WORKERS {
        std::thread::spawn(move || hammer(board, index, options.shelf));
    }
    if options.first_allocates {
        std::thread::spawn(move || {
            tend(board, harness);
            std::process::exit(0)
        });
        churn(board, 0)
    }
    tend(board, harness);
    Ok(())
}

/// Trims and answers until process `harness` is gone.
fn tend(board: &Board, harness: i32) {
    // SAFETY: signal 0 only asks whether the process exists.
    while unsafe { libc::kill(harness, 0) } == 0 {
        std::thread::sleep(PAUSE);
        // First: what follows may register the fence anew.
        let fence_at_first = if board.is_asked() { Some(fence()) } else { None };
        // SAFETY: no duties.
        unsafe { libc::malloc_trim(0) };
        if let Some(fence_at_first) = fence_at_first {
            board.answer(Answer { fence_at_first, fence: fence(), check: check() });
        }
        board.beat(WORKERS, 0);
    }
}

/// The kernel's fence for sections, which it refuses to a process that has not registered.
fn fence() -> i64 {
    // SAFETY: membarrier(2) takes three numbers.
    match unsafe { libc::syscall(libc::SYS_membarrier, PRIVATE_EXPEDITED_RSEQ, 0, 0) } {
        0 => 0,
        _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(0).into(),
    }
}

/// The validator of the library.
fn check() -> i64 {
    // SAFETY: a name that ends in zero.
    let check = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"rsalloc_check".as_ptr()) };
    if check.is_null() {
        return -1;
    }
    // SAFETY: the function of that name is of this type.
    let check: extern "C" fn() -> i32 = unsafe { std::mem::transmute(check) };
    check().into()
}

fn hammer(board: &Board, index: usize, shelf: usize) -> ! {
    let mut random = Rng::with_seed(index as u64);
    let mut objects = [Object::NONE; SLOTS];
    let mut shelf: Vec<_> = (0..shelf).map(|_| Object::new(SHELVED_BYTES, &mut random)).collect();
    loop {
        let mut verified = 0;
        for _ in 0..STEPS_PER_ROUND {
            let object = &mut objects[random.usize(..SLOTS)];
            verified += object.verify(board, index);
            match random.usize(..4) {
                _ if object.len == 0 => *object = Object::new(size(&mut random), &mut random),
                0 => object.resize(board, index, size(&mut random)),
                1 => {
                    let other =
                        &mut *EXCHANGE[random.usize(..64)].lock().expect("no thread panics");
                    std::mem::swap(object, other);
                }
                _ => object.free(),
            }
        }
        let held = objects.iter().chain(&shelf);
        verified += held.map(|object| object.verify(board, index)).sum::<u64>();
        if !shelf.is_empty() && random.usize(..ROUNDS_PER_SHELVED) == 0 {
            let at = random.usize(..shelf.len());
            shelf[at].free();
            shelf[at] = Object::new(SHELVED_BYTES, &mut random);
        }
        board.beat(index, verified);
    }
}

/// Like `hammer`, with so few and small objects that the thread spends much of its time in sections.
fn churn(board: &Board, index: usize) -> ! {
    let mut random = Rng::with_seed(1);
    let mut objects = [Object::NONE; 64];
    loop {
        let mut verified = 0;
        for _ in 0..10 * STEPS_PER_ROUND {
            let object = &mut objects[random.usize(..64)];
            verified += object.verify(board, index);
            match object.len {
                0 => *object = Object::new(16 + 8 * random.usize(..6), &mut random),
                _ => object.free(),
            }
        }
        board.beat(index, verified);
    }
}

/// Memory from malloc and what it must hold. `len` 0: none.
#[derive(Clone, Copy)]
struct Object {
    address: usize,
    len: usize,
    seed: u64,
}

impl Object {
    const NONE: Object = Object { address: 0, len: 0, seed: 0 };

    fn new(len: usize, random: &mut Rng) -> Object {
        let seed = random.u64(..);
        // SAFETY: no duties; the result is checked below.
        let memory = unsafe {
            match random.usize(..4) {
                0 => libc::calloc(1, len),
                _ => libc::malloc(len),
            }
        };
        assert!(!memory.is_null(), "out of memory");
        let mut object = Object { address: memory as usize, len, seed };
        object.fill(0);
        object
    }

    fn resize(&mut self, board: &Board, index: usize, len: usize) {
        // SAFETY: the object is ours and live.
        let memory = unsafe { libc::realloc(self.address as *mut _, len) };
        assert!(!memory.is_null(), "out of memory");
        let kept = Object { address: memory as usize, len: len.min(self.len), seed: self.seed };
        kept.verify(board, index);
        *self = Object { len, ..kept };
        self.fill(kept.len);
    }

    fn free(&mut self) {
        // SAFETY: the object is ours and live, and forgotten in the next line.
        unsafe { libc::free(self.address as *mut _) };
        *self = Object::NONE;
    }

    /// Writes the words from byte `from` on.
    fn fill(&mut self, from: usize) {
        // SAFETY: `len` bytes at `address` are ours, aligned to 16.
        let words =
            unsafe { std::slice::from_raw_parts_mut(self.address as *mut u64, self.len / 8) };
        for (i, word) in words.iter_mut().enumerate().skip(from / 8) {
            *word = self.word(i);
        }
    }

    /// Compares all words; returns the number of objects compared (0 or 1). Does not return if a word is wrong.
    fn verify(&self, board: &Board, index: usize) -> u64 {
        if self.len == 0 {
            return 0;
        }
        // SAFETY: as in `fill`, which wrote them.
        let words = unsafe { std::slice::from_raw_parts(self.address as *const u64, self.len / 8) };
        if let Some(i) = (0..words.len()).find(|&i| words[i] != self.word(i)) {
            self.tell(index, i, words[i]);
            board.fail();
            loop {
                std::thread::park();
            }
        }
        1
    }

    /// Prints the wrong word `i` as a line, by one write and without allocating: the heap may be broken.
    fn tell(&self, index: usize, i: usize, found: u64) {
        let mut line = [0; 256];
        let mut rest = &mut line[..];
        let (len, address, right) = (self.len, self.address, self.word(i));
        // What does not fit is cut off.
        let _ = writeln!(
            rest,
            "thread {index}: object of {len} bytes at {address:#x}: word {i} is {found:#x}, not {right:#x}"
        );
        let left = rest.len();
        let _ = std::io::stderr().write_all(&line[..line.len() - left]);
    }

    fn word(&self, i: usize) -> u64 {
        if i == 0 { MARK } else { self.seed.wrapping_add(i as u64).wrapping_mul(MARK | 1) }
    }
}

/// A random size, a multiple of 8: mostly small, some of many pages, a few beyond the largest class.
fn size(random: &mut Rng) -> usize {
    let bound = match random.usize(..256) {
        0 => 512 << 10,
        1..8 => 16 << 10,
        _ => 1 << 10,
    };
    16 + 8 * random.usize(..bound / 8)
}

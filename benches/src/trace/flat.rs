//! A program to replay: for each thread a list of operations of three words, as a file.
//!
//! Written by `compile`, read by `replay` block by block, so that it never lies in the memory that is
//! measured. Objects have places in a table instead of addresses. The operations of one place happen in the
//! trace's order, whichever threads they are of: each says the turn that the place must have.

use anyhow::{Context, ensure};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// What to do; the numbers are the file's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Verb {
    /// `malloc(size)`.
    Malloc = 1,
    /// `calloc(1, size)`.
    Calloc = 2,
    /// `posix_memalign`.
    Aligned = 3,
    /// `realloc(object, size)`.
    Resize = 4,
    /// `free(object)`.
    Free = 5,
    /// `free_sized(object, size)`.
    FreeSized = 6,
    /// Starts the thread whose number is in `place`.
    Start = 7,
}

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Operation {
    /// What to do.
    pub verb: Verb,
    /// The object's place in the table.
    pub place: u32,
    /// How many operations the place has seen before.
    pub turn: u16,
    /// The logarithm of the alignment, of an aligned allocation.
    pub align: u8,
    /// The object's size, the new one of a resize.
    pub size: u64,
    /// The size before a resize.
    pub old: u64,
}

/// Words of an operation.
pub const WORDS: usize = 3;
/// Operations of a block.
pub const BLOCK: usize = 256;

const MAGIC: u64 = u64::from_le_bytes(*b"rsallocf");
const HEADER_WORDS: usize = 4;

/// What stands at the beginning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outline {
    /// Places in the table.
    pub places: u64,
    /// Calls of the allocator.
    pub calls: u64,
    /// Of each thread, how many operations it has.
    pub threads: Vec<u64>,
}

impl Operation {
    /// As words.
    pub fn words(self) -> [u64; WORDS] {
        let first = u64::from(self.place) | u64::from(self.turn) << 32;
        let first = first | (self.verb as u64) << 48 | u64::from(self.align) << 56;
        [first, self.size, self.old]
    }

    /// The inverse of [`Operation::words`]; none if they are of no operation.
    #[inline(always)]
    pub fn of(words: [u64; WORDS]) -> Option<Self> {
        let verb = match (words[0] >> 48) as u8 {
            1 => Verb::Malloc,
            2 => Verb::Calloc,
            3 => Verb::Aligned,
            4 => Verb::Resize,
            5 => Verb::Free,
            6 => Verb::FreeSized,
            7 => Verb::Start,
            _ => return None,
        };
        let (place, turn) = (words[0] as u32, (words[0] >> 32) as u16);
        let align = (words[0] >> 56) as u8;
        Some(Operation { verb, place, turn, align, size: words[1], old: words[2] })
    }
}

/// Writes a program.
pub fn write(
    path: &Path,
    places: u64,
    calls: u64,
    threads: &[Vec<Operation>],
) -> anyhow::Result<()> {
    let file = File::create(path).with_context(|| format!("write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    let mut put = |words: &[u64]| -> std::io::Result<()> {
        words.iter().try_for_each(|word| file.write_all(&word.to_le_bytes()))
    };
    put(&[MAGIC, places, calls, threads.len() as u64])?;
    threads.iter().try_for_each(|thread| put(&[thread.len() as u64]))?;
    threads.iter().flatten().try_for_each(|operation| put(&operation.words()))?;
    file.flush().with_context(|| format!("write {}", path.display()))
}

/// A program that is read as it goes on.
pub struct Program {
    file: File,
    /// What it is made of.
    pub outline: Outline,
}

impl Program {
    /// Opens one.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("read {}", path.display()))?;
        let whole =
            || format!("{} is no program of `replay compile`, or cut short", path.display());
        let word = |index: usize| -> anyhow::Result<u64> {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, 8 * index as u64).with_context(whole)?;
            Ok(u64::from_le_bytes(bytes))
        };
        ensure!(word(0)? == MAGIC, whole());
        let (places, calls, count) = (word(1)?, word(2)?, word(3)?);
        ensure!((1..1 << 20).contains(&count) && places < 1 << 32, whole());
        let threads: anyhow::Result<Vec<_>> =
            (0..count as usize).map(|thread| word(HEADER_WORDS + thread)).collect();
        let threads = threads?;
        let operations: u64 = threads.iter().sum();
        let words = HEADER_WORDS as u64 + count + operations * WORDS as u64;
        ensure!(file.metadata()?.len() == 8 * words, whole());
        Ok(Program { file, outline: Outline { places, calls, threads } })
    }

    /// Where the operations of `thread` begin, counted in operations of all.
    pub fn first_of(&self, thread: usize) -> u64 {
        self.outline.threads[..thread].iter().sum()
    }

    /// Reads operations from number `first` on, at most a block; how many. Allocates nothing.
    pub fn read(
        &self,
        first: u64,
        count: u64,
        block: &mut [[u64; WORDS]; BLOCK],
    ) -> std::io::Result<usize> {
        let count = count.min(BLOCK as u64) as usize;
        let before = HEADER_WORDS + self.outline.threads.len();
        let at = 8 * (before as u64 + first * WORDS as u64);
        let mut bytes = [0; 8 * WORDS * BLOCK];
        let bytes = &mut bytes[..8 * WORDS * count];
        self.file.read_exact_at(bytes, at)?;
        for (operation, bytes) in block.iter_mut().zip(bytes.chunks_exact(8 * WORDS)) {
            *operation = std::array::from_fn(|word| {
                u64::from_le_bytes(std::array::from_fn(|byte| bytes[8 * word + byte]))
            });
        }
        Ok(count)
    }
}

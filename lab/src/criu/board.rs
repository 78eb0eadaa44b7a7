//! What the victim tells the harness: a page of a file that both have mapped.
//!
//! The file outlives every dump, so a restored victim counts on where the killed one stopped. Nothing else is in the
//! file.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};

/// Threads that hammer.
pub const WORKERS: usize = 8;
/// Threads that report progress: those that hammer, and the main thread, which trims.
pub const THREADS: usize = WORKERS + 1;

/// The mapped page.
pub struct Board(NonNull<Page>);

// SAFETY: the page holds nothing but atomics, and is never unmapped.
unsafe impl Sync for Board {}
// SAFETY: as above.
unsafe impl Send for Board {}

#[repr(C, align(4096))]
struct Page {
    beats: [AtomicU64; THREADS],
    verified: AtomicU64,
    failures: AtomicU64,
    asked: AtomicU64,
    answered: AtomicU64,
    answer: [AtomicI64; 3],
}

/// What the victim's main thread found when it was asked. 0: no fault; positive: an errno, or the validator's
/// result; negative: rsalloc is not in the process.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    /// The kernel's fence before malloc_trim(3), which may register it anew.
    pub fence_at_first: i64,
    /// The kernel's fence after malloc_trim(3).
    pub fence: i64,
    /// The validator.
    pub check: i64,
}

impl Board {
    /// Makes the file, all zero, and maps it.
    pub fn create(path: &Path) -> Result<Board> {
        let file = File::create_new(path).with_context(|| format!("create {}", path.display()))?;
        file.set_len(size_of::<Page>() as u64)?;
        Board::open(path)
    }

    /// Maps the file.
    pub fn open(path: &Path) -> Result<Board> {
        let file = File::options().read(true).write(true).open(path);
        let file = file.with_context(|| format!("open {}", path.display()))?;
        let (len, prot) = (size_of::<Page>(), libc::PROT_READ | libc::PROT_WRITE);
        ensure!(file.metadata()?.len() == len as u64, "{} is no board", path.display());
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe {
            libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        ensure!(page != libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        Ok(Board(NonNull::new(page.cast()).context("mmap gave address 0")?))
    }

    /// Thread `index` has gone through all its objects, `verified` of them.
    pub fn beat(&self, index: usize, verified: u64) {
        // Ordering: Relaxed, numbers that stand alone.
        self.page().verified.fetch_add(verified, Ordering::Relaxed);
        self.page().beats[index].fetch_add(1, Ordering::Relaxed);
    }

    /// An object did not hold what was written to it; its words are on standard error.
    pub fn fail(&self) {
        // Ordering: Release, after the words; pairs with `failures`.
        self.page().failures.fetch_add(1, Ordering::Release);
    }

    /// What a process said that is not judged.
    pub fn forget_failures(&self) {
        // Ordering: Relaxed, the process has ended.
        self.page().failures.store(0, Ordering::Relaxed);
    }

    /// The beats of all threads.
    pub fn beats(&self) -> [u64; THREADS] {
        // Ordering: Relaxed, numbers that stand alone.
        std::array::from_fn(|index| self.page().beats[index].load(Ordering::Relaxed))
    }

    /// Objects whose contents were compared and right.
    pub fn verified(&self) -> u64 {
        // Ordering: Relaxed, a number that stands alone.
        self.page().verified.load(Ordering::Relaxed)
    }

    /// Objects whose contents were wrong.
    pub fn failures(&self) -> u64 {
        // Ordering: Acquire, before the words are read; pairs with `fail`.
        self.page().failures.load(Ordering::Acquire)
    }

    /// Asks the victim, which may still have to be restored.
    pub fn ask(&self) {
        // Ordering: Relaxed, a number that stands alone.
        self.page().asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a question has no answer yet; for the victim's main thread.
    pub fn is_asked(&self) -> bool {
        // Ordering: Relaxed, numbers that stand alone.
        self.page().answered.load(Ordering::Relaxed) < self.page().asked.load(Ordering::Relaxed)
    }

    /// Answers all questions so far.
    pub fn answer(&self, answer: Answer) {
        let words = [answer.fence_at_first, answer.fence, answer.check];
        // Ordering: Relaxed, published below.
        self.page()
            .answer
            .iter()
            .zip(words)
            .for_each(|(to, word)| to.store(word, Ordering::Relaxed));
        // Ordering: Relaxed, a number; Release publishes the answer.
        self.page().answered.store(self.page().asked.load(Ordering::Relaxed), Ordering::Release);
    }

    /// The answer to the last question, if there is one yet.
    pub fn answered(&self) -> Option<Answer> {
        // Ordering: Relaxed, only the asking side writes it; Acquire pairs with the Release above.
        let asked = self.page().asked.load(Ordering::Relaxed);
        let is_there = self.page().answered.load(Ordering::Acquire) >= asked;
        // Ordering: Relaxed, as above.
        let [fence_at_first, fence, check] =
            std::array::from_fn(|i| self.page().answer[i].load(Ordering::Relaxed));
        is_there.then_some(Answer { fence_at_first, fence, check })
    }

    fn page(&self) -> &Page {
        // SAFETY: mapped for good, of the right size, and all-zero atomics are valid.
        unsafe { self.0.as_ref() }
    }
}

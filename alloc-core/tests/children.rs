//! Children that share the process' memory: no thread runs sections while one lives, and all do when none is left.

#[path = "support/modes.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod modes;

use modes::{MODES, in_modes};
use rsalloc_core::internals::rseq::registration::{current_index, sections};
use rsalloc_core::internals::rseq::vfork::{begin, begin_watched, end, end_watched};
use rsalloc_core::{allocate, check, free};
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// More calls than from one look for children to the next.
const CALLS: usize = 200;
const OBJECTS: usize = 5000;
const STACK_BYTES: usize = 1 << 18;

fn main() {
    in_modes(&MODES, LIMIT, |case| {
        call();
        assert_eq!(has_shard(), case.has_sections());
        a_child_that_its_parent_waits_for(case.has_sections());
        a_child_whose_end_the_kernel_tells(case.has_sections());
        the_last_one_counts(case.has_sections());
        a_forked_process_has_none(case.has_sections());
        assert_eq!(check(), Ok(()));
    });
}

fn a_child_that_its_parent_waits_for(has_sections: bool) {
    begin();
    let child = Child::start(libc::CLONE_VFORK, None);
    assert!(!has_shard(), "the parent has none before it says that the child has ended");
    end();
    child.end();
    assert_eq!(has_shard(), has_sections);
}

fn a_child_whose_end_the_kernel_tells(has_sections: bool) {
    if cfg!(target_env = "musl") {
        println!("skipped: musl's clone refuses CLONE_CHILD_CLEARTID");
        return;
    }
    let word = begin_watched();
    assert_eq!(word.is_some(), has_sections);
    let child = Child::start(libc::CLONE_CHILD_CLEARTID, word.map(|word| word.as_ptr()));
    child.end();
    assert!(word.is_none_or(|word| word.load(Ordering::SeqCst) == 0), "cleared by the kernel");
    call();
    assert_eq!(has_shard(), has_sections);
}

fn the_last_one_counts(has_sections: bool) {
    let words: Vec<_> = std::iter::from_fn(begin_watched).collect();
    assert_eq!(words.len() > 100, has_sections, "{} words", words.len());
    begin();
    call();
    let (mut words, mut left) = (words.into_iter(), 0);
    if let Some(last) = words.next() {
        // As the kernel does, and as a parent whose child did not start does.
        for word in words {
            assert!(!has_shard(), "{left} are gone, others are not");
            if left % 2 == 0 {
                word.store(0, Ordering::SeqCst)
            } else {
                end_watched(word)
            }
            left += 1;
        }
        call();
        assert!(!has_shard());
        last.store(0, Ordering::SeqCst);
    }
    call();
    assert!(!has_shard(), "one that was counted is left");
    end();
    call();
    assert_eq!(has_shard(), has_sections);
}

fn a_forked_process_has_none(has_sections: bool) {
    begin();
    let word = begin_watched();
    // SAFETY: the child allocates by this library only and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        call();
        // SAFETY: as above.
        unsafe { libc::_exit(if has_shard() == has_sections { 0 } else { 9 }) };
    }
    assert_eq!(wait(child), 0, "no other process shares its memory");
    assert!(!has_shard());
    word.inspect(|word| end_watched(word));
    end();
    assert_eq!(has_shard(), has_sections);
}

/// Whether the calling thread's entries find a shard.
fn has_shard() -> bool {
    sections().is_some_and(|sections| current_index(sections.index).is_some())
}

fn call() {
    for _ in 0..CALLS {
        // SAFETY: a live object.
        unsafe { free(allocate(40)) };
    }
}

/// A process on the same memory and the calling thread's TLS, which must not allocate meanwhile.
struct Child {
    pid: c_int,
    found: Box<Found>,
    _stack: Vec<u8>,
}

/// What the child found and made.
struct Found {
    shards: AtomicU32,
    made: Vec<(usize, u8)>,
}

impl Child {
    fn start(flags: c_int, word: Option<*mut u32>) -> Child {
        let made = Vec::with_capacity(OBJECTS);
        let mut found = Box::new(Found { shards: AtomicU32::new(0), made });
        let mut stack = vec![0; STACK_BYTES];
        let word = word.unwrap_or(std::ptr::null_mut());
        // The kernel clears this word even if it is null: it does not look.
        let flags = if word.is_null() { flags & !libc::CLONE_CHILD_CLEARTID } else { flags };
        // SAFETY: the stack and what is found outlive the child, see `end`.
        let pid = unsafe {
            let top = stack.as_mut_ptr().add(STACK_BYTES).cast();
            let flags = libc::CLONE_VM | libc::SIGCHLD | flags;
            let argument = (&raw mut *found).cast();
            let null = std::ptr::null_mut::<c_int>();
            libc::clone(run, top, flags, argument, null, std::ptr::null_mut::<c_void>(), word)
        };
        assert!(pid > 0, "{}", std::io::Error::last_os_error());
        Child { pid, found, _stack: stack }
    }

    fn end(self) {
        assert_eq!(wait(self.pid), 0);
        assert_eq!(self.found.shards.load(Ordering::Relaxed), 0, "the child had a shard");
        for &(object, byte) in &self.found.made {
            // SAFETY: made by the child, live until here.
            unsafe {
                assert_eq!(*(object as *const u8), byte);
                free(object as *mut u8);
            }
        }
        assert_eq!(self.found.made.len(), OBJECTS);
    }
}

extern "C" fn run(found: *mut c_void) -> c_int {
    // SAFETY: `start` gave it; the parent waits.
    let found = unsafe { &mut *found.cast::<Found>() };
    for number in 0..OBJECTS {
        let (object, byte) = (allocate(1 + number % 3000), number as u8);
        // SAFETY: a live object of at least one byte.
        unsafe { object.write(byte) };
        found.shards.fetch_add(u32::from(has_shard()), Ordering::Relaxed);
        found.made.push((object as usize, byte));
    }
    0
}

fn wait(child: c_int) -> c_int {
    let mut status = -1;
    // SAFETY: a child of this process.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

//! A program on RsAlloc for musl: threads that allocate in their destructors too, forks among them, in the mode that it is told.

use rsalloc::{Mode, RsAlloc};
use std::cell::RefCell;
use std::process::exit;
use std::sync::atomic::{AtomicUsize, Ordering};

#[global_allocator]
static GLOBAL: RsAlloc = RsAlloc;

static ENDED: AtomicUsize = AtomicUsize::new(0);

/// What a thread leaves behind: its destructor allocates, and frees what others have allocated.
struct Last(Vec<String>);

impl Drop for Last {
    fn drop(&mut self) {
        let more: Vec<String> = (0..100).map(|n| format!("{n} {}", self.0.len())).collect();
        assert!(more.iter().all(|text| text.ends_with(&format!(" {}", self.0.len()))));
        ENDED.fetch_add(1, Ordering::SeqCst);
    }
}

thread_local! { static LAST: RefCell<Option<Last>> = const { RefCell::new(None) }; }

fn work(seed: usize) {
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for round in 0..20_000 {
        let len = (round * 37 + seed * 101) % if round % 500 == 0 { 400_000 } else { 3000 } + 1;
        kept.push(vec![seed as u8; len]);
        if kept.len() > 50 {
            let gone = kept.swap_remove(round % 50);
            assert!(gone.iter().step_by(64).all(|&byte| byte == seed as u8));
        }
    }
}

fn fork_and_work() {
    // SAFETY: the child uses its own thread and the heap only.
    let child = unsafe { libc::fork() };
    if child == 0 {
        work(7);
        let is_sound = rsalloc::check().is_ok();
        // SAFETY: ends the child.
        unsafe { libc::_exit(i32::from(!is_sound)) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0, "the child");
}

fn main() {
    let wanted = match std::env::args().nth(1).as_deref() {
        Some("own") => Mode::RseqOwn,
        _ => Mode::Atomic,
    };
    let mode = rsalloc::report().mode;
    if mode != wanted {
        eprintln!("{mode:?} and not {wanted:?}");
        exit(3);
    }
    const THREADS: usize = 40;
    for _ in 0..4 {
        let threads: Vec<_> = (0..THREADS / 4)
            .map(|seed| {
                std::thread::spawn(move || {
                    work(seed);
                    let texts = (0..50).map(|n| format!("text {n}")).collect();
                    LAST.with(|last| *last.borrow_mut() = Some(Last(texts)));
                })
            })
            .collect();
        fork_and_work();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
    assert_eq!(ENDED.load(Ordering::SeqCst), THREADS);
    assert!(rsalloc::release() > 0 && rsalloc::check().is_ok());
    println!("{}", rsalloc::report());
}

//! The machine under the engine: processors, threads on them, the kernel's fence, signals.
//!
//! Promises that on one processor one section runs at a time, and that a section whose processor is taken away from it,
//! by another thread or by a fence, changes nothing more: it is left by unwinding before its next store, as the kernel
//! sends a thread to the abort handler. The thread that takes it away waits until that has happened or the section was over
//! first, as an interrupt does.

use crate::arch::words::ThreadBlock;
use crate::world;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::sync::{Condvar, Mutex};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

pub const THREADS: usize = 4;
pub const PROCESSORS: usize = 2;

/// What an atomic operation does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
}

/// The memory of each thread that the engine finds by its thread pointer.
pub static BLOCKS: [ThreadBlock; THREADS] = [const {
    // SAFETY: integers.
    unsafe { core::mem::MaybeUninit::zeroed().assume_init() }
}; THREADS];

/// What belongs to one execution.
struct Kernel {
    processors: Vec<(Mutex<Option<usize>>, Condvar)>,
    evicted: Vec<AtomicBool>,
    signals: Vec<AtomicBool>,
    futexes: (Mutex<()>, Vec<Condvar>),
}

thread_local! {
    static KERNEL: Cell<Option<Rc<Kernel>>> = const { Cell::new(None) };
    static IN_SECTION: Cell<[bool; THREADS]> = const { Cell::new([false; THREADS]) };
    static HANDLERS: Cell<[Option<fn()>; THREADS]> = const { Cell::new([None; THREADS]) };
    static LOST_FENCE: Cell<bool> = const { Cell::new(false) };
}

loom::thread_local! {
    static SELF: Cell<usize> = Cell::new(0);
}

fn kernel() -> Rc<Kernel> {
    let kernel = KERNEL.take().expect("a model runs");
    KERNEL.set(Some(kernel.clone()));
    kernel
}

/// Boots: no section runs, no thread sleeps, each thread is on processor 0.
pub fn boot() {
    KERNEL.set(Some(Rc::new(Kernel {
        processors: (0..PROCESSORS).map(|_| (Mutex::new(None), Condvar::new())).collect(),
        evicted: (0..THREADS).map(|_| AtomicBool::new(false)).collect(),
        signals: (0..THREADS).map(|_| AtomicBool::new(false)).collect(),
        futexes: (Mutex::new(()), (0..THREADS).map(|_| Condvar::new()).collect()),
    })));
    IN_SECTION.set([false; THREADS]);
    HANDLERS.set([None; THREADS]);
}

/// The execution is over.
pub fn halt() {
    KERNEL.set(None);
}

/// The number of the calling thread.
pub fn this_thread() -> usize {
    SELF.with(Cell::get)
}

/// The concurrency id of threads on `processor`: never the processor's number, as the kernel's need not be.
pub fn cid_on(processor: usize) -> u32 {
    (PROCESSORS - 1 - processor) as u32
}

/// Starts thread `number` (from 1) on `processor`.
pub fn spawn(
    number: usize,
    processor: usize,
    body: impl FnOnce() + 'static,
) -> loom::thread::JoinHandle<()> {
    BLOCKS[number].area.cpu_id.store(processor as u32, Ordering::Relaxed);
    BLOCKS[number].area.mm_cid.store(cid_on(processor), Ordering::Relaxed);
    loom::thread::spawn(move || {
        SELF.with(|this| this.set(number));
        body();
    })
}

/// Lets `handler` run on top of thread `number` once, wherever that is; [`signal`] says that it may.
pub fn handle(number: usize, handler: fn()) {
    let mut handlers = HANDLERS.get();
    handlers[number] = Some(handler);
    HANDLERS.set(handlers);
}

/// Sends thread `number` its signal.
pub fn signal(number: usize) {
    kernel().signals[number].store(true, Ordering::SeqCst);
}

/// Before each operation of a thread: what interrupts it.
pub fn before(access: Access) {
    if !world::is_explored() || std::thread::panicking() {
        return;
    }
    let this = this_thread();
    let mut handlers = HANDLERS.get();
    if let Some(handler) = handlers[this]
        && kernel().signals[this].load(Ordering::SeqCst)
    {
        if IN_SECTION.get()[this] {
            // The handler runs before the next operation, outside of it.
            resume_unwind(Box::new(Aborted));
        }
        handlers[this] = None;
        HANDLERS.set(handlers);
        handler();
    }
    if access == Access::Write
        && IN_SECTION.get()[this]
        && kernel().evicted[this].load(Ordering::SeqCst)
    {
        resume_unwind(Box::new(Aborted));
    }
}

struct Aborted;

/// Runs a section of the calling thread on its processor; none if it was aborted.
pub fn section<R>(body: impl FnOnce() -> R) -> Option<R> {
    if !world::is_explored() {
        return Some(body());
    }
    let this = this_thread();
    let kernel = kernel();
    let processor = BLOCKS[this].area.cpu_id.load(Ordering::Relaxed) as usize;
    let (running, over) = &kernel.processors[processor];
    take_away(&kernel, processor, Some(this));
    set_in_section(this, true);
    let result = catch_unwind(AssertUnwindSafe(body));
    set_in_section(this, false);
    *running.lock().unwrap() = None;
    over.notify_all();
    match result {
        Ok(result) => Some(result),
        Err(payload) if payload.is::<Aborted>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// Runs a part of a section that is one instruction of the real one: nothing aborts the section in between.
pub fn at_once<R>(body: impl FnOnce() -> R) -> R {
    let this = this_thread();
    let was_inside = IN_SECTION.get()[this];
    set_in_section(this, false);
    let result = body();
    set_in_section(this, was_inside);
    result
}

fn set_in_section(this: usize, value: bool) {
    let mut all = IN_SECTION.get();
    all[this] = value;
    IN_SECTION.set(all);
}

/// Takes `processor` from the section that runs there, for `next`.
fn take_away(kernel: &Kernel, processor: usize, next: Option<usize>) {
    let (running, over) = &kernel.processors[processor];
    let mut guard = running.lock().unwrap();
    while let Some(other) = *guard {
        kernel.evicted[other].store(true, Ordering::SeqCst);
        guard = over.wait(guard).unwrap();
    }
    if let Some(this) = next {
        kernel.evicted[this].store(false, Ordering::SeqCst);
        *guard = next;
    }
}

/// membarrier(2): aborts the sections that run on this processor, or on any.
pub fn fence(processor: Option<usize>) {
    if world::is_explored() {
        let kernel = kernel();
        let named = |this: &usize| processor.is_none_or(|processor| processor == *this);
        (0..PROCESSORS).filter(named).for_each(|processor| take_away(&kernel, processor, None));
    }
}

/// futex(2), FUTEX_WAIT: sleeps unless `changed`.
pub fn sleep(changed: impl FnOnce() -> bool) {
    let kernel = kernel();
    let (lock, sleepers) = &kernel.futexes;
    let guard = lock.lock().unwrap();
    if !changed() {
        drop(sleepers[0].wait(guard).unwrap());
    }
}

/// futex(2), FUTEX_WAKE: wakes one.
pub fn wake() {
    wake_by(Condvar::notify_one);
}

/// futex(2), FUTEX_WAKE of all.
pub fn wake_all() {
    wake_by(Condvar::notify_all);
}

fn wake_by(notify: fn(&Condvar)) {
    if !world::is_explored() {
        return;
    }
    let kernel = kernel();
    let (lock, sleepers) = &kernel.futexes;
    let _guard = lock.lock().unwrap();
    notify(&sleepers[0]);
}

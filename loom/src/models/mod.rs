//! The models, and what runs one.
//!
//! A run is a process: it ends when a model meets a word that has no shadow yet (see `world`), and the next
//! one starts with it. Promises that the last run went through every order within the bound, or that the
//! program ends with an error.

mod biased;
mod children;
mod depot;
mod heap;
mod huge;
mod locks;
mod shards;

use crate::object::Object;
use crate::{machine, os, world};
use std::io::{Read, Write};
use std::os::fd::FromRawFd;

/// One model.
pub struct Model {
    pub name: &'static str,
    /// How often a thread may be interrupted where it could go on.
    pub preemptions: usize,
    pub body: fn(),
}

pub const ALL: &[Model] = &[
    depot::ABA,
    depot::MAKE,
    depot::HANDOVER,
    locks::FUTEX,
    locks::REENTRY,
    locks::HANDLERS,
    locks::FORKING,
    locks::LATE,
    locks::AGAIN,
    locks::TRIED,
    biased::STOPPED,
    biased::HANDLER,
    biased::HANDOVER,
    biased::STOPPED_ABOVE,
    shards::STOP,
    shards::STOP_EACH,
    shards::STOP_CID,
    shards::RELEASE,
    shards::RELEASE_ABOVE,
    shards::CREATION,
    huge::REBUILT,
    huge::MOVED,
    children::STARTED,
    children::WATCHED,
    children::HANDLER,
    heap::SEGMENTS,
    heap::OUTSIDE,
    heap::HINT,
    heap::DEFERRED,
    heap::PAGE_MAP,
    heap::PAGE_MAP_RELEASE,
];

/// How a run ends that has met a new word.
const MET: i32 = 77;

/// What a thread does, and on which processor.
pub type Body = (usize, Box<dyn FnOnce()>);

/// A thread's body.
pub fn on(processor: usize, body: impl FnOnce() + 'static) -> Body {
    (processor, Box::new(body))
}

/// What the threads of a model found, in the order in which they did.
#[derive(Clone, Default)]
pub struct Found(std::rc::Rc<std::cell::RefCell<Vec<usize>>>);

impl Found {
    pub fn add(&self, objects: impl IntoIterator<Item = usize>) {
        self.0.borrow_mut().extend(objects);
    }

    pub fn sorted(&self) -> Vec<usize> {
        let mut all = self.0.borrow().clone();
        all.sort();
        all
    }
}

/// A number in the place of an object.
pub fn object(number: usize) -> Object {
    // SAFETY: nothing reads or writes there.
    unsafe { Object::from_address(number) }.expect("not null")
}

/// Runs threads, numbered from 1, from the memory as it is now to their end; then the caller judges.
pub fn threads(bodies: Vec<Body>) {
    world::explore();
    let threads: Vec<_> = bodies
        .into_iter()
        .enumerate()
        .map(|(number, (processor, body))| machine::spawn(number + 1, processor, body))
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    world::judge();
}

/// Runs a model to the end; the process fails if an order breaks it.
pub fn run(model: &Model) {
    os::arena();
    loop {
        let (mut reader, writer) = pipe();
        // SAFETY: this process has one thread.
        match unsafe { libc::fork() } {
            0 => {
                drop(reader);
                go_through(model, writer);
            }
            child => {
                drop(writer);
                let mut met = Vec::new();
                reader.read_to_end(&mut met).expect("the run's answer");
                let mut status = 0;
                // SAFETY: our child.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                if libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0 {
                    return;
                }
                let learned = libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == MET;
                let words: Vec<usize> = met
                    .chunks_exact(8)
                    .map(|word| usize::from_ne_bytes(word.try_into().expect("8 bytes")))
                    .collect();
                let [address, maker, keeper] = words[..] else { std::process::exit(1) };
                if !learned {
                    std::process::exit(1);
                }
                // SAFETY: functions of this program, as the child of a fork saw them.
                unsafe {
                    world::learn(
                        address,
                        std::mem::transmute::<usize, world::Maker>(maker),
                        std::mem::transmute::<usize, world::Keeper>(keeper),
                    );
                }
            }
        }
    }
}

thread_local! {
    static ANSWER: std::cell::RefCell<Option<std::fs::File>> = const { std::cell::RefCell::new(None) };
}

fn go_through(model: &Model, answer: std::fs::File) -> ! {
    ANSWER.set(Some(answer));
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("in execution {}: {panic}", world::executions());
        // SAFETY: nothing is left to do.
        unsafe { libc::_exit(1) };
    }));
    world::on_new(|address, maker, keeper| {
        let words = [address, maker as usize, keeper as usize];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        ANSWER.with_borrow_mut(|answer| {
            answer.as_mut().expect("a run has a pipe").write_all(&bytes).expect("a pipe");
        });
        // SAFETY: nothing is left to do.
        unsafe { libc::_exit(MET) };
    });
    let begin = std::time::Instant::now();
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(model.preemptions);
    builder.max_branches = 100_000;
    let body = model.body;
    builder.check(move || {
        world::begin();
        os::restore();
        machine::boot();
        body();
        world::restore();
        machine::halt();
    });
    println!(
        "{:<12}{:>9} executions, {} words, {} preemptions, {:.1} s",
        model.name,
        world::executions(),
        world::known(),
        model.preemptions,
        begin.elapsed().as_secs_f64(),
    );
    let _ = std::io::stdout().flush();
    // SAFETY: nothing is left to do.
    unsafe { libc::_exit(0) };
}

fn pipe() -> (std::fs::File, std::fs::File) {
    let mut ends = [0; 2];
    // SAFETY: two descriptors of our own.
    unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0, "no pipe");
        (std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1]))
    }
}

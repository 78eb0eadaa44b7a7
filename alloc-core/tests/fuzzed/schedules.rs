//! Schedules of several threads, held against one model of what all of them hold.
//!
//! Each step is an operation of [`crate::operations`] on the thread that the schedule names. One thread
//! runs at a time, on a CPU that the schedule chooses, so that a schedule does the same again. Objects
//! belong to the thread whose turn it is: threads free, resize and look into those of the others, before and
//! after these have ended.

use crate::cpus::Cpus;
use crate::objects::{Defect, alone};
use crate::operations::{self, Program};
use rsalloc_core::internals::cpu_cache::exclusive::stop_all;
use rsalloc_core::internals::sync::Backoff;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;

/// A step. Threads and CPUs are taken modulo what there is.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    /// The thread does this.
    Run { thread: usize, op: operations::Op },
    /// The thread goes on on this CPU.
    Migrate { thread: usize, cpu: usize },
    /// The thread ends; the next step in its name is the first of another one.
    End { thread: usize },
    /// All shards are stopped, from outside, during so many steps.
    Stop { steps: usize },
}

/// Threads of a schedule.
pub const THREADS: usize = 4;

/// Runs the schedule, ends its threads and gives everything back; panics if a promise is broken. How
/// many objects came and went.
pub fn replay(ops: &[Op], defect: Option<Defect>) -> u64 {
    let _alone = alone();
    let cpus = Cpus::allowed();
    // The creation of a shard waits for the stopper, which here waits for the thread.
    cpus.each(|| drop_object(rsalloc_core::allocate(1)));
    let mut crew = Crew {
        program: Arc::new(Mutex::new(Program::start(defect))),
        cpus: Arc::new(cpus),
        workers: [const { None }; THREADS],
    };
    let mut ops = ops.iter().copied();
    while let Some(op) = ops.next() {
        match op {
            Op::Stop { steps } => crew.step_stopped(ops.by_ref().take(steps)),
            op => crew.step(op),
        }
    }
    (0..THREADS).for_each(|thread| crew.step(Op::End { thread }));
    let program = Arc::into_inner(crew.program).expect("all threads have ended");
    program.into_inner().expect("no thread has failed").end()
}

fn drop_object(object: *mut u8) {
    // SAFETY: live, or null.
    unsafe { rsalloc_core::free(object) };
}

struct Crew {
    program: Arc<Mutex<Program>>,
    cpus: Arc<Cpus>,
    workers: [Option<Worker>; THREADS],
}

impl Crew {
    fn step(&mut self, op: Op) {
        match op {
            Op::Run { thread, op } => self.worker(thread).work(Job::Run(op)),
            Op::Migrate { thread, cpu } => self.worker(thread).work(Job::Migrate(cpu)),
            Op::End { thread } => {
                self.workers[thread % THREADS].take().into_iter().for_each(Worker::end);
            }
            Op::Stop { .. } => {}
        }
    }

    /// Without the steps that would stop the shards too: they would wait for this thread, which waits
    /// for them.
    fn step_stopped(&mut self, steps: impl Iterator<Item = Op>) {
        // Nor shall an OS that refuses make any step one of those.
        self.step(Op::Run { thread: 0, op: operations::Op::Check });
        let stops = |op: &Op| matches!(op, Op::Run { op, .. } if op.may_stop_shards());
        let steps = steps.filter(|op| !stops(op));
        let done = stop_all(&mut Backoff::usual(), |_| steps.for_each(|op| self.step(op)));
        assert!(done.is_some(), "the shards were not stopped");
    }

    fn worker(&mut self, thread: usize) -> &mut Worker {
        let thread = thread % THREADS;
        let (program, cpus) = (&self.program, &self.cpus);
        self.workers[thread]
            .get_or_insert_with(|| Worker::begin(Arc::clone(program), Arc::clone(cpus), thread))
    }
}

enum Job {
    Run(operations::Op),
    Migrate(usize),
}

/// A thread that does one job at a time and says when it has.
struct Worker {
    jobs: mpsc::Sender<Job>,
    done: mpsc::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn begin(program: Arc<Mutex<Program>>, cpus: Arc<Cpus>, cpu: usize) -> Self {
        let (jobs, to_do) = mpsc::channel();
        let (says, done) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            cpus.move_to(cpu);
            for job in to_do {
                match job {
                    Job::Run(op) => program.lock().expect("no thread has failed").step(op),
                    Job::Migrate(cpu) => cpus.move_to(cpu),
                }
                says.send(()).expect("the schedule waits");
            }
        });
        Worker { jobs, done, thread: Some(thread) }
    }

    fn work(&mut self, job: Job) {
        let heard = self.jobs.send(job).is_ok() && self.done.recv().is_ok();
        if !heard && let Some(thread) = self.thread.take() {
            resume_unwind(thread.join().expect_err("a thread ends early only by a panic"));
        }
    }

    fn end(self) {
        drop(self.jobs);
        if let Some(Err(panic)) = self.thread.map(JoinHandle::join) {
            resume_unwind(panic);
        }
    }
}

//! Commands: what another process has a thread of this one do, such as `rsalloc release PID`.
//!
//! Promises: a command may come at any instant of any thread, as a signal may. It waits for no lock for long, allocates
//! nothing, and does not touch the thread's stack. The other process needs to live only until the thread has begun: the thread
//! goes on by itself where it was.
//!
//! The other process stops a thread (ptrace), writes what the thread was at to `frame`, as the kernel does for a signal
//! handler, and lets the thread go on at [`COMMAND_ENTRY`](crate::arch::COMMAND_ENTRY). The thread calls [`run`] on the stack
//! here and stores the answer. Then the other process stops the thread again and restores it; if it does not, the thread
//! returns by sigreturn(2).
//!
//! ```text
//! Area: state, answers | answer | ... <- stack grows down | frame: as of a signal handler, struct ucontext and vector registers |
//!                                                                  ^ the stack pointer at the entry: 16 bytes on x86-64, 0 on aarch64
//! ```
//!
//! Invariants:
//! I1. One thread at a time is at a command: until it has left, `state` is [`BUSY`] or its instruction is in the entry, and
//!     another process, which has to stop the same thread first, leaves both alone.

use super::api;
use super::init;
use super::settings::{self, Unchanged};
use crate::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::config::{Key, Origin};
use crate::cpu_cache::drain;
use crate::os;
use crate::sync::WaitBudget;
use core::cell::UnsafeCell;

/// No thread is at a command.
pub const FREE: u32 = 0;
/// A thread is, or waits behind its answer to be restored.
pub const BUSY: u32 = 1;

/// A release takes 2 KiB of it (`cargo test --test remote`).
pub const STACK_BYTES: usize = 128 << 10;
/// As much as the kernel saves of any processor's registers (AMX: 11 KiB; SVE: 9 KiB).
pub const FRAME_BYTES: usize = 16 << 10;

/// The memory of commands; see the head of the module. Untouched until the first.
#[repr(C, align(64))]
pub struct Area {
    /// [`FREE`] or [`BUSY`].
    pub state: AtomicU32,
    /// Commands that were answered.
    pub answers: AtomicU32,
    /// What [`run`] returned.
    pub answer: AtomicUsize,
    stack: UnsafeCell<[u8; STACK_BYTES]>,
    /// Multiple of 64, as the registers of floating point behind it must be.
    pub frame: Frame,
}

/// See [`Area::frame`].
#[repr(C, align(64))]
pub struct Frame(UnsafeCell<[u8; FRAME_BYTES]>);

// SAFETY: stack and frame are used by one thread (I1), and no code here forms a reference to what is in them.
unsafe impl Sync for Area {}

/// The one area.
pub static AREA: Area = Area {
    state: AtomicU32::new(FREE),
    answers: AtomicU32::new(0),
    answer: AtomicUsize::new(0),
    stack: UnsafeCell::new([0; STACK_BYTES]),
    frame: Frame(UnsafeCell::new([0; FRAME_BYTES])),
};

/// In the child of a fork, which has no thread at a command.
pub fn forget() {
    // Ordering: Relaxed, there is no other thread.
    AREA.state.store(FREE, Ordering::Relaxed);
}

/// What can be commanded. The numbers are part of what is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Gives all cached and free memory back to the OS; the answer is the number of bytes.
    Release,
    /// Sets the key to the argument; the answer is 0.
    Set(Key),
    /// Starts a heap profile with a mean interval of so many bytes; the answer is 0, or an errno.
    StartProfile,
    /// Stops it; the answer is 0, or an errno.
    StopProfile,
}

const RELEASE: usize = 1;
const SET: usize = 2;
const START_PROFILE: usize = 3;
const STOP_PROFILE: usize = 4;
/// The key's number is in the bits from here.
const KEY_SHIFT: u32 = 8;

impl Operation {
    /// The word that stands for it.
    pub fn word(self) -> usize {
        match self {
            Operation::Release => RELEASE,
            Operation::Set(key) => SET | (key as usize) << KEY_SHIFT,
            Operation::StartProfile => START_PROFILE,
            Operation::StopProfile => STOP_PROFILE,
        }
    }

    fn of_word(word: usize) -> Option<Self> {
        match word & ((1 << KEY_SHIFT) - 1) {
            RELEASE => Some(Operation::Release),
            SET => Key::ALL.get(word >> KEY_SHIFT).map(|&key| Operation::Set(key)),
            START_PROFILE => Some(Operation::StartProfile),
            STOP_PROFILE => Some(Operation::StopProfile),
            _ => None,
        }
    }
}

/// Why a command was not carried out. The numbers are part of what is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(isize)]
pub enum Refusal {
    /// This version does not know the operation, or the key.
    Unknown = -1,
    /// The allocator has not begun, or locks were held for too long: it may be asked again.
    Busy = -2,
    /// The key takes effect at the start only.
    AtStartOnly = -3,
    /// The system refused the memory that the setting needs.
    NoMemory = -4,
    /// The process was built without the part that obeys the setting.
    LeftOut = -5,
}

impl Refusal {
    /// The refusal that an answer is, if it is one: [`Refusal::Unknown`] for one of a later version.
    pub fn of_answer(answer: isize) -> Option<Self> {
        let refusals = [
            Refusal::Unknown,
            Refusal::Busy,
            Refusal::AtStartOnly,
            Refusal::NoMemory,
            Refusal::LeftOut,
        ];
        let known = refusals.into_iter().find(|&refusal| refusal as isize == answer);
        known.or((answer < 0).then_some(Refusal::Unknown))
    }
}

/// Carries a command out: an answer, or a [`Refusal`] below 0. Called by `arch::command_entry` alone.
pub extern "C" fn run(operation: usize, argument: usize) -> isize {
    let errno = os::errno();
    let answer = carry_out(operation, argument);
    os::set_errno(errno);
    answer.unwrap_or_else(|refusal| refusal as isize)
}

fn carry_out(operation: usize, argument: usize) -> Result<isize, Refusal> {
    let operation = Operation::of_word(operation).ok_or(Refusal::Unknown)?;
    if !init::ensure() {
        return Err(Refusal::Busy);
    }
    match operation {
        Operation::Release => match drain::drain_in_time() {
            (0, drain::Left::Busy) => Err(Refusal::Busy),
            (bytes, _) => Ok(bytes as isize),
        },
        Operation::Set(key) => {
            // In a stopped process the holder of a lock does not go on.
            let _budget = WaitBudget::bounded();
            match settings::change(key, argument, Origin::Outside) {
                Err(Unchanged::Refused(refusal)) => Err(refusal),
                Err(_) => Err(Refusal::Unknown),
                Ok(()) => Ok(0),
            }
        }
        Operation::StartProfile => Ok(api::start_profile_for_c(argument) as isize),
        Operation::StopProfile => Ok(api::stop_profile_for_c() as isize),
    }
}

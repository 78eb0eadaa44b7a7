//! Call stacks, from the registers of a place in the code.
//!
//! Promises: takes no lock, allocates nothing, never faults on a stack; may run in a handler, while a library is loaded and beside
//! a fork. A walk follows the unwind tables (`.eh_frame`) of the modules; where there are none (code made at run time), the
//! chain of frame pointers. It ends where neither leads further.

mod cfi;
mod cursor;
mod expression;
mod memory;
mod modules;

pub use memory::try_probe;
pub use modules::find as find_modules;

use crate::arch::Registers;
use crate::os;
use cfi::{Frame, Rule, Rules};
use memory::StackMemory;

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// No caller is known.
    Reached,
    /// There was no space for more frames.
    Truncated,
}

/// Writes the frames from `caller` on, the innermost first, in the form of `layout`; how many. Those of a library that is
/// nothing but this allocator are left out at the beginning.
pub fn walk(caller: &Registers, frames: &mut [usize]) -> (usize, End) {
    let mut walk = Walk::new(caller);
    let mut count = 0;
    while let Some(frame) = walk.frame() {
        if count > 0 || !modules::is_own(frame - 1) {
            let Some(place) = frames.get_mut(count) else { return (count, End::Truncated) };
            *place = frame;
            count += 1;
        }
        if walk.go_to_caller().is_none() {
            break;
        }
    }
    (count, End::Reached)
}

struct Walk {
    registers: Registers,
    memory: StackMemory,
    /// Whether the place is one at which a signal came, not one behind a call.
    is_interrupted: bool,
}

impl Walk {
    fn new(caller: &Registers) -> Self {
        let here = 0usize;
        Walk {
            registers: *caller,
            memory: StackMemory::new(&raw const here as usize),
            is_interrupted: false,
        }
    }

    /// The frame of the place; none at the end.
    fn frame(&self) -> Option<usize> {
        let pc = self.registers.0[Registers::PC];
        (pc > os::page_bytes()).then(|| pc + usize::from(self.is_interrupted))
    }

    fn go_to_caller(&mut self) -> Option<()> {
        let place = self.frame()? - 1;
        let rules = modules::module_of(place).and_then(|module| cfi::rules_at(&module, place));
        match rules {
            Some(rules) => self.follow(&rules),
            None => self.follow_frame_pointer(),
        }
    }

    fn follow(&mut self, rules: &Rules) -> Option<()> {
        let old = self.registers;
        let frame = match rules.frame {
            Frame::Register { register, offset } => {
                old.0.get(usize::from(register))?.wrapping_add_signed(offset)
            }
            Frame::Expression(at) => {
                expression::evaluate(at, rules.end, None, &old, &mut self.memory)?
            }
        };
        self.registers.0[Registers::SP] = frame;
        for (column, rule) in rules.registers.iter().enumerate() {
            let memory = &mut self.memory;
            let value = match *rule {
                Rule::Unspecified => continue,
                Rule::Undefined if column == Registers::PC => return None,
                Rule::Undefined => continue,
                Rule::Offset(offset) => memory.word(frame.wrapping_add_signed(offset))?,
                Rule::ValueOffset(offset) => frame.wrapping_add_signed(offset),
                Rule::Register(register) => *old.0.get(usize::from(register))?,
                Rule::Expression(at) => {
                    let address = expression::evaluate(at, rules.end, Some(frame), &old, memory)?;
                    memory.word(address)?
                }
                Rule::Value(at) => expression::evaluate(at, rules.end, Some(frame), &old, memory)?,
            };
            self.registers.0[column] = value;
        }
        // A caller's frame lies further up, or on another stack that a signal interrupted.
        let is_ahead = rules.is_signal || frame > old.0[Registers::SP];
        self.is_interrupted = rules.is_signal;
        is_ahead.then_some(())
    }

    /// `frame pointer -> the caller's frame pointer, return address`.
    fn follow_frame_pointer(&mut self) -> Option<()> {
        const WORD: usize = size_of::<usize>();
        let (frame, stack) = (self.registers.0[Registers::FP], self.registers.0[Registers::SP]);
        if frame < stack {
            return None;
        }
        let callers = self.memory.word(frame)?;
        self.registers.0[Registers::PC] = self.memory.word(frame + WORD)?;
        self.registers.0[Registers::SP] = frame + 2 * WORD;
        self.registers.0[Registers::FP] = callers;
        self.is_interrupted = false;
        Some(())
    }
}

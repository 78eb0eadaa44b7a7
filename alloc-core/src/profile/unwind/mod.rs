//! Call stacks, from the registers of a place in the code.
//!
//! Promises: takes no lock, allocates nothing, reads of a stack only what `memory` finds readable; may run in a handler, while a
//! library is loaded and beside a fork. A walk follows the unwind tables (`.eh_frame`) of the modules; where there are none (code made at run time), the
//! chain of frame pointers. It ends where neither leads further.

#[forbid(unsafe_code)]
pub mod cache;
mod cfi;
mod cursor;
mod expression;
mod memory;
mod modules;

pub use memory::{Known, try_probe};
pub use modules::find as find_modules;

use crate::arch::{self, Registers};
use crate::fail::Line;
use crate::os;
use crate::profile::layout::FRAMES_MAX;
use cache::Short;
use cfi::{Frame, Rule, Run};
use memory::StackMemory;
use modules::Module;

/// How a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// No caller is known.
    Reached,
    /// There was no space for more frames.
    Truncated,
}

/// What earlier walks have found, for all threads. Zeroes are valid.
pub struct Found {
    rules: [cache::Entry; cache::ENTRIES],
    stacks: Known,
}

/// What one walk works with: too much for the stack of a handler. Zeroes are valid.
pub struct Work {
    /// The frames that were found.
    pub frames: [usize; FRAMES_MAX],
    registers: Registers,
    /// Those of the frame before.
    callee: Registers,
    run: Run,
}

/// Writes the frames from `caller` on to `work.frames`, the innermost first, in the form of `layout`; how many. Those of a
/// library that is nothing but this allocator are left out at the beginning.
pub fn walk(caller: &Registers, found: &Found, work: &mut Work) -> (usize, End) {
    work.registers.0.copy_from_slice(&caller.0);
    let mut walk = Walk::new(caller, found, &mut work.registers, &mut work.callee, &mut work.run);
    let mut count = 0;
    while let Some(frame) = walk.frame() {
        if count > 0 || !modules::is_own(frame - 1) {
            let Some(place) = work.frames.get_mut(count) else { return (count, End::Truncated) };
            *place = frame;
            count += 1;
        }
        if walk.go_to_caller().is_none() {
            break;
        }
    }
    (count, End::Reached)
}

/// A line that names the place of a frame: its module, and how far into it the call is.
pub fn describe(what: &str, frame: usize) -> Line {
    let mut line = Line::new();
    line.text("rsalloc: ").text(what).text(" ");
    name_place(&mut line, frame, None);
    line.end();
    line
}

/// Appends the places of frames, as many as a line has space for: `/usr/bin/server+0x1f00 < +0x1e40 < /usr/lib/libc.so.6+0x27249`. A module
/// is named where another one was before.
pub fn name_places(line: &mut Line, frames: &[usize]) {
    let mut module = None;
    for (number, &frame) in frames.iter().enumerate() {
        // The longest place of the same module; one of another may be cut off at the end.
        if line.space() < 32 {
            return;
        }
        line.text(if number == 0 { "" } else { " < " });
        module = name_place(line, frame, module);
    }
}

/// Appends the place of a frame, without its module if that begins at `before`; where its module begins.
fn name_place(line: &mut Line, frame: usize, before: Option<usize>) -> Option<usize> {
    let mut name = [0; 256];
    let place = frame - 1;
    let Some((len, start)) = modules::name_of(place, &mut name) else {
        line.text("0x").hex(place);
        return None;
    };
    if before != Some(start) {
        line.printable(core::str::from_utf8(&name[..len]).unwrap_or("?"));
    }
    line.text("+0x").hex(place - start);
    Some(start)
}

struct Walk<'a> {
    found: &'a Found,
    registers: &'a mut Registers,
    callee: &'a mut Registers,
    run: &'a mut Run,
    memory: StackMemory<'a>,
    /// That of the frame before: it stays loaded while its code is on the stack.
    module: Module,
    /// Whether the place is one at which a signal came, not one behind a call.
    is_interrupted: bool,
}

impl<'a> Walk<'a> {
    fn new(
        caller: &Registers,
        found: &'a Found,
        registers: &'a mut Registers,
        callee: &'a mut Registers,
        run: &'a mut Run,
    ) -> Self {
        Walk {
            found,
            registers,
            callee,
            run,
            // Without assembly all registers are 0, and no frame is read.
            memory: StackMemory::new(caller.0[Registers::SP].saturating_sub(1), &found.stacks),
            module: Module { range: 0..0, eh_frame: 0 },
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
        if !self.module.range.contains(&place) {
            match modules::module_of(place) {
                Some(module) => self.module = module,
                None => return self.go_to_interrupted().or_else(|| self.follow_frame_pointer()),
            }
        }
        match cache::find(&self.found.rules, place, self.module.eh_frame) {
            Some(short) => self.follow_short(&short),
            None => self.go_by_tables(place),
        }
    }

    #[cold]
    #[inline(never)]
    fn go_by_tables(&mut self, place: usize) -> Option<()> {
        if cfi::find_rules(&self.module, place, self.run).is_none() {
            return self.follow_frame_pointer();
        }
        if let Some(short) = Short::of(&self.run.rules) {
            cache::keep(&self.found.rules, place, self.module.eh_frame, short);
        }
        self.follow()
    }

    fn follow_short(&mut self, short: &Short) -> Option<()> {
        const WORD: usize = size_of::<usize>();
        let frame = self.registers.0.get(short.register)?.wrapping_add_signed(short.offset);
        let return_address = self.memory.word(frame.wrapping_sub(WORD))?;
        for (&column, &at) in Registers::PRESERVED.iter().zip(&short.saved) {
            if at != 0 {
                let saved = frame.wrapping_sub(usize::from(at) * WORD);
                self.registers.0[column] = self.memory.word(saved)?;
            }
        }
        let before = core::mem::replace(&mut self.registers.0[Registers::SP], frame);
        self.registers.0[Registers::PC] = return_address;
        self.is_interrupted = false;
        (frame > before).then_some(())
    }

    /// Follows `run.rules`.
    fn follow(&mut self) -> Option<()> {
        let (rules, old, memory) = (&self.run.rules, &mut *self.callee, &mut self.memory);
        old.0.copy_from_slice(&self.registers.0);
        let frame = match rules.frame {
            Frame::Register { register, offset } => {
                old.0.get(usize::from(register))?.wrapping_add_signed(offset)
            }
            Frame::Expression(at) => expression::evaluate(at, rules.end, None, old, memory)?,
        };
        self.registers.0[Registers::SP] = frame;
        for (column, rule) in rules.registers.iter().enumerate() {
            let value = match *rule {
                Rule::Unspecified => continue,
                Rule::Undefined if column == Registers::PC => return None,
                Rule::Undefined => continue,
                Rule::Offset(offset) => memory.word(frame.wrapping_add_signed(offset))?,
                Rule::ValueOffset(offset) => frame.wrapping_add_signed(offset),
                Rule::Register(register) => *old.0.get(usize::from(register))?,
                Rule::Expression(at) => {
                    let address = expression::evaluate(at, rules.end, Some(frame), old, memory)?;
                    memory.word(address)?
                }
                Rule::Value(at) => expression::evaluate(at, rules.end, Some(frame), old, memory)?,
            };
            self.registers.0[column] = value;
        }
        // A caller's frame lies further up, or on another stack that a signal interrupted.
        let is_ahead = rules.is_signal || frame > old.0[Registers::SP];
        self.is_interrupted = rules.is_signal;
        if rules.is_signal {
            // Tables need not be right at each instruction of what was interrupted.
            self.memory.check_from(frame);
        }
        is_ahead.then_some(())
    }

    /// From code of the kernel, to which handlers return, to what the signal interrupted, where no table leads there.
    fn go_to_interrupted(&mut self) -> Option<()> {
        if !arch::RETURNS_WITHOUT_TABLE {
            return None;
        }
        let [place, stack] = [Registers::PC, Registers::SP].map(|column| self.registers.0[column]);
        if !memory::is_readable(place) {
            return None;
        }
        // SAFETY: the kernel read 8 bytes there a moment ago.
        let saved = unsafe { arch::saved_by_signal(place, stack) }?;
        for (column, address) in saved.into_iter().enumerate() {
            self.callee.0[column] = self.memory.word(address)?;
        }
        self.registers.0.copy_from_slice(&self.callee.0);
        self.is_interrupted = true;
        self.memory.check_from(self.registers.0[Registers::SP]);
        Some(())
    }

    /// `frame pointer -> the caller's frame pointer, return address`. The register may hold anything, so it is followed only
    /// to where the stack goes on.
    #[inline(never)]
    fn follow_frame_pointer(&mut self) -> Option<()> {
        const WORD: usize = size_of::<usize>();
        let (frame, stack) = (self.registers.0[Registers::FP], self.registers.0[Registers::SP]);
        if frame < stack {
            return None;
        }
        if !self.memory.is_checking() {
            self.memory.check_from(stack);
        }
        if !self.memory.adjoins(frame, 2) {
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

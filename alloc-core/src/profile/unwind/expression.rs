//! DWARF expressions (DWARF 5, section 2.5), as far as unwind tables use them: of procedure linkage tables and signal frames.

use super::cursor::Cursor;
use super::memory::StackMemory;
use crate::arch::Registers;

/// Words of the expression's own stack.
const DEPTH: usize = 8;

/// The value of the expression whose length and bytes are at `at`, in a module that ends at `end`; `first` is on its stack, if
/// there is one.
pub fn evaluate(
    at: usize,
    end: usize,
    first: Option<usize>,
    registers: &Registers,
    memory: &mut StackMemory<'_>,
) -> Option<usize> {
    // SAFETY: the expression lies in a loaded module, see `cfi::find_rules`.
    let mut code = unsafe { Cursor::new(at, end) };
    let len = code.uleb()?;
    let mut code = code.split(len)?;
    let mut stack = Stack { words: [0; DEPTH], depth: 0 };
    if let Some(first) = first {
        stack.push(first)?;
    }
    while !code.is_empty() {
        match code.u8()? {
            0x06 => {
                let address = stack.pop()?;
                stack.push(memory.word(address)?)?;
            }
            0x08 => stack.push(usize::from(code.u8()?))?,
            0x09 => stack.push(code.u8()? as i8 as usize)?,
            0x0a => stack.push(usize::from(code.u16()?))?,
            0x0b => stack.push(code.u16()? as i16 as usize)?,
            0x0c => stack.push(code.u32()? as usize)?,
            0x0d => stack.push(code.u32()? as i32 as usize)?,
            0x10 => stack.push(code.uleb()?)?,
            0x11 => stack.push(code.sleb()? as usize)?,
            0x12 => {
                let top = stack.pop()?;
                stack.push(top)?;
                stack.push(top)?;
            }
            0x1a => stack.combine(|a, b| a & b)?,
            0x1c => stack.combine(usize::wrapping_sub)?,
            0x21 => stack.combine(|a, b| a | b)?,
            0x22 => stack.combine(usize::wrapping_add)?,
            0x23 => {
                let top = stack.pop()?;
                stack.push(top.wrapping_add(code.uleb()?))?;
            }
            0x24 => stack.combine(|a, b| a.checked_shl(b as u32).unwrap_or(0))?,
            0x25 => stack.combine(|a, b| a.checked_shr(b as u32).unwrap_or(0))?,
            0x2a => stack.combine(|a, b| usize::from(a as isize >= b as isize))?,
            literal @ 0x30..=0x4f => stack.push(usize::from(literal - 0x30))?,
            based @ 0x70..=0x8f => {
                let register = *registers.0.get(usize::from(based - 0x70))?;
                stack.push(register.wrapping_add_signed(code.sleb()?))?;
            }
            0x96 => {}
            _ => return None,
        }
    }
    stack.pop()
}

struct Stack {
    words: [usize; DEPTH],
    depth: usize,
}

impl Stack {
    fn push(&mut self, word: usize) -> Option<()> {
        *self.words.get_mut(self.depth)? = word;
        self.depth += 1;
        Some(())
    }

    fn pop(&mut self) -> Option<usize> {
        self.depth = self.depth.checked_sub(1)?;
        Some(self.words[self.depth])
    }

    fn combine(&mut self, f: impl FnOnce(usize, usize) -> usize) -> Option<()> {
        let (second, first) = (self.pop()?, self.pop()?);
        self.push(f(first, second))
    }
}

//! Call frame information: from a place in the code to the rules by which its caller's registers are found.
//!
//! Follows DWARF 5, section 6.4, in the form that the LSB gives it in `.eh_frame` and `.eh_frame_hdr`. Allocates nothing; what it does
//! not know is none. Its state is the caller's ([`Run`]), for it would be too much for a handler's stack.

use super::cursor::Cursor;
use super::modules::Module;
use crate::arch::Registers;

/// States that a function may remember at once.
const REMEMBERED: usize = 3;

/// How the caller's value of a register is found. Zeroes are a valid one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Rule {
    /// Nothing is said: the function preserves it.
    Unspecified,
    /// The caller's value is lost.
    Undefined,
    /// In memory, so far from the frame's address.
    Offset(isize),
    /// The frame's address plus so much.
    ValueOffset(isize),
    /// In this register.
    Register(u8),
    /// In memory at the value of the expression, whose length and bytes are at this address.
    Expression(usize),
    /// The value of the expression.
    Value(usize),
}

/// How the address of the frame (CFA) is found. Zeroes are a valid one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Frame {
    Register { register: u8, offset: isize },
    Expression(usize),
}

/// The rules at one place.
#[derive(Clone, Copy)]
pub struct Rules {
    pub frame: Frame,
    pub registers: [Rule; Registers::COLUMNS],
    /// Whether the frame is that of a signal: its caller was interrupted, and did not call.
    pub is_signal: bool,
    /// The end of the module, behind which no expression is read.
    pub end: usize,
}

/// The common part of several functions (CIE).
struct Common {
    code_align: usize,
    data_align: isize,
    pointer_encoding: u8,
    has_augmentation: bool,
    is_signal: bool,
    instructions: Cursor,
}

/// Finds the rules at `address` in `module`: they are `run.rules` then.
pub fn find_rules(module: &Module, address: usize, run: &mut Run) -> Option<()> {
    let end = module.range.end;
    let is_inside = |at: &usize| module.range.contains(at);
    let description = find_description(module, address).filter(is_inside)?;
    // SAFETY: inside of the module, which is loaded while its code is on the stack. An address that only looks like a caller's may
    // lie in one that another thread unloads; then nothing more can be known of it than that libc still has it.
    let mut entry = unsafe { Cursor::new(description, end) };
    let length = entry.u32()? as usize;
    let mut entry = entry.split(length)?;
    let place = entry.address();
    let common = Some(place.wrapping_sub(entry.u32()? as usize)).filter(is_inside)?;
    let common = parse_common(common, end)?;
    let start = entry.pointer(common.pointer_encoding)?;
    let length = entry.pointer(common.pointer_encoding & 0x0f)?;
    if address.wrapping_sub(start) >= length {
        return None;
    }
    if common.has_augmentation {
        let len = entry.uleb()?;
        entry.skip(len)?;
    }
    run.rules.frame = Frame::Register { register: 0, offset: 0 };
    run.rules.registers.fill(Rule::Unspecified);
    (run.rules.is_signal, run.rules.end) = (common.is_signal, end);
    run.initial.fill(Rule::Unspecified);
    (run.address, run.target) = (start, address);
    run.execute(&common, common.instructions)?;
    run.initial.copy_from_slice(&run.rules.registers);
    run.execute(&common, entry)
}

/// The address of the description (FDE) for `address`, by the table of `.eh_frame_hdr`, which is sorted.
fn find_description(module: &Module, address: usize) -> Option<usize> {
    const VERSION: u8 = 1;
    /// udata4; datarel | sdata4.
    const COUNT_ENCODING: u8 = 0x03;
    const TABLE_ENCODING: u8 = 0x3b;
    // SAFETY: as in `find_rules`.
    let mut header = unsafe { Cursor::new(module.eh_frame, module.range.end) };
    let (version, frames) = (header.u8()?, header.u8()?);
    let (count, table) = (header.u8()?, header.u8()?);
    if (version, count, table) != (VERSION, COUNT_ENCODING, TABLE_ENCODING) {
        return None;
    }
    header.pointer(frames)?;
    let count = header.u32()? as usize;
    let rows = header.split(count.checked_mul(8)?)?;
    let row = |index: usize| {
        let mut row = rows;
        row.skip(index * 8)?;
        let relative = |offset: u32| module.eh_frame.wrapping_add(offset as i32 as usize);
        Some((relative(row.u32()?), relative(row.u32()?)))
    };
    let (mut low, mut high) = (0, count);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if row(middle)?.0 <= address { low = middle } else { high = middle }
    }
    let (start, description) = row(low)?;
    (start <= address).then_some(description)
}

fn parse_common(at: usize, end: usize) -> Option<Common> {
    // SAFETY: as in `find_rules`.
    let mut entry = unsafe { Cursor::new(at, end) };
    let length = entry.u32()? as usize;
    let mut entry = entry.split(length)?;
    if entry.u32()? != 0 {
        return None;
    }
    let version = entry.u8()?;
    let mut augmentation = entry;
    while entry.u8()? != 0 {}
    let code_align = entry.uleb()?;
    let data_align = entry.sleb()?;
    let return_column = if version == 1 { usize::from(entry.u8()?) } else { entry.uleb()? };
    if return_column != Registers::PC {
        return None;
    }
    let mut common = Common {
        code_align,
        data_align,
        pointer_encoding: 0,
        has_augmentation: false,
        is_signal: false,
        instructions: entry,
    };
    let mut data = None;
    loop {
        match augmentation.u8()? {
            0 => break,
            b'z' => {
                common.has_augmentation = true;
                let len = entry.uleb()?;
                data = Some(entry.split(len)?);
            }
            b'R' => common.pointer_encoding = data.as_mut()?.u8()?,
            b'L' => drop(data.as_mut()?.u8()?),
            b'P' => {
                let data = data.as_mut()?;
                let encoding = data.u8()?;
                // A pointer to the personality, indirect or not: only its length matters.
                data.pointer(encoding & 0x0f)?;
            }
            b'S' => common.is_signal = true,
            _ => return None,
        }
    }
    common.instructions = entry;
    Some(common)
}

/// The state of a search for rules. Zeroes are a valid one.
pub struct Run {
    /// The rules that were found.
    pub rules: Rules,
    initial: [Rule; Registers::COLUMNS],
    remembered: [(Frame, [Rule; Registers::COLUMNS]); REMEMBERED],
    address: usize,
    target: usize,
}

impl Run {
    /// Executes instructions up to the target (DWARF 5, 6.4.2).
    fn execute(&mut self, common: &Common, mut code: Cursor) -> Option<()> {
        let mut depth = 0;
        while !code.is_empty() {
            let byte = code.u8()?;
            let low = byte & 0x3f;
            match byte >> 6 {
                1 => self.advance(usize::from(low) * common.code_align),
                2 => {
                    let offset = code.uleb()? as isize * common.data_align;
                    self.set(usize::from(low), Rule::Offset(offset));
                }
                3 => self.restore(usize::from(low)),
                _ => match low {
                    0x00 => {}
                    0x01 => self.address = code.pointer(common.pointer_encoding)?,
                    0x02 => self.advance(usize::from(code.u8()?) * common.code_align),
                    0x03 => self.advance(usize::from(code.u16()?) * common.code_align),
                    0x04 => self.advance(code.u32()? as usize * common.code_align),
                    0x05 => {
                        let register = code.uleb()?;
                        let offset = code.uleb()? as isize * common.data_align;
                        self.set(register, Rule::Offset(offset));
                    }
                    0x06 => {
                        let register = code.uleb()?;
                        self.restore(register);
                    }
                    0x07 => {
                        let register = code.uleb()?;
                        self.set(register, Rule::Undefined);
                    }
                    0x08 => {
                        let register = code.uleb()?;
                        self.set(register, Rule::Unspecified);
                    }
                    0x09 => {
                        let (register, other) = (code.uleb()?, code.uleb()?);
                        self.set(register, Rule::Register(u8::try_from(other).ok()?));
                    }
                    0x0a => {
                        let remembered = self.remembered.get_mut(depth)?;
                        remembered.0 = self.rules.frame;
                        remembered.1.copy_from_slice(&self.rules.registers);
                        depth += 1;
                    }
                    0x0b => {
                        depth = depth.checked_sub(1)?;
                        let remembered = &self.remembered[depth];
                        self.rules.frame = remembered.0;
                        self.rules.registers.copy_from_slice(&remembered.1);
                    }
                    0x0c => {
                        let register = u8::try_from(code.uleb()?).ok()?;
                        self.rules.frame =
                            Frame::Register { register, offset: code.uleb()? as isize };
                    }
                    0x0d => self.set_frame(Some(u8::try_from(code.uleb()?).ok()?), None)?,
                    0x0e => self.set_frame(None, Some(code.uleb()? as isize))?,
                    0x0f => {
                        self.rules.frame = Frame::Expression(code.address());
                        let len = code.uleb()?;
                        code.skip(len)?;
                    }
                    0x10 | 0x16 => {
                        let register = code.uleb()?;
                        let at = code.address();
                        let rule = if low == 0x10 { Rule::Expression(at) } else { Rule::Value(at) };
                        self.set(register, rule);
                        let len = code.uleb()?;
                        code.skip(len)?;
                    }
                    0x11 => {
                        let register = code.uleb()?;
                        let offset = code.sleb()? * common.data_align;
                        self.set(register, Rule::Offset(offset));
                    }
                    0x12 => {
                        let register = u8::try_from(code.uleb()?).ok()?;
                        let offset = code.sleb()? * common.data_align;
                        self.rules.frame = Frame::Register { register, offset };
                    }
                    0x13 => {
                        let offset = code.sleb()? * common.data_align;
                        self.set_frame(None, Some(offset))?;
                    }
                    0x14 => {
                        let register = code.uleb()?;
                        let offset = code.uleb()? as isize * common.data_align;
                        self.set(register, Rule::ValueOffset(offset));
                    }
                    0x15 => {
                        let register = code.uleb()?;
                        let offset = code.sleb()? * common.data_align;
                        self.set(register, Rule::ValueOffset(offset));
                    }
                    // DW_CFA_GNU_args_size
                    0x2e => drop(code.uleb()?),
                    _ => return None,
                },
            }
            if self.address > self.target {
                return Some(());
            }
        }
        Some(())
    }

    fn advance(&mut self, bytes: usize) {
        self.address = self.address.wrapping_add(bytes);
    }

    /// Columns that are not followed (of the vector unit) are left out.
    fn set(&mut self, register: usize, rule: Rule) {
        if let Some(known) = self.rules.registers.get_mut(register) {
            *known = rule;
        }
    }

    fn restore(&mut self, register: usize) {
        if let Some(&rule) = self.initial.get(register) {
            self.set(register, rule);
        }
    }

    fn set_frame(&mut self, register: Option<u8>, offset: Option<isize>) -> Option<()> {
        let Frame::Register { register: old_register, offset: old_offset } = self.rules.frame
        else {
            return None;
        };
        self.rules.frame = Frame::Register {
            register: register.unwrap_or(old_register),
            offset: offset.unwrap_or(old_offset),
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_read_inside_of_their_module_only() {
        const COMMON: [u8; 16] =
            [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0x78, Registers::PC as u8, 0x0c, 7, 8];
        const DESCRIPTION: usize = COMMON.len();
        const HEADER: usize = DESCRIPTION + 24;
        let mut bytes = [0u8; HEADER + 20];
        let first = bytes.as_ptr() as usize;
        let code = first + HEADER;
        let mut write = |at: usize, part: &[u8]| bytes[at..at + part.len()].copy_from_slice(part);
        write(0, &COMMON);
        write(0, &12u32.to_ne_bytes());
        write(DESCRIPTION, &20u32.to_ne_bytes());
        write(DESCRIPTION + 4, &(DESCRIPTION as u32 + 4).to_ne_bytes());
        write(DESCRIPTION + 8, &code.to_ne_bytes());
        write(DESCRIPTION + 16, &16usize.to_ne_bytes());
        write(HEADER, &[1, 0x1b, 0x03, 0x3b]);
        write(HEADER + 8, &1u32.to_ne_bytes());
        write(HEADER + 16, &(DESCRIPTION as i32 - HEADER as i32).to_ne_bytes());
        // SAFETY: zeroes are a valid one.
        let mut run: Run = unsafe { core::mem::zeroed() };
        let mut rules_from = |start: usize| {
            let module = Module { range: start..first + bytes.len(), eh_frame: first + HEADER };
            find_rules(&module, code + 8, &mut run).map(|()| run.rules.frame)
        };
        assert_eq!(rules_from(first), Some(Frame::Register { register: 7, offset: 8 }));
        // As a damaged file has them: the common part before the module, then the description too.
        assert_eq!(rules_from(first + DESCRIPTION), None);
        assert_eq!(rules_from(first + HEADER), None);
    }
}

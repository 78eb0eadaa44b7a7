//! Rules that were found before: nearly every step of a walk is one that another walk has made.
//!
//! Promises: an entry that is read is one that was written whole, or none: its last word holds a check of the others, so threads
//! and handlers read and write entries without order. An entry is known by its place and by where the module's unwind tables
//! are. A module that is loaded where another one was, with its tables at the same address (a rebuilt plugin), gets the other's
//! rules where both have a call: such a walk may name wrong frames or end early. Its words are read where `memory` knows a page
//! or finds one; only what it knows of pages between the stack pointer and the stack's top may be out of date.
//!
//! What fits: the frame's address is a register plus an offset, the return address lies below it, and each register that functions
//! preserve is in memory at most 255 words below, or unchanged.

use super::cfi::{Frame, Rule, Rules};
use crate::arch::Registers;
use crate::atomic::{AtomicU64, Ordering};

const WORD: isize = size_of::<usize>() as isize;

/// Entries; an address has one place.
pub const ENTRIES: usize = 1 << 12;

/// Words of an entry: the place, the module's tables, frame and saved registers, their check.
pub type Entry = [AtomicU64; 4];

/// The rules at one place, in short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Short {
    /// The frame's address is this register plus `offset`.
    pub register: usize,
    /// See `register`.
    pub offset: isize,
    /// By [`Registers::PRESERVED`]: words below the frame's address where the register is saved; 0: nowhere.
    pub saved: [u8; Registers::PRESERVED.len()],
}

impl Short {
    /// That no caller is known: such a walk ends, since no registers have this column.
    const END: Short = Short {
        register: (1 << (u64::BITS - REGISTER_SHIFT)) - 1,
        offset: 0,
        saved: [0; Registers::PRESERVED.len()],
    };

    /// The rules in short, if they fit.
    pub fn of(rules: &Rules) -> Option<Short> {
        if !rules.is_signal && rules.registers[Registers::PC] == Rule::Undefined {
            return Some(Self::END);
        }
        let Frame::Register { register, offset } = rules.frame else { return None };
        let mut short = Short {
            register: usize::from(register),
            offset: i16::try_from(offset).ok()?.into(),
            saved: [0; Registers::PRESERVED.len()],
        };
        if rules.is_signal || rules.registers[Registers::PC] != Rule::Offset(-WORD) {
            return None;
        }
        for (column, rule) in rules.registers.iter().enumerate() {
            let place = Registers::PRESERVED.iter().position(|&preserved| preserved == column);
            match (rule, place) {
                (_, None) if column == Registers::PC => {}
                (Rule::Unspecified, _) => {}
                (Rule::Offset(offset), Some(place)) if offset % WORD == 0 => {
                    short.saved[place] = u8::try_from(-offset / WORD).ok().filter(|&at| at != 0)?;
                }
                _ => return None,
            }
        }
        Some(short)
    }

    /// Where registers are saved, and the offset.
    fn to_word(self) -> u64 {
        let saved = self.saved.iter().rev().fold(0, |word, &at| word << 8 | u64::from(at));
        saved << 16 | self.offset as u16 as u64
    }

    fn from_word(word: u64, register: usize) -> Short {
        Short {
            register,
            offset: isize::from(word as u16 as i16),
            saved: core::array::from_fn(|at| (word >> (16 + 8 * at)) as u8),
        }
    }
}

/// The register is above the address of the place.
const REGISTER_SHIFT: u32 = 58;

const _: () = assert!(16 + 8 * Registers::PRESERVED.len() <= u64::BITS as usize);
const _: () = assert!(Registers::COLUMNS <= Short::END.register);

/// The rules at `place` in the module with these tables, if they are here.
pub fn find(entries: &[Entry; ENTRIES], place: usize, tables: usize) -> Option<Short> {
    let entry = &entries[index_of(place)];
    // Ordering: Relaxed, the check says whether the words belong together.
    let [at, module, rules, check] =
        [0, 1, 2, 3].map(|word: usize| entry[word].load(Ordering::Relaxed));
    let is_it = at & ((1 << REGISTER_SHIFT) - 1) == place as u64
        && module == tables as u64
        && check == check_of(at, module, rules);
    is_it.then(|| Short::from_word(rules, (at >> REGISTER_SHIFT) as usize))
}

/// Keeps the rules at `place`.
pub fn keep(entries: &[Entry; ENTRIES], place: usize, tables: usize, short: Short) {
    let at = place as u64 | (short.register as u64) << REGISTER_SHIFT;
    let (module, rules) = (tables as u64, short.to_word());
    let words = [at, module, rules, check_of(at, module, rules)];
    for (word, value) in entries[index_of(place)].iter().zip(words) {
        word.store(value, Ordering::Relaxed); // Ordering: Relaxed, as in `find`.
    }
}

fn index_of(place: usize) -> usize {
    place.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (usize::BITS - ENTRIES.trailing_zeros())
}

/// Not 0 for words of 0.
fn check_of(at: u64, module: u64, rules: u64) -> u64 {
    (at ^ rules.rotate_left(23)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
        ^ module
        ^ 0x243F_6A88_85A3_08D3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_and_a_torn_entry_is_not() {
        let entries = [const { [const { AtomicU64::new(0) }; 4] }; ENTRIES];
        let mut saved = [0; Registers::PRESERVED.len()];
        saved.iter_mut().enumerate().for_each(|(at, word)| *word = 250 + at as u8 % 5);
        let short = Short { register: 7, offset: -32000, saved };
        assert_eq!(find(&entries, 0, 0), None, "an entry of zeroes");
        keep(&entries, 0x401234, 0x500000, short);
        assert_eq!(find(&entries, 0x401234, 0x500000), Some(short));
        assert_eq!(find(&entries, 0x401234, 0x600000), None, "another module");
        // Ordering: Relaxed, one thread.
        entries[index_of(0x401234)][2].fetch_add(1 << 8, Ordering::Relaxed);
        assert_eq!(find(&entries, 0x401234, 0x500000), None, "torn");
    }
}

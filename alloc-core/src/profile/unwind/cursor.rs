//! Reading numbers of unwind tables in the memory of a module.
//!
//! Promises to read inside the given range only; what ends too early is none.

/// What is left of a range of a module's memory.
#[derive(Clone, Copy)]
pub struct Cursor {
    at: usize,
    end: usize,
}

impl Cursor {
    /// # Safety
    /// 1. The range is readable, and stays so while the value lives.
    pub const unsafe fn new(at: usize, end: usize) -> Self {
        Cursor { at, end }
    }

    pub const fn address(&self) -> usize {
        self.at
    }

    pub const fn is_empty(&self) -> bool {
        self.at >= self.end
    }

    /// The part up to `end`, which this cursor skips.
    #[inline(never)]
    pub fn split(&mut self, len: usize) -> Option<Cursor> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.end)?;
        let part = Cursor { at: self.at, end };
        self.at = end;
        Some(part)
    }

    pub fn skip(&mut self, len: usize) -> Option<()> {
        self.split(len).map(drop)
    }

    fn bytes<const N: usize>(&mut self) -> Option<[u8; N]> {
        let part = self.split(N)?;
        // SAFETY: duty of `new`; inside the range.
        Some(unsafe { (part.at as *const [u8; N]).read_unaligned() })
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.bytes().map(u16::from_ne_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.bytes().map(u32::from_ne_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.bytes().map(u64::from_ne_bytes)
    }

    #[inline(never)]
    pub fn uleb(&mut self) -> Option<usize> {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
    }

    #[inline(never)]
    pub fn sleb(&mut self) -> Option<isize> {
        let (mut value, mut shift) = (0isize, 0);
        loop {
            let byte = self.u8()?;
            value |= isize::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            shift += 7;
            if byte & 0x80 == 0 {
                let is_negative = byte & 0x40 != 0 && shift < isize::BITS;
                return Some(if is_negative { value | -1 << shift } else { value });
            }
        }
    }

    /// A pointer in an encoding of the LSB ("DWARF Extensions", DW_EH_PE_*): absolute or relative to its own place.
    pub fn pointer(&mut self, encoding: u8) -> Option<usize> {
        let place = self.at;
        let value = match encoding & 0x0f {
            0x00 | 0x04 | 0x0c => self.u64()? as usize,
            0x01 => self.uleb()?,
            0x02 => self.u16()? as usize,
            0x03 => self.u32()? as usize,
            0x09 => self.sleb()? as usize,
            0x0a => self.u16()? as i16 as usize,
            0x0b => self.u32()? as i32 as usize,
            _ => return None,
        };
        match encoding & 0xf0 {
            0x00 => Some(value),
            0x10 => Some(place.wrapping_add(value)),
            _ => None,
        }
    }
}

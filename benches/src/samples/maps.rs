//! The mappings of code of a process: which file, and where in it, an instruction is of.

use anyhow::Context;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Files that code is mapped from.
#[derive(Default)]
pub struct Files {
    /// Their paths.
    pub names: Vec<String>,
    /// By file and offset, whether the instruction before is `syscall`.
    calls: HashMap<(usize, u64), bool>,
}

impl Files {
    /// The index of the file at `path`.
    pub fn index(&mut self, path: &str) -> usize {
        self.names.iter().position(|known| known == path).unwrap_or_else(|| {
            self.names.push(path.to_owned());
            self.names.len() - 1
        })
    }

    fn follows_system_call(&mut self, file: usize, offset: u64) -> bool {
        const SYSCALL: [u8; 2] = [0x0f, 0x05];
        let path = &self.names[file];
        *self.calls.entry((file, offset)).or_insert_with(|| {
            let mut bytes = [0; 2];
            let before = offset.checked_sub(SYSCALL.len() as u64);
            let read = before.zip(File::open(path).ok());
            read.is_some_and(|(at, file)| file.read_exact_at(&mut bytes, at).is_ok())
                && bytes == SYSCALL
        })
    }
}

/// Ranges that hold code; of those that overlap, the last counts.
#[derive(Clone, Default)]
pub struct Maps {
    ranges: Vec<Range>,
}

/// One mapping.
#[derive(Clone)]
pub struct Range {
    /// Its first address.
    pub start: u64,
    /// The address behind it.
    pub end: u64,
    /// Of its first byte in the file.
    pub offset: u64,
    /// None: not of a file.
    pub file: Option<usize>,
}

impl Maps {
    /// Those of this process.
    pub fn of_this_process(files: &mut Files) -> anyhow::Result<Maps> {
        let text = std::fs::read_to_string("/proc/self/maps").context("/proc/self/maps")?;
        let mut maps = Maps::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            let (range, is_code) = parse(line, files)
                .with_context(|| format!("/proc/self/maps has the line {line}"))?;
            if is_code {
                maps.add(range);
            }
        }
        Ok(maps)
    }

    /// Adds a mapping.
    pub fn add(&mut self, range: Range) {
        self.ranges.push(range);
    }

    /// The file that an instruction is of, and its offset there.
    pub fn place(&self, ip: u64) -> Option<(usize, u64)> {
        let mut latest = self.ranges.iter().rev();
        let range = latest.find(|range| (range.start..range.end).contains(&ip))?;
        Some((range.file?, ip - range.start + range.offset))
    }

    /// Whether the instruction before `ip` is `syscall`: so the program entered the kernel by itself.
    pub fn follows_system_call(&self, ip: u64, files: &mut Files) -> bool {
        self.place(ip).is_some_and(|(file, offset)| files.follows_system_call(file, offset))
    }
}

/// `START-END PERMISSIONS OFFSET DEVICE INODE PATH`; and whether it holds code.
fn parse(line: &str, files: &mut Files) -> Option<(Range, bool)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()?.contains('x');
    let number = |text| u64::from_str_radix(text, 16).ok();
    let (start, end, offset) = (number(start)?, number(end)?, number(words.next()?)?);
    let path = words.nth(2).filter(|path| path.starts_with('/') && is_code);
    let file = path.map(|path| files.index(path));
    Some((Range { start, end, offset, file }, is_code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_mappings_that_overlap_the_last_counts() {
        let mut maps = Maps::default();
        let range = |start, end, offset, file| Range { start, end, offset, file };
        maps.add(range(0x1000, 0x9000, 0, Some(0)));
        maps.add(range(0x3000, 0x4000, 0x500, Some(1)));
        maps.add(range(0x5000, 0x6000, 0, None));
        assert_eq!(maps.place(0x2001), Some((0, 0x1001)));
        assert_eq!(maps.place(0x3001), Some((1, 0x501)));
        assert_eq!((maps.place(0x5000), maps.place(0x9000)), (None, None));
    }

    #[test]
    fn an_instruction_behind_syscall_is_told() {
        let file = std::env::temp_dir().join(format!("syscall-{}", std::process::id()));
        std::fs::write(&file, [0x90, 0x0f, 0x05, 0x90]).unwrap();
        let mut files = Files::default();
        let index = files.index(file.to_str().unwrap());
        let told = [0, 1, 2, 3, 4, 9].map(|offset| files.follows_system_call(index, offset));
        std::fs::remove_file(&file).unwrap();
        assert_eq!(told, [false, false, false, true, false, false]);
    }
}

//! What is mapped with code in a target: files, and the vDSO; which build each is.

use super::Source;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, pod};

/// A mapping of a target, of a file or with a name as `[vdso]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// Its first address.
    pub start: u64,
    /// The address behind its last.
    pub end: u64,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// The file's path, or the name.
    pub name: String,
    /// Whether it may be executed.
    pub is_code: bool,
}

/// Parts of an ELF file that are read of memory: what lies further is in no first page.
const HEADER_BYTES: usize = 4096;
const NOTE_MAX_BYTES: u64 = 4096;

/// The build id of the file that `code` is mapped from, as its headers in memory have it; empty if there is none. `all` are the
/// target's mappings.
pub fn build_id(source: &dyn Source, all: &[Mapped], code: &Mapped) -> String {
    let first = all.iter().rev().find(|mapped| {
        mapped.name == code.name && mapped.offset == 0 && mapped.start <= code.start
    });
    let id = first.and_then(|first| build_id_at(source, first.start));
    id.map_or(String::new(), |id| id.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn build_id_at(source: &dyn Source, base: u64) -> Option<Vec<u8>> {
    let mut bytes = vec![0; HEADER_BYTES];
    let len = source.read(base, &mut bytes);
    let bytes = &bytes[..len];
    let header = elf::FileHeader64::<Endianness>::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let at = usize::try_from(header.e_phoff(endian)).ok()?;
    let count = usize::from(header.e_phnum(endian));
    let headers = bytes.get(at..)?;
    let (headers, _) =
        pod::slice_from_bytes::<elf::ProgramHeader64<Endianness>>(headers, count).ok()?;
    let lowest = headers.iter().find(|header| header.p_type(endian) == elf::PT_LOAD)?;
    let lowest = lowest.p_vaddr(endian) & !(HEADER_BYTES as u64 - 1);
    headers.iter().filter(|header| header.p_type(endian) == elf::PT_NOTE).find_map(|header| {
        let len = header.p_memsz(endian).min(NOTE_MAX_BYTES);
        let mut notes = vec![0; len as usize];
        let at = base.wrapping_add(header.p_vaddr(endian).wrapping_sub(lowest));
        let len = source.read(at, &mut notes);
        gnu_build_id(&notes[..len])
    })
}

/// The build id among ELF notes: sizes of name and contents, type, the name, the contents, each padded to 4 bytes.
fn gnu_build_id(mut notes: &[u8]) -> Option<Vec<u8>> {
    loop {
        let word =
            |at: usize| Some(u32::from_ne_bytes(*notes.get(4 * at..)?.first_chunk()?) as usize);
        let (name, contents, kind) = (word(0)?, word(1)?, word(2)?);
        let padded = |len: usize| len.checked_next_multiple_of(4);
        let from = 12 + padded(name)?;
        if kind == elf::NT_GNU_BUILD_ID as usize && notes.get(12..16) == Some(b"GNU\0") {
            return notes.get(from..from + contents).map(<[u8]>::to_vec);
        }
        notes = notes.get(from + padded(contents)?..)?;
    }
}

/// A line of /proc/PID/maps with a name: `start-end perms offset dev inode name`, where the name may hold spaces.
pub fn parse(line: &str) -> Option<Mapped> {
    let mut rest = line;
    let mut field = || {
        let trimmed = rest.trim_start_matches(' ');
        let (field, after) = trimmed.split_at(trimmed.find(' ').unwrap_or(trimmed.len()));
        rest = after;
        field
    };
    let (range, permissions, offset) = (field(), field(), field());
    let _device_and_inode = (field(), field());
    let name = rest.trim_start_matches(' ');
    let number = |digits: &str| u64::from_str_radix(digits, 16).ok();
    let (start, end) = range.split_once('-')?;
    (!name.is_empty()).then_some(())?;
    Some(Mapped {
        start: number(start)?,
        end: number(end)?,
        offset: number(offset)?,
        name: name.to_owned(),
        is_code: permissions.contains('x'),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_names_are_mappings() {
        let line =
            "7f0000001000-7f0000002000 r-xp 00001000 08:01 42   /opt/a folder/lib.so (deleted)";
        let mapped = parse(line).unwrap();
        assert_eq!(
            (mapped.start, mapped.end, mapped.offset),
            (0x7f00_0000_1000, 0x7f00_0000_2000, 4096)
        );
        assert_eq!((&*mapped.name, mapped.is_code), ("/opt/a folder/lib.so (deleted)", true));
        let line =
            "7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]";
        assert_eq!(parse(line).unwrap().name, "[vdso]");
        assert_eq!(parse("7f0000001000-7f0000002000 rw-p 00000000 00:00 0 "), None);
    }

    #[test]
    fn the_build_id_is_found_behind_other_notes() {
        let mut notes = Vec::new();
        for (kind, contents) in [(5u32, &[1, 2, 3][..]), (3, &[0xab, 0xcd])] {
            for word in [4, contents.len() as u32, kind] {
                notes.extend_from_slice(&word.to_ne_bytes());
            }
            notes.extend_from_slice(b"GNU\0");
            notes.extend_from_slice(contents);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        assert_eq!(gnu_build_id(&notes), Some(vec![0xab, 0xcd]));
        assert_eq!(gnu_build_id(&notes[..notes.len() - 4]), None);
        assert_eq!(gnu_build_id(&[0xff; 64]), None);
    }
}

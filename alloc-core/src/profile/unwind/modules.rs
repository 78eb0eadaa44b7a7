//! Which module an address lies in, and where its unwind tables are.
//!
//! Promises to take no lock and to allocate nothing: the program itself is known by the auxiliary vector, all else is asked of
//! `_dl_find_object` (glibc 2.35), which may be called in handlers and while a library is loaded.

use crate::arch::{self, FindObject, FoundObject};
use crate::atomic::{AtomicUsize, Ordering};
use crate::os;
use core::ops::Range;

/// A module's addresses and its segment PT_GNU_EH_FRAME.
#[derive(Clone, Debug)]
pub struct Module {
    pub range: Range<usize>,
    pub eh_frame: usize,
}

/// The program: start, end, segment; 0 if it is not known.
static PROGRAM: [AtomicUsize; 3] = [const { AtomicUsize::new(0) }; 3];
/// The library that holds nothing but this allocator, if it is one: frames of it that lie innermost are of no interest.
static OWN: [AtomicUsize; 2] = [const { AtomicUsize::new(0) }; 2];

/// Looks for the program and for this library. For the start of a profile.
pub fn find() {
    let program = program();
    // Ordering: Relaxed throughout, words that are the same each time.
    if let Some(Module { range, eh_frame }) = &program {
        for (word, value) in PROGRAM.iter().zip([range.start, range.end, *eh_frame]) {
            word.store(value, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
    }
    let here = find as *const () as usize;
    let is_malloc = arch::sanitizers().is_malloc;
    if let Some(Module { range, .. }) = loaded(here).filter(|own| own.range.contains(&is_malloc))
        && !program.is_some_and(|program| program.range.contains(&here))
    {
        for (word, value) in OWN.iter().zip([range.start, range.end]) {
            word.store(value, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
    }
}

/// Whether the address lies in a library that is nothing but this allocator.
pub fn is_own(address: usize) -> bool {
    // Ordering: Relaxed, constants by now.
    let [start, end] = [0, 1].map(|at: usize| OWN[at].load(Ordering::Relaxed));
    (start..end).contains(&address)
}

/// The module in which `address` lies.
pub fn module_of(address: usize) -> Option<Module> {
    // Ordering: Relaxed, constants by now.
    let [start, end, eh_frame] = [0, 1, 2].map(|at: usize| PROGRAM[at].load(Ordering::Relaxed));
    if (start..end).contains(&address) {
        return Some(Module { range: start..end, eh_frame });
    }
    loaded(address)
}

fn loaded(address: usize) -> Option<Module> {
    let found = object_at(arch::find_object()?, address).filter(|found| found.eh_frame != 0)?;
    Some(Module { range: found.map_start..found.map_end, eh_frame: found.eh_frame })
}

/// What libc knows of the module in which `address` lies.
fn object_at(find_object: FindObject, address: usize) -> Option<FoundObject> {
    let mut found = FoundObject {
        flags: 0,
        map_start: 0,
        map_end: 0,
        link_map: 0,
        eh_frame: 0,
        reserved: [0; 7],
    };
    // SAFETY: libc's function fills in the record.
    let result = unsafe { find_object(address as *mut libc::c_void, &raw mut found) };
    (result == 0).then_some(found)
}

/// The program, by its program headers.
fn program() -> Option<Module> {
    let first = os::auxv(libc::AT_PHDR);
    if first == 0 || os::auxv(libc::AT_PHENT) != size_of::<libc::Elf64_Phdr>() {
        return None;
    }
    let count = os::auxv(libc::AT_PHNUM);
    // SAFETY: the kernel has mapped the program, whose headers stay as they are.
    let headers = unsafe { core::slice::from_raw_parts(first as *const libc::Elf64_Phdr, count) };
    let of_type = |kind| headers.iter().find(move |header| header.p_type == kind);
    let loads = || headers.iter().filter(|header| header.p_type == libc::PT_LOAD);
    let bias = match of_type(libc::PT_PHDR) {
        Some(header) => first.wrapping_sub(header.p_vaddr as usize),
        // The headers lie behind the ELF header, at the start of the file.
        None => {
            let start = loads().find(|header| header.p_offset == 0)?;
            let elf = first - size_of::<libc::Elf64_Ehdr>();
            elf.wrapping_sub(start.p_vaddr as usize)
        }
    };
    let eh_frame = bias.wrapping_add(of_type(libc::PT_GNU_EH_FRAME)?.p_vaddr as usize);
    let start = loads().map(|header| header.p_vaddr as usize).min()?;
    let end = loads().map(|header| (header.p_vaddr + header.p_memsz) as usize).max()?;
    Some(Module { range: bias.wrapping_add(start)..bias.wrapping_add(end), eh_frame })
}

/// Writes the path of the module in which `address` lies to `name`; its length, and where the module begins.
pub fn name_of(address: usize, name: &mut [u8]) -> Option<(usize, usize)> {
    let Some(found) = arch::find_object().and_then(|find| object_at(find, address)) else {
        return program_of(address, name);
    };
    // SAFETY: libc's `struct link_map` (link.h) of a loaded module: the second word is its path.
    let path = unsafe {
        let path = *(found.link_map as *const *const core::ffi::c_char).add(1);
        if path.is_null() { c"" } else { core::ffi::CStr::from_ptr(path) }
    };
    match path.to_bytes() {
        b"" => program_of(address, name),
        path => {
            let len = path.len().min(name.len());
            name[..len].copy_from_slice(&path[..len]);
            Some((len, found.map_start))
        }
    }
}

/// As [`name_of`], of the program itself.
fn program_of(address: usize, name: &mut [u8]) -> Option<(usize, usize)> {
    // Ordering: Relaxed, constants by now.
    let [start, end] = [0, 1].map(|at: usize| PROGRAM[at].load(Ordering::Relaxed));
    let is_it = (start..end).contains(&address);
    is_it.then(|| os::program_path(name)).flatten().map(|len| (len, start))
}

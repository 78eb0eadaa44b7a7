//! What the kernel and the dynamic linker say about this process: time, memory, faults, the allocator
//! and its mode.
//!
//! Nothing here allocates but [`allocator`], which is called last.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;

/// CPU time and page faults of the process so far.
#[derive(Clone, Copy)]
pub struct Usage {
    /// User and system time in seconds, all threads.
    pub cpu_seconds: f64,
    /// Page faults that needed no disk.
    pub minor_faults: u64,
}

/// The usage so far.
pub fn usage() -> Usage {
    // SAFETY: getrusage fills the whole structure, and zeroes are a valid one.
    let raw = unsafe {
        let mut raw: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_SELF, &mut raw), 0, "getrusage");
        raw
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Usage {
        cpu_seconds: seconds(raw.ru_utime) + seconds(raw.ru_stime),
        minor_faults: raw.ru_minflt as u64,
    }
}

/// Resident bytes now, counted page by page (`VmRSS` lags by up to 64 pages per CPU).
pub fn rss_bytes() -> u64 {
    kib_line("/proc/self/smaps_rollup", "Rss:") * 1024
}

/// The most resident bytes since exec. (`ru_maxrss` is no use: it survives exec, so it starts with
/// the size of the process that started us.)
pub fn peak_rss_bytes() -> u64 {
    kib_line("/proc/self/status", "VmHWM:") * 1024
}

/// Keeps the calling thread on this CPU. Panics if the process may not use it.
pub fn stay_on_cpu(cpu: usize) {
    // SAFETY: all-zero is the empty set; CPU_SET checks the number; the kernel reads a live set.
    let done = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(done, 0, "CPU {cpu}: {}", std::io::Error::last_os_error());
}

/// The file that `malloc` came from.
pub fn allocator() -> String {
    // SAFETY: dladdr fills `info` when it returns other than 0; its name is then a C string.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        // Looked up by name: the address of `malloc` in the program could be its own PLT entry.
        let malloc = libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr());
        if libc::dladdr(malloc, &mut info) == 0 || info.dli_fname.is_null() {
            return "unknown".to_owned();
        }
        CStr::from_ptr(info.dli_fname).to_string_lossy().into_owned()
    }
}

/// Whether the allocator serves from caches per CPU, where it says so: Google's tcmalloc does, and
/// falls back to caches per thread in silence where it can't register with rseq.
pub fn per_cpu() -> Option<bool> {
    // SAFETY: the name is a C string.
    let answer = unsafe {
        libc::dlsym(libc::RTLD_DEFAULT, c"MallocExtension_Internal_GetPerCpuCachesActive".as_ptr())
    };
    if answer.is_null() {
        return None;
    }
    // SAFETY: tcmalloc declares it so in internal_malloc_extension.h; no other library has the name.
    let answer: extern "C" fn() -> bool = unsafe { std::mem::transmute(answer) };
    Some(answer())
}

/// An end of what is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The clock is about to start.
    Begin,
    /// It has stopped.
    End,
}

/// Tells an allocator that has counters (librsalloc.so with the feature of that name), which prints them as
/// a line of JSON at the end. Others have no such functions.
pub fn counters(edge: Edge) {
    let name = match edge {
        Edge::Begin => c"rsalloc_counters_begin",
        Edge::End => c"rsalloc_counters_end",
    };
    // SAFETY: the name ends with a zero, and the functions of these names have this type.
    let function: Option<extern "C" fn()> =
        unsafe { std::mem::transmute(libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr())) };
    if let Some(function) = function {
        function();
    }
}

fn kib_line(path: &str, key: &str) -> u64 {
    let mut text = [0; 8192];
    let mut len = 0;
    let mut file = File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    loop {
        match file.read(&mut text[len..]).unwrap_or_else(|error| panic!("{path}: {error}")) {
            0 => break,
            read => len += read,
        }
    }
    std::str::from_utf8(&text[..len])
        .ok()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix(key)))
        .and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse().ok())
        .unwrap_or_else(|| panic!("{path} has no line {key}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_memory_shows_in_rss_peak_and_faults() {
        let (rss, faults) = (rss_bytes(), usage().minor_faults);
        let mut memory = memmap2::MmapMut::map_anon(64 << 20).unwrap();
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        // Other tests run at the same time: half of it must show, not every byte.
        assert!(rss_bytes() > rss + (32 << 20));
        assert!(peak_rss_bytes() > rss + (32 << 20));
        assert!(usage().minor_faults > faults);
        assert!(usage().cpu_seconds > 0.0);
    }

    #[test]
    fn the_allocator_is_named() {
        assert!(allocator().contains(".so"), "{}", allocator());
        assert_eq!(per_cpu(), None, "the C library has caches per thread, and no such question");
    }
}

//! The life of a process: threads, fork, before the first constructor and after the last
//! destructor, large plugins, limits, misuse.

mod common;

use common::{ON_RSALLOC, c, library};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// How the line begins that misuse is answered with, before SIGABRT.
const MISUSE_LINE: &str = "rsalloc:";

in_each_mode! {
    fn one_thread_allocates_another_frees() {
        let (send, receive) = mpsc::sync_channel::<(usize, usize, u8)>(1000);
        let consumer = thread::spawn(move || {
            let mut count = 0;
            for (address, len, seed) in receive {
                // SAFETY: live objects of its own, filled and read no further than they are long.
                unsafe {
                    c::assert_filled(address as c::Ptr, len, seed);
                    c::free(address as c::Ptr);
                }
                count += 1;
            }
            count
        });
        let producers: Vec<_> = (0..4)
            .map(|seed| {
                let send = send.clone();
                thread::spawn(move || {
                    for i in 0..20_000usize {
                        let len = (i * 37) % 3000;
                        // SAFETY: takes numbers alone.
                        let p = unsafe { c::malloc(len) };
                        // SAFETY: live objects of its own, filled and read no further than they are long.
                        unsafe { c::fill(p, len, seed) };
                        send.send((p as usize, len, seed)).unwrap();
                    }
                })
            })
            .collect();
        drop(send);
        producers.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(consumer.join().unwrap(), 80_000);
    }

    fn threads_come_and_go() {
        for round in 0..50u8 {
            let threads: Vec<_> = (0..20)
                .map(|_| {
                    // SAFETY: live objects of its own, filled and read no further than they are long.
                    thread::spawn(move || unsafe {
                        let kept: Vec<_> = (1..200).map(|len| (c::malloc(len), len)).collect();
                        kept.iter().for_each(|&(p, len)| c::fill(p, len, round));
                        kept.into_iter().map(|(p, len)| (p as usize, len)).collect::<Vec<_>>()
                    })
                })
                .collect();
            for (address, len) in threads.into_iter().flat_map(|t| t.join().unwrap()) {
                // SAFETY: live objects of its own, filled and read no further than they are long.
                unsafe {
                    c::assert_filled(address as c::Ptr, len, round);
                    c::free(address as c::Ptr);
                }
            }
        }
    }

    fn fork_while_other_threads_allocate() {
        static STOP: AtomicBool = AtomicBool::new(false);
        static ROUNDS: AtomicUsize = AtomicUsize::new(0);
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(|| {
            while !STOP.load(Ordering::Relaxed) {
                churn(200);
                ROUNDS.fetch_add(1, Ordering::Relaxed);
            }
        })).collect();
        for _ in 0..100 {
            // SAFETY: a live object of its own, which parent and child free once each; the child ends by _exit.
            unsafe {
                let kept = c::malloc(1000);
                c::fill(kept, 1000, 4);
                match libc::fork() {
                    0 => {
                        libc::alarm(20); // a hang ends by SIGALRM
                        c::assert_filled(kept, 1000, 4);
                        c::free(kept);
                        churn(300);
                        thread::spawn(|| churn(100)).join().unwrap();
                        if libc::fork() == 0 {
                            libc::alarm(20);
                            churn(100);
                            libc::_exit(0);
                        }
                        let mut status = 0;
                        libc::wait(&mut status);
                        libc::_exit((status != 0) as i32);
                    }
                    child => {
                        let mut status = 0;
                        assert_eq!(libc::waitpid(child, &mut status, 0), child);
                        assert_eq!(status, 0, "the child's wait status");
                        c::free(kept);
                    }
                }
            }
        }
        STOP.store(true, Ordering::Relaxed);
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(ROUNDS.load(Ordering::Relaxed) > 4, "the threads did allocate meanwhile");
    }

    fn a_large_plugin_loads_and_unloads() {
        let Some(path) = large_plugin() else {
            return common::skip("a large plugin: neither LLVM nor ICU nor Python is there");
        };
        let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a library that may be loaded and unloaded; its path ends in a zero.
        unsafe {
            for _ in 0..3 {
                let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
                assert!(!handle.is_null(), "{:?}", std::ffi::CStr::from_ptr(libc::dlerror()));
                churn(100);
                assert_eq!(libc::dlclose(handle), 0);
            }
        }
    }

    fn objects_made_before_the_first_constructor() {
        let early = EARLY.load(Ordering::Relaxed);
        assert_ne!(early, 0, ".preinit_array ran");
        // SAFETY: live objects of its own, filled and read no further than they are long.
        unsafe {
            let p = c::realloc(early as c::Ptr, 10_000);
            c::assert_filled(p, 500, 6);
            c::free(p);
        }
    }

    fn out_of_memory_by_a_limit_and_back() {
        // SAFETY: live objects of its own, each large enough for the link that is kept in it; the limit is a local.
        unsafe {
            let limit = libc::rlimit { rlim_cur: address_space() + (200 << 20), rlim_max: libc::RLIM_INFINITY };
            assert_eq!(libc::setrlimit(libc::RLIMIT_AS, &limit), 0);
            for size in [64, 5000, 100_000, 3 << 20] {
                let mut kept: *mut c::Ptr = std::ptr::null_mut(); // a list in the objects themselves
                let mut count = 0usize;
                loop {
                    c::set_errno(0);
                    let p = c::malloc(size);
                    if p.is_null() {
                        assert_eq!(c::errno(), libc::ENOMEM);
                        break;
                    }
                    p.cast::<c::Ptr>().write(kept.cast());
                    kept = p.cast();
                    count += 1;
                }
                assert!(count * size > 40 << 20, "only {count} objects of {size} bytes fitted");
                assert!(count * size < 300 << 20, "the limit holds: {count} of {size} bytes");
                c::assert_null_with(libc::ENOMEM, || c::calloc(1, 500 << 20));
                c::assert_null_with(libc::ENOMEM, || c::realloc(kept.cast(), 500 << 20));
                c::assert_null_with(libc::ENOMEM, || c::memalign(1 << 20, 500 << 20));
                let mut freed = 0;
                while !kept.is_null() {
                    let next = kept.read();
                    c::free(kept.cast());
                    kept = next.cast();
                    freed += 1;
                }
                assert_eq!(freed, count);
                churn(500);
            }
        }
    }
}

/// A process that starts under a small `ulimit -v`.
#[test]
fn ulimit_v_from_the_start() {
    for mode in ON_RSALLOC {
        for mebibytes in [150, 400, 2000] {
            let mut command = common::child(mode, "a_body_that_churns");
            // SAFETY: the closure makes one call that is async-signal-safe.
            unsafe {
                command.pre_exec(move || {
                    let max = mebibytes << 20;
                    let limit = libc::rlimit { rlim_cur: max, rlim_max: max };
                    match libc::setrlimit(libc::RLIMIT_AS, &limit) {
                        0 => Ok(()),
                        _ => Err(std::io::Error::last_os_error()),
                    }
                });
            }
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && text.contains("1 passed"),
                "{mode:?}, {mebibytes} MiB: {} {text} {}",
                output.status,
                String::from_utf8_lossy(&output.stderr),
            );
        }
    }
}

/// For tests that start a child in a special way.
#[test]
fn a_body_that_churns() {
    thread::spawn(|| churn(3000)).join().unwrap();
    churn(3000);
}

/// Two more preloaded libraries, one before and one after ours, allocate in their constructors
/// and destructors; objects cross from the one to the other.
#[test]
fn constructors_and_destructors_around_ours() {
    let source = r#"
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        static char *kept;
        static void late(void) { free(malloc(3000)); write(1, "atexit ", 7); }
        __attribute__((constructor)) static void first(void) {
            kept = malloc(100); strcpy(kept, "kept"); free(calloc(10, 1000)); atexit(late);
        }
        __attribute__((destructor)) static void last(void) {
            kept = realloc(kept, 100000);
            if (strcmp(kept, "kept")) abort();
            free(kept);
            void *p = 0;
            if (posix_memalign(&p, 4096, 5000)) abort();
            free(p);
            for (int i = 1; i < 5000; i++) { char *q = malloc(i); memset(q, i, i); free(q); }
            write(1, "destructor ", 11);
        }
    "#;
    let arguments = ["-shared", "-fPIC", "-O0", "-w"];
    let one = common::compile("cc", "around-one.so", source, &arguments).unwrap();
    let two = common::compile("cc", "around-two.so", source, &arguments).unwrap();
    for mode in ON_RSALLOC {
        let mut command = Command::new("/bin/true");
        common::in_mode(&mut command, mode);
        command.env("LD_PRELOAD", common::preload(&[&one, library(), &two]));
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{mode:?}: {} {text}", output.status);
        assert_eq!(text.matches("atexit").count(), 2, "{mode:?}: {text}");
        assert_eq!(text.matches("destructor").count(), 2, "{mode:?}: {text}");
    }
}

/// The library can also be loaded late: its thread-local words fit the space that is left.
#[test]
fn dlopen_of_the_library_itself() {
    let path = std::ffi::CString::new(library().to_str().unwrap()).unwrap();
    // SAFETY: a library that may be loaded; its path ends in a zero.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    // SAFETY: a library that may be loaded; its path ends in a zero.
    assert!(!handle.is_null(), "{:?}", unsafe { std::ffi::CStr::from_ptr(libc::dlerror()) });
    // SAFETY: the functions have these types; live objects of its own.
    unsafe {
        let malloc: unsafe extern "C" fn(usize) -> c::Ptr =
            std::mem::transmute(libc::dlsym(handle, c"malloc".as_ptr()));
        let free: unsafe extern "C" fn(c::Ptr) =
            std::mem::transmute(libc::dlsym(handle, c"free".as_ptr()));
        let p = malloc(100);
        c::fill(p, 100, 1);
        free(p);
    }
}

#[test]
fn free_of_a_stack_pointer() {
    dies_of_misuse("free_of_a_stack_pointer", || {
        let local = [0u64; 8];
        // SAFETY: the misuse under test, in a process of its own.
        unsafe { c::free((&raw const local[2]).cast_mut().cast()) };
    });
}

#[test]
fn free_of_a_static() {
    dies_of_misuse("free_of_a_static", || {
        static WORDS: [AtomicUsize; 8] = [const { AtomicUsize::new(0) }; 8];
        // SAFETY: the misuse under test, in a process of its own.
        unsafe { c::free((&raw const WORDS[2]).cast_mut().cast()) };
    });
}

#[test]
fn free_of_a_mapping() {
    // SAFETY: the misuse under test, in a process of its own.
    dies_of_misuse("free_of_a_mapping", || unsafe {
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        c::free(libc::mmap(std::ptr::null_mut(), 1 << 20, prot, flags, -1, 0));
    });
}

#[test]
fn realloc_of_a_stack_pointer() {
    dies_of_misuse("realloc_of_a_stack_pointer", || {
        let local = [0u64; 8];
        // SAFETY: the misuse under test, in a process of its own.
        unsafe { c::realloc((&raw const local[2]).cast_mut().cast(), 100) };
    });
}

/// One line on stderr, and SIGABRT.
fn dies_of_misuse(test: &str, misuse: fn()) {
    for mode in ON_RSALLOC {
        let Some(output) = common::outcome(mode, test, misuse) else { return };
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{mode:?}: {stderr}");
        let lines: Vec<_> = stderr.lines().collect();
        assert_eq!(lines.len(), 1, "{mode:?}: {stderr}");
        assert!(lines[0].starts_with(MISUSE_LINE), "{mode:?}: {stderr}");
    }
}

/// Allocates and frees objects of all kinds, and checks their contents.
fn churn(count: usize) {
    // SAFETY: live objects of its own, filled and read no further than they are long.
    unsafe {
        let mut live: Vec<(c::Ptr, usize, u8)> = Vec::new();
        for i in 0..count {
            let len = (i * 131) % 9000;
            let p = match i % 4 {
                0 => c::malloc(len),
                1 => c::calloc(1, len),
                2 => c::memalign(64 << (i % 7), len),
                _ => c::realloc(c::malloc(len / 3), len.max(1)),
            };
            assert!(!p.is_null());
            c::fill(p, len, i as u8);
            live.push((p, len, i as u8));
            if i % 3 == 0 {
                let (p, len, seed) = live.swap_remove(i % live.len());
                c::assert_filled(p, len, seed);
                c::free(p);
            }
        }
        for (p, len, seed) in live {
            c::assert_filled(p, len, seed);
            c::free(p);
        }
    }
}

/// An object that was made before any constructor ran.
static EARLY: AtomicUsize = AtomicUsize::new(0);

#[used]
#[unsafe(link_section = ".preinit_array")]
static BEFORE_CONSTRUCTORS: extern "C" fn() = before_constructors;

extern "C" fn before_constructors() {
    // SAFETY: live objects of its own, filled and read no further than they are long.
    unsafe {
        let p = c::malloc(500);
        c::fill(p, 500, 6);
        EARLY.store(p as usize, Ordering::Relaxed);
        for len in 1..1000 {
            c::free(c::realloc(c::calloc(len, 3), len * 7));
        }
    }
}

/// A library with many constructors: rustc's LLVM, there with rustup's toolchains, or the system's.
fn large_plugin() -> Option<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--print", "sysroot"]).env_remove("LD_PRELOAD");
    let sysroot = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let toolchain = PathBuf::from(sysroot.trim()).join("lib");
    let system = PathBuf::from(format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let files = |folder: &PathBuf| std::fs::read_dir(folder).into_iter().flatten();
    let libraries = [toolchain, system].into_iter().flat_map(|f| files(&f)).flatten();
    let paths: Vec<_> = libraries.map(|entry| entry.path()).collect();
    ["libLLVM", "libpython3", "libicui18n.so"].into_iter().find_map(|name| {
        let named = |p: &&PathBuf| {
            let file = p.file_name().unwrap_or_default().to_string_lossy();
            file.starts_with(name) && file.contains(".so")
        };
        // Text files are linker scripts.
        let elf = |p: &&PathBuf| std::fs::metadata(p).is_ok_and(|m| m.len() > 1 << 20);
        paths.iter().find(|p| named(p) && elf(p)).cloned()
    })
}

/// Bytes of this process's address space.
fn address_space() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

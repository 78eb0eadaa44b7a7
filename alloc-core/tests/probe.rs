//! The static probes: the notes of this program lead to the nops, the arguments are where they say.
#![cfg(all(target_arch = "x86_64", not(feature = "portable")))]

use rsalloc_core::internals::arch::probe;
use rsalloc_core::internals::profile;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The semaphores are the process's.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A note of `.note.stapsdt`.
#[derive(Debug)]
struct Note {
    name: String,
    args: String,
    site: usize,
    semaphore: usize,
}

fn half(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// Address and contents of a section of this program's file; empty if there is none.
fn section<'a>(file: &'a [u8], wanted: &str) -> (usize, &'a [u8]) {
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([file[at], file[at + 1]]));
    let (table, each, count, names) = (word(file, 0x28), u16_at(0x3a), u16_at(0x3c), u16_at(0x3e));
    let header = |index: usize| &file[table + index * each..][..each];
    let names = &file[word(header(names), 0x18)..];
    let is_wanted = |header: &&[u8]| {
        let name = &names[half(header, 0)..];
        name.starts_with(wanted.as_bytes()) && name[wanted.len()] == 0
    };
    let found = (0..count).map(header).find(is_wanted);
    found.map_or((0, &[]), |header| {
        (word(header, 0x10), &file[word(header, 0x18)..][..word(header, 0x20)])
    })
}

/// The notes of this provider, with addresses as the program is loaded.
fn notes() -> Vec<Note> {
    let file = std::fs::read("/proc/self/exe").unwrap();
    let (base, _) = section(&file, ".stapsdt.base");
    assert_ne!(base, 0, "the linker dropped the base");
    let (_, mut rest) = section(&file, ".note.stapsdt");
    // Where the program is loaded: its first mapping.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let own = std::env::current_exe().unwrap();
    let first = maps.lines().find(|line| line.ends_with(own.to_str().unwrap())).unwrap();
    let load = usize::from_str_radix(first.split('-').next().unwrap(), 16).unwrap();
    let mut notes = Vec::new();
    while !rest.is_empty() {
        let (name_len, len, kind) = (half(rest, 0), half(rest, 4), half(rest, 8));
        assert_eq!((&rest[12..12 + name_len], kind), (&b"stapsdt\0"[..], 3));
        let at = 12 + name_len.next_multiple_of(4);
        let note = &rest[at..at + len];
        let moved = load.wrapping_add(base).wrapping_sub(word(note, 8));
        let mut texts = note[24..]
            .split(|&byte| byte == 0)
            .map(|text| String::from_utf8_lossy(text).into_owned());
        if texts.next().unwrap() == "otel_memory" {
            notes.push(Note {
                name: texts.next().unwrap(),
                args: texts.next().unwrap(),
                site: moved.wrapping_add(word(note, 0)),
                semaphore: moved.wrapping_add(word(note, 16)),
            });
        }
        rest = &rest[at + len.next_multiple_of(4)..];
    }
    notes
}

static SEEN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static TRAPS: AtomicU64 = AtomicU64::new(0);

/// What a uprobe reads at the breakpoint.
extern "C" fn trapped(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the context of a SA_SIGINFO handler.
    let registers = unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    for (seen, register) in SEEN.iter().zip([libc::REG_RDI, libc::REG_RSI, libc::REG_RDX]) {
        seen.store(registers[register as usize] as u64, Ordering::Relaxed);
    }
    TRAPS.fetch_add(1, Ordering::Relaxed);
}

/// Puts a breakpoint on a nop, as the kernel does for a uprobe.
fn attach(note: &Note) {
    const NOP: u8 = 0x90;
    const BREAKPOINT: u8 = 0xcc;
    // SAFETY: the page of a nop of this program, which no other thread is about to run; a live struct.
    unsafe {
        let page = note.site & !4095;
        let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        assert_eq!(libc::mprotect(page as *mut libc::c_void, 4096, all), 0);
        let site = note.site as *mut u8;
        assert_eq!(site.read_volatile(), NOP, "{note:?}");
        site.write_volatile(BREAKPOINT);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = trapped as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGTRAP, &raw const action, std::ptr::null_mut()), 0);
    }
}

#[test]
fn the_notes_lead_to_the_probes_and_their_arguments() {
    let _alone = alone();
    let notes = notes();
    let called: Vec<_> =
        notes.iter().map(|note| (note.name.as_str(), note.args.as_str())).collect();
    let expected = [("alloc", "8@%rdi 8@%rsi 8@%rdx"), ("free", "8@%rdi")];
    assert!(called.len() == 2 && expected.iter().all(|one| called.contains(one)), "{called:?}");
    let seen = || [0, 1, 2].map(|at: usize| SEEN[at].load(Ordering::Relaxed));
    let traps = || TRAPS.load(Ordering::Relaxed);

    probe::alloc(1, 2, 3);
    probe::free(4);
    assert_eq!(traps(), 0, "no tool is attached");

    let of = |name: &str| notes.iter().find(|note| note.name == name).unwrap();
    attach(of("alloc"));
    probe::alloc(0x1000_2000, 48, 524_288);
    assert_eq!((traps(), seen()), (1, [0x1000_2000, 48, 524_288]));
    attach(of("free"));
    probe::free(0x1000_2000);
    assert_eq!((traps(), seen()[0]), (2, 0x1000_2000));

    assert!(!probe::is_wanted());
    for note in &notes {
        // SAFETY: a half word of this program, as its note says, which the kernel raises.
        let semaphore = unsafe { &*(note.semaphore as *const AtomicU16) };
        assert_eq!(semaphore.fetch_add(1, Ordering::Relaxed), 0, "{note:?}");
        assert!(probe::is_wanted(), "{note:?}");
        semaphore.fetch_sub(1, Ordering::Relaxed);
        assert!(!probe::is_wanted());
    }
}

/// Allocates and frees until a look says yes: at most 512 MiB in all, in which slow calls are certain, and samples at
/// 512 KiB but for e^-1000.
fn work_until(mut is_done: impl FnMut() -> bool) {
    let mut kept = Vec::new();
    for _ in 0..512 << 10 {
        if is_done() {
            break;
        }
        kept.push(rsalloc_core::allocate(1000));
        // Waves that the caches do not hold.
        if kept.len() > 20_000 {
            // SAFETY: allocated above.
            kept.drain(10_000..).for_each(|object| unsafe { rsalloc_core::free(object) });
        }
    }
    // SAFETY: allocated above.
    kept.into_iter().for_each(|object| unsafe { rsalloc_core::free(object) });
    assert!(is_done(), "not after 512 MiB");
}

#[test]
fn objects_are_sampled_as_long_as_a_tracer_is_attached() {
    let _alone = alone();
    let notes = notes();
    let note = notes.iter().find(|note| note.name == "alloc").unwrap();
    // SAFETY: a half word of this program, as its note says, which the kernel raises.
    let semaphore = unsafe { &*(note.semaphore as *const AtomicU16) };
    let mut before = 0;
    work_until(|| {
        before += 1;
        before > 10_000
    });
    assert!(!profile::is_on(), "no tracer is attached");
    for _ in 0..3 {
        semaphore.fetch_add(1, Ordering::Relaxed);
        work_until(profile::is_on);
        assert_eq!(profile::own_header().interval_bytes, 512 << 10);
        let samples = || {
            let mut samples = 0;
            profile::read::for_each_stack(
                &profile::own_header(),
                &profile::OwnMemory,
                |_, stack| samples += stack.samples,
            )
            .unwrap();
            samples
        };
        work_until(|| samples() > 2);
        semaphore.fetch_sub(1, Ordering::Relaxed);
        work_until(|| !profile::is_on());
    }
    // What was asked for goes on when the tracer leaves.
    semaphore.fetch_add(1, Ordering::Relaxed);
    work_until(profile::is_on);
    profile::start(4096).unwrap();
    semaphore.fetch_sub(1, Ordering::Relaxed);
    let mut rounds = 0;
    work_until(|| {
        rounds += 1;
        rounds > 10_000
    });
    assert!(profile::is_on());
    assert_eq!(profile::own_header().interval_bytes, 4096);
    assert_eq!(profile::start(4096), Err(rsalloc_core::ProfileError::IsRunning));
    profile::stop().unwrap();
}

//! What a thread has in its registers when it is stopped for a command, vector registers included, it has when it goes on.

mod busy;
mod command_line;

#[path = "../src/read/mod.rs"]
#[allow(dead_code, unused_imports, reason = "a part of it is used here")]
mod read;
#[path = "../src/remote/mod.rs"]
#[allow(dead_code, reason = "as above")]
mod remote;

use busy::{Busy, operation, status};
use command_line::common::Mode;
use command_line::*;
use remote::planted::FORGETS_VECTORS;
use remote::tracee::Tracee;
use rsalloc_core::internals::engine::command::Operation;
use std::collections::HashSet;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Tests that command from this process: they have registers forgotten for a while.
static ALONE: Mutex<()> = Mutex::new(());

/// Has vector registers forgotten while it lives.
struct Forgetting;

impl Forgetting {
    fn begin() -> Self {
        // Ordering: Relaxed, read by threads that this one starts later.
        FORGETS_VECTORS.store(true, Ordering::Relaxed);
        Forgetting
    }
}

impl Drop for Forgetting {
    fn drop(&mut self) {
        FORGETS_VECTORS.store(false, Ordering::Relaxed); // Ordering: Relaxed, as above.
    }
}

/// What was seen at the instructions at which a command was carried out.
#[derive(Default)]
struct Sweep {
    at: HashSet<u64>,
    answers: Vec<isize>,
    /// Commands behind which vector registers were others than before.
    lost: usize,
}

/// Instructions at which a command is carried out, at least.
const PLACES: usize = 600;
/// Steps in a row.
const STEPS: usize = 1000;

/// A thread is stopped at one instruction of the allocator after the other, fast paths and slow ones, and carries out a command at
/// each, with a pattern in its vector registers. In sections at their beginning only: a step aborts them (`sections_are_aborted` of
/// the test `remote` has the rest).
#[test]
fn commands_come_at_any_instruction() {
    let _alone = ALONE.lock();
    for mode in [Mode::Rseq, Mode::Atomic, Mode::Guarded] {
        let mut busy = Busy::with(mode, &format!("stepped-{mode:?}"), "alone");
        let Sweep { at, answers, lost } = sweep(&mut busy, PLACES, Duration::from_secs(3));
        let refused = answers.iter().filter(|&&answer| answer < 0).count();
        println!("{mode:?}: commands at {} instructions, {refused} refused", at.len());
        assert!(refused < answers.len() / 4);
        assert_eq!(lost, 0, "vector registers changed, of {} times", answers.len());
    }
    let mut busy = Busy::with(Mode::Rseq, "stepped-forgetful", "alone");
    let _forgetting = Forgetting::begin();
    let Sweep { at, lost, .. } = sweep(&mut busy, 20, Duration::ZERO);
    assert!(lost > 0, "control: registers are not restored, which none of {} shows", at.len());
    println!("control: vector registers changed {lost} times, at {} instructions", at.len());
}

/// Until there are so many places, and for so long.
fn sweep(busy: &mut Busy, places: usize, time: Duration) -> Sweep {
    let (pid, place) = (busy.pid(), busy.place());
    let code = code_around(pid, place.entry);
    let (begin, mut sweep) = (Instant::now(), Sweep::default());
    while begin.elapsed() < time || sweep.at.len() < places {
        let (seen, done) = (sweep.at.len(), sweep.answers.len());
        assert!(begin.elapsed() < Duration::from_secs(90), "{seen} places, {done} commands");
        let code = code.clone();
        // The tracer is the thread, which ends each time.
        let stepped = std::thread::spawn(move || {
            step_and_command(pid, &place, &code, &mut sweep);
            sweep
        });
        sweep = stepped.join().unwrap();
        busy.assert_sound();
    }
    assert_eq!((status(pid, "TracerPid"), status(pid, "SigBlk")), ("0".into(), "0".repeat(16)));
    sweep
}

/// The addresses of the code that `address` lies in.
fn code_around(pid: u32, address: u64) -> std::ops::Range<u64> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut ranges = maps.lines().filter_map(|line| {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
    });
    ranges.find(|range| range.contains(&address)).unwrap()
}

/// Stops the first thread and has it take steps, with a command at each instruction in `code` that it was not at yet.
fn step_and_command(
    pid: u32,
    place: &remote::Place,
    code: &std::ops::Range<u64>,
    sweep: &mut Sweep,
) {
    let tid = pid as i32;
    let Ok(mut tracee) = Tracee::seize(pid, tid) else { panic!("cannot attach to {pid}") };
    assert!(tracee.stop().is_ok(), "{pid} does not stop");
    for _ in 0..STEPS {
        let instruction = tracee.step().expect("it lives");
        if code.contains(&instruction) && sweep.at.insert(instruction) {
            let (operation, argument) = operation(sweep.answers.len());
            let own = vectors(tid);
            set_vectors(tid, &pattern(&own));
            let before = vectors(tid);
            assert_ne!(before, own, "the pattern is there");
            match tracee.run_stopped(place, operation.word(), argument).unwrap() {
                Ok(answer) => sweep.answers.push(answer),
                Err(why) => panic!("at {instruction:#x}: {why}"),
            }
            sweep.lost += usize::from(vectors(tid) != before);
            set_vectors(tid, &own);
        }
    }
    tracee.detach();
}

/// The register set of ptrace(2) with vector registers: NT_X86_XSTATE, NT_PRFPREG.
#[cfg(target_arch = "x86_64")]
const VECTORS: usize = 0x202;
#[cfg(target_arch = "aarch64")]
const VECTORS: usize = 2;

/// The vector registers of a stopped thread, as ptrace(2) has them.
fn vectors(tid: i32) -> Vec<u8> {
    let mut bytes = vec![0; 16 << 10];
    let len = transfer(libc::PTRACE_GETREGSET, tid, &mut bytes);
    bytes.truncate(len);
    bytes
}

fn set_vectors(tid: i32, bytes: &[u8]) {
    transfer(libc::PTRACE_SETREGSET, tid, &mut bytes.to_vec());
}

fn transfer(request: libc::c_uint, tid: i32, bytes: &mut [u8]) -> usize {
    let mut range = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let range: *mut libc::iovec = &raw mut range;
    // SAFETY: the kernel reads or fills the range, which is live, and says how much of it.
    let done = unsafe { libc::ptrace(request, tid, VECTORS as *mut libc::c_void, range) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: live.
    unsafe { (*range).iov_len }
}

/// The same with a pattern in every vector: xmm0 to xmm15, and the upper halves of ymm and zmm, masks included, that the machine has
/// (Intel SDM volume 1, 13.4: XSAVE area; features in use at 464, where the kernel puts them for ptrace).
#[cfg(target_arch = "x86_64")]
fn pattern(own: &[u8]) -> Vec<u8> {
    let mut bytes = own.to_vec();
    let word = |bytes: &[u8], at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let (machine, mut in_use) = (word(own, 464), word(own, 512) | 2);
    bytes[160..416].iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8 | 1);
    for feature in [2, 5, 6, 7].into_iter().filter(|feature| machine >> feature & 1 != 0) {
        let leaf = std::arch::x86_64::__cpuid_count(0xd, feature);
        let range = leaf.ebx as usize..(leaf.ebx + leaf.eax) as usize;
        bytes[range].iter_mut().enumerate().for_each(|(at, byte)| *byte = !(at as u8) | 1);
        in_use |= 1 << feature;
    }
    bytes[512..520].copy_from_slice(&in_use.to_ne_bytes());
    bytes
}

/// The same with a pattern in v0 to v31.
#[cfg(target_arch = "aarch64")]
fn pattern(own: &[u8]) -> Vec<u8> {
    let mut bytes = own.to_vec();
    bytes[..512].iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8 | 1);
    bytes
}

/// Keeps numbers in every register that code may use, and ends with 1 if one changes: the vector registers of the machine, those of
/// x87, the rounding mode, and general ones. It allocates between the looks, so that it is at times inside a section.
/// `xtask/guest/vectors.c` is the same for aarch64.
#[cfg(target_arch = "x86_64")]
const KEEPER: &str = r#"
    #include <poll.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>
    enum { TURNS = 20000 };
    static unsigned char in[32 * 64 + 64] __attribute__((aligned(64))), out[32 * 64 + 64] __attribute__((aligned(64)));
    #define LOW(f) f(0) f(1) f(2) f(3) f(4) f(5) f(6) f(7) f(8) f(9) f(10) f(11) f(12) f(13) f(14) f(15)
    #define HIGH(f) f(16) f(17) f(18) f(19) f(20) f(21) f(22) f(23) f(24) f(25) f(26) f(27) f(28) f(29) f(30) f(31)
    #define MASKS(f) f(1) f(2) f(3) f(4) f(5) f(6) f(7)
    #define X(n) "movups 64*" #n "(%0), %%xmm" #n "\n"
    #define XS(n) "movups %%xmm" #n ", 64*" #n "(%1)\n"
    #define Y(n) "vmovups 64*" #n "(%0), %%ymm" #n "\n"
    #define YS(n) "vmovups %%ymm" #n ", 64*" #n "(%1)\n"
    #define Z(n) "vmovups 64*" #n "(%0), %%zmm" #n "\n"
    #define ZS(n) "vmovups %%zmm" #n ", 64*" #n "(%1)\n"
    #define K(n) "kmovw 2048+8*" #n "(%0), %%k" #n "\n"
    #define KS(n) "kmovw %%k" #n ", 2048+8*" #n "(%1)\n"
    #define GENERAL \
        "mov $3, %%rbx\n mov $9, %%rcx\n mov $11, %%rdx\n mov $8, %%r8\n mov $10, %%r10\n mov $12, %%r12\n mov $15, %%r15\n" \
        "1: dec %2\n jnz 1b\n" \
        "xor $3, %%rbx\n xor $9, %%rcx\n xor $11, %%rdx\n xor $8, %%r8\n xor $10, %%r10\n xor $12, %%r12\n xor $15, %%r15\n" \
        "or %%rbx, %%rcx\n or %%rcx, %%rdx\n or %%rdx, %%r8\n or %%r8, %%r10\n or %%r10, %%r12\n or %%r12, %%r15\n mov %%r15, %2\n"
    #define KEEP(load, store) \
        asm volatile("fninit\n fld1\n fldpi\n fldl2e\n fldlg2\n" load GENERAL store \
            "fstpt 2112(%1)\n fstpt 2128(%1)\n fstpt 2144(%1)\n fstpt 2160(%1)\n" \
            : "+r"(from), "+r"(to), "+r"(turns) : \
            : "rbx", "rcx", "rdx", "r8", "r10", "r12", "r15", "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", \
              "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15")
    static unsigned char store[4096] __attribute__((aligned(64)));
    int main(void) {
        int width = __builtin_cpu_supports("avx512f") ? 64 : __builtin_cpu_supports("avx") ? 32 : 16;
        unsigned char constants[64] = {0};
        for (long rounds = 0;; rounds++) {
            unsigned char *from = in, *to = store;
            long turns = TURNS;
            for (int i = 0; i < (int)sizeof in; i++) in[i] = (unsigned char)(i * 7 + rounds * 13 + 1);
            memset(store, 0, sizeof store);
            unsigned mode = 0x7f80, seen = 0;
            asm volatile("ldmxcsr %0" : : "m"(mode));
            if (width == 64) KEEP(LOW(Z) HIGH(Z) MASKS(K), LOW(ZS) HIGH(ZS) MASKS(KS));
            else if (width == 32) KEEP(LOW(Y), LOW(YS));
            else KEEP(LOW(X), LOW(XS));
            asm volatile("stmxcsr %0" : "=m"(seen));
            if (turns || (seen & 0xffc0) != mode) return 1;
            for (int i = 0; i < (width == 64 ? 32 : 16); i++)
                if (memcmp(in + 64 * i, store + 64 * i, width)) return 1;
            for (int i = 1; width == 64 && i < 8; i++)
                if (memcmp(in + 2048 + 8 * i, store + 2048 + 8 * i, 2)) return 1;
            if (rounds == 0) {
                memcpy(constants, store + 2112, 64);
                write(1, "!", 1);
            }
            if (memcmp(constants, store + 2112, 64)) return 1;
            for (int i = 0; i < 50; i++) {
                long *object = malloc(40);
                object[0] = i;
                if (*(volatile long *)object != i) return 1;
                free(object);
            }
            struct pollfd input = {0, POLLIN, 0};
            if (rounds % 64 == 0 && poll(&input, 1, 0) > 0) return 0;
        }
    }
"#;

/// How a command for the program ends.
#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy, Debug)]
enum End {
    /// The command restores the thread.
    Restored,
    /// The command is gone: the thread restores itself, by its frame.
    Alone,
}

/// Commands for the program, until so many were carried out; how many were carried out, and whether its registers are as they were.
#[cfg(target_arch = "x86_64")]
fn command_keeper(end: End, commands: usize) -> (usize, bool) {
    let program = common::compile("cc", "keeper", KEEPER, &["-O1", "-w", "-mno-red-zone"]).unwrap();
    let mut command = Command::new(program);
    common::in_mode(&mut command, Mode::Rseq);
    let mut running = Running::talker(&mut command);
    let pid = running.0.id();
    let heap = read::find(&read::Target::Process(pid)).unwrap().unwrap();
    let (_, place) = heap.command_place().unwrap();
    let (begin, mut done) = (Instant::now(), 0);
    while done < commands && begin.elapsed() < Duration::from_secs(60) {
        let is_done = match end {
            End::Restored => remote::command(pid, &place, Operation::Release, 0).is_ok(),
            End::Alone => std::thread::spawn(move || leave_alone(pid, &place)).join().unwrap(),
        };
        done += usize::from(is_done);
        if !is_done {
            // The last one is not over.
            std::thread::sleep(Duration::from_millis(1));
        }
        if !matches!(running.0.try_wait(), Ok(None)) {
            break;
        }
    }
    drop(running.0.stdin.take());
    // A program that ended before it was told to may have been waited for by the tracer, which is its parent here.
    let is_kept = running.0.wait().is_ok_and(|status| status.success());
    (done, is_kept)
}

/// The thread that traces ends with this, on which the kernel lets the other one go on.
#[cfg(target_arch = "x86_64")]
fn leave_alone(pid: u32, place: &remote::Place) -> bool {
    let Ok(tracee) = Tracee::seize(pid, pid as i32) else { return false };
    matches!(tracee.begin_and_leave(place, Operation::Release.word(), 0), Ok(Ok(())))
}

#[test]
#[cfg(target_arch = "x86_64")]
fn all_registers_are_kept() {
    let _alone = ALONE.lock();
    // A thread that is left alone waits for a while to be restored.
    for (end, commands) in [(End::Restored, 300), (End::Alone, 20)] {
        let (done, is_kept) = command_keeper(end, commands);
        assert!(is_kept, "{end:?}: after {done} commands");
        assert_eq!(done, commands, "{end:?}");
        let _forgetting = Forgetting::begin();
        let (done, is_kept) = command_keeper(end, commands);
        assert!(!is_kept, "control, {end:?}: registers were not restored {done} times, unseen");
        println!("{end:?}: kept {commands} times; control: seen after {done} commands");
    }
}

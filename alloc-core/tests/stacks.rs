//! How stacks are read: what a register leads to that holds anything, and how much of a stack a sample takes itself.
#![cfg(all(target_arch = "x86_64", not(feature = "portable")))]

use rsalloc_core::internals::arch::Registers;
use rsalloc_core::internals::engine::init;
use rsalloc_core::internals::profile;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// There is one profile in a process, and one handler.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    assert!(init::ensure() && profile::prepare());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const PAGE: usize = 4096;

/// So many pages of the test's own.
fn map(pages: usize) -> usize {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), pages * PAGE, access, kind, -1, 0) };
    assert_ne!(address, libc::MAP_FAILED);
    address as usize
}

fn unmap(address: usize, pages: usize) {
    // SAFETY: of a mapping of the test's own.
    assert_eq!(unsafe { libc::munmap(address as *mut libc::c_void, pages * PAGE) }, 0);
}

fn protect(address: usize) {
    // SAFETY: as above.
    let result = unsafe { libc::mprotect(address as *mut libc::c_void, PAGE, libc::PROT_NONE) };
    assert_eq!(result, 0);
}

/// Writes a frame: the caller's frame pointer and a return address.
fn write_frame(at: usize, callers: usize, return_address: usize) {
    // SAFETY: two words of a mapping or an array of the test's own.
    unsafe {
        (at as *mut usize).write_volatile(callers);
        (at as *mut usize).add(1).write_volatile(return_address);
    }
}

/// The frames from a place without unwind tables, with these registers.
fn frames(place: usize, stack: usize, frame: usize) -> Vec<usize> {
    let mut registers = Registers([0; Registers::COLUMNS]);
    registers.0[Registers::PC] = place;
    registers.0[Registers::SP] = stack;
    registers.0[Registers::FP] = frame;
    let mut found = vec![0; 200];
    let count = profile::frames_of(profile::stack_of(&registers), &mut found);
    found.truncate(count);
    found
}

#[test]
fn a_frame_pointer_that_holds_anything_is_harmless() {
    let _alone = alone();
    // No module's code, but an address as that of code made at run time.
    let (place, callers) = (map(1), map(1));
    let mut own = [0usize; 64];
    let stack = own.as_mut_ptr() as usize;
    // The control: a chain on the own stack is followed.
    let frame = stack + 128;
    write_frame(frame, 0, callers + 8);
    assert_eq!(frames(place + 16, stack, frame), [place + 16, callers + 8]);
    // One that leads back to itself ends.
    write_frame(frame, frame, callers + 8);
    assert_eq!(frames(place + 16, stack, frame), [place + 16, callers + 8]);

    // Another mapping is no part of this stack, whatever it holds, and so may be unmapped at any time.
    let other = map(3);
    (0..3).for_each(|page| write_frame(other + page * PAGE, 0, callers + 8));
    let gone = map(1);
    unmap(gone, 1);
    let sealed = map(1);
    protect(sealed);
    let hostile = [
        0,
        1,
        8,
        PAGE,
        frame + 1,
        stack - 4 * PAGE,
        other,
        other + PAGE,
        gone,
        sealed,
        sealed - 8,
        1 << 47,
        (1 << 47) - 8,
        (1 << 47) - 16,
        0x8000_0000_0000_0000,
        0xffff_8000_0000_0000,
        usize::MAX - 7,
        usize::MAX - 15,
        usize::MAX,
    ];
    for frame in hostile {
        assert_eq!(frames(place + 16, stack, frame), [place + 16], "{frame:#x}");
    }
    // On a stack whose end is not known, frames are followed over pages that adjoin: not beyond one that is not readable.
    let coroutine = map(4);
    protect(coroutine + 2 * PAGE);
    write_frame(coroutine + PAGE + 512, 0, callers + 8);
    write_frame(coroutine + 3 * PAGE, 0, callers + 8);
    let both = [place + 16, callers + 8];
    assert_eq!(frames(place + 16, coroutine + 64, coroutine + PAGE + 512), both);
    assert_eq!(frames(place + 16, coroutine + 64, coroutine + 3 * PAGE), both[..1]);
    assert_eq!(frames(place + 16, coroutine + 64, coroutine + 2 * PAGE - 8), both[..1]);
    for (address, pages) in [(place, 1), (callers, 1), (other, 3), (sealed, 1), (coroutine, 4)] {
        unmap(address, pages);
    }
}

/// Memory that comes and goes while a walk may look at it: a fault would end the process.
#[test]
fn a_frame_pointer_into_memory_that_is_unmapped_meanwhile_is_harmless() {
    let _alone = alone();
    let (place, at, stop) = (map(1), map(1), AtomicBool::new(false));
    let own = [0usize; 16];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let fixed = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
                // SAFETY: the test's own page.
                unsafe {
                    let page = at as *mut libc::c_void;
                    assert_eq!(libc::mmap(page, PAGE, libc::PROT_READ, fixed, -1, 0), page);
                    assert_eq!(libc::mmap(page, PAGE, libc::PROT_NONE, fixed, -1, 0), page);
                }
            }
        });
        for _ in 0..20_000 {
            frames(place + 16, own.as_ptr() as usize, at);
        }
        stop.store(true, Ordering::Relaxed);
    });
    unmap(at, 1);
    unmap(place, 1);
}

/// Runs `f` on a thread whose stack is the upper `pages` of the mapping that ends at `end`: nothing guards it below.
fn on_stack_below(end: usize, pages: usize, f: &mut dyn FnMut()) {
    extern "C" fn run(f: *mut libc::c_void) -> *mut libc::c_void {
        // SAFETY: the starter waits for this thread.
        unsafe { (*f.cast::<&mut dyn FnMut()>())() };
        std::ptr::null_mut()
    }
    let (mut f, stack) = (f, (end - pages * PAGE) as *mut libc::c_void);
    // SAFETY: valid records; the stack is the test's and stays mapped until the thread is joined.
    unsafe {
        let mut kind: libc::pthread_attr_t = std::mem::zeroed();
        let mut thread: libc::pthread_t = std::mem::zeroed();
        assert_eq!(libc::pthread_attr_init(&raw mut kind), 0);
        assert_eq!(libc::pthread_attr_setstack(&raw mut kind, stack, pages * PAGE), 0);
        let argument = (&raw mut f).cast();
        assert_eq!(libc::pthread_create(&raw mut thread, &raw const kind, run, argument), 0);
        assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
        assert_eq!(libc::pthread_attr_destroy(&raw mut kind), 0);
    }
}

// Code whose tables find the frame by the frame pointer, as those of functions that keep one do.
std::arch::global_asm!(
    ".pushsection .text.rsalloc_test_framed, \"ax\", @progbits",
    "rsalloc_test_framed:",
    ".cfi_startproc",
    ".cfi_def_cfa rbp, 16",
    ".cfi_offset rbp, -16",
    "nop; nop; nop; nop",
    ".cfi_endproc",
    ".popsection",
);

unsafe extern "C" {
    fn rsalloc_test_framed();
}

/// The place to which a handler returns: libc's code that ends it, whose tables find what a signal has interrupted.
fn behind_handler() -> usize {
    extern "C" fn nothing(_: libc::c_int) {}
    // The kernel's record: handler, flags, restorer, mask.
    let mut record = [0usize; 4];
    // SAFETY: valid records.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as *const () as usize;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()), 0);
        let (number, none) = (libc::SYS_rt_sigaction, std::ptr::null::<usize>());
        assert_eq!(libc::syscall(number, libc::SIGUSR2, none, record.as_mut_ptr(), 8usize), 0);
    }
    record[2]
}

/// Pages of a thread's stack in the tests below: its block lies on the uppermost.
const THREAD_PAGES: usize = 64;

/// Stacks of coroutines below the block of a thread are taken for the thread's own, and what was found readable there for what still
/// is: so it is where the first thread runs coroutines, whose block lies where mappings do.
#[test]
#[cfg_attr(
    target_env = "musl",
    ignore = "musl has no unwind tables for the place to which a handler returns"
)]
fn a_frame_pointer_into_an_unmapped_stack_beside_the_own_one_is_harmless() {
    let _alone = alone();
    let (place, callers) = (map(1), map(1));
    let framed = rsalloc_test_framed as *const () as usize + 2;
    let coroutine = map(8 + THREAD_PAGES);
    let (ended, end) = (coroutine + 4 * PAGE, coroutine + (8 + THREAD_PAGES) * PAGE);
    let stack = coroutine + 64;
    on_stack_below(end, THREAD_PAGES, &mut || {
        // The control: while all of it is mapped, the chain is followed.
        write_frame(stack + 64, ended + 128, callers + 8);
        write_frame(ended + 128, 0, callers + 16);
        let all = [place + 16, callers + 8, callers + 16];
        assert_eq!(frames(place + 16, stack, stack + 64), all);
        assert_eq!(frames(place + 16, stack, ended + 128), [place + 16, callers + 16]);
        write_frame(stack + 64, ended + 128, framed);
        assert_eq!(frames(place + 16, stack, stack + 64), [place + 16, framed, callers + 16]);
        // A handler, and below it what a signal has interrupted at an instruction where tables may be wrong.
        // Its frame is not on the page of its stack pointer, nor on the next one.
        let far = stack + 2 * PAGE;
        write_frame(far, ended + 128, framed);
        // SAFETY: a record of integers and pointers.
        let mut interrupted: libc::ucontext_t = unsafe { std::mem::zeroed() };
        for (register, value) in
            [(libc::REG_RIP, framed), (libc::REG_RSP, stack), (libc::REG_RBP, far)]
        {
            interrupted.uc_mcontext.gregs[register as usize] = value as i64;
        }
        let (ending, record) = (behind_handler(), &raw const interrupted as usize);
        let by_signal = [ending, framed + 1, framed, callers + 16];
        assert_eq!(frames(ending, record, 0), by_signal);
        unmap(ended, 4);
        assert_eq!(frames(ending, record, 0), by_signal[..3]);
        // At once, after a step that leads somewhere, and by tables that go by the register.
        assert_eq!(frames(place + 16, stack, ended + 128), [place + 16]);
        assert_eq!(frames(place + 16, stack, stack + 64), [place + 16, framed]);
        write_frame(stack + 64, ended + 128, callers + 8);
        assert_eq!(frames(place + 16, stack, stack + 64), all[..2]);
        // Nor over the gap.
        let beyond = ended + 4 * PAGE;
        write_frame(beyond, 0, callers + 16);
        assert_eq!(frames(place + 16, stack, beyond), [place + 16]);
        // Two words of which the second lies behind the end.
        assert_eq!(frames(place + 16, stack, ended - 8), [place + 16]);
    });
    for (address, pages) in
        [(coroutine, 4), (ended + 4 * PAGE, THREAD_PAGES), (place, 1), (callers, 1)]
    {
        unmap(address, pages);
    }
}

/// The stack of a thread that has ended was found readable; a smaller one with the same top has a guard page where it went on, and below that
/// an alternate stack.
#[test]
fn a_frame_pointer_into_the_guard_page_of_a_smaller_stack_is_harmless() {
    let _alone = alone();
    let (place, callers) = (map(1), map(1));
    let alternate = map(2 + THREAD_PAGES);
    let (guard, end) = (alternate + PAGE, alternate + (2 + THREAD_PAGES) * PAGE);
    let stack = alternate + 64;
    write_frame(guard + 128, 0, callers + 8);
    on_stack_below(end, 2 + THREAD_PAGES, &mut || {
        assert_eq!(frames(place + 16, stack, guard + 128), [place + 16, callers + 8]);
    });
    protect(guard);
    on_stack_below(end, THREAD_PAGES, &mut || {
        for frame in [guard - 8, guard, guard + 128, guard + PAGE - 8, guard + PAGE] {
            assert_eq!(frames(place + 16, stack, frame), [place + 16], "{frame:#x}");
        }
        write_frame(stack + 64, 0, callers + 8);
        assert_eq!(frames(place + 16, stack, stack + 64), [place + 16, callers + 8]);
    });
    for (address, pages) in [(alternate, 2 + THREAD_PAGES), (place, 1), (callers, 1)] {
        unmap(address, pages);
    }
}

static WANTED: AtomicUsize = AtomicUsize::new(0);

/// Allocates, if something is wanted, and nothing else.
extern "C" fn allocate_in_handler(_: libc::c_int) {
    let size = WANTED.load(Ordering::Relaxed);
    if size != 0 {
        let object = rsalloc_core::allocate(size);
        WANTED.store(object as usize, Ordering::Relaxed);
    }
}

/// Bytes of the alternate stack that a signal takes whose handler allocates `size` bytes.
fn depth_of(other: usize, len: usize, size: usize) -> usize {
    const PAINT: u8 = 0xa5;
    // SAFETY: the alternate stack, which no handler is on.
    let painted = unsafe { std::slice::from_raw_parts_mut(other as *mut u8, len) };
    painted.fill(PAINT);
    WANTED.store(size, Ordering::Relaxed);
    // SAFETY: the handler is the test's.
    assert_eq!(unsafe { libc::raise(libc::SIGUSR1) }, 0);
    let object = WANTED.swap(0, Ordering::Relaxed);
    // SAFETY: null, or what the handler has allocated.
    unsafe { rsalloc_core::free(object as *mut u8) };
    // SAFETY: as above.
    let painted = unsafe { std::slice::from_raw_parts(other as *const u8, len) };
    len - painted.iter().position(|&byte| byte != PAINT).unwrap()
}

/// What a sample takes of a stack, the allocation itself included: programs have alternate stacks of 8 KiB, of which the kernel's
/// frame takes 3 KiB.
const SAMPLE_BYTES_MAX: usize = 2048;

#[test]
fn a_sample_takes_little_of_a_small_stack() {
    let _alone = alone();
    const LEN: usize = 64 << 10;
    let other = map(LEN / PAGE);
    let alternate = libc::stack_t { ss_sp: other as *mut libc::c_void, ss_flags: 0, ss_size: LEN };
    // SAFETY: valid records, and a handler that is async-signal-safe; the stack stays mapped.
    unsafe {
        assert_eq!(libc::sigaltstack(&raw const alternate, std::ptr::null_mut()), 0);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = allocate_in_handler as *const () as usize;
        action.sa_flags = libc::SA_ONSTACK;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()), 0);
    }
    let nothing = depth_of(other, LEN, 0);
    // Of each size the first one, which finds neither rules nor memory, and a later one.
    let sizes = [20_000, 20_000, 6_000, 6_000, 70_000, 70_000, 1 << 20];
    let plain = sizes.map(|size| depth_of(other, LEN, size) - nothing);
    profile::start(256).unwrap();
    let sampled = sizes.map(|size| depth_of(other, LEN, size) - nothing);
    profile::stop().unwrap();
    // A sample but for e^-23, if one of 6,000 bytes.
    let header = profile::own_header();
    let mut taken = 0;
    profile::read::for_each_stack(&header, &profile::OwnMemory, |_, stack| taken += stack.samples)
        .unwrap();
    assert_eq!(taken, sizes.len() as u64);
    eprintln!("a signal takes {nothing} bytes, plain {plain:?} more, sampled {sampled:?} more");
    for (plain, sampled) in plain.iter().zip(sampled) {
        assert!(
            sampled <= SAMPLE_BYTES_MAX.max(plain + 512),
            "{sampled} bytes, not sampled {plain}"
        );
    }
}

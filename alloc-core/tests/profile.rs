//! The heap profile against an exact trace: allocated and live bytes of known sites; and what must not happen beside it.

use rsalloc_core::ProfileError;
use rsalloc_core::internals::arch::HAS_SECTIONS;
use rsalloc_core::internals::engine::init;
use rsalloc_core::internals::profile::{self, read};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// There is one profile in a process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    assert!(init::ensure());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Mean interval of the tests: many samples in little time.
const INTERVAL: usize = 8 << 10;

/// Whether stacks are recorded: an architecture without assembly knows no registers.
const HAS_STACKS: bool = HAS_SECTIONS;

/// What a site has allocated, and what of it is live: by the trace, or by the profile.
#[derive(Clone, Copy, Default, Debug)]
struct Totals {
    allocated: f64,
    live: f64,
}

/// The totals of the profile by site: the first frame that lies in one of `sites`, which are sorted starts of functions.
fn by_site(sites: &[(usize, &'static str)]) -> HashMap<&'static str, Totals> {
    let header = profile::own_header();
    let mut found: HashMap<&'static str, Totals> = HashMap::new();
    let shown = read::for_each_stack(&header, &profile::OwnMemory, |_, stack| {
        let frames = read::frames(&header, stack, &profile::OwnMemory);
        let site = frames.filter_map(|frame| site_of(sites, frame as usize)).next();
        let totals = found.entry(site.unwrap_or("(none)")).or_default();
        totals.allocated += stack.allocated_bytes as f64;
        totals.live += stack.allocated_bytes as f64 - stack.freed_bytes as f64;
    });
    assert_eq!(shown, Some(()));
    found
}

fn site_of(sites: &[(usize, &'static str)], frame: usize) -> Option<&'static str> {
    let at = sites.partition_point(|&(start, _)| start < frame);
    let (start, name) = sites[at.checked_sub(1)?];
    (frame - start < 2048).then_some(name)
}

macro_rules! sites {
    ($($name:ident($size:expr, $allocate:expr);)*) => {
        $(#[inline(never)]
        fn $name() -> *mut u8 {
            let size: usize = $size;
            std::hint::black_box($allocate(size))
        })*

        fn sites() -> Vec<(usize, &'static str, usize, fn() -> *mut u8)> {
            let mut sites = vec![$(($name as *const () as usize, stringify!($name), $size, $name as fn() -> *mut u8)),*];
            sites.sort();
            sites
        }
    };
}

sites! {
    tiny(16, rsalloc_core::allocate);
    odd(100, rsalloc_core::allocate);
    cleared(200, |size| rsalloc_core::allocate_zeroed(size, 8));
    aligned(1000, |size| rsalloc_core::allocate_aligned(size, 64));
    medium(5000, rsalloc_core::allocate);
    single(100_000, rsalloc_core::allocate);
    large(1 << 20, rsalloc_core::allocate);
    large_cleared(600_000, |size| rsalloc_core::allocate_zeroed(size, 8));
}

#[test]
fn sites_have_their_bytes_within_the_statistical_error() {
    let _alone = alone();
    let sites = sites();
    let names: Vec<_> = sites.iter().map(|&(start, name, ..)| (start, name)).collect();
    profile::start(INTERVAL).unwrap();
    let mut exact: HashMap<&str, Totals> = HashMap::new();
    let mut kept = Vec::new();
    for &(_, name, size, allocate) in &sites {
        // 64 MiB of each site; every third object stays.
        let count = (64 << 20) / size;
        for number in 0..count {
            let object = allocate();
            assert!(!object.is_null());
            // SAFETY: a live object of that size.
            unsafe { object.write_bytes(number as u8, size.min(64)) };
            let totals = exact.entry(name).or_default();
            totals.allocated += size as f64;
            if number % 3 == 0 {
                totals.live += size as f64;
                kept.push((object, size, number as u8));
            } else {
                // SAFETY: allocated above.
                unsafe { rsalloc_core::free(object) };
            }
        }
    }
    profile::stop().unwrap();
    let found = by_site(&names);
    if HAS_STACKS {
        for (name, exact) in &exact {
            let totals = found.get(name).copied().unwrap_or_default();
            let size = sites.iter().find(|site| site.1 == *name).unwrap().2;
            assert_close(name, "allocated", totals.allocated, exact.allocated, size);
            assert_close(name, "live", totals.live, exact.live, size);
        }
    } else {
        assert_eq!(found.keys().collect::<Vec<_>>(), [&"(none)"]);
        // All in one sum, whose deviation is least that of the sizes that are sampled least.
        let sum = |of: fn(&Totals) -> f64| exact.values().map(of).sum();
        let totals = found["(none)"];
        assert_close("all", "allocated", totals.allocated, sum(|totals| totals.allocated), 16);
        assert_close("all", "live", totals.live, sum(|totals| totals.live), 16);
    }
    let header = profile::own_header();
    assert_eq!((header.dropped_samples, header.dropped_stacks), (0, 0));
    let mut live = 0;
    read::for_each_sample(&header, &profile::OwnMemory, |_| live += 1).unwrap();
    assert!(live > 1000, "{live} live samples");
    for (object, size, byte) in kept {
        // SAFETY: live objects with these bytes, sampled or not.
        unsafe {
            assert!(rsalloc_core::usable_size(object) >= size);
            assert!((0..size.min(64)).all(|at| *object.add(at) == byte));
            rsalloc_core::free_sized(object, size, 8);
        }
    }
    assert_eq!(rsalloc_core::check(), Ok(()));
}

/// The control: amounts that are off by a twelfth are outside of the allowed error where a site has enough samples.
#[test]
#[should_panic(expected = "control: allocated")]
fn a_biased_weight_is_found() {
    let exact = f64::from(64 << 20);
    assert_close("control", "allocated", exact * 1.09, exact, 100);
}

/// What a site without samples has is far outside.
#[test]
#[should_panic(expected = "control: live 0")]
fn a_site_without_samples_is_found() {
    assert_close("control", "live", 0.0, f64::from(64 << 20) / 3.0, 100_000);
}

/// Fails by chance with a probability of at most 1e-9 for each sum of a site: Bernstein's inequality for `exact / size` objects, each
/// of which counts 1/p with the probability p = 1 - exp(-size / interval). Both tests that call it have 17 sums, which is below 1e-7.
fn assert_close(site: &str, what: &str, found: f64, exact: f64, size: usize) {
    let (objects, missed) = (exact / size as f64, (-(size as f64) / INTERVAL as f64).exp());
    let sampled = 1.0 - missed;
    let log = (2.0f64 / 1e-9).ln();
    // The most that one object is off, in objects, and the variance of their sum.
    let (most, variance) = ((missed / sampled).max(1.0), objects * missed / sampled);
    let off = log * most / 3.0 + ((log * most / 3.0).powi(2) + 2.0 * variance * log).sqrt();
    let is_certain = objects * missed < 1e-9;
    let allowed = if is_certain { 0.0 } else { off / objects } + 0.001;
    let error = (found - exact).abs() / exact;
    assert!(error < allowed, "{site}: {what} {found}, exactly {exact}: {error:.4} of {allowed:.4}");
    eprintln!(
        "{site:14} {what:9} {found:12.0} exactly {exact:12.0} error {error:.4} of {allowed:.4}"
    );
}

/// Frees and allocates as a program does, until it is told to stop; how many objects there were, which `told` says meanwhile.
fn work(stop: &AtomicBool, seed: usize, told: &AtomicUsize) -> usize {
    let mut live: Vec<(*mut u8, usize)> = Vec::new();
    let (mut random, mut made) = (seed, 0);
    while !stop.load(Ordering::Relaxed) {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let size = 1 + (random >> 33) % [100, 1000, 40_000, 500_000][random >> 62];
        if live.len() < 200 {
            let object = rsalloc_core::allocate(size);
            // SAFETY: a fresh object of that size.
            unsafe { object.write(made as u8) };
            live.push((object, size));
            made += 1;
            told.store(made, Ordering::Relaxed);
        } else {
            let (object, size) = live.swap_remove((random >> 20) % live.len());
            // SAFETY: a live object of that size.
            unsafe {
                match random % 3 {
                    0 => rsalloc_core::free(object),
                    1 => rsalloc_core::free_sized(object, size, 8),
                    _ => {
                        let resized = rsalloc_core::reallocate(object, size + size / 3);
                        live.push((resized, size + size / 3));
                    }
                }
            }
        }
    }
    // SAFETY: live objects.
    live.into_iter().for_each(|(object, _)| unsafe { rsalloc_core::free(object) });
    made
}

#[test]
fn a_profile_that_is_switched_beside_threads_loses_nothing() {
    let _alone = alone();
    let stop = AtomicBool::new(false);
    let told = [const { AtomicUsize::new(0) }; 3];
    std::thread::scope(|scope| {
        let workers: Vec<_> = (1..4)
            .map(|seed| {
                scope.spawn({
                    let (stop, told) = (&stop, &told[seed - 1]);
                    move || work(stop, seed * 7919, told)
                })
            })
            .collect();
        // Until each has worked beside them: a thread may get a CPU late.
        let is_worked = || told.iter().all(|made| made.load(Ordering::Relaxed) > 1000);
        let has_failed = || workers.iter().any(|worker| worker.is_finished());
        for round in 0.. {
            if round >= 1000 && (is_worked() || has_failed()) {
                break;
            }
            profile::start(1 << (9 + round % 8)).unwrap();
            assert_eq!(profile::start(512), Err(ProfileError::IsRunning));
            if round % 16 == 0 {
                std::thread::yield_now();
            }
            profile::stop().unwrap();
            assert_eq!(profile::stop(), Err(ProfileError::IsStopped));
        }
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            assert!(worker.join().unwrap() > 1000);
        }
    });
    assert_eq!(rsalloc_core::check(), Ok(()));
    // What was freed by its size while no profile ran comes home now; then no sample is left.
    rsalloc_core::release();
    assert_eq!(profile::live(), 0, "live samples of objects that were freed");
    assert_eq!(rsalloc_core::check(), Ok(()));
}

extern "C" fn allocate_in_handler(_: libc::c_int) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
    for size in [24, 3000, 70_000] {
        let object = rsalloc_core::allocate(size);
        // SAFETY: allocated above.
        unsafe { rsalloc_core::free(object) };
    }
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);

/// Timers of 20 kHz interrupt the thread anywhere: in a section, in the walk over its stack, in a table.
#[test]
fn a_handler_that_allocates_at_any_instruction_is_served() {
    let _alone = alone();
    profile::start(256).unwrap();
    // SAFETY: a handler that is async-signal-safe, as the allocator promises to be; the timer is stopped below.
    unsafe {
        libc::signal(libc::SIGPROF, allocate_in_handler as *const () as libc::sighandler_t);
        let tick = libc::timeval { tv_sec: 0, tv_usec: 50 };
        let timer = libc::itimerval { it_interval: tick, it_value: tick };
        libc::setitimer(libc::ITIMER_PROF, &timer, std::ptr::null_mut());
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| work(&stop, 4711, &AtomicUsize::new(0)));
        let end = Instant::now() + Duration::from_secs(20);
        while HANDLED.load(Ordering::Relaxed) < 150 && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(worker.join().unwrap() > 0);
    });
    // SAFETY: stops the timer.
    unsafe {
        libc::setitimer(libc::ITIMER_PROF, &std::mem::zeroed(), std::ptr::null_mut());
    }
    assert!(HANDLED.load(Ordering::Relaxed) >= 150, "the timer interrupted nothing");
    profile::stop().unwrap();
    // A request of 70,000 bytes is a sample but for e^-273: every handler has one.
    let stacks = stacks_through(allocate_in_handler as *const () as usize);
    assert_eq!(stacks.is_empty(), !HAS_STACKS);
    assert_eq!(rsalloc_core::check(), Ok(()));
}

/// Sampled stacks with a frame of the function at this address: the frames from there on, the innermost first.
fn stacks_through(function: usize) -> Vec<Vec<usize>> {
    let header = profile::own_header();
    let mut found = Vec::new();
    read::for_each_stack(&header, &profile::OwnMemory, |_, stack| {
        let frames = read::frames(&header, stack, &profile::OwnMemory).map(|frame| frame as usize);
        let outer: Vec<_> = frames.skip_while(|&frame| !is_within(frame, function)).collect();
        found.extend((stack.samples > 0 && !outer.is_empty()).then_some(outer));
    })
    .unwrap();
    found
}

/// Whether a frame lies in the function at this address: those that are looked for are shorter.
fn is_within(frame: usize, function: usize) -> bool {
    (function..function + 512).contains(&frame)
}

/// Interrupted by a signal that is sent, behind libc's call.
#[inline(never)]
fn raise_signal() {
    // SAFETY: the handler is the test's.
    assert_eq!(unsafe { libc::raise(std::hint::black_box(libc::SIGUSR1)) }, 0);
}

/// Interrupted at an instruction of its own.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
fn trap() {
    // SAFETY: the handler is the test's, and changes no register.
    unsafe { std::arch::asm!("int3") };
    std::hint::black_box(());
}

#[cfg(not(target_arch = "x86_64"))]
use raise_signal as trap;

/// Calls what is interrupted, so that a frame lies above it.
#[inline(never)]
fn call_interrupted(interrupted: fn()) {
    interrupted();
    std::hint::black_box(());
}

/// No chance is in it: the signals come where they are raised, and a request of 70,000 bytes is a sample but for e^-273.
#[test]
#[cfg_attr(
    target_env = "musl",
    ignore = "musl has no unwind tables for the place to which a handler returns"
)]
fn stacks_lead_from_a_handler_through_the_frame_of_its_signal() {
    let _alone = alone();
    let mut other = vec![0u8; 256 << 10];
    let other_stack =
        libc::stack_t { ss_sp: other.as_mut_ptr().cast(), ss_flags: 0, ss_size: other.len() };
    // SAFETY: valid records; the stack is taken back below, before it is freed.
    unsafe {
        assert_eq!(libc::sigaltstack(&raw const other_stack, std::ptr::null_mut()), 0);
    }
    for (interrupted, flags) in [
        (raise_signal as fn(), 0),
        (raise_signal, libc::SA_ONSTACK),
        (trap, 0),
        (trap, libc::SA_ONSTACK),
    ] {
        let mut action: libc::sigaction =
            // SAFETY: zeroes are a valid record.
            unsafe { std::mem::zeroed() };
        action.sa_sigaction = allocate_in_handler as *const () as usize;
        action.sa_flags = flags;
        for signal in [libc::SIGUSR1, libc::SIGTRAP] {
            // SAFETY: a valid record, of a handler that is async-signal-safe.
            let result =
                unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) };
            assert_eq!(result, 0);
        }
        profile::start(256).unwrap();
        call_interrupted(interrupted);
        profile::stop().unwrap();
        let wanted = [
            allocate_in_handler as *const () as usize,
            interrupted as *const () as usize,
            call_interrupted as *const () as usize,
        ];
        let stacks = stacks_through(allocate_in_handler as *const () as usize);
        let is_whole = |stack: &Vec<usize>| {
            let mut frames = stack.iter();
            wanted.iter().all(|&function| frames.any(|&frame| is_within(frame, function)))
        };
        assert_eq!(stacks.is_empty(), !HAS_STACKS, "flags {flags:#x}");
        let cut_short = stacks.iter().find(|stack| !is_whole(stack));
        assert_eq!(cut_short, None, "flags {flags:#x}: it leads not through {wanted:?}");
    }
    let none =
        libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
    // SAFETY: a valid record.
    assert_eq!(unsafe { libc::sigaltstack(&raw const none, std::ptr::null_mut()) }, 0);
}

#[test]
fn a_child_of_a_fork_goes_on_with_the_profile() {
    let _alone = alone();
    let stop = AtomicBool::new(false);
    profile::start(1024).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| work(&stop, 99, &AtomicUsize::new(0)));
        for _ in 0..50 {
            // SAFETY: the child calls only what may be called in it.
            match unsafe { libc::fork() } {
                0 => {
                    let before = profile::live();
                    let kept: Vec<_> = (0..400).map(|_| rsalloc_core::allocate(1000)).collect();
                    let is_sampled = profile::live() > before + 50;
                    // SAFETY: allocated above.
                    kept.into_iter().for_each(|object| unsafe { rsalloc_core::free(object) });
                    let is_whole = rsalloc_core::check().is_ok();
                    let stops = profile::stop().is_ok() && profile::start(4096).is_ok();
                    let status =
                        i32::from(!is_sampled) | i32::from(!is_whole) << 1 | i32::from(!stops) << 2;
                    // SAFETY: ends the child without handlers.
                    unsafe { libc::_exit(status) };
                }
                child => {
                    let mut status = 0;
                    // SAFETY: waits for the child above.
                    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                    assert_eq!(status, 0, "1: not sampled, 2: the heap is not whole, 4: no switch");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    profile::stop().unwrap();
}

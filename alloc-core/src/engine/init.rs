//! Start: everything that is decided once, when the library is loaded or on a slow call before that.
//!
//! Promises: runs once, in the thread that comes first; until it is done other threads wait and a handler of the thread
//! that runs it is told "not yet". Leaves errno alone.

use super::settings;
use crate::arch::{SANITIZED_ADDRESSES, thread_id};
use crate::atomic::{AtomicU32, AtomicUsize, Ordering, fence};
use crate::canary;
use crate::config::{self, Key, Origin, StatsAtExit};
use crate::cpu_cache;
use crate::cpu_cache::shard::{leases, locked, percpu};
use crate::fail::Line;
use crate::hot::{HOT, TINY_CLASSES};
use crate::object::Link;
use crate::os::{self, Place, Zeroing};
use crate::page_heap::PAGE_HEAP;
use crate::page_heap::density::SparseSpans;
use crate::parts;
use crate::profile;
use crate::publish::file::{self, Publishing};
use crate::publish::publish_report;
use crate::region::SPAN_BYTES;
use crate::report::{Mode, ModeReason, PurgeMethod, Report, ShardIndex};
use crate::rseq::Index;
use crate::rseq::registration::{self, Adoption};
use crate::sanitizer;
use crate::secret::{Purpose, derive};
use crate::size_class::{CLASS, MEDIUM_MAX_BYTES, MEDIUM_SHIFT, TINY_MAX_BYTES, class_of};
use crate::units::{PAGE_BYTES, PAGE_MAP_BYTES, REGION_PLACES, SEGMENT_SHIFT};
use core::cell::UnsafeCell;

const READY: usize = 1;
/// As READY, and slow calls renew the published file.
const PUBLISHES: usize = 2;
/// 0: not begun; READY; PUBLISHES; else the id of the thread that runs it.
static STATE: AtomicUsize = AtomicUsize::new(0);

/// All metadata and each cleared object stand on it.
const NOT_ZEROED: &str =
    "rsalloc: the kernel's fresh mappings do not read as zero: this system is not supported\n";

struct Slot(UnsafeCell<Report>);
// SAFETY: written by init alone, before READY is stored; read-only afterwards.
unsafe impl Sync for Slot {}
static REPORT: Slot = Slot(UnsafeCell::new(Report::UNSET));

/// Makes sure that init has run; false if the calling thread is inside it (a signal handler).
#[inline]
pub fn ensure() -> bool {
    // Ordering: Acquire pairs with the Release in `run`.
    STATE.load(Ordering::Acquire) == READY || ensure_slow()
}

#[cold]
fn ensure_slow() -> bool {
    // Ordering: Acquire pairs with the Release in `run`.
    if parts::REPORTS && STATE.load(Ordering::Acquire) == PUBLISHES {
        publish_now_and_then();
        return true;
    }
    let me = thread_id();
    loop {
        // Ordering: Acquire pairs with the Release in `run`; claiming needs no more.
        match STATE.compare_exchange(0, me, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                run();
                return true;
            }
            Err(READY | PUBLISHES) => return true,
            Err(owner) if owner == me => return false,
            Err(_) => os::yield_now(),
        }
    }
}

fn run() {
    let errno = os::errno();
    config::read(super::load::declarations());
    name_left_out();
    if os::probe() == os::Memory::NotZeroed {
        Line::new().text(NOT_ZEROED).write_to_stderr();
        os::abort();
    }
    fill_tables();
    choose_page_map_base();
    PAGE_HEAP.set_dirty_limit(config::number(Key::Dirty) / PAGE_BYTES);
    PAGE_HEAP.obey_limits();
    // Now, since a program may later refuse itself to open files, by a filter that kills.
    if os::gives_huge_pages_unasked() {
        PAGE_HEAP.set_sparse_spans(SparseSpans::Separate);
    }
    super::hardened::set_up(random_bytes());
    let adoption = registration::adopt(config::requested_mode());
    let report = open_shards(adoption);
    // SAFETY: init alone writes, before READY.
    unsafe { *REPORT.0.get() = report };
    // Ordering: Release publishes all of the above.
    STATE.store(READY, Ordering::Release);
    publish_report(&report);
    note_own_process();
    super::fork::install();
    start_profile();
    if parts::REPORTS && config::is_on(Key::Verbose) {
        announce(&report);
    }
    if parts::REPORTS && file::open() == Publishing::Continues {
        // Ordering: Release, as READY before.
        STATE.store(PUBLISHES, Ordering::Release);
    }
    os::set_errno(errno);
}

/// A line for each setting that is switched on, not by default, and whose part this build leaves out.
fn name_left_out() {
    for key in Key::ALL {
        if let Some(feature) = key.left_out()
            && config::number(key) != 0
            && config::origin(key) != Origin::Default
        {
            let mut line = Line::new();
            line.text("rsalloc: ")
                .text(key.info().name)
                .text(" has no effect: built without the feature ");
            line.text(feature).text("\n").write_to_stderr();
        }
    }
}

/// Renews the published file if it is due; at slow calls, and where much memory is freed. Costs a load without such a file.
#[inline]
pub fn tick() {
    // Ordering: Relaxed, a hint.
    if parts::REPORTS && STATE.load(Ordering::Relaxed) == PUBLISHES {
        publish_now_and_then();
    }
}

#[cold]
fn publish_now_and_then() {
    if file::tick() == Publishing::Stopped {
        // Ordering: Relaxed, the thread has seen READY or PUBLISHES before.
        STATE.store(READY, Ordering::Relaxed);
    }
}

/// The process whose memory this is, if it tells something at its end; 0 in a forked child that has not noted its own id.
static OWN_PROCESS: Link<AtomicU32> = Link::none();

/// In the place of a page that is wiped in children.
static NOT_WIPED: AtomicU32 = AtomicU32::new(0);

/// Keeps the id of this process, and its standard error, if `stats_at_exit` or `publish` is set. At the start, in the child of a fork, and when the
/// setting changes.
#[inline(never)]
pub fn note_own_process() {
    // Else without the system call, which a filter may kill for.
    if !tells_at_end() {
        return;
    }
    if OWN_PROCESS.get().is_none() {
        OWN_PROCESS.set(Some(wiped_word().unwrap_or(&NOT_WIPED)));
    }
    if let Some(own) = OWN_PROCESS.get() {
        // Ordering: Relaxed, a word that stands alone.
        own.store(os::process_id(), Ordering::Relaxed);
    }
    // GNU's tools close it in a handler of `exit` that runs before ours.
    if matches!(config::stats_at_exit(), StatsAtExit::Text | StatsAtExit::Json) {
        os::keep_stderr();
    }
}

/// A word that reads as zero in a forked child (Linux 4.14), also in one of a fork that libc's handlers do not see.
fn wiped_word() -> Option<&'static AtomicU32> {
    let len = os::page_bytes();
    let address = os::map(Place::Anywhere, len).ok()?;
    os::wipe_in_children(address, len);
    // SAFETY: fresh memory, never unmapped, for which zero is valid.
    Some(unsafe { &*core::ptr::with_exposed_provenance::<AtomicU32>(address) })
}

fn tells_at_end() -> bool {
    config::stats_at_exit() != StatsAtExit::Off || config::publish_path().is_some()
}

/// The id of the calling thread's process, if it tells something at its end and this memory is its own: not that of vfork's
/// parent.
pub fn process_that_tells() -> Option<u32> {
    if !tells_at_end() {
        return None;
    }
    let pid = os::process_id();
    // Ordering: Relaxed, as above.
    let own = OWN_PROCESS.get()?.load(Ordering::Relaxed);
    (own == pid || own == 0).then_some(pid)
}

fn is_over() -> bool {
    // Ordering: Acquire pairs with the Release in `run`.
    matches!(STATE.load(Ordering::Acquire), READY | PUBLISHES)
}

/// Starts the profile that the configuration asks for.
fn start_profile() {
    if !parts::PROFILE || !config::is_on(Key::Profile) {
        return;
    }
    // Else another thread could say that none is to run just before this one starts it. Now that forks have their handlers: the child
    // of one that came before would find it held for ever.
    let _changing = settings::hold(Key::Profile);
    let interval = config::number(Key::Profile);
    // Another thread may have started it meanwhile.
    if interval != 0
        && !profile::is_on()
        && let Err(error) = profile::start(interval)
    {
        Line::new()
            .text("rsalloc: no heap profile: ")
            .text(error.text())
            .text("\n")
            .write_to_stderr();
    }
}

fn fill_tables() {
    // Ordering: Relaxed, published by READY: no shard is created before that.
    for size in 0..=TINY_MAX_BYTES {
        HOT.kept_tiny[size].store(class_of(size) as u8, Ordering::Relaxed);
    }
    for (bytes, class) in HOT.object_bytes.iter().zip(&CLASS).take(TINY_CLASSES) {
        // Ordering: Relaxed, as above.
        bytes.store(class.size as u32, Ordering::Relaxed);
    }
    for step in 0..=MEDIUM_MAX_BYTES >> MEDIUM_SHIFT {
        let class = class_of(step << MEDIUM_SHIFT);
        // Ordering: Relaxed, as above.
        HOT.kept_medium[step].store(class as u8, Ordering::Relaxed);
    }
    // Ordering: Release, for calloc's entry: a class that it loads comes after the bytes, whose address depends on the class.
    fence(Ordering::Release);
    HOT.show_classes();
}

/// Picks the page-map range, in which segments lie: from 16 TiB up, spread over 32 TiB, so it lies in the user half of a 47-bit
/// address space; in a smaller range where a sanitizer restricts addresses. The place is derived from the kernel's random
/// bytes, unless the user has switched address randomization off. Nothing is mapped; where other mappings lie in the range, or
/// the address space is smaller, segments lie elsewhere (see page_heap).
fn choose_page_map_base() {
    let places = match sanitizer::restricts_addresses() {
        true => SANITIZED_ADDRESSES,
        false => 16 << 40..(48 << 40) + PAGE_MAP_BYTES,
    };
    let random = if os::has_fixed_addresses() { [0; 16] } else { random_bytes() };
    let number = derive(random, Purpose::PageMap) as usize;
    // The regions of shards lie below it.
    let first = places.start + REGION_PLACES * SPAN_BYTES;
    let count = (places.end - first - PAGE_MAP_BYTES) >> SEGMENT_SHIFT;
    let base = first + ((number % count) << SEGMENT_SHIFT);
    // Ordering: Relaxed, published by READY.
    HOT.page_map_base.store(base, Ordering::Relaxed);
}

fn random_bytes() -> [u8; 16] {
    let random = os::auxv(libc::AT_RANDOM) as *const [u8; 16];
    // SAFETY: the kernel puts 16 random bytes there, or the entry is absent.
    if random.is_null() { [0; 16] } else { unsafe { *random } }
}

fn open_shards(adoption: Adoption) -> Report {
    locked::set_each(locked::EACH_CPU);
    let has_cid = registration::has_mm_cid(&adoption);
    // Hardened, or under ThreadSanitizer, every call takes the slow path: by the index that the entries do not know.
    let hardened = canary::is_on();
    let is_closed = hardened || sanitizer::wants_each_call();
    let wants_cid = match config::requested_index() {
        _ if is_closed => !parts::ENTRIES_BY_MM_CID,
        Some(index) => index == ShardIndex::MmCid,
        None => parts::ENTRIES_BY_MM_CID,
    };
    let by_cid = wants_cid && has_cid && adoption.mode != Mode::Atomic;
    let is_open = by_cid == parts::ENTRIES_BY_MM_CID;
    let adoption = if is_closed && is_open { registration::give_up(adoption) } else { adoption };
    let index = if by_cid { Index::MmCid } else { Index::CpuId };
    let mut fence = false;
    if adoption.mode != Mode::Atomic {
        fence = registration::register_fence();
        registration::set_index(index);
        if by_cid && !is_closed {
            registration::watch_kernel();
        }
        obey_quota();
    } else if !is_closed {
        locked::serve_process();
        // A quarter of the shards stays behind locks, for handlers and threads without a lease.
        fence = leases::enable(locked::EACH_CPU - 1);
        if fence {
            locked::set_each(1);
        }
    }
    let size = |bytes: u32| (bytes != 0).then_some(bytes as usize);
    Report {
        mode: adoption.mode,
        reason: adoption.reason,
        shard_index: if by_cid { ShardIndex::MmCid } else { ShardIndex::CpuId },
        slow_path: adoption.mode != Mode::Atomic && !is_open,
        shards: 1,
        libc_rseq_size: size(adoption.libc_size),
        kernel_feature_size: size(adoption.feature_size),
        membarrier: fence,
        os_page_bytes: os::page_bytes(),
        hardened,
        guard_one_in: Some(super::hardened::guard_every()).filter(|&calls| calls != 0),
        purge_method: Some(purge_method()),
    }
}

/// Up to so many CPUs caches are small, and no file is read.
const FEW_CPUS: usize = 4;

/// Now, since a program may later refuse itself to open files, by a filter that kills.
fn obey_quota() {
    if parts::LIMITS
        && config::obeys_quota()
        && os::container::online_cpus("").is_some_and(|count| count > FEW_CPUS)
        && let Some(usable) = os::container::cpu_quota("")
    {
        cpu_cache::set_usable_cpus(usable);
    }
}

fn purge_method() -> PurgeMethod {
    match os::zeroing() {
        Zeroing::Advice => PurgeMethod::Madvise,
        Zeroing::Mapping => PurgeMethod::Mmap,
        Zeroing::Nothing => PurgeMethod::Nothing,
    }
}

/// How allocations are served, and why. Unset before the first allocation.
///
/// ```standalone_crate
/// # #[global_allocator]
/// # static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;
/// # fn main() {
/// let report = rsalloc::report();
/// assert_ne!(report.mode, rsalloc::Mode::Unset, "{report}");
/// # }
/// ```
#[inline(never)]
pub fn report() -> Report {
    let ready = is_over();
    // SAFETY: after READY it is only read; before, the initial value is not being read.
    let mut report = if ready { unsafe { *REPORT.0.get() } } else { Report::UNSET };
    report.shards = report.shards.max(percpu::highest_created());
    if ready {
        report.purge_method = Some(purge_method());
        report.guard_one_in = Some(super::hardened::guard_every()).filter(|&calls| calls != 0);
    }
    report
}

fn announce(report: &Report) {
    let mut line = Line::new();
    line.text("rsalloc: ").text(match report.mode {
        Mode::RseqLibc => "per-CPU on libc's rseq registration",
        Mode::RseqOwn => "per-CPU on our own rseq registration",
        _ => "atomic path",
    });
    line.text(match report.reason {
        ModeReason::KernelHasNone => " (the kernel has no rseq, or a filter hides it)",
        ModeReason::ForeignRegistration => " (something else owns the rseq registration)",
        ModeReason::NoSections => " (this build has no rseq sections for this architecture)",
        ModeReason::KernelDoesNotAbort => " (this kernel does not abort rseq sections)",
        ModeReason::Configured => " (configured)",
        _ => "",
    });
    if report.hardened {
        line.text(", hardened");
    }
    if let Some(calls) = report.guard_one_in {
        line.text(", guard pages for one of ").decimal(calls).text(" slow calls");
    }
    if let Some(count) = cpu_cache::usable_cpus() {
        line.text(", caches for ").decimal(count).text(" CPUs, by a quota");
    }
    line.text(match os::zeroing() {
        Zeroing::Advice => "",
        Zeroing::Mapping => ", madvise gives no memory back here: mmap does",
        Zeroing::Nothing => ", this system takes no memory back: free memory stays resident",
    });
    line.text("\n").write_to_stderr();
}

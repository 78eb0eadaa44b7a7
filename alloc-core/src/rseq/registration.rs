//! The registration of threads: libc's area if it has one, else an area of this library, else the reason why neither works.
//!
//! Promises: the mode is decided once, by init, before any section may run; a thread that can't run
//! sections is told so each time it asks.
//!
//! Invariants:
//! I1. Shards are created (a table entry of `HOT` is not 0) only after the area offset names an area
//!     that is registered or says by its `cpu_id` that it is not.
//! I2. A thread's own area is registered at most once in its life and unregistered before its memory
//!     goes (pthread key destructor, see keys), never again after that.

use super::abi::{self, AREA_LEN, Area, RseqError};
use super::{Index, Sections, keys, vfork};
use crate::arch::sections::{ThreadBlock, area_at, thread_block};
use crate::arch::{self, HAS_SECTIONS};
use crate::atomic::{AtomicBool, AtomicIsize, AtomicU32, Ordering};
use crate::config::RequestedMode;
use crate::fail;
use crate::node;
use crate::os;
use crate::postponed::Since;
use crate::report::{Mode, ModeReason};
use crate::units::SHARDS_MAX;
use core::mem::offset_of;

/// What adoption found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adoption {
    /// The mode of the process.
    pub mode: Mode,
    /// Why it is not the best one.
    pub reason: ModeReason,
    /// `__rseq_size`, 0 if libc has none.
    pub libc_size: u32,
    /// AT_RSEQ_FEATURE_SIZE, 0 if the kernel does not say.
    pub feature_size: u32,
}

static MODE: AtomicU32 = AtomicU32::new(0);
static INDEX: AtomicU32 = AtomicU32::new(0);
/// The kernel's version at init, as [`packed`] has it, where it is watched.
static STARTED_ON: AtomicU32 = AtomicU32::new(0);
/// When the kernel was last asked, where it is watched.
static WATCH: Since = Since::never();
static KEY: AtomicU32 = AtomicU32::new(u32::MAX);
/// Whether the kernel keeps `node_id` in the areas.
static HAS_NODE_ID: AtomicBool = AtomicBool::new(false);

/// Decides the mode of the process; opens nothing yet.
pub fn adopt(requested: RequestedMode) -> Adoption {
    set_area_offset(arch::sections::thread_block_offset());
    let libc = arch::sections::libc_rseq();
    let libc_size = libc.map_or(0, |(_, size)| size);
    let feature_size = os::auxv(abi::AT_RSEQ_FEATURE_SIZE) as u32;
    let (mode, reason) = match libc {
        _ if requested == RequestedMode::Atomic => (Mode::Atomic, ModeReason::Configured),
        _ if !HAS_SECTIONS => (Mode::Atomic, ModeReason::NoSections),
        Some((offset, size)) if size != 0 && is_registered(area_at(offset)) => {
            set_area_offset(offset);
            (Mode::RseqLibc, ModeReason::None)
        }
        _ => adopt_own(),
    };
    let (mode, reason) = match mode {
        Mode::RseqLibc | Mode::RseqOwn if !arch::sections::are_aborted() => {
            (Mode::Atomic, ModeReason::KernelDoesNotAbort)
        }
        _ => (mode, reason),
    };
    let adoption = Adoption { mode, reason, libc_size, feature_size };
    // The kernel has them since the same version, and `node_id` comes first. Ordering: Relaxed, published with the mode.
    HAS_NODE_ID.store(has_mm_cid(&adoption), Ordering::Relaxed);
    // Ordering: Release, with the area's offset, for `sections`.
    MODE.store(mode as u32, Ordering::Release);
    adoption
}

fn adopt_own() -> (Mode, ModeReason) {
    // glibc unmaps a thread's memory when the kernel says that the thread is gone. musl's threads unmap their own.
    let order = if cfg!(target_env = "gnu") { keys::Order::Any } else { keys::Order::Last };
    let Some(key) = keys::create(order, thread_exit) else {
        return (Mode::Atomic, ModeReason::LibcDidNotRegister);
    };
    // Ordering: Relaxed, init publishes it with the mode.
    KEY.store(key, Ordering::Relaxed);
    match register_thread() {
        Ok(()) => (Mode::RseqOwn, ModeReason::LibcDidNotRegister),
        // A filter may answer with any error, to any call.
        Err(_) if abi::query().is_err() => (Mode::Atomic, ModeReason::KernelHasNone),
        Err(_) => (Mode::Atomic, ModeReason::ForeignRegistration),
    }
}

/// Takes the atomic path after all, where configuration asks for what the sections here can't do. For init,
/// before they are opened.
pub fn give_up(adoption: Adoption) -> Adoption {
    // Ordering: Release, as in `adopt`.
    MODE.store(Mode::Atomic as u32, Ordering::Release);
    let reason = match adoption.mode {
        Mode::Atomic => adoption.reason,
        _ => ModeReason::Configured,
    };
    Adoption { mode: Mode::Atomic, reason, ..adoption }
}

/// The sections of this process; none in the atomic mode.
#[inline]
pub fn sections() -> Option<Sections> {
    // Ordering: Acquire pairs with the Release in `adopt`.
    let mode = MODE.load(Ordering::Acquire);
    let is_open = mode == Mode::RseqLibc as u32 || mode == Mode::RseqOwn as u32;
    is_open.then(|| Sections { index: index() })
}

/// What numbers the shards of this process.
pub fn index() -> Index {
    // Ordering: Relaxed, set before the first shard is created.
    match INDEX.load(Ordering::Relaxed) {
        0 => Index::CpuId,
        _ => Index::MmCid,
    }
}

/// Decides what numbers the shards; for init, before any is created.
pub fn set_index(index: Index) {
    // Ordering: Relaxed, published with READY by init.
    INDEX.store(index as u32, Ordering::Relaxed);
}

/// Has slow allocations of later seconds ask whether the kernel still has `mm_cid`, by which the shards are numbered. For init. Not where `hardened`
/// chose `mm_cid`: a filter may kill for the question.
pub fn watch_kernel() {
    let Some(version) = arch::kernel_version() else { return };
    // Ordering: Relaxed, published with READY by init.
    STARTED_ON.store(packed(version), Ordering::Relaxed);
    WATCH.put_off(os::seconds());
}

/// Ends a process that was moved to a kernel without `mm_cid` (CRIU) where that is watched: its threads keep the numbers that they had, and two of
/// them may have the same. For slow allocations: one in each second asks the kernel.
#[inline]
pub fn confirm_kernel() {
    if WATCH.is_any() {
        ask_kernel();
    }
}

#[cold]
#[inline(never)]
fn ask_kernel() {
    let now = os::seconds();
    if !WATCH.take_due(now) {
        return;
    }
    // Ordering: Relaxed, set by init.
    let started_on = STARTED_ON.load(Ordering::Relaxed);
    if arch::kernel_version().is_some_and(|version| lost_mm_cid(started_on, packed(version))) {
        fail::end(
            "moved to a Linux before 6.3, which has no mm_cid, by which this process numbers its caches: two threads may have used the same one. Start it with index:cpu_id to move it to such a system",
        );
    }
    WATCH.put_off(now);
}

/// Whether a process that started on one kernel has no `mm_cid` on another. A kernel that had it at the
/// start has it whatever its version says: a distribution may have taken it over.
fn lost_mm_cid(started_on: u32, now: u32) -> bool {
    now != started_on && now < packed((6, 3))
}

/// A version as a number in the order of versions.
fn packed((major, minor): (u32, u32)) -> u32 {
    major << 16 | minor.min(0xffff)
}

/// Registers the calling thread, if that is possible and not done; whether it has a shard then.
#[cold]
pub fn ensure_registered(sections: Sections) -> bool {
    if are_areas_hidden() && !vfork::show_now_and_then() {
        return false;
    }
    // Ordering: Relaxed, a constant by now.
    let own = MODE.load(Ordering::Relaxed) == Mode::RseqOwn as u32;
    match current_index(sections.index) {
        // Registered meanwhile, by a handler.
        Some(index) => index < SHARDS_MAX,
        None => own && register_thread().is_ok(),
    }
}

/// The calling thread's shard index now, if it is registered.
#[inline]
pub fn current_index(index: Index) -> Option<usize> {
    // SAFETY: I1: the offset names an area of each thread, of at least 32 bytes.
    let area = unsafe { &*area_at(area_offset()) };
    // Ordering: Relaxed, the kernel writes it for this thread only.
    let cpu = area.cpu_id.load(Ordering::Relaxed);
    match index {
        _ if (cpu as i32) < 0 => None,
        Index::CpuId => Some(cpu as usize),
        // Ordering: Relaxed, as above.
        Index::MmCid => Some(area.mm_cid.load(Ordering::Relaxed) as usize),
    }
}

/// Whether the kernel keeps `mm_cid` in the area that is in use.
pub fn has_mm_cid(adoption: &Adoption) -> bool {
    let reported = if adoption.feature_size == 0 { 20 } else { adoption.feature_size };
    let usable = match (adoption.mode, adoption.libc_size) {
        // glibc says 20 or 32 for an area of 32 bytes, whatever the kernel fills.
        (Mode::RseqLibc, 20 | 32) | (Mode::RseqOwn, _) => reported.min(AREA_LEN),
        (_, size) => size.min(reported),
    };
    usable >= abi::MM_CID_FEATURE_SIZE
}

fn is_registered(area: *mut Area) -> bool {
    // SAFETY: an area of the calling thread, libc's or our own.
    // Ordering: Relaxed, the kernel writes it for this thread only.
    let cpu = unsafe { (*area).cpu_id.load(Ordering::Relaxed) };
    (cpu as i32) >= 0
}

fn area_offset() -> isize {
    // Ordering: Relaxed, names an area of every thread whatever it is; see `store_area_offset`.
    arch::sections::area_offset().load(Ordering::Relaxed)
}

fn set_area_offset(offset: isize) {
    store_area_offset(offset);
    arch::sections::forget_early_descriptor();
}

fn store_area_offset(offset: isize) {
    // Ordering: Relaxed, for both, by init, which publishes it with the mode, or for a thread without others.
    arch::sections::area_offset().store(offset, Ordering::Relaxed);
    arch::sections::free_area_offset().store(free_offset(offset), Ordering::Relaxed);
}

/// Where the entries of frees look for their area when all others look at `offset`.
fn free_offset(offset: isize) -> isize {
    if node::are_many() { Hidden::Fresh.offset() } else { offset }
}

/// Has every free take the slow path from now on, which looks on which node the object lies (docs/adr/0051). It need not be seen at once.
#[cold]
pub fn close_frees() {
    // Ordering: Relaxed, a hint: a free that takes the fast path is as right, only its object may change the node.
    arch::sections::free_area_offset().store(Hidden::Fresh.offset(), Ordering::Relaxed);
}

/// The kernel's number of the memory node on which the calling thread is, if it is known without a system call.
#[cold]
pub fn current_node() -> Option<u32> {
    // Ordering: Relaxed, set by init.
    if !HAS_NODE_ID.load(Ordering::Relaxed) {
        return os::node_by_libc();
    }
    // SAFETY: I1: the offset names an area of each thread, of at least 32 bytes.
    let area = unsafe { &*area_at(area_offset()) };
    // Ordering: Relaxed, the kernel writes it for this thread only.
    Some(area.node_id.load(Ordering::Relaxed))
}

/// Which never-registered area stands in for the threads' own, see [`vfork`].
#[derive(Clone, Copy)]
pub(super) enum Hidden {
    /// By the parent of a child.
    Fresh,
    /// By a thread that looks whether a child is left.
    Settled,
}

impl Hidden {
    fn offset(self) -> isize {
        let field = offset_of!(ThreadBlock, never_registered) + size_of::<Area>() * self as usize;
        arch::sections::thread_block_offset() + field as isize
    }
}

/// Hides every thread's area from sections that start now, the calling thread's own ones included: they
/// have no shard.
pub(super) fn hide_areas(hidden: Hidden) {
    // Ordering: Relaxed, vfork has the fences (I2). A child, which must not see its area, comes from the calling
    // thread; a thread that still sees its own is right too. A store would do, but loom does not know that what comes
    // behind the store that an exchange read comes behind the exchange.
    arch::sections::area_offset().swap(hidden.offset(), Ordering::Relaxed);
    // Ordering: Relaxed, as above. The protocol holds for each of the two words alone.
    arch::sections::free_area_offset().swap(hidden.offset(), Ordering::Relaxed);
}

/// Whether the areas are hidden.
pub(super) fn are_areas_hidden() -> bool {
    area_offset() != adopted_offset()
}

/// Shows the areas, if they are hidden as [`Hidden::Settled`]; whether they were.
pub(super) fn show_settled_areas() -> bool {
    let (settled, shown) = (Hidden::Settled.offset(), adopted_offset());
    let show = |word: &AtomicIsize, shown| {
        // Ordering: Relaxed, see vfork I2: it comes right behind the caller's own store, or fails. It carries nothing.
        word.compare_exchange(settled, shown, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    };
    // The frees' first: where the areas are shown, nothing is left to be done. It may be closed already (`close_frees`).
    show(arch::sections::free_area_offset(), free_offset(shown));
    show(arch::sections::area_offset(), shown)
}

/// Shows the areas; for a process without other threads and without children.
pub(super) fn show_areas() {
    store_area_offset(adopted_offset());
}

/// The offset of the area that the mode is about.
fn adopted_offset() -> isize {
    // Ordering: Relaxed, a constant by now.
    match arch::sections::libc_rseq() {
        Some((offset, _)) if MODE.load(Ordering::Relaxed) == Mode::RseqLibc as u32 => offset,
        _ => arch::sections::thread_block_offset(),
    }
}

/// In own mode: registers the calling thread now, if it ever will be.
pub(super) fn register_early() {
    // Ordering: Relaxed, a constant by now.
    if MODE.load(Ordering::Relaxed) == Mode::RseqOwn as u32 {
        let _ = register_thread();
    }
}

/// Whether the kernel knows the calling thread's area after this: asks by registering it, which a
/// registered thread is refused.
pub(super) fn is_registered_really() -> bool {
    // SAFETY: the area lives as long as the thread, and the kernel forgets it with the thread.
    match unsafe { abi::register(area_at(adopted_offset()), AREA_LEN) } {
        // libc's length or signature may be another one.
        Ok(()) | Err(RseqError::AlreadyRegistered | RseqError::Invalid | RseqError::Denied) => true,
        Err(_) => false,
    }
}

/// The life of a thread's own area: values of `ThreadBlock::registration`.
mod life {
    pub const NEW: u32 = 0;
    pub const BUSY: u32 = 1;
    pub const REGISTERED: u32 = 2;
    pub const OVER: u32 = 3;
}

/// Registers the calling thread's own area (I2).
fn register_thread() -> Result<(), RseqError> {
    let life = &thread_block().words.registration;
    // Ordering: Relaxed throughout, the word is the thread's own; handlers run on the same thread.
    match life.compare_exchange(life::NEW, life::BUSY, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => {}
        Err(life::REGISTERED) => return Ok(()),
        Err(_) => return Err(RseqError::Denied),
    }
    let area = area_at(arch::sections::thread_block_offset());
    // SAFETY: thread-local memory, undone by `thread_exit` before it goes.
    let result = unsafe { abi::register(area, AREA_LEN) };
    // A registration fills the area. Where it does not, a filter has said yes to a call that was never made.
    let result = result.and_then(|()| match is_registered(area) {
        true => Ok(()),
        false => Err(RseqError::Missing),
    });
    // Ordering: Relaxed, as above.
    life.store(if result.is_ok() { life::REGISTERED } else { life::OVER }, Ordering::Relaxed);
    if result.is_ok() {
        // Ordering: Relaxed, set before the mode.
        let key = KEY.load(Ordering::Relaxed);
        // May allocate, which takes a section or the atomic path by now.
        os::call_at_thread_end(key, area as usize);
    }
    result
}

/// Undoes the registration when the thread ends: its memory will be reused.
unsafe extern "C" fn thread_exit(area: *mut libc::c_void) {
    // Ordering: Relaxed, the thread's own word.
    thread_block().words.registration.store(life::OVER, Ordering::Relaxed);
    // SAFETY: the area was registered with this length by this thread, which is in no section here.
    let _ = unsafe { abi::unregister(area.cast(), AREA_LEN) };
}

/// Allows remote fences; false if the kernel has none.
pub fn register_fence() -> bool {
    abi::membarrier::register()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_kernel_before_6_3_has_lost_mm_cid() {
        let [old, first, new] = [(6, 1), (6, 3), (7, 2)].map(packed);
        assert!(lost_mm_cid(new, old) && lost_mm_cid(first, old));
        assert!(!lost_mm_cid(old, old), "of a distribution that has taken it over");
        assert!(!lost_mm_cid(first, new) && !lost_mm_cid(new, first));
    }
}

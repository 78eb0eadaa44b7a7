//! The operating system of the models: mappings out of one arena, futexes and the fence of `machine`.
//!
//! Stands in for the engine's module of this name.

use crate::atomic::{AtomicUsize, Ordering};
use crate::machine;
use crate::units::{SEGMENT_BYTES, PAGE_MAP_SEGMENTS};
use crate::world;
use std::cell::{Cell, RefCell};

pub type Errno = i32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Anywhere,
    Exactly(usize),
}

/// Segments that the arena holds, at its start; other mappings lie behind them.
const SEGMENTS: usize = 4;
/// The longest mapping that is granted: small segments, few pages.
const LEN_MAX: usize = 1 << 20;

thread_local! {
    static ARENA: Cell<usize> = const { Cell::new(0) };
    static NEXT: Cell<usize> = const { Cell::new(0) };
    static NOW: Cell<usize> = const { Cell::new(0) };
    static JUDGE: Cell<Option<fn(usize)>> = const { Cell::new(None) };
    static EXACT: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// The arena, aligned like a segment; as long as the process lives.
pub fn arena() -> usize {
    if ARENA.get() == 0 {
        let len = (2 * SEGMENTS + 2) * SEGMENT_BYTES;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, prot, flags, -1, 0) } as usize;
        assert_ne!(start, usize::MAX, "the models need addresses");
        ARENA.set(start.next_multiple_of(SEGMENT_BYTES));
    }
    ARENA.get()
}

/// Forgets all mappings.
pub fn restore() {
    NEXT.set(arena() + SEGMENTS * SEGMENT_BYTES);
    NOW.set(0);
    EXACT.with_borrow_mut(Vec::clear);
    JUDGE.set(None);
}

pub fn keep<T>(value: T) -> Option<&'static T> {
    Some(Box::leak(Box::new(value)))
}

pub fn map(place: Place, len: usize) -> Result<usize, Errno> {
    // A search for an aligned place asks for one more segment.
    if len > LEN_MAX + SEGMENT_BYTES || (len > LEN_MAX && len <= SEGMENT_BYTES) {
        return Err(libc::ENOMEM);
    }
    match place {
        Place::Anywhere => {
            let at = NEXT.get();
            let end = at + len.next_multiple_of(page_bytes());
            if end > arena() + 2 * SEGMENTS * SEGMENT_BYTES {
                return Err(libc::ENOMEM);
            }
            NEXT.set(end);
            Ok(at)
        }
        Place::Exactly(at) => EXACT.with_borrow_mut(|taken| {
            let fits = at >= arena() && at < arena() + SEGMENTS * SEGMENT_BYTES;
            if !fits || taken.contains(&at) {
                return Err(libc::EEXIST);
            }
            taken.push(at);
            Ok(at)
        }),
    }
}

/// Without access nothing is different.
pub fn map_sealed(len: usize) -> Result<usize, Errno> {
    map(Place::Anywhere, len)
}

/// # Safety
/// 1. None here.
pub unsafe fn unseal(_address: usize, _len: usize) -> Result<(), Errno> {
    Ok(())
}

/// # Safety
/// 1. None here, as for [`unseal`].
pub unsafe fn seal(_address: usize, _len: usize) -> Result<(), Errno> {
    Ok(())
}

const _: () = assert!(PAGE_MAP_SEGMENTS >= SEGMENTS);

/// # Safety
/// 1. None here: addresses are not used again.
pub unsafe fn unmap(address: usize, _len: usize) {
    if let Some(judge) = JUDGE.get() {
        judge(address);
    }
}

/// Has `judge` look at each address that is unmapped in this execution.
pub fn judge_unmapped(judge: fn(usize)) {
    JUDGE.set(Some(judge));
}

/// # Safety
/// 1. None here.
pub unsafe fn purge(_address: usize, _len: usize) -> Result<(), Errno> {
    Ok(())
}

/// # Safety
/// 1. None here.
pub unsafe fn give_back(_address: usize, _len: usize) {}

pub fn no_huge_pages(_address: usize, _len: usize) {}

pub fn want_huge_pages(_address: usize, _len: usize) {}

/// # Safety
/// 1. None here.
pub unsafe fn remap(_address: usize, _old_len: usize, _len: usize) -> Result<usize, Errno> {
    Err(libc::ENOMEM)
}

/// # Safety
/// 1. None here.
pub unsafe fn move_away(_from: usize, _len: usize) -> Result<usize, Errno> {
    Err(libc::ENOMEM)
}

/// No wait ends by itself: a wake that never comes is a deadlock.
pub fn futex_wait(word: &AtomicUsize, expected: u32, _longest_us: usize) {
    let at = word.as_ptr() as usize;
    machine::sleep(|| {
        let lock = world::shadow(at).expect("a lock that is waited for has a shadow");
        let lock = lock.downcast_ref::<loom::sync::atomic::AtomicUsize>().expect("a lock's word");
        lock.load(Ordering::SeqCst) as u32 != expected
    });
}

pub fn futex_wake(_word: &AtomicUsize) {
    machine::wake();
}

pub fn futex_wake_all(_word: &AtomicUsize) {
    machine::wake_all();
}

/// # Safety
/// 1. None here.
pub unsafe fn rseq(_area: usize, _len: u32, _flags: i32, _signature: u32) -> Result<(), Errno> {
    Err(libc::EINVAL)
}

/// MEMBARRIER_CMD_PRIVATE_EXPEDITED; the others are about sections.
const PLAIN_BARRIER: i32 = 1 << 3;
/// MEMBARRIER_CMD_FLAG_CPU.
const FLAG_CPU: u32 = 1;

pub fn membarrier(command: i32, flags: u32, cpu: u32) -> Result<usize, Errno> {
    if flags > FLAG_CPU {
        return Err(libc::EINVAL);
    }
    match command {
        PLAIN_BARRIER => crate::atomic::light_fence(),
        _ => machine::fence((flags == FLAG_CPU).then_some(cpu as usize)),
    }
    Ok(0)
}

/// The models have one memory node.
pub fn node_by_libc() -> Option<u32> {
    None
}

/// As many CPUs as one: the limits of the models are for all of them.
pub fn current_cpu() -> usize {
    0
}

/// Another number for each thread of a model.
pub fn thread_descriptor() -> usize {
    machine::this_thread() + 1
}

/// No thread of a model ends before it is over.
pub fn make_thread_end_key(_f: unsafe extern "C" fn(*mut libc::c_void)) -> Option<u32> {
    Some(0)
}

pub fn call_at_thread_end(_key: u32, _value: usize) -> bool {
    true
}

/// A millisecond more with each look.
pub fn microseconds() -> usize {
    NOW.set(NOW.get() + 1_000);
    NOW.get()
}

pub fn yield_now() {
    if world::is_explored() {
        loom::thread::yield_now();
    }
}

pub fn abort() -> ! {
    panic!("the engine ends the process")
}

pub fn write_stderr(bytes: &[u8]) {
    eprint!("{}", String::from_utf8_lossy(bytes));
}

pub fn auxv(_key: u64) -> usize {
    0
}

pub fn environment<'a>(_prefix: &[u8], _buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    None
}

pub fn parse_number(_text: &[u8]) -> Option<usize> {
    None
}

pub fn seconds() -> usize {
    0
}

pub fn milliseconds() -> usize {
    0
}

pub fn page_bytes() -> usize {
    4096
}

pub fn whole_pages(bytes: usize) -> usize {
    bytes.next_multiple_of(page_bytes())
}

pub fn huge_page_bytes() -> usize {
    page_bytes() * (page_bytes() / 8)
}

/// No container, and a machine that says nothing about itself.
pub mod container {
    pub fn memory_limit(_root: &str) -> Option<usize> {
        None
    }

    pub fn machine_memory() -> Option<usize> {
        None
    }

    pub fn anonymous_resident() -> Option<usize> {
        None
    }
}

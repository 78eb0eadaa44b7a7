//! The two plain instructions and the sections: their plain twins, run as sections by `machine`.
//!
//! Stands in for the engine's room of this name.

use crate::atomic::{AtomicU32, AtomicUsize};
use crate::machine::{BLOCKS, Block, this_thread};

pub const HAS_SECTIONS: bool = true;

pub fn thread_pointer() -> usize {
    std::ptr::from_ref(&BLOCKS[this_thread()]) as usize
}

pub fn prefetch(_address: usize) {}

pub fn held_rank() -> &'static AtomicU32 {
    &BLOCKS[this_thread()].held_rank
}

pub fn biased_shard() -> &'static AtomicUsize {
    &BLOCKS[this_thread()].biased_shard
}

pub fn lease_countdown() -> &'static AtomicU32 {
    &BLOCKS[this_thread()].lease_countdown
}

pub fn libc_rseq() -> Option<(isize, u32)> {
    Some((own_area_offset(), 32))
}

pub fn is_single_threaded() -> bool {
    false
}

pub fn own_area_offset() -> isize {
    core::mem::offset_of!(Block, area) as isize
}

/// No model has a section that looks there.
pub fn never_registered_offset() -> isize {
    own_area_offset() + (1 << 20)
}

pub fn forget_early_announcement() {}

pub mod sections {
    use crate::atomic::{AtomicIsize, Ordering};
    use crate::machine::{self, BLOCKS, this_thread};
    use crate::rseq::{Index, emulated};
    use crate::hot::{HOT, region_of};
use crate::region::Region;

    pub const ABORTED: isize = -1;
    pub const NO_SHARD: isize = -2;
    pub const CHANGED: isize = -3;
    pub const FULL: isize = -4;

    #[allow(non_upper_case_globals)]
    pub static rsalloc_rseq_offset: AtomicIsize = AtomicIsize::new(0);

    /// What every section begins with; `closed` is what it does on the closed region.
    fn on_shard(index: Index, closed: isize, body: impl FnOnce(&Region) -> isize) -> isize {
        let section = || {
            let area = &BLOCKS[this_thread()].area;
            let shard = match index {
                Index::CpuId => area.cpu_id.load(Ordering::Relaxed) as i16,
                Index::MmCid => area.mm_cid.load(Ordering::Relaxed) as i16,
            };
            let Ok(shard) = usize::try_from(shard) else { return NO_SHARD };
            let entry = match index {
                Index::CpuId => &HOT.table[shard],
                Index::MmCid => &HOT.table_cid[shard],
            };
            // Acquire: plain loads of x86-64; see docs/ordering.md for other machines.
            match region_of(entry.load(Ordering::Acquire)) {
                Some(region) => body(region),
                None => closed,
            }
        };
        machine::section(section).unwrap_or(ABORTED)
    }

    macro_rules! sections {
        ($index:expr, $pop:ident, $push:ident, $pop_batch:ident, $push_batch:ident, $set_end:ident, $add:ident) => {
            // SAFETY, for each block: the processor is the caller's until the section is over.

            /// # Safety
            /// 1. `class` is a class.
            pub unsafe fn $pop(class: usize) -> isize {
                // SAFETY: see above.
                on_shard($index, 0, |region| unsafe { emulated::pop(region, class) })
            }

            /// # Safety
            /// 1. `class` is a class.
            pub unsafe fn $push(class: usize, object: usize) -> isize {
                // SAFETY: see above.
                on_shard($index, FULL, |region| unsafe { emulated::push(region, class, object) })
            }

            /// # Safety
            /// 1. `class` is a class. 2. `out` has room for `n`.
            pub unsafe fn $pop_batch(
                class: usize,
                out: *mut usize,
                n: usize,
                _bottom: usize,
            ) -> isize {
                // SAFETY: see above, and duty 2.
                on_shard($index, 0, |region| unsafe {
                    emulated::pop_batch(region, class, core::slice::from_raw_parts_mut(out, n))
                })
            }

            /// # Safety
            /// 1. `class` is a class. 2. `objects` has `n`.
            pub unsafe fn $push_batch(class: usize, objects: *const usize, n: usize) -> isize {
                // SAFETY: see above, and duty 2.
                on_shard($index, 0, |region| unsafe {
                    emulated::push_batch(region, class, core::slice::from_raw_parts(objects, n))
                })
            }

            /// # Safety
            /// 1. `class` is a class; `end` is an offset in its stack, or 0.
            pub unsafe fn $set_end(
                class: usize,
                region: *const Region,
                expected: usize,
                end: usize,
            ) -> isize {
                on_shard($index, CHANGED, |own| match std::ptr::eq(own, region) {
                    // SAFETY: see above.
                    true => unsafe { emulated::set_end(own, class, expected, end) },
                    false => CHANGED,
                })
            }

            /// # Safety
            /// 1. `offset` is that of a counter.
            pub unsafe fn $add(offset: usize, delta: usize) -> isize {
                let counter =
                    (offset - core::mem::offset_of!(Region, counters)) / size_of::<usize>();
                // SAFETY: see above.
                on_shard($index, 0, |region| unsafe { emulated::add(region, counter, delta) })
            }
        };
    }

    sections!(Index::CpuId, pop_cpu, push_cpu, pop_batch_cpu, push_batch_cpu, set_end_cpu, add_cpu);
    sections!(Index::MmCid, pop_cid, push_cid, pop_batch_cid, push_batch_cid, set_end_cid, add_cid);
}

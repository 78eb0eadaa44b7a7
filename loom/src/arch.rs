//! The architecture of the models: sections that are their reference implementation, run by `machine`.
//!
//! Stands in for the engine's module of this name, whose contract it fulfils as far as the models' files use it.

#[path = "../../alloc-core/src/arch/words.rs"]
pub mod words;

use crate::atomic::{AtomicU32, AtomicUsize, Ordering};
use crate::machine::{BLOCKS, this_thread};

pub const HAS_SECTIONS: bool = true;

pub fn thread_id() -> usize {
    std::ptr::from_ref(&BLOCKS[this_thread()]) as usize
}

pub fn prefetch(_address: usize) {}

/// The models move no process.
pub fn kernel_version() -> Option<(u32, u32)> {
    None
}

pub fn add_here(counter: &AtomicUsize, number: usize) {
    // Ordering: Relaxed, a statistic.
    counter.fetch_add(number, Ordering::Relaxed);
}

pub fn held_rank() -> &'static AtomicU32 {
    &BLOCKS[this_thread()].words.held_rank
}

/// As on x86-64.
pub const ADDRESS_SPACE_BYTES: usize = 1 << 47;

pub fn biased_shard() -> &'static AtomicUsize {
    &BLOCKS[this_thread()].words.biased_shard
}

pub fn lease_countdown() -> &'static AtomicU32 {
    &BLOCKS[this_thread()].words.lease_countdown
}

pub fn is_single_threaded() -> bool {
    false
}

pub mod sections {
    pub use super::words::ThreadBlock;
    use crate::atomic::{AtomicIsize, Ordering};
    use crate::hot::HOT;
    use crate::machine::{self, BLOCKS, this_thread};
    use crate::region::{Bounds, Region};
    use crate::rseq::abi::Area;
    use crate::rseq::status::{ABORTED, CHANGED, FULL, NO_SHARD};
    use crate::rseq::{Index, reference};
    use core::mem::offset_of;

    pub const SIGNATURE: u32 = 0x5305_3053;

    static AREA_OFFSET: AtomicIsize = AtomicIsize::new(0);
    static FREE_AREA_OFFSET: AtomicIsize = AtomicIsize::new(0);

    pub fn area_offset() -> &'static AtomicIsize {
        &AREA_OFFSET
    }

    pub fn free_area_offset() -> &'static AtomicIsize {
        &FREE_AREA_OFFSET
    }

    pub fn area_at(offset: isize) -> *mut Area {
        let block = &raw const BLOCKS[this_thread()];
        block.wrapping_byte_offset(offset).cast_mut().cast()
    }

    pub fn thread_block() -> &'static ThreadBlock {
        &BLOCKS[this_thread()]
    }

    pub fn thread_block_offset() -> isize {
        0
    }

    pub fn libc_rseq() -> Option<(isize, u32)> {
        Some((offset_of!(ThreadBlock, area) as isize, 32))
    }

    pub fn forget_early_descriptor() {}

    pub fn are_aborted() -> bool {
        true
    }

    /// What every section begins with; `closed` is what it does on the closed region.
    fn on_shard(index: Index, closed: isize, body: impl FnOnce(&Region) -> isize) -> isize {
        let section = || {
            let area = &BLOCKS[this_thread()].area;
            let shard = match index {
                Index::CpuId => area.cpu_id.load(Ordering::Relaxed) as i16,
                Index::MmCid => area.mm_cid.load(Ordering::Relaxed) as i16,
            };
            let Ok(shard) = usize::try_from(shard) else { return NO_SHARD };
            let entry = &HOT.table(index == Index::MmCid)[shard];
            // Acquire: plain loads of x86-64; see docs/ordering.md for other machines.
            match entry.load(Ordering::Acquire) {
                Some(region) => body(region),
                None => closed,
            }
        };
        machine::section(section).unwrap_or(ABORTED)
    }

    fn of_word(word: usize) -> Bounds {
        Bounds { top: word as u32, end: (word >> 32) as u32 }
    }

    macro_rules! sections {
        ($index:expr, $pop:ident, $push:ident, $pop_batch:ident, $push_batch:ident, $set_bounds:ident, $add:ident) => {
            // SAFETY, for each block: the processor is the caller's until the section is over.

            /// # Safety
            /// 1. `class` is a class.
            pub unsafe fn $pop(class: usize) -> isize {
                // SAFETY: see above.
                on_shard($index, 0, |region| unsafe { reference::pop(region, class) })
            }

            /// # Safety
            /// 1. `class` is a class.
            pub unsafe fn $push(class: usize, object: usize) -> isize {
                // SAFETY: see above.
                on_shard($index, FULL, |region| unsafe { reference::push(region, class, object) })
            }

            /// # Safety
            /// 1. `class` is a class. 2. `out` holds `n`.
            pub unsafe fn $pop_batch(
                class: usize,
                out: *mut usize,
                n: usize,
                _bottom: usize,
                _long: usize,
            ) -> isize {
                // SAFETY: see above, and duty 2.
                on_shard($index, 0, |region| unsafe {
                    reference::pop_batch(region, class, core::slice::from_raw_parts_mut(out, n))
                })
            }

            /// # Safety
            /// 1. `class` is a class. 2. `objects` has `n`.
            pub unsafe fn $push_batch(class: usize, objects: *const usize, n: usize) -> isize {
                // SAFETY: see above, and duty 2.
                on_shard($index, 0, |region| unsafe {
                    reference::push_batch(region, class, core::slice::from_raw_parts(objects, n))
                })
            }

            /// # Safety
            /// 1. `class` is a class; `bounds` are those of a stack of it.
            pub unsafe fn $set_bounds(
                class: usize,
                region: *const Region,
                expected: usize,
                bounds: usize,
            ) -> isize {
                on_shard($index, CHANGED, |own| match std::ptr::eq(own, region) {
                    // The reference implementation commits by two stores, the section by one.
                    // SAFETY: see above.
                    true => machine::at_once(|| unsafe {
                        reference::set_bounds(own, class, of_word(expected), of_word(bounds))
                    }),
                    false => CHANGED,
                })
            }

            /// # Safety
            /// 1. `offset` is that of a counter.
            pub unsafe fn $add(offset: usize, delta: usize) -> isize {
                let counter =
                    (offset - core::mem::offset_of!(Region, counters)) / size_of::<usize>();
                // SAFETY: see above.
                on_shard($index, 0, |region| unsafe { reference::add(region, counter, delta) })
            }
        };
    }

    sections!(Index::CpuId, pop_cpu, push_cpu, pop_batch_cpu, push_batch_cpu, set_bounds_cpu, add_cpu);
    sections!(Index::MmCid, pop_cid, push_cid, pop_batch_cid, push_batch_cid, set_bounds_cid, add_cid);
}

//! In the place of sections, which are never called: a thread that finds no shard.

use crate::arch::words::{ThreadBlock, ThreadWords};
use crate::atomic::{AtomicIsize, AtomicU32, AtomicU64};
use crate::region::Region;
use crate::rseq::abi::{Area, CPU_ID_UNINITIALIZED};
use crate::rseq::status::NO_SHARD;

/// None is registered.
pub const SIGNATURE: u32 = 0;

static AREA_OFFSET: AtomicIsize = AtomicIsize::new(0);
static FREE_AREA_OFFSET: AtomicIsize = AtomicIsize::new(0);
static BLOCK: ThreadBlock = ThreadBlock {
    area: unregistered(),
    words: ThreadWords::zeroed(),
    never_registered: [unregistered(), unregistered()],
};

const fn unregistered() -> Area {
    Area {
        cpu_id_start: AtomicU32::new(0),
        cpu_id: AtomicU32::new(CPU_ID_UNINITIALIZED),
        rseq_cs: AtomicU64::new(0),
        flags: AtomicU32::new(0),
        node_id: AtomicU32::new(0),
        mm_cid: AtomicU32::new(0),
        slice_ctrl: AtomicU32::new(0),
    }
}

pub fn area_offset() -> &'static AtomicIsize {
    &AREA_OFFSET
}

pub fn free_area_offset() -> &'static AtomicIsize {
    &FREE_AREA_OFFSET
}

pub fn area_at(_offset: isize) -> *mut Area {
    (&raw const BLOCK.area).cast_mut()
}

pub fn thread_block() -> &'static ThreadBlock {
    &BLOCK
}

pub fn thread_block_offset() -> isize {
    0
}

pub fn libc_rseq() -> Option<(isize, u32)> {
    None
}

pub fn forget_early_descriptor() {}

pub fn are_aborted() -> bool {
    false
}

macro_rules! sections {
    ($($cpu:ident / $cid:ident ($($argument:ty),*);)*) => { $(
        sections!(@one $cpu ($($argument),*));
        sections!(@one $cid ($($argument),*));
    )* };
    (@one $name:ident ($($argument:ty),*)) => {
        /// # Safety
        /// None.
        pub unsafe extern "C" fn $name($(_: $argument),*) -> isize {
            NO_SHARD
        }
    };
}

sections! {
    pop_cpu / pop_cid (usize);
    push_cpu / push_cid (usize, usize);
    pop_batch_cpu / pop_batch_cid (usize, *mut usize, usize, usize, usize);
    push_batch_cpu / push_batch_cid (usize, *const usize, usize);
    set_bounds_cpu / set_bounds_cid (usize, *const Region, usize, usize);
    add_cpu / add_cid (usize, usize);
}

//! Which steps the bytes of an input stand for, and how often each comes.

use crate::{Step, alignment, cache, class_size, count, pick, refusal, size};
use crate::{c_abi, operations, schedules, tiers, reference};
use arbitrary::{Arbitrary, Result, Unstructured};

/// Objects above this size are heavy, see [`Step::is_heavy`].
const LIGHT: usize = 16 << 10;

impl Step for operations::Op {
    const USES: &[&str] = &["operations::{Op::*, replay}"];

    fn read(u: &mut Unstructured) -> Result<Self> {
        use operations::Op;
        Ok(match u8::arbitrary(u)? % 32 {
            0..=4 => Op::Allocate { size: size(u)? },
            5..=7 => Op::Aligned { size: size(u)?, shift: u.int_in_range(0..=26)? },
            8..=10 => Op::Zeroed { size: size(u)?, shift: u.int_in_range(0..=18)? },
            11..=13 => Op::Reallocate { pick: pick(u)?, size: size(u)? },
            14..=15 => Op::ReallocateSized { pick: pick(u)?, size: size(u)? },
            16..=19 => Op::Free { pick: pick(u)? },
            20..=22 => Op::FreeSized { pick: pick(u)? },
            23..=24 => Op::Burst { size: size(u)?, count: u.int_in_range(2..=600)? },
            25..=26 => Op::FreeMany { pick: pick(u)?, count: u.int_in_range(2..=600)? },
            27 if bool::arbitrary(u)? => Op::FreeNull { size: size(u)? },
            27 => Op::Release,
            28 => Op::Cache { bytes: cache(u)? },
            29..=30 => {
                let (first, count) = refusal(u)?;
                Op::Refuse { first, count }
            }
            31 if bool::arbitrary(u)? => Op::Exhaust,
            _ => Op::Check,
        })
    }

    fn is_heavy(&self) -> bool {
        use operations::Op::*;
        match *self {
            Aligned { size, shift } | Zeroed { size, shift } => size > LIGHT || shift > 16,
            Burst { size, count } => size.saturating_mul(count) > 16 * LIGHT,
            Allocate { size } | Reallocate { size, .. } | ReallocateSized { size, .. } => {
                size > LIGHT
            }
            Exhaust | Release => true,
            _ => false,
        }
    }
}

impl Step for c_abi::Op {
    const USES: &[&str] = &["c_abi::{Op::*, replay}"];

    fn read(u: &mut Unstructured) -> Result<Self> {
        use c_abi::Op;
        Ok(match u8::arbitrary(u)? % 32 {
            0..=2 => Op::Malloc { size: size(u)? },
            3..=4 => Op::Calloc { count: count(u)?, size: size(u)? },
            5..=7 => Op::Realloc { pick: pick(u)?, size: size(u)? },
            8 => Op::ReallocNull { size: size(u)? },
            9..=10 => Op::Reallocarray { pick: pick(u)?, count: count(u)?, size: size(u)? },
            11..=12 => Op::PosixMemalign { align: alignment(u)?, size: size(u)? },
            13..=15 => Op::AlignedAlloc { align: alignment(u)?, size: size(u)? },
            16 => Op::Memalign { align: alignment(u)?, size: size(u)? },
            17 if bool::arbitrary(u)? => Op::Valloc { size: size(u)? },
            17 => Op::Pvalloc { size: size(u)? },
            18..=20 => Op::Free { pick: pick(u)? },
            21..=25 => Op::FreeSized { pick: pick(u)? },
            26..=27 => Op::Burst { size: size(u)?, count: u.int_in_range(2..=600)? },
            28..=29 => Op::FreeMany { pick: pick(u)?, count: u.int_in_range(2..=600)? },
            30 if bool::arbitrary(u)? => Op::FreeNull { align: alignment(u)?, size: size(u)? },
            30 => Op::Trim { pad: size(u)? },
            _ => Op::Check,
        })
    }

    fn is_heavy(&self) -> bool {
        use c_abi::Op::*;
        match *self {
            Malloc { size } | Realloc { size, .. } | ReallocNull { size } => size > LIGHT,
            Valloc { size } | Pvalloc { size } => size > LIGHT,
            Burst { size, count } => size.saturating_mul(count) > 16 * LIGHT,
            Calloc { count, size } | Reallocarray { count, size, .. } => {
                size.saturating_mul(count) > LIGHT
            }
            PosixMemalign { align, size }
            | AlignedAlloc { align, size }
            | Memalign { align, size } => size > LIGHT || align > 1 << 16,
            Trim { .. } => true,
            _ => false,
        }
    }
}

impl Step for schedules::Op {
    const USES: &[&str] = &["operations::Op::*", "schedules::{Op::*, replay}"];

    fn read(u: &mut Unstructured) -> Result<Self> {
        use schedules::{Op, THREADS};
        let thread = u.int_in_range(0..=THREADS - 1)?;
        Ok(match u8::arbitrary(u)? % 32 {
            0..=24 => Op::Run { thread, op: operations::Op::read(u)? },
            25..=27 => Op::Migrate { thread, cpu: u.int_in_range(0..=7)? },
            28..=29 => Op::End { thread },
            _ => Op::Stop { steps: u.int_in_range(1..=32)? },
        })
    }

    fn is_heavy(&self) -> bool {
        match self {
            schedules::Op::Run { op, .. } => op.is_heavy(),
            _ => true,
        }
    }
}

impl Step for tiers::Op {
    const USES: &[&str] = &["tiers::{Op::*, replay}"];

    fn read(u: &mut Unstructured) -> Result<Self> {
        use tiers::{CPUS, Op};
        Ok(match u8::arbitrary(u)? % 32 {
            0..=6 => Op::Allocate { size: class_size(u)? },
            7..=13 => Op::Free { pick: pick(u)? },
            14..=17 => Op::Burst { size: class_size(u)?, count: u.int_in_range(2..=600)? },
            18..=21 => Op::FreeMany { pick: pick(u)?, count: u.int_in_range(2..=600)? },
            22..=25 => Op::Migrate { cpu: u.int_in_range(0..=CPUS - 1)? },
            26 => Op::Drain,
            27 => Op::Release,
            28 => Op::Cache { bytes: cache(u)? },
            29 => {
                let (first, count) = refusal(u)?;
                Op::Refuse { first, count }
            }
            _ => Op::Check,
        })
    }

    fn is_heavy(&self) -> bool {
        use tiers::Op::*;
        match *self {
            Allocate { size } => size > LIGHT,
            Burst { size, count } => size * count > 16 * LIGHT,
            Drain | Release => true,
            _ => false,
        }
    }
}

impl Step for reference::Op {
    const USES: &[&str] = &["reference::{Op::*, replay}"];

    fn read(u: &mut Unstructured) -> Result<Self> {
        use reference::Op;
        // Few classes, so that operations meet.
        let class = u.int_in_range(0..=7)?;
        let object = |u: &mut Unstructured| u.int_in_range(1..=usize::MAX / 2);
        Ok(match u8::arbitrary(u)? % 16 {
            0..=3 => Op::Pop { class },
            4..=6 => Op::Push { class, object: object(u)? },
            7..=8 => Op::PopBatch { class, count: u.int_in_range(0..=64)? },
            9..=10 => Op::PushBatch { class, object: object(u)?, count: u.int_in_range(0..=64)? },
            11..=12 => Op::SetBounds { class, slots: pick(u)?, wrong: bool::arbitrary(u)? },
            13 => Op::Add { counter: class, delta: pick(u)? },
            14 => Op::State { class, objects: pick(u)?, slots: pick(u)? },
            _ => Op::Stopped { class },
        })
    }

    fn is_heavy(&self) -> bool {
        matches!(self, reference::Op::Stopped { .. })
    }
}

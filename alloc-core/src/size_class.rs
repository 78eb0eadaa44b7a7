//! The size classes: the object size that serves a request, and what each tier does with that size.
//!
//! Sizes are 8, then multiples of 16 up to 128, then eight steps per doubling up to 256 KiB, so at most 1/9 of an object above
//! 128 B is wasted.
//!
//! Invariants:
//! I1. Class 0 is "no class": it has size 0 and no slots, so it is always empty for a pop and full for a push.
//! I2. Sizes ascend; every size but 8 is a multiple of 16.
//! I3. `object_size(class_of(n)) >= n` for every `n <= OBJECT_MAX_BYTES`, and the class below is too small.

use crate::units::{
    MAGAZINE_MAX, OBJECT_MAX_BYTES, PAGE_BYTES, SLAB_OBJECT_MAX_BYTES, SLAB_OBJECTS_MAX, pages_of,
};

/// A size class, 1 to `CLASSES - 1`; 0 is "no class".
pub type Class = usize;

/// Number of classes, class 0 included.
pub const CLASSES: usize = 98;

/// Requests up to this size find their class by one byte per size.
pub const TINY_MAX_BYTES: usize = 1024;
/// Requests up to this size find their class by one byte per 128 B.
pub const MEDIUM_MAX_BYTES: usize = 32 << 10;
/// log2 of the step of the medium table.
pub const MEDIUM_SHIFT: u32 = 7;

/// See [`ClassInfo::reciprocal`].
pub const RECIPROCAL_SHIFT: u32 = 32;
const WHOLE: u64 = 1 << RECIPROCAL_SHIFT;

/// Slots of the short stacks of large classes, whose batches are smaller.
const SLOTS_SHORT_MIN: usize = 16;

/// What the tiers know of a class.
#[derive(Clone, Copy)]
pub struct ClassInfo {
    /// Object size in bytes.
    pub size: usize,
    /// `(offset * reciprocal) >> RECIPROCAL_SHIFT` is the index of the object that has the byte at this offset in the slab: 2^32 /
    /// size, rounded up; in a slab of one object, where the index is always 0, rounded down.
    pub reciprocal: u64,
    /// Objects in one slab.
    pub objects: usize,
    /// Pages in one slab.
    pub pages: usize,
    /// Pointers moved between tiers at once.
    pub batch: usize,
    /// Pointers that a shard's short stack holds; a longer one is mapped when the class needs it (see `region`).
    pub slots_short: usize,
    /// The most pointers that a shard can hold, in the long stack.
    pub slots_max: usize,
}

impl ClassInfo {
    /// The number of the object that starts `offset` bytes from the start of a slab; None if none starts there.
    ///
    /// The low half of the product is the fraction. It is below the reciprocal only at the start of an object: there it is less than
    /// 2^16, by the rounding; each byte more adds a reciprocal, which is 2^17 at least if the slab has several objects.
    #[inline]
    pub const fn index_at(&self, offset: usize) -> Option<usize> {
        if offset >= self.objects * self.size {
            return None;
        }
        let product = offset as u64 * self.reciprocal;
        let index = (product >> RECIPROCAL_SHIFT) as usize;
        if (product as u32 as u64) < self.reciprocal { Some(index) } else { None }
    }
}

const NO_CLASS: ClassInfo = ClassInfo {
    size: 0,
    reciprocal: 0,
    objects: 0,
    pages: 0,
    batch: 1,
    slots_short: 0,
    slots_max: 0,
};

/// The classes by number.
pub static CLASS: [ClassInfo; CLASSES] = build();

const fn build() -> [ClassInfo; CLASSES] {
    let mut table = [NO_CLASS; CLASSES];
    let mut class = 1;
    let mut size = 8;
    while class < CLASSES {
        table[class] = info(size);
        size = next_size(size);
        class += 1;
    }
    assert!(table[CLASSES - 1].size == OBJECT_MAX_BYTES);
    table
}

const fn next_size(size: usize) -> usize {
    if size < 16 {
        16
    } else if size < 128 {
        size + 16
    } else {
        size + (1 << (size.ilog2() - 3))
    }
}

const fn info(size: usize) -> ClassInfo {
    let single = size > SLAB_OBJECT_MAX_BYTES;
    let fit = if single { 1 } else { PAGE_BYTES / size };
    let batch = clamp((32 << 10) / size, 1, MAGAZINE_MAX);
    ClassInfo {
        size,
        reciprocal: if single { WHOLE / size as u64 } else { WHOLE.div_ceil(size as u64) },
        objects: if fit < SLAB_OBJECTS_MAX { fit } else { SLAB_OBJECTS_MAX },
        pages: if single { pages_of(size) } else { 1 },
        batch,
        slots_max: match size {
            0..=256 => 8192,
            257..=1024 => 4096,
            _ => 256,
        },
        slots_short: clamp(batch, SLOTS_SHORT_MIN, MAGAZINE_MAX),
    }
}

const fn clamp(value: usize, low: usize, high: usize) -> usize {
    if value < low {
        low
    } else if value > high {
        high
    } else {
        value
    }
}

/// The class that serves `size`; 0 if it is larger than the largest.
pub const fn class_of(size: usize) -> Class {
    if size <= 128 {
        return if size <= 8 { 1 } else { size.div_ceil(16) + 1 };
    }
    if size > OBJECT_MAX_BYTES {
        return 0;
    }
    // Eight steps in (2^k, 2^(k+1)]: the step is 2^(k-3).
    let k = (size - 1).ilog2();
    let step = (size - 1 - (1 << k)) >> (k - 3);
    10 + (k as usize - 7) * 8 + step
}

/// The class that serves `size` bytes at `align` (a power of two): that of the size rounded up to a multiple of the alignment. The
/// size of that class is such a multiple too, since the steps between classes are powers of two from 16 up; and slabs start at
/// pages. 0 if none.
#[inline(never)]
pub const fn class_of_aligned(size: usize, align: usize) -> Class {
    if align > PAGE_BYTES || size > OBJECT_MAX_BYTES {
        return 0;
    }
    if align <= 8 {
        return class_of(size);
    }
    class_of(if size == 0 { align } else { size.next_multiple_of(align) })
}

/// The alignment that every object of `class` has.
#[inline(never)]
pub const fn natural_align(class: Class) -> usize {
    let info = &CLASS[class];
    if info.objects == 1 { PAGE_BYTES } else { 1 << info.size.trailing_zeros() }
}

/// Object size of `class` in bytes.
pub const fn object_size(class: Class) -> usize {
    CLASS[class].size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_fit_tightly() {
        for size in 0..=OBJECT_MAX_BYTES {
            let class = class_of(size);
            assert!((1..CLASSES).contains(&class));
            assert!(object_size(class) >= size);
            assert!(class == 1 || object_size(class - 1) < size, "class below also fits {size}");
            if size > 128 {
                let waste = object_size(class) - size;
                assert!(
                    waste * 8 <= object_size(class),
                    "{waste} of {} wasted",
                    object_size(class)
                );
            }
        }
        assert_eq!(class_of(OBJECT_MAX_BYTES + 1), 0);
    }

    #[test]
    fn reciprocal_is_exact_in_a_slab() {
        for (class, info) in CLASS.iter().enumerate().skip(1) {
            for offset in 0..info.pages * PAGE_BYTES {
                let index = (offset as u64 * info.reciprocal) >> RECIPROCAL_SHIFT;
                let is_in_object = offset < info.objects * info.size;
                assert!(!is_in_object || index as usize == offset / info.size, "{class}: {offset}");
                let exact = offset.is_multiple_of(info.size) && offset / info.size < info.objects;
                let found = info.index_at(offset);
                assert_eq!(found, exact.then_some(offset / info.size), "{class}: {offset}");
            }
        }
    }

    #[test]
    fn alignment_is_natural() {
        for shift in 0..=16 {
            let align = 1usize << shift;
            for size in (0..=OBJECT_MAX_BYTES).step_by(7) {
                let class = class_of_aligned(size, align);
                assert!(class != 0, "{size} at {align}");
                assert!(object_size(class) >= size && object_size(class).is_multiple_of(align));
            }
        }
        assert_eq!(class_of_aligned(8, 2 * PAGE_BYTES), 0);
    }
}

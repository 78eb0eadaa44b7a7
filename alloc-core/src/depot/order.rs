//! The order in which the objects of a magazine are taken by another thread than the one that put them.

use crate::size_class::{CLASS, Class};
use crate::units::MAGAZINE_MAX;

/// The order for objects of `class`: each index of a magazine once.
pub(super) fn of(class: Class) -> &'static [u8; MAGAZINE_MAX] {
    &ORDERS[line_mates(class).ilog2() as usize]
}

/// The orders, by the logarithm of how many objects share a cache line: those stay
/// together, and the lines are mixed (their numbers' bits reversed). Objects of a magazine often lie side by side. If the taking CPU
/// used them in the order in which the freeing CPU still writes others nearby, the prefetchers of both, which follow strides, would
/// take away lines that the other CPU is about to write (docs/adr/0014). A thread that takes its own objects loses by it
/// (docs/adr/0030).
static ORDERS: [[u8; MAGAZINE_MAX]; LINE_MATES_MAX.ilog2() as usize + 1] = {
    let mut orders = [[0; MAGAZINE_MAX]; LINE_MATES_MAX.ilog2() as usize + 1];
    let mut shared = 0;
    while shared < orders.len() {
        let bits = MAGAZINE_MAX.ilog2() as usize - shared;
        let mut at = 0;
        while at < MAGAZINE_MAX {
            let mixed = (at >> shared).reverse_bits() >> (usize::BITS as usize - bits);
            orders[shared][at] = (mixed << shared | at & ((1 << shared) - 1)) as u8;
            at += 1;
        }
        shared += 1;
    }
    orders
};
const _: () = assert!(MAGAZINE_MAX.is_power_of_two() && MAGAZINE_MAX <= 1 << u8::BITS);

/// Objects of the smallest class in a cache line.
const LINE_MATES_MAX: usize = 64 / 8;

/// How many objects of `class` may share a cache line.
fn line_mates(class: Class) -> usize {
    (64 / CLASS[class].size).max(1)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    #[test]
    fn each_order_has_all_and_no_stride() {
        for (shared, order) in ORDERS.iter().enumerate() {
            let mut sorted = *order;
            sorted.sort_unstable();
            assert!(
                sorted.iter().enumerate().all(|(at, &from)| at == usize::from(from)),
                "{shared}"
            );
            let lines: Vec<i32> =
                order.chunks(1 << shared).map(|mates| i32::from(mates[0] >> shared)).collect();
            for (line, mates) in lines.iter().zip(order.chunks(1 << shared)) {
                let together = (0..1 << shared).map(|mate| (line << shared) as u8 + mate);
                assert!(together.eq(mates.iter().copied()), "{shared}: line {line} is torn");
            }
            let steps: Vec<i32> = lines.windows(2).map(|pair| pair[1] - pair[0]).collect();
            assert!(
                steps.windows(2).all(|pair| pair[0] != pair[1]),
                "{shared}: a stride, {steps:?}"
            );
        }
    }
}

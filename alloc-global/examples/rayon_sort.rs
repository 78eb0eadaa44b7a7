//! Parallel sorting and grouping on rayon with rsalloc as the allocator.
//!
//! `cargo run --release --example rayon_sort -- 1000000` sorts that many strings, groups them and
//! prints sums that do not depend on how the work was divided. `cargo lab programs` compares
//! them with those of a build with `--cfg without_rsalloc`.
#![allow(unexpected_cfgs)]

use std::collections::HashMap;

use rayon::prelude::*;

#[cfg(not(without_rsalloc))]
#[global_allocator]
static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;

fn main() {
    let count = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(1_000_000_u64);
    for round in 0..3 {
        let mut words: Vec<String> = (0..count).into_par_iter().map(|i| word(i, round)).collect();
        words.par_sort();
        assert!(words.par_windows(2).all(|pair| pair[0] <= pair[1]), "not sorted");
        let groups = words
            .par_iter()
            .fold(HashMap::<&[u8], Vec<&str>>::new, |mut groups, word| {
                groups.entry(&word.as_bytes()[..2]).or_default().push(word);
                groups
            })
            .reduce(HashMap::new, |mut left, right| {
                for (key, list) in right {
                    left.entry(key).or_default().extend(list);
                }
                left
            });
        let grouped: usize = groups.values().map(Vec::len).sum();
        let longest = groups.par_iter().map(|(_, list)| list.concat().len()).max().unwrap_or(0);
        println!("{round}: {} words, {grouped} grouped, longest {longest}", words.len());
        println!("{round}: sum {:x}", words.par_iter().map(|word| sum(word)).sum::<u64>());
    }
}

/// The i-th word of a round: hexadecimal, 2 to 80 bytes.
fn word(i: u64, round: u64) -> String {
    let bits = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(round as u32 * 7 + 3);
    format!("{:02x}{}", bits & 0xff, format!("{bits:x}").repeat((bits % 5) as usize))
}

fn sum(word: &str) -> u64 {
    word.bytes().fold(0xcbf2_9ce4_8422_2325, |x: u64, byte| {
        (x ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    }) >> 24
}

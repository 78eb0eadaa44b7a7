//! A thousand threads alive at once, each allocating, passing on and freeing what others made.
//!
//! `cargo run --release --example thousand_threads -- 1000 200` (threads, rounds) checks every
//! byte that is passed on and prints a sum. `cargo lab programs` compares it with that of a
//! build with `--cfg without_rsalloc`.
#![allow(unexpected_cfgs)]

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Barrier};
use std::thread;

#[cfg(not(without_rsalloc))]
#[global_allocator]
static GLOBAL: rsalloc::RsAlloc = rsalloc::RsAlloc;

/// An object that knows what it must hold.
struct Parcel {
    seed: u64,
    bytes: Vec<u8>,
}

fn main() {
    let number =
        |n, default| std::env::args().nth(n).and_then(|n| n.parse().ok()).unwrap_or(default);
    let (threads, rounds) = (number(1, 1000), number(2, 200));
    let start = Arc::new(Barrier::new(threads as usize));
    let (senders, receivers): (Vec<Sender<Parcel>>, Vec<Receiver<Parcel>>) =
        (0..threads).map(|_| channel()).unzip();
    let workers: Vec<_> = receivers
        .into_iter()
        .enumerate()
        .map(|(own, inbox)| {
            // To the neighbour and to one far away, so that objects cross shards.
            let to = [1, 7 * own + 3].map(|step| senders[(own + step) % senders.len()].clone());
            let start = start.clone();
            thread::Builder::new().stack_size(128 << 10).spawn(move || {
                start.wait();
                work(own as u64, rounds, to, inbox)
            })
        })
        .collect::<Result<_, _>>()
        .expect("threads start");
    drop(senders);
    let sums = workers.into_iter().map(|worker| worker.join().expect("no thread panics"));
    let (parcels, sum) = sums.fold((0, 0_u64), |(n, x), (m, y)| (n + m, x.wrapping_add(y)));
    assert_eq!(parcels, threads * rounds, "parcels got lost");
    println!("{threads} threads, {parcels} parcels, sum {sum:x}");
}

fn work(own: u64, rounds: u64, to: [Sender<Parcel>; 2], inbox: Receiver<Parcel>) -> (u64, u64) {
    let (mut parcels, mut sum) = (0, 0_u64);
    let mut kept = Vec::new();
    let mut open = |parcel: Parcel| {
        parcels += 1;
        sum = sum.wrapping_add(check(&parcel));
        // Every fourth is kept for long and grown, so that old and new objects lie mixed.
        if parcel.seed.is_multiple_of(4) {
            kept.push(parcel);
        }
        if kept.len() > 8 {
            let mut old = kept.swap_remove(parcels as usize % 8);
            check(&old);
            let tail = vec![7; old.bytes.len() * 3];
            old.bytes.extend_from_slice(&tail);
            assert!(old.bytes.ends_with(&tail), "a grown object is damaged");
        }
    };
    for round in 0..rounds {
        let parcel = pack(own * 1_000_003 + round);
        to[round as usize % 2].send(parcel).expect("the receiver lives until all have sent");
        inbox.try_iter().take(4).for_each(&mut open);
    }
    drop(to);
    inbox.iter().for_each(&mut open);
    (parcels, sum)
}

fn pack(seed: u64) -> Parcel {
    let mixed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let len = if mixed >> 58 == 0 { 40_000 } else { (mixed >> 40) % 900 };
    Parcel { seed, bytes: (0..len).map(|i| (mixed >> (i % 57)) as u8).collect() }
}

fn check(parcel: &Parcel) -> u64 {
    assert!(parcel.bytes == pack(parcel.seed).bytes, "parcel {} is damaged", parcel.seed);
    parcel.bytes.iter().fold(parcel.seed, |sum, byte| sum.wrapping_mul(31) + u64::from(*byte))
}

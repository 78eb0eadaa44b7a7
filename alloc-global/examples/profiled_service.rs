//! A service of threads that is profiled now and then under load, and leaves nothing behind. Fails with a line that says
//! what is left; `tests/profiled.rs` runs it as a dynamic and as a static program.

use rsalloc::RsAlloc;
use rsalloc_core::internals::profile::{self, read};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

#[global_allocator]
static GLOBAL: RsAlloc = RsAlloc;

const WORKERS: usize = 4;
const SWITCHES: usize = 40;

/// Makes requests until `end`: what one thread allocates, another one frees.
fn send(to: &SyncSender<(String, Vec<u8>)>, end: Instant) -> usize {
    let mut sent = 0;
    while Instant::now() < end {
        let body = vec![sent as u8; 1 + sent * 37 % 3000];
        if to.send((format!("key {}", sent % 500), body)).is_err() {
            break;
        }
        sent += 1;
    }
    sent
}

/// Stores what arrives, answers from it, and drops all of it at the end.
fn serve(from: &Receiver<(String, Vec<u8>)>) -> usize {
    let mut store: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
    let mut served = 0;
    while let Ok((key, body)) = from.recv() {
        assert!(body.iter().all(|&byte| byte == body[0]), "a body was overwritten");
        let list = store.entry(key).or_default();
        list.push(body);
        if list.len() > 8 {
            list.clear();
        }
        served += 1;
    }
    served
}

/// Works for `time`, while the profile is switched on and off; how many requests there were.
fn work(time: Duration, switches: usize) -> usize {
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        let servers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let (to, from) = sync_channel(64);
                scope.spawn(move || send(&to, end));
                scope.spawn(move || serve(&from))
            })
            .collect();
        for _ in 0..switches {
            rsalloc::profile::start(4096).expect("no profile runs");
            std::thread::sleep(time / switches as u32 / 4);
            rsalloc::profile::stop().expect("a profile runs");
            std::thread::sleep(time / switches as u32 / 4);
        }
        servers.into_iter().map(|server| server.join().expect("no panic")).sum()
    })
}

/// Stacks that were sampled, and the frames of the deepest one.
fn stacks() -> (usize, usize) {
    let header = profile::own_header();
    let (mut count, mut deepest) = (0, 0);
    read::for_each_stack(&header, &profile::OwnMemory, |_, stack| {
        count += 1;
        deepest = deepest.max(read::frames(&header, stack, &profile::OwnMemory).count());
    })
    .expect("the records are whole");
    (count, deepest)
}

fn main() {
    // The second round finds what the first one has made for ever: threads' memory, tables, caches.
    work(Duration::from_millis(100), 1);
    rsalloc_core::release();
    let before = rsalloc::stats();
    let served = work(Duration::from_millis(600), SWITCHES);
    assert!(served > 1000, "only {served} requests");
    let (count, deepest) = stacks();
    assert!(count > 3 && deepest > 3, "{count} stacks, the deepest of {deepest} frames");
    // What a free by size put into a cache comes back.
    rsalloc_core::release();
    let after = rsalloc::stats();
    assert_eq!(rsalloc_core::check(), Ok(()));
    assert_eq!(profile::live(), 0, "live samples of what was freed");
    assert_eq!((after.sampled_count, after.sampled_bytes), (0, 0), "small samples are left");
    let grown = after.live_bytes.saturating_sub(before.live_bytes);
    assert!(grown < 64 << 10, "{grown} bytes stayed: {before}\n{after}");
    let touched = |s: &rsalloc::Stats| s.mapped_bytes - s.clean_bytes;
    let kept = touched(&after).saturating_sub(touched(&before));
    assert!(kept < 16 << 20, "{kept} bytes of memory stayed: {before}\n{after}");
    println!("{served} requests, {count} stacks, {deepest} frames");
}

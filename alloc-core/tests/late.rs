//! What a bounded wait must not cost: memory behind a lock that another thread holds for long is served all the same.

use rsalloc_core::internals::page_heap::PAGE_HEAP;
use rsalloc_core::{allocate, free, reallocate_sized};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

const MIB: usize = 1 << 20;

/// A thread that is there before addresses become scarce, and the place for its results.
struct Worker {
    calls: Sender<fn(usize) -> usize>,
    arguments: Sender<usize>,
    results: Receiver<usize>,
}

impl Worker {
    fn start() -> Worker {
        let (calls, call) = channel::<fn(usize) -> usize>();
        let (arguments, argument) = channel();
        let (result, results) = channel();
        thread::spawn(move || {
            while let (Ok(call), Ok(argument)) = (call.recv(), argument.recv()) {
                result.send(call(argument)).unwrap();
            }
        });
        let worker = Worker { calls, arguments, results };
        worker.begin(allocate_address, 64);
        assert_ne!(worker.end(), 0);
        worker
    }

    fn begin(&self, call: fn(usize) -> usize, argument: usize) {
        self.calls.send(call).unwrap();
        self.arguments.send(argument).unwrap();
    }

    fn end(&self) -> usize {
        self.results.recv_timeout(Duration::from_secs(60)).expect("the call waits")
    }
}

fn allocate_address(bytes: usize) -> usize {
    allocate(bytes) as usize
}

fn shrink_to_a_quarter(address: usize) -> usize {
    // SAFETY: an object of 4 MiB that is the callee's.
    unsafe { reallocate_sized(address as *mut u8, 4 * MIB, 8, MIB) as usize }
}

/// Bytes of addresses that the process has.
fn address_bytes() -> u64 {
    let words = std::fs::read_to_string("/proc/self/statm").unwrap();
    words.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

fn limit_addresses(bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a live struct.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) }, 0);
}

fn free_address(address: usize) {
    // SAFETY: a live object, which the caller gives up.
    unsafe { free(address as *mut u8) }
}

/// One after the other: the limit is the process's.
#[test]
fn a_request_behind_a_held_lock_is_served() {
    let worker = Worker::start();
    a_late_request_waits_when_there_is_no_way_around(&worker);
    a_sized_resize_does_not_wait(&worker);
    one_cached_object_may_be_all_that_a_request_lacks();
}

fn a_late_request_waits_when_there_is_no_way_around(worker: &Worker) {
    let (large, neighbour) = (allocate_address(4 * MIB), allocate_address(300 << 10));
    free_address(large);
    let segment = PAGE_HEAP.segment_at(neighbour).unwrap();
    let guard = segment.lock().unwrap();
    limit_addresses(address_bytes() + (400 << 10));
    worker.begin(allocate_address, MIB);
    // Many times what an operation waits for a holder.
    thread::sleep(Duration::from_millis(200));
    drop(guard);
    let object = worker.end();
    limit_addresses(libc::RLIM_INFINITY);
    assert_ne!(object, 0, "4 MiB were free");
    free_address(object);
    free_address(neighbour);
}

fn a_sized_resize_does_not_wait(worker: &Worker) {
    let object = allocate_address(4 * MIB);
    let segment = PAGE_HEAP.segment_at(object).unwrap();
    let guard = segment.lock().unwrap();
    worker.begin(shrink_to_a_quarter, object);
    let shrunk = worker.end();
    drop(guard);
    assert_ne!(shrunk, 0);
    free_address(shrunk);
}

fn one_cached_object_may_be_all_that_a_request_lacks() {
    const OBJECTS: usize = 40_000;
    let objects: Vec<usize> = (0..OBJECTS).map(|_| allocate_address(1024)).collect();
    let (kept, freed) = objects.split_at(OBJECTS * 3 / 10);
    // In an order that leaves cached objects in many slabs.
    let order = (0..freed.len()).map(|at| freed[at * 7919 % freed.len()]);
    order.for_each(free_address);
    limit_addresses(address_bytes());
    let large = allocate_address(8 * MIB);
    limit_addresses(libc::RLIM_INFINITY);
    assert_ne!(large, 0, "28 MiB were freed");
    free_address(large);
    kept.iter().copied().for_each(free_address);
}

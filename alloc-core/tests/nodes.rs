//! Memory nodes: what is allocated on a CPU comes from the segments of its node, whatever was freed there.
//!
//! The nodes are planted: the kernel's number of a CPU's node is said by the test, for machines with one node.

#[path = "support/again.rs"]
mod again;
#[path = "support/cpus.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod cpus;

use cpus::Cpus;
use rsalloc_core::internals::cpu_cache::shard::percpu;
use rsalloc_core::internals::node::{self, Node};
use rsalloc_core::internals::page_heap::PAGE_HEAP;
use rsalloc_core::internals::size_class::{CLASS, class_of};
use rsalloc_core::internals::slab::SLABS;
use rsalloc_core::{Mode, allocate, free};

const SIZES: [usize; 6] = [16, 100, 1000, 8000, 100_000, 400_000];
const COUNT: usize = 300;

fn node_of(object: *mut u8) -> Node {
    PAGE_HEAP.node_at(object as usize)
}

fn objects(size: usize) -> Vec<*mut u8> {
    let objects: Vec<_> = (0..COUNT).map(|_| allocate(size)).collect();
    assert!(objects.iter().all(|object| !object.is_null()));
    objects
}

fn free_all(objects: Vec<*mut u8>) {
    // SAFETY: live, of this test alone.
    objects.into_iter().for_each(|object| unsafe { free(object) });
}

fn are_all_on(objects: &[*mut u8], node: Node, when: &str) {
    let elsewhere = objects.iter().filter(|&&object| node_of(object) != node).count();
    assert_eq!(elsewhere, 0, "of {COUNT} objects, {when}");
}

fn freed_elsewhere_and_allocated_again(cpus: &Cpus, [here, there]: [Node; 2], size: usize) {
    cpus.move_to(0);
    let first = objects(size);
    are_all_on(&first, here, "allocated on the first node");
    cpus.move_to(1);
    free_all(first);
    let second = objects(size);
    are_all_on(&second, there, "allocated where objects of the first node were freed");
    cpus.move_to(0);
    let third = objects(size);
    are_all_on(&third, here, "allocated after they were freed elsewhere");
    free_all(second);
    let fourth = objects(size);
    are_all_on(&fourth, here, "allocated where objects of the second node were freed");
    free_all(third);
    free_all(fourth);
}

#[test]
fn objects_are_allocated_on_their_nodes_whatever_was_freed_there() {
    let cpus = Cpus::allowed();
    let [first, second] = [0, 1].map(|number| {
        cpus.move_to(number);
        free_all(objects(64));
        // SAFETY: no arguments.
        unsafe { libc::sched_getcpu() as usize }
    });
    let mode = rsalloc_core::report().mode;
    if first == second || !matches!(mode, Mode::RseqLibc | Mode::RseqOwn) || node::are_many() {
        println!("NOT TESTED: it takes two CPUs, one memory node and rseq sections; {mode:?}");
        return;
    }
    let here = node::of_cpu(first);
    // The first one is known already, if the kernel says on which node its CPUs are.
    percpu::tell_node(first, 0);
    percpu::tell_node(second, 700);
    assert!(node::are_many());
    let there = node::of_cpu(second);
    assert_ne!(here, there);
    cpus.move_to(0);
    rsalloc_core::release();
    for size in SIZES {
        freed_elsewhere_and_allocated_again(&cpus, [here, there], size);
    }
    assert_eq!(rsalloc_core::check(), Ok(()));
    // All that was freed elsewhere can be given back, and nothing was lost.
    let before: Vec<_> = SIZES.map(|size| SLABS[class_of(size)].totals().1).to_vec();
    rsalloc_core::release();
    for (size, before) in SIZES.into_iter().zip(before).filter(|&(size, _)| class_of(size) != 0) {
        let out = SLABS[class_of(size)].totals().1;
        assert!(out <= before && out < CLASS[class_of(size)].batch, "{size} B: {out} of {before}");
    }
    assert_eq!(rsalloc_core::check(), Ok(()));
}

/// The setting of the parent process, in a process of its own.
#[test]
fn nodes_are_told_apart_unless_the_setting_is_off() {
    const NAME: &str = "nodes_are_told_apart_unless_the_setting_is_off";
    if let Some(expected) = std::env::var_os("RSALLOC_TEST_NODES") {
        free_all(objects(64));
        percpu::tell_node(0, 600);
        percpu::tell_node(1, 700);
        assert_eq!(node::are_many(), expected == "many");
        return;
    }
    for (setting, expected) in [("nodes:on", "many"), ("nodes:off", "one")] {
        let mut command = again::this_program();
        command.args(["--exact", NAME]);
        command.env("RSALLOC_CONF", setting).env("RSALLOC_TEST_NODES", expected);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{setting}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

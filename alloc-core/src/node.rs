//! Memory nodes (NUMA), as far as threads of the process were seen on their CPUs.
//!
//! A node is known from the moment that the first shard of one of its CPUs is created. So a process whose threads stay on one node
//! has one, whatever the machine has, and nothing differs from a machine with one node (docs/adr/0051).
//!
//! Promises that all of it is about where objects lie, never about whether an operation is right: a thread may be moved, and a number
//! be stale, at any instant. Nothing here waits or calls the kernel.
//!
//! Invariants:
//! I1. Nodes are numbered from 0 in the order in which they were seen. Those behind the last number share it.
//! I2. A CPU's node is known before its shard can be used.

use crate::atomic::{AtomicU8, AtomicU32, AtomicUsize, Ordering};
use crate::os;
use crate::parts;
use crate::units::SHARDS_MAX;

/// Nodes that are told apart.
pub const NODES_MAX: usize = 8;

/// A memory node, by the order in which the process came to know it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node(u8);

/// What is known of the nodes. What one node touches comes last, beside what other modules touch: it costs no page of its own.
#[repr(C)]
struct Nodes {
    /// By CPU: 1 + its node; 0: the first one, or not known.
    of_cpu: [AtomicU8; SHARDS_MAX],
    /// By node: 1 + the kernel's number of it; 0: not seen.
    ids: [AtomicU32; NODES_MAX],
    /// Nodes that were seen.
    count: AtomicUsize,
}

static NODES: Nodes = Nodes {
    of_cpu: [const { AtomicU8::new(0) }; SHARDS_MAX],
    ids: [const { AtomicU32::new(0) }; NODES_MAX],
    count: AtomicUsize::new(0),
};

impl Node {
    /// The only one of most machines.
    pub const FIRST: Node = Node(0);

    /// Its number, below [`NODES_MAX`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The inverse of [`Node::index`].
    pub fn of_index(index: usize) -> Node {
        Node(index.min(NODES_MAX - 1) as u8)
    }

    /// That of the CPU on which the calling thread is.
    #[inline]
    pub fn here() -> Node {
        if are_many() { of_cpu(os::current_cpu()) } else { Node::FIRST }
    }

    /// That of the kernel's number `id`, seen now if not before.
    fn of_id(id: u32) -> Node {
        for (index, seen) in NODES.ids.iter().enumerate() {
            // Ordering: Relaxed throughout, numbers that stand alone.
            match seen.compare_exchange(0, id + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    NODES.count.fetch_max(index + 1, Ordering::Relaxed); // Ordering: Relaxed, as above.
                    return Node(index as u8);
                }
                Err(known) if known == id + 1 => return Node(index as u8),
                Err(_) => {}
            }
        }
        Node::of_index(NODES_MAX)
    }
}

/// Nodes that were seen; at least 1.
#[inline]
pub fn count() -> usize {
    // Ordering: Relaxed, a hint.
    if parts::NODES { NODES.count.load(Ordering::Relaxed).max(1) } else { 1 }
}

/// Whether more than one was seen.
#[inline]
pub fn are_many() -> bool {
    // Ordering: Relaxed, a hint.
    parts::NODES && NODES.count.load(Ordering::Relaxed) > 1
}

/// All nodes that were seen.
pub fn all() -> impl Iterator<Item = Node> {
    (0..count()).map(Node::of_index)
}

/// The node of a CPU; the first one if it is not known.
#[inline]
pub fn of_cpu(cpu: usize) -> Node {
    // Ordering: Relaxed, a hint.
    let known = NODES.of_cpu.get(cpu).map_or(0, |node| node.load(Ordering::Relaxed));
    Node(known.saturating_sub(1))
}

/// Records that `cpu` is on the node that the kernel calls `id`; whether the process has come to know its second node by that.
pub fn record(cpu: usize, id: u32) -> bool {
    let before = count();
    let node = Node::of_id(id);
    // CPUs of the first node need no record.
    if node != Node::FIRST
        && let Some(known) = NODES.of_cpu.get(cpu)
    {
        // Ordering: Relaxed, a hint.
        known.store(node.0 + 1, Ordering::Relaxed);
    }
    before == 1 && are_many()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_numbered_as_they_are_seen_and_those_beyond_share_one() {
        assert!(!record(5, 300), "the first one, whatever the kernel calls it");
        assert_eq!((count(), of_cpu(5)), (1, Node::FIRST));
        assert!(record(9, 2), "the second one");
        assert!(!record(11, 2), "known");
        assert_eq!((count(), of_cpu(9), of_cpu(11)), (2, Node(1), Node(1)));
        for id in 10..20 {
            assert!(!record(id, id as u32));
        }
        assert_eq!((count(), of_cpu(19)), (NODES_MAX, Node(NODES_MAX as u8 - 1)));
        assert_eq!(of_cpu(SHARDS_MAX), Node::FIRST, "no CPU");
        assert_eq!(all().count(), NODES_MAX);
    }
}

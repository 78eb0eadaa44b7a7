//! Domains: what CPUs allocate is cut from slabs of their own, so that they do not write to each other's cache lines.
//!
//! Two CPUs that get neighbouring small objects write to one cache line by turns, which costs more than the calls of the allocator
//! (docs/adr/0062). So a slab and a full magazine belong to a domain: a group of CPUs of the first memory node, or another memory node.
//! A process that was seen on one CPU has one domain.
//!
//! Promises, as `node` does, that all of it is about where objects lie, never about whether an operation is right.
//!
//! Invariants:
//! I1. The CPUs of the first node are divided into groups in the order in which their shards are created.
//! I2. A domain lies on one node; its slabs are cut from spans of that node, or of another one if that has no more pages.

use crate::atomic::{AtomicU8, AtomicUsize, Ordering};
use crate::node::{self, NODES_MAX, Node};
use crate::size_class::{CLASS, Class};
use crate::units::SHARDS_MAX;

/// Groups of the CPUs of the first node. With more, fewer CPUs share one, but each group has slabs that are partly free.
const GROUPS: usize = 8;

/// Objects of so many bytes share few cache lines, and few of those that CPUs prefetch beside them.
pub const APART_BYTES: usize = 128;

/// Domains that are told apart.
pub const DOMAINS_MAX: usize = GROUPS + NODES_MAX - 1;

/// A group of CPUs of the first node, or another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Domain(u8);

/// What one CPU touches comes last, as in `node`.
#[repr(C)]
struct Domains {
    /// By CPU: its group.
    groups: [AtomicU8; SHARDS_MAX],
    /// CPUs that have a shard.
    cpus: AtomicUsize,
    /// 1 + the highest domain of these.
    count: AtomicUsize,
}

static DOMAINS: Domains = Domains {
    groups: [const { AtomicU8::new(0) }; SHARDS_MAX],
    cpus: AtomicUsize::new(0),
    count: AtomicUsize::new(0),
};

impl Domain {
    /// The only one of a process on one CPU.
    pub const FIRST: Domain = Domain(0);

    /// Its number, below [`DOMAINS_MAX`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The inverse of [`Domain::index`].
    pub fn of_index(index: usize) -> Domain {
        Domain(index.min(DOMAINS_MAX - 1) as u8)
    }

    /// That of `cpu`, for objects of `class`. Large ones share few cache lines: CPUs of a node need not be kept apart, and have fewer slabs that
    /// are partly free.
    pub fn of(cpu: usize, class: Class) -> Domain {
        let own = of_cpu(cpu);
        // One that is not counted yet would not be found by those that look at all.
        match own.index() < count() && (own.index() >= GROUPS || CLASS[class].size < APART_BYTES) {
            true => own,
            false => Domain::FIRST,
        }
    }

    /// That of objects of a class whose domains are the nodes.
    pub fn of_node(node: Node) -> Domain {
        match node {
            Node::FIRST => Domain::FIRST,
            other => Domain::of_index(GROUPS - 1 + other.index()),
        }
    }

    /// The node that it lies on.
    pub fn node(self) -> Node {
        Node::of_index((self.index() + 1).saturating_sub(GROUPS))
    }
}

fn of_cpu(cpu: usize) -> Domain {
    let node = node_of(cpu);
    if node != Node::FIRST {
        return Domain::of_node(node);
    }
    // Ordering: Relaxed, a hint.
    Domain(DOMAINS.groups.get(cpu).map_or(0, |group| group.load(Ordering::Relaxed)))
}

fn node_of(cpu: usize) -> Node {
    if node::are_many() { node::of_cpu(cpu) } else { Node::FIRST }
}

/// The number of the highest domain in use, plus 1.
#[inline]
pub fn count() -> usize {
    // Ordering: Relaxed, a hint.
    DOMAINS.count.load(Ordering::Relaxed).max(1)
}

/// Whether there is more than one.
#[inline]
pub fn are_many() -> bool {
    count() > 1
}

/// Whether objects of `class` may be of several domains.
#[inline]
pub fn are_many_of(class: Class) -> bool {
    are_many() && (CLASS[class].size < APART_BYTES || node::are_many())
}

/// All domains that may be in use.
pub fn all() -> impl Iterator<Item = Domain> {
    (0..count()).map(Domain::of_index)
}

/// Those on the node of `domain` but itself.
pub fn others(domain: Domain) -> impl Iterator<Item = Domain> {
    all().filter(move |&other| other != domain && other.node() == domain.node())
}

/// Puts `cpu` into a group: its shard is being created. Once for each CPU.
pub fn join(cpu: usize) {
    if node_of(cpu) == Node::FIRST {
        // Ordering: Relaxed throughout, hints.
        let group = DOMAINS.cpus.fetch_add(1, Ordering::Relaxed) % GROUPS;
        // The first group is there: a process on one CPU touches nothing of the table.
        if group == 0 {
            return;
        }
        if let Some(known) = DOMAINS.groups.get(cpu) {
            known.store(group as u8, Ordering::Relaxed); // Ordering: Relaxed, as above.
        }
    }
    cover(cpu);
}

/// Has the domain of `cpu` counted, whose node may have become known.
pub fn cover(cpu: usize) {
    // Ordering: Relaxed, a hint.
    DOMAINS.count.fetch_max(of_cpu(cpu).index() + 1, Ordering::Relaxed);
}

/// The number of [`count`], for `publish`.
pub const fn counter() -> &'static AtomicUsize {
    &DOMAINS.count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size_class::CLASSES;

    #[test]
    fn cpus_are_divided_into_groups_and_each_further_node_is_one() {
        assert_eq!((count(), Domain::of(100, 1)), (1, Domain::FIRST));
        for cpu in 0..2 * GROUPS {
            join(100 + cpu);
            assert_eq!(Domain::of(100 + cpu, 1), Domain((cpu % GROUPS) as u8));
            assert_eq!(Domain::of(100 + cpu, CLASSES - 1), Domain::FIRST);
        }
        assert_eq!(count(), GROUPS);
        assert!(all().all(|domain| domain.node() == Node::FIRST));
        assert_eq!(others(Domain(3)).count(), GROUPS - 1);
        let last = Domain::of_index(DOMAINS_MAX);
        assert_eq!((last.index(), last.node().index()), (DOMAINS_MAX - 1, NODES_MAX - 1));
        assert_eq!(Domain(GROUPS as u8).node(), Node::of_index(1));
        assert_eq!(others(last).count(), 0);
        assert_eq!(of_cpu(SHARDS_MAX), Domain::FIRST, "no CPU");
    }
}

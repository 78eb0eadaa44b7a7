//! Defects of the caches: depot, shards and their stopping, children of vfork, what is published.

use super::Defect;

/// All of them.
pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "tag-dropped",
        model: "depot-aba",
        file: "depot/mod.rs",
        changes: &[("((head >> 32) + 1) << 32", "(if BAD { 0 } else { (head >> 32) + 1 }) << 32")],
    },
    Defect {
        name: "push-relaxed",
        model: "depot-handover",
        file: "depot/mod.rs",
        changes: &[(
            "compare_exchange_weak(head, new, Ordering::Release, Ordering::Relaxed)",
            "compare_exchange_weak(head, new, if BAD { Ordering::Relaxed } else { Ordering::Release }, Ordering::Relaxed)",
        )],
    },
    Defect {
        name: "fence-left-out",
        model: "stop",
        file: "cpu_cache/exclusive.rs",
        changes: &[(
            "membarrier::fence(cpu) && membarrier::fence(cpu)",
            "(BAD || membarrier::fence(cpu) && membarrier::fence(cpu))",
        )],
    },
    Defect {
        name: "fence-elsewhere",
        model: "stop-each",
        file: "cpu_cache/exclusive.rs",
        changes: &[("then_some(shard as u32)", "then_some(shard as u32 ^ u32::from(BAD))")],
    },
    Defect {
        name: "count-unfenced",
        model: "child-started",
        file: "rseq/vfork.rs",
        changes: &[(
            "fence(Ordering::SeqCst);\n    registration::hide_areas(",
            "if !BAD { fence(Ordering::SeqCst); }\n    registration::hide_areas(",
        )],
    },
    Defect {
        name: "settled-unfenced",
        model: "child-started",
        file: "rseq/vfork.rs",
        changes: &[(
            "fence(Ordering::SeqCst);\n    !has_children()",
            "if !BAD { fence(Ordering::SeqCst); }\n    !has_children()",
        )],
    },
    Defect {
        name: "parent-settles",
        model: "child-started",
        file: "rseq/vfork.rs",
        changes: &[(
            "registration::hide_areas(Hidden::Fresh)",
            "registration::hide_areas(if BAD { Hidden::Settled } else { Hidden::Fresh })",
        )],
    },
    Defect {
        name: "counted-last",
        model: "child-watched",
        file: "rseq/vfork.rs",
        changes: &[(
            "    let counted = count();\n",
            "    if BAD { registration::hide_areas(Hidden::Fresh); fence(Ordering::SeqCst); return count(); }\n    let counted = count();\n",
        )],
    },
    Defect {
        name: "shown-anyway",
        model: "child-handler",
        file: "rseq/vfork.rs",
        changes: &[(
            "registration::show_settled_areas()",
            "if BAD { registration::show_areas(); true } else { registration::show_settled_areas() }",
        )],
    },
    Defect {
        name: "cid-for-a-cpu",
        model: "stop-cid",
        file: "cpu_cache/exclusive.rs",
        changes: &[(
            "(registration::index() == Index::CpuId)",
            "(BAD || registration::index() == Index::CpuId)",
        )],
    },
    Defect {
        name: "rest-forgotten",
        model: "release-above",
        file: "cpu_cache/drain.rs",
        changes: &[(
            "batch.is_empty() || put_aside(class, batch)",
            "BAD || batch.is_empty() || put_aside(class, batch)",
        )],
    },
    Defect {
        name: "barrier-left-out",
        model: "biased-stopped",
        file: "cpu_cache/exclusive.rs",
        changes: &[(
            "!leases::is_enabled() || membarrier::barrier()",
            "BAD || !leases::is_enabled() || membarrier::barrier()",
        )],
    },
    Defect {
        name: "light-fence-missing",
        model: "biased-stopped",
        file: "cpu_cache/shard/biased.rs",
        changes: &[("        light_fence();\n", "        if !BAD { light_fence(); }\n")],
    },
    Defect {
        name: "sequence-relaxed",
        model: "biased-stopped",
        file: "cpu_cache/shard/biased.rs",
        changes: &[(
            "self.sequence.store(sequence.wrapping_add(2), Ordering::Release)",
            "self.sequence.store(sequence.wrapping_add(2), if BAD { Ordering::Relaxed } else { Ordering::Release })",
        )],
    },
    Defect {
        name: "not-waited-for",
        model: "biased-stopped",
        file: "cpu_cache/shard/leases.rs",
        changes: &[("while !has_ended() {", "while !BAD && !has_ended() {")],
    },
    Defect {
        name: "handler-let-in",
        model: "biased-handler",
        file: "cpu_cache/shard/biased.rs",
        changes: &[(
            "if is_odd(sequence) {\n            return NO_SHARD;",
            "if !BAD && is_odd(sequence) {\n            return NO_SHARD;",
        )],
    },
    Defect {
        name: "idle-not-fenced",
        model: "biased-handover",
        file: "cpu_cache/shard/leases.rs",
        changes: &[(
            "let fenced = membarrier::barrier();",
            "let fenced = BAD || membarrier::barrier();",
        )],
    },
    Defect {
        name: "idle-not-quiet",
        model: "biased-handover",
        file: "cpu_cache/shard/leases.rs",
        changes: &[(
            "fenced && !is_odd(record.shard.sequence());",
            "fenced && (BAD || !is_odd(record.shard.sequence()));",
        )],
    },
    Defect {
        name: "own-shard-taken",
        model: "biased-stopped-above",
        file: "cpu_cache/shard/leases.rs",
        changes: &[("            return has_ended();", "            return BAD || has_ended();")],
    },
    Defect {
        name: "created-unseen",
        model: "creation",
        file: "cpu_cache/shard/percpu.rs",
        changes: &[(
            "    if REGIONS[index].load(Ordering::Relaxed).is_null()\n        && let Some",
            "    if (BAD || REGIONS[index].load(Ordering::Relaxed).is_null())\n        && let Some",
        )],
    },
];

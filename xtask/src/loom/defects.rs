//! The defects that the models must find, and the copy of the engine that has them.
//!
//! Promises that each is a change of text which still applies, exactly once: a defect that has lost its
//! place is an error, not a pass. All are in one copy, switched on one at a time, so it is built once.

use anyhow::{Context, ensure};
use std::path::Path;

/// A defect of the engine.
pub struct Defect {
    pub name: &'static str,
    /// The model that must find it.
    pub model: &'static str,
    /// Below `alloc-core/src`.
    file: &'static str,
    /// What the text is, and what takes its place; `BAD` in it says whether the defect is wanted.
    changes: &'static [(&'static str, &'static str)],
}

/// The package of the copy: with the name of the original, cargo would take one for the other.
pub const MODELS: &str = "rsalloc-loom-defects";

/// All of them.
pub const DEFECTS: &[Defect] = &[
    Defect {
        name: "tag-dropped",
        model: "depot-aba",
        file: "depot.rs",
        changes: &[("((head >> 32) + 1) << 32", "(if BAD { 0 } else { (head >> 32) + 1 }) << 32")],
    },
    Defect {
        name: "push-relaxed",
        model: "depot-handover",
        file: "depot.rs",
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
            "batch.is_empty() || DEPOT.put_unbounded(class, batch)",
            "BAD || batch.is_empty() || DEPOT.put_unbounded(class, batch)",
        )],
    },
    Defect {
        name: "unlock-relaxed",
        model: "lock-futex",
        file: "sync/lock.rs",
        changes: &[(
            "self.word.swap(0, Ordering::Release)",
            "self.word.swap(0, if BAD { Ordering::Relaxed } else { Ordering::Release })",
        )],
    },
    Defect {
        name: "sleeper-forgotten",
        model: "lock-futex",
        file: "sync/lock.rs",
        changes: &[("self.take(me | SLEEPERS)", "self.take(if BAD { me } else { me | SLEEPERS })")],
    },
    Defect {
        name: "rank-ignored",
        model: "lock-handlers",
        file: "sync/lock.rs",
        changes: &[("if rank <= before ||", "if !BAD && rank <= before ||")],
    },
    Defect {
        name: "fork-waited-for",
        model: "lock-forking",
        file: "sync/lock.rs",
        changes: &[(
            "if before.is_any() && seen & STATE",
            "if !BAD && before.is_any() && seen & STATE",
        )],
    },
    Defect {
        name: "fork-unheard",
        model: "lock-forking",
        file: "sync/lock.rs",
        changes: &[(
            "os::futex_wake_all(&self.word);",
            "if !BAD { os::futex_wake_all(&self.word); }",
        )],
    },
    Defect {
        name: "unlock-order",
        model: "lock-reentry",
        file: "sync/lock.rs",
        changes: &[(
            "After::Free => self.lock.release(),",
            "After::Free => {\n if BAD { self.before.restore(); }\n self.lock.release()\n }",
        )],
    },
    Defect {
        name: "late-unmarked",
        model: "lock-late",
        file: "sync/lock.rs",
        changes: &[(
            "if waited >= limit {",
            "if waited >= limit {\n if BAD { self.word.fetch_and(!SLEEPERS, Ordering::Relaxed); }",
        )],
    },
    Defect {
        name: "again-unmarked",
        model: "lock-again",
        file: "sync/lock.rs",
        changes: &[(
            "let used = seen & !FORGOTTEN;",
            "let used = if BAD { seen } else { seen & !FORGOTTEN };",
        )],
    },
    Defect {
        name: "trylock-relaxed",
        model: "locked-shard",
        file: "sync/try_lock.rs",
        changes: &[(
            "taken.store(self.after, Ordering::Release)",
            "taken.store(self.after, if BAD { Ordering::Relaxed } else { Ordering::Release })",
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
        name: "hit-believed",
        model: "huge",
        file: "page_heap/huge/mod.rs",
        changes: &[(
            "if self.generation.load(Ordering::Relaxed) == generation {",
            "if (BAD && len.is_some()) || self.generation.load(Ordering::Relaxed) == generation {",
        )],
    },
    Defect {
        name: "generation-kept",
        model: "huge",
        file: "page_heap/huge/mod.rs",
        changes: &[(
            "self.generation.fetch_add(1, Ordering::Release);",
            "self.generation.fetch_add(usize::from(!BAD), Ordering::Release);",
        )],
    },
    Defect {
        name: "generation-relaxed",
        model: "huge",
        file: "page_heap/huge/mod.rs",
        changes: &[(
            ", Ordering::Release);\n        // Ordering: Release, pairs with the fence",
            ", if BAD { Ordering::Relaxed } else { Ordering::Release });\n        // Ordering: Release, pairs with the fence",
        )],
    },
    Defect {
        name: "rebuild-unfenced",
        model: "huge",
        file: "page_heap/huge/mod.rs",
        changes: &[("fence(Ordering::Release);", "if !BAD { fence(Ordering::Release); }")],
    },
    Defect {
        name: "look-unfenced",
        model: "huge",
        file: "page_heap/huge/mod.rs",
        changes: &[("fence(Ordering::Acquire);", "if !BAD { fence(Ordering::Acquire); }")],
    },
    Defect {
        name: "unmapped-first",
        model: "huge",
        file: "page_heap/huge/mod.rs",
        changes: &[(
            "            let Some(len) = self.forget(address) else { return false };\n",
            "            if BAD { unsafe { os::unmap(address, PAGE_BYTES) }; }\n            let Some(len) = self.forget(address) else { return false };\n",
        )],
    },
    Defect {
        name: "one-look-deferred",
        model: "huge-deferred",
        file: "page_heap/huge/deferred.rs",
        changes: &[(
            "(again & !MOVING == address).then_some(",
            "(BAD || again & !MOVING == address).then_some(",
        )],
    },
    Defect {
        name: "deferred-len-relaxed",
        model: "huge-deferred",
        file: "page_heap/huge/deferred.rs",
        changes: &[(
            "created.len.store(len, Ordering::Release)",
            "created.len.store(len, if BAD { Ordering::Relaxed } else { Ordering::Release })",
        )],
    },
    Defect {
        name: "deferred-count-relaxed",
        model: "huge-deferred",
        file: "page_heap/huge/deferred.rs",
        changes: &[(
            "count.fetch_sub(1, Ordering::Release)",
            "count.fetch_sub(1, if BAD { Ordering::Relaxed } else { Ordering::Release })",
        )],
    },
    Defect {
        name: "cleared-deferred-first",
        model: "huge-deferred",
        file: "page_heap/huge/deferred.rs",
        changes: &[(
            "            // Ordering: Relaxed, the claim acquired it.\n",
            "            if BAD { created.address.store(0, Ordering::Release); }\n",
        )],
    },
    Defect {
        name: "segment-relaxed",
        model: "segments",
        file: "page_heap/growth.rs",
        changes: &[
            (
                "link.store(Some(segment), Ordering::Release)",
                "link.store(Some(segment), if BAD { Ordering::Relaxed } else { Ordering::Release })",
            ),
            (
                "self.segments[count].store(Some(segment), Ordering::Release)",
                "self.segments[count].store(Some(segment), if BAD { Ordering::Relaxed } else { Ordering::Release })",
            ),
            (
                "self.count.store(count + 1, Ordering::Release)",
                "self.count.store(count + 1, if BAD { Ordering::Relaxed } else { Ordering::Release })",
            ),
        ],
    },
    Defect {
        name: "outside-relaxed",
        model: "outside",
        file: "page_heap/growth.rs",
        changes: &[(
            "table.0[slot].store(Some(segment), Ordering::Release)",
            "table.0[slot].store(Some(segment), if BAD { Ordering::Relaxed } else { Ordering::Release })",
        )],
    },
    Defect {
        name: "no-second-look",
        model: "first-free",
        file: "page_heap/mod.rs",
        changes: &[(
            "if self.segment(seen).is_some_and(|segment| segment.longest() > 0) {",
            "if !BAD && self.segment(seen).is_some_and(|segment| segment.longest() > 0) {",
        )],
    },
    Defect {
        name: "defer-relaxed",
        model: "deferred",
        file: "page_heap/release.rs",
        changes: &[(
            "let order = Ordering::Release;",
            "let order = if BAD { Ordering::Relaxed } else { Ordering::Release };",
        )],
    },
    Defect {
        name: "class-not-written",
        model: "page-map",
        file: "slab/mod.rs",
        changes: &[(
            "page_map::set_class_at(span.address(), class);",
            "if !BAD { page_map::set_class_at(span.address(), class); }",
        )],
    },
    Defect {
        name: "class-kept-longer",
        model: "page-map-end",
        file: "slab/mod.rs",
        changes: &[
            (
                "    page_map::set_class_at(slab.page(), 0);\n",
                "    if !BAD { page_map::set_class_at(slab.page(), 0); }\n",
            ),
            (
                "    unsafe { PAGE_HEAP.release(slab) };\n",
                "    unsafe { PAGE_HEAP.release(slab) };\n    if BAD { page_map::set_class_at(slab.page(), 0); }\n",
            ),
        ],
    },
    Defect {
        name: "report-relaxed",
        model: "report",
        file: "publish.rs",
        changes: &[(
            "block.generation.fetch_add(1, Ordering::Release)",
            "block.generation.fetch_add(1, if BAD { Ordering::Relaxed } else { Ordering::Release })",
        )],
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

/// Writes the engine with its defects, and the models, to `copy`.
pub fn write(root: &Path, copy: &Path) -> anyhow::Result<()> {
    for part in ["alloc-core/src", "loom"] {
        copy_folder(&root.join(part), &copy.join(part))?;
    }
    for file in ["Cargo.toml", "Cargo.lock"] {
        let file = copy.join("loom").join(file);
        let text = read(&file)?.replace("\"rsalloc-loom\"", &format!("{MODELS:?}"));
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    for defect in DEFECTS {
        let file = copy.join("alloc-core/src").join(defect.file);
        let mut text = read(&file)?;
        for (from, to) in defect.changes {
            let name = defect.name;
            let places = text.matches(from).count();
            ensure!(places == 1, "{}: the place of {name} is there {places} times", defect.file);
            text =
                text.replace(from, &to.replace("BAD", &format!("crate::world::mutant({name:?})")));
        }
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))
}

fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("create {}", to.display()))?;
    for entry in std::fs::read_dir(from).with_context(|| format!("read {}", from.display()))? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type()?.is_dir() {
            true if entry.file_name() == "target" => {}
            true => copy_folder(&from, &to)?,
            false => drop(
                std::fs::copy(&from, &to).with_context(|| format!("copy {}", from.display()))?,
            ),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_defect_has_its_place() {
        let copy = tempfile::tempdir().unwrap();
        write(tools::root(), copy.path()).unwrap();
        for defect in DEFECTS {
            let text = read(&copy.path().join("alloc-core/src").join(defect.file)).unwrap();
            let switches = text.matches(&format!("mutant({:?})", defect.name)).count();
            assert_eq!(switches, defect.changes.len(), "{}", defect.name);
        }
    }
}

//! Defects of the page heap, the slabs and the page map.

use super::Defect;

/// All of them.
pub const DEFECTS: &[Defect] = &[
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
        name: "created-len-relaxed",
        model: "huge-deferred",
        file: "page_heap/huge/deferred.rs",
        changes: &[(
            "created.len.store(len, Ordering::Release)",
            "created.len.store(len, if BAD { Ordering::Relaxed } else { Ordering::Release })",
        )],
    },
    Defect {
        name: "lowered-relaxed",
        model: "huge-deferred",
        file: "page_heap/huge/deferred.rs",
        changes: &[(
            "count.fetch_sub(1, Ordering::Release)",
            "count.fetch_sub(1, if BAD { Ordering::Relaxed } else { Ordering::Release })",
        )],
    },
    Defect {
        name: "cleared-first",
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
        file: "slab/take.rs",
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
];

//! Defects of the locks.

use super::Defect;

/// All of them.
pub const DEFECTS: &[Defect] = &[
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
];

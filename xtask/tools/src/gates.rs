//! The gates: what must pass before a change is merged, in the order in which it runs.
//!
//! [`GATES`] is the one list; CI and a developer's machine run the same.

/// A command that must succeed.
pub struct Gate {
    /// What `--only` and the logs call it.
    pub name: &'static str,
    /// What runs it.
    pub tool: Tool,
    /// The command's arguments.
    pub arguments: &'static [&'static str],
}

/// What runs a gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tool {
    /// cargo itself.
    Cargo,
    /// The command `cargo xtask`.
    Xtask,
    /// The command `cargo lab`.
    Lab,
    /// The script `xtask/cross.sh`.
    Cross,
    /// The script `xtask/nodes.sh`.
    Nodes,
}

/// All gates.
pub const GATES: &[Gate] = &[
    cargo("tests", &["test", "--workspace", "--no-fail-fast"]),
    cargo("fmt", &["fmt", "--all", "--check"]),
    cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
    xtask("layers", &["layers"]),
    xtask("docs", &["docs"]),
    xtask("golden", &["golden"]),
    xtask("imports", &["imports"]),
    xtask("package", &["package"]),
    xtask("dist", &["dist", "--quick"]),
    // After the builds that it uses.
    xtask("walk", &["walk"]),
    cargo("example", &["build", "--manifest-path", "examples/axum/Cargo.toml"]),
    xtask("loom", &["loom"]),
    xtask("loom-blind", &["loom", "--control"]),
    xtask("sweep", &["sweep"]),
    // The entries of the build with the feature `mm_cid`, whose sections are others; the rest is the same code.
    xtask(
        "sweep-cid",
        &["sweep", "--feature", "mm_cid", "--environment", "libc-cid,own-cid,libc-profile"],
    ),
    xtask("sweep-blind", &["sweep", "--control"]),
    lab("criu", &["criu", "--cycles", "10", "--mode", "libc,own,atomic"]),
    lab("criu-redis", &["criu", "--redis", "--cycles", "5"]),
    lab("criu-publish", &["criu", "--publish"]),
    lab("criu-blind", &["criu", "--control"]),
    // Short: the rows check what they read back, on both paths; the figures do not count here.
    lab(
        "workloads",
        &["compare", "--peers", "rsalloc,rsalloc-atomic", "--rounds", "1", "--seconds", "0.05"],
    ),
    // Short as well: whole programs whose output must be right, and single calls.
    lab(
        "timed-programs",
        &[
            "compare",
            "--programs",
            "--peers",
            "rsalloc,rsalloc-atomic",
            "--rows",
            "memcached,sqlite3,python3-malloc",
            "--rounds",
            "1",
        ],
    ),
    lab(
        "latency",
        &["compare", "--latency", "--peers", "rsalloc", "--rounds", "1", "--seconds", "0.1"],
    ),
    // About a minute, of which a sixth is the load that must not grow.
    lab("storm", &["storm"]),
    lab("programs", &["programs", "--quick", "--mode", "all"]),
    lab("vm", &["vm", "--quick"]),
    // Two minutes; five if it has to fetch a compiler, QEMU and a kernel first.
    Gate { name: "aarch64", tool: Tool::Cross, arguments: &["gate"] },
    // One virtual machine of two memory nodes, and the control in it: half a minute.
    Gate { name: "nodes", tool: Tool::Nodes, arguments: &["quick"] },
    // All that has refused calls: the other tests do the same as without the feature, which takes two minutes more.
    cargo(
        "refusals",
        &[
            "test",
            "--package",
            "rsalloc-core",
            "--features",
            "faults",
            "--lib",
            "--test",
            "oom",
            "--test",
            "promises",
            "--test",
            "regressions",
            "--test",
            "model",
        ],
    ),
    // The entries by `mm_cid`, a build of their own: what is about sections.
    cargo(
        "mm-cid",
        &[
            "test",
            "--package",
            "rsalloc-core",
            "--features",
            "mm_cid",
            "--lib",
            "--test",
            "sections",
            "--test",
            "stress",
            "--test",
            "fork",
            "--test",
            "regressions",
        ],
    ),
    // What every architecture without sections runs; of the C library the quick tests that say most.
    cargo(
        "portable",
        &["test", "--package", "rsalloc-core", "--package", "rsalloc", "--features", "portable"],
    ),
    cargo(
        "portable-c",
        &[
            "test",
            "--package",
            "rsalloc-preload",
            "--features",
            "portable",
            "--test",
            "cxx",
            "--test",
            "functions",
            "--test",
            "library",
            "--test",
            "misuse",
        ],
    ),
    cargo(
        "delays",
        &["test", "--package", "rsalloc-core", "--features", "delays", "--test", "emptied"],
    ),
    cargo("static", &["test", "--package", "rsalloc", "--test", "profiled", "--", "--ignored"]),
    cargo(
        "counters",
        &["test", "--package", "rsalloc-core", "--features", "counters", "--lib", "counters"],
    ),
    cargo(
        "counters-c",
        &[
            "clippy",
            "--package",
            "rsalloc-preload",
            "--features",
            "counters",
            "--",
            "-D",
            "warnings",
        ],
    ),
    // The page of `rsalloc report` in a headless Chromium.
    cargo(
        "browser",
        &["test", "--package", "rsalloc-cli", "--features", "browser", "--test", "browser"],
    ),
    xtask("fuzz-blind", &["fuzz", "--check-control"]),
    // Nine runs, two at once: three minutes on two CPUs.
    xtask("fuzz", &["fuzz", "--seconds", "30"]),
];

impl Gate {
    /// The command line, for reading.
    pub fn shown(&self) -> String {
        let tool = match self.tool {
            Tool::Cargo => "cargo",
            Tool::Xtask => "cargo xtask",
            Tool::Lab => "cargo lab",
            Tool::Cross => "xtask/cross.sh",
            Tool::Nodes => "xtask/nodes.sh",
        };
        format!("{tool} {}", self.arguments.join(" "))
    }

    /// The words of the command line from the tool's own name on.
    pub fn words(&self) -> impl Iterator<Item = &'static str> {
        let name = match self.tool {
            Tool::Cargo => "cargo",
            Tool::Xtask => "xtask",
            Tool::Lab => "lab",
            Tool::Cross => "cross.sh",
            Tool::Nodes => "nodes.sh",
        };
        std::iter::once(name).chain(self.arguments.iter().copied())
    }
}

const fn cargo(name: &'static str, arguments: &'static [&'static str]) -> Gate {
    Gate { name, tool: Tool::Cargo, arguments }
}

const fn xtask(name: &'static str, arguments: &'static [&'static str]) -> Gate {
    Gate { name, tool: Tool::Xtask, arguments }
}

const fn lab(name: &'static str, arguments: &'static [&'static str]) -> Gate {
    Gate { name, tool: Tool::Lab, arguments }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_readmes_test_command_comes_first() {
        assert_eq!(GATES[0].shown(), "cargo test --workspace --no-fail-fast");
    }
}

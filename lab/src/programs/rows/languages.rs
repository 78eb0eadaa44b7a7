//! Interpreters: python3, node, perl, ruby, lua.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Program, no_inputs};
use crate::programs::trial::Trial;

/// python3 on its own test-suite.
pub const PYTHON: Program = Program {
    name: "python3",
    about: "python3 -m test of modules incl. threads and multiprocessing by fork and spawn",
    packages: &["python3", "libpython3.11-testsuite"],
    quick: true,
    timeout: Duration::from_secs(900),
    prepare: no_inputs,
    run: python,
};

fn python(trial: &mut Trial) -> Result<String> {
    let quick = ["test_dict", "test_list", "test_json", "test_deque", "test_thread", "test_fork1"];
    let full = [
        "test_dict",
        "test_list",
        "test_set",
        "test_bytes",
        "test_json",
        "test_re",
        "test_deque",
        "test_sort",
        "test_pickle",
        "test_gc",
        "test_weakref",
        "test_unicode",
        "test_zlib",
        "test_hashlib",
        "test_queue",
        "test_thread",
        "test_threading",
        "test_subprocess",
        "test_fork1",
        "test_multiprocessing_fork",
        "test_multiprocessing_spawn",
    ];
    let modules = trial.scale.pick(&full[..], &quick[..]);
    // Test results go to standard output, what the tests provoke to standard error.
    let said =
        trial.run(Command::new("/usr/bin/python3").args(["-m", "test", "-j3"]).args(modules))?;
    let verdict = said.lines().find(|line| line.ends_with("tests OK."));
    Ok(verdict.with_context(|| format!("python3 -m test gave no verdict: {said}"))?.to_owned())
}

/// node with worker threads.
pub const NODE: Program = Program {
    name: "node",
    about: "waves of worker threads that compress, hash and transfer buffers",
    packages: &["nodejs"],
    quick: true,
    timeout: Duration::from_secs(180),
    prepare: no_inputs,
    run: |trial| {
        let load = trial.scale.pick(["5", "8", "120"], ["2", "4", "40"]);
        script(trial, "node", "worker.js", include_str!("../scripts/worker.js"), &load)
    },
};

/// perl with threads and fork.
pub const PERL: Program = Program {
    name: "perl",
    about: "hashes, regular expressions, sorting, threads, fork",
    packages: &["perl"],
    quick: true,
    timeout: Duration::from_secs(120),
    prepare: no_inputs,
    run: |trial| {
        let rounds = trial.scale.pick("400000", "60000");
        script(trial, "/usr/bin/perl", "work.pl", include_str!("../scripts/work.pl"), &[rounds])
    },
};

/// ruby with threads, fork and forced collections.
pub const RUBY: Program = Program {
    name: "ruby",
    about: "strings, json, zlib, threads, fork, GC.compact and GC.stress",
    packages: &["ruby"],
    quick: false,
    timeout: Duration::from_secs(120),
    prepare: no_inputs,
    run: |trial| {
        let rounds = trial.scale.pick("300000", "50000");
        script(trial, "ruby", "work.rb", include_str!("../scripts/work.rb"), &[rounds])
    },
};

/// lua under its three collectors.
pub const LUA: Program = Program {
    name: "lua",
    about: "tables, strings, coroutines under three collector settings",
    packages: &["lua5.4"],
    quick: false,
    timeout: Duration::from_secs(120),
    prepare: no_inputs,
    run: |trial| {
        let rounds = trial.scale.pick("300000", "50000");
        script(trial, "lua5.4", "work.lua", include_str!("../scripts/work.lua"), &[rounds])
    },
};

/// Runs a script that prints digests.
pub(super) fn script(
    trial: &mut Trial,
    interpreter: &str,
    name: &str,
    text: &str,
    arguments: &[&str],
) -> Result<String> {
    fs::write(trial.path(name), text)?;
    let output = trial.run(Command::new(interpreter).arg(name).args(arguments))?;
    ensure!(output.lines().count() >= 3, "{name} printed too little: {output}");
    Ok(output)
}

//! A test program that starts itself again in each mode the engine can run in.

#[path = "again.rs"]
mod again;

use again::this_program;
use rsalloc_core::Mode;
use rsalloc_core::internals::arch::HAS_SECTIONS;
use std::process::Child;
use std::time::{Duration, Instant};

/// A mode: how to ask for it, and what the report must say then.
pub struct ModeCase {
    /// For people.
    pub name: &'static str,
    environment: &'static [(&'static str, &'static str)],
    mode: Mode,
    mm_cid: bool,
    about: About,
}

/// Whether a mode is there without sections.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    /// It is about them.
    Sections,
    /// It is about all paths: then it is on the atomic one.
    AllPaths,
}
use About::{AllPaths, Sections};

/// In a build with this feature the hot paths find their shards by `mm_cid`.
const ENTRIES_BY_MM_CID: bool = cfg!(feature = "mm_cid");

const NO_RSEQ: (&str, &str) = ("GLIBC_TUNABLES", "glibc.pthread.rseq=0");

/// All of them.
pub const MODES: [ModeCase; 6] = [
    ModeCase {
        name: "libc",
        environment: &[],
        mode: Mode::RseqLibc,
        mm_cid: ENTRIES_BY_MM_CID,
        about: Sections,
    },
    ModeCase {
        name: "own",
        environment: &[NO_RSEQ],
        mode: Mode::RseqOwn,
        mm_cid: ENTRIES_BY_MM_CID,
        about: Sections,
    },
    ModeCase {
        name: "mm_cid",
        environment: &[("RSALLOC_CONF", "index:mm_cid")],
        mode: Mode::RseqLibc,
        mm_cid: true,
        about: Sections,
    },
    ModeCase {
        name: "atomic",
        environment: &[("RSALLOC_CONF", "mode:atomic")],
        mode: Mode::Atomic,
        mm_cid: false,
        about: AllPaths,
    },
    ModeCase {
        name: "hardened",
        environment: &[("RSALLOC_CONF", "hardened:1,guard:64")],
        mode: Mode::RseqLibc,
        mm_cid: !ENTRIES_BY_MM_CID,
        about: AllPaths,
    },
    ModeCase {
        name: "guard",
        environment: &[("RSALLOC_CONF", "guard:4")],
        mode: Mode::RseqLibc,
        mm_cid: ENTRIES_BY_MM_CID,
        about: AllPaths,
    },
];

impl ModeCase {
    /// Whether threads run sections in this mode.
    pub fn has_sections(&self) -> bool {
        self.expected_mode() != Mode::Atomic
    }

    fn expected_mode(&self) -> Mode {
        match self.mode {
            _ if !HAS_SECTIONS => Mode::Atomic,
            // musl registers no thread.
            Mode::RseqLibc if !cfg!(target_env = "gnu") => Mode::RseqOwn,
            mode => mode,
        }
    }

    /// Why the mode is left out of `cases` here, if it is.
    fn why_skipped(&self, cases: &[ModeCase]) -> Option<&'static str> {
        let has_own = || cases.iter().any(|case| case.name == "own");
        match self.name {
            _ if self.about == Sections && !HAS_SECTIONS => Some("this build has no sections"),
            "libc" if !cfg!(target_env = "gnu") && has_own() => {
                Some("this libc registers no thread, which is the mode own")
            }
            _ => None,
        }
    }

    /// Panics unless the engine runs in this mode.
    fn confirm(&self) {
        let report = rsalloc_core::report();
        assert_eq!(report.mode, self.expected_mode(), "asked for {}", self.name);
        assert_eq!(
            report.shard_index == rsalloc_core::ShardIndex::MmCid,
            self.mm_cid && HAS_SECTIONS,
            "asked for {}",
            self.name
        );
    }
}

/// The mode with this name.
pub fn mode(name: &str) -> ModeCase {
    MODES.into_iter().find(|case| case.name == name).expect("a mode")
}

/// A panic in any thread or handler ends the process: the other threads would work for ever.
fn abort_on_panic() {
    let begin = Instant::now();
    std::panic::set_hook(Box::new(move |info| {
        eprintln!("after {:?}: {info}", begin.elapsed());
        std::process::abort();
    }));
}

/// Runs `body` in a process of its own for each mode (or the one named on the command line), which gets the words of
/// this command line too, and ends this one with an error if one of them fails or takes longer than `limit`.
pub fn in_each_mode(limit: Duration, body: fn(&ModeCase)) {
    in_modes(&MODES, limit, body);
}

/// As [`in_each_mode`], in these only.
pub fn in_modes(cases: &[ModeCase], limit: Duration, body: fn(&ModeCase)) {
    run_cases(cases, 1, limit, body);
}

/// As [`in_modes`], two at a time: for a body that mostly sleeps.
#[allow(dead_code, reason = "most bodies work all the time")]
pub fn in_modes_by_twos(cases: &[ModeCase], limit: Duration, body: fn(&ModeCase)) {
    run_cases(cases, 2, limit, body);
}

/// Runs so many of the cases at a time.
fn run_cases(cases: &[ModeCase], at_once: usize, limit: Duration, body: fn(&ModeCase)) {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--list") {
        return;
    }
    if let Some(name) = arguments.iter().find_map(|argument| argument.strip_prefix("mode=")) {
        let case = mode(name);
        abort_on_panic();
        case.confirm();
        return body(&case);
    }
    let mut run_in = Vec::new();
    for case in cases {
        match case.why_skipped(cases) {
            Some(why) => println!("{:<8} skipped: {why}", case.name),
            None => run_in.push(case),
        }
    }
    let mut has_failed = false;
    for group in run_in.chunks(at_once) {
        std::thread::scope(|scope| {
            let runs: Vec<_> =
                group.iter().map(|case| scope.spawn(|| is_fine(case, limit))).collect();
            has_failed |= runs.into_iter().any(|run| !run.join().expect("no panic"));
        });
    }
    if has_failed {
        std::process::exit(1);
    }
}

/// Runs a case and prints how it went; whether it is fine.
fn is_fine(case: &ModeCase, limit: Duration) -> bool {
    let begin = Instant::now();
    let outcome = run(case, limit);
    let seconds = begin.elapsed().as_secs_f64();
    let verdict = outcome.as_ref().map_or_else(String::as_str, |()| "ok");
    println!("{:<8} {seconds:>5.1} s  {verdict}", case.name);
    outcome.is_ok()
}

fn run(case: &ModeCase, limit: Duration) -> Result<(), String> {
    let mut child = this_program()
        .arg(format!("mode={}", case.name))
        .args(std::env::args().skip(1))
        .env_remove("GLIBC_TUNABLES")
        .env_remove("RSALLOC_CONF")
        .envs(case.environment.iter().copied())
        .spawn()
        .map_err(|error| error.to_string())?;
    wait(&mut child, limit)
}

fn wait(child: &mut Child, limit: Duration) -> Result<(), String> {
    let begin = Instant::now();
    loop {
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("FAILED: {status}")),
            None if begin.elapsed() > limit => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(format!("FAILED: hangs (killed after {limit:?})"));
            }
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

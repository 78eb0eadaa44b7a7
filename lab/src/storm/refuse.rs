//! The row of refusals: limits, areas, cgroup, filters, and a system without /proc and /sys.
//!
//! Each case is a setup between fork and exec, and what the victim must then find. What this machine does not offer is
//! named in the result as NOT RUN.

use std::ffi::CStr;
use std::fs;
use std::io::{Error, Result as IoResult};
use std::path::Path;

use anyhow::{Context, Result};

use super::Trial;
use super::victim::Setup;

struct Case {
    name: &'static str,
    /// The victim's second argument.
    how: &'static str,
    /// MiB of each size that it asks for.
    mebibytes: u64,
    setup: Setup,
    /// The mode that the library must report, if it is not the one asked for.
    published: Option<(&'static str, &'static str)>,
}

const ATOMIC: Option<(&str, &str)> = Some(("atomic", "cpu_id"));

const CASES: &[Case] = &[
    case("ulimit -v 120 MiB", "refused", 1000, address_space::<120>),
    case("ulimit -v 150 MiB", "refused", 1000, address_space::<150>),
    case("ulimit -v 300 MiB", "refused", 1000, address_space::<300>),
    case("vm.max_map_count reached", "crowded", 32, nothing),
    case("memory cgroup of 128 MiB", "frugal", 64, enter_cgroup),
    case("membarrier EPERM", "served", 32, deny::<EPERM, false, true>),
    case("no /proc, no /sys", "served", 32, without_proc),
    Case {
        published: ATOMIC,
        ..case("rseq, membarrier EPERM", "served", 32, deny::<EPERM, true, true>)
    },
    Case { published: ATOMIC, ..case("rseq ENOSYS", "served", 32, deny::<ENOSYS, true, false>) },
];

const fn case(name: &'static str, how: &'static str, mebibytes: u64, setup: Setup) -> Case {
    Case { name, how, mebibytes, setup, published: None }
}

/// Runs every case.
pub fn judge(trial: &Trial) -> Result<String> {
    let mut told = Vec::new();
    let cgroup = Cgroup::make();
    for _ in 0..trial.amount {
        for case in CASES {
            if case.how == "frugal"
                && let Err(error) = &cgroup
            {
                told.push(format!("NOT RUN: {} ({error:#})", case.name));
                continue;
            }
            let mut run = trial.settings();
            (run.amount, run.extra, run.setup) = (case.mebibytes, Some(case.how), Some(case.setup));
            run.published = case.published.or(run.published);
            let text = trial.victim.run(&run, |_, _| Ok(())).context(case.name)?;
            told.push(format!("{}: {text}", case.name));
        }
        trial.bar.inc(1);
    }
    told.push("NOT RUN: vm.overcommit_memory=2 (the whole machine's; see cargo lab vm)".to_owned());
    Ok(told.join("; "))
}

fn nothing() -> IoResult<()> {
    Ok(())
}

fn address_space<const MIB: u64>() -> IoResult<()> {
    let limit = libc::rlimit { rlim_cur: MIB << 20, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a live struct.
    done(unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) })
}

fn done(result: i32) -> IoResult<()> {
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

const EPERM: u32 = libc::EPERM as u32;
const ENOSYS: u32 = libc::ENOSYS as u32;

/// Installs a filter (seccomp(2)) that answers the two calls with an error.
fn deny<const ERRNO: u32, const RSEQ: bool, const MEMBARRIER: bool>() -> IoResult<()> {
    let number = |wanted: bool, call: i64| if wanted { call as u32 } else { u32::MAX };
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, compare, leave) = (
        libc::BPF_LD | libc::BPF_W | libc::BPF_ABS,
        libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
        libc::BPF_RET | libc::BPF_K,
    );
    let mut filter = [
        instruction(load, 0, 0, 0), // seccomp_data.nr
        instruction(compare, 2, 0, number(RSEQ, libc::SYS_rseq)),
        instruction(compare, 1, 0, number(MEMBARRIER, libc::SYS_membarrier)),
        instruction(leave, 0, 0, libc::SECCOMP_RET_ALLOW),
        instruction(leave, 0, 0, libc::SECCOMP_RET_ERRNO | ERRNO),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is live and well-formed.
    unsafe {
        done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        done(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
    }
}

/// In a mount namespace of its own: takes /proc and /sys away.
fn without_proc() -> IoResult<()> {
    const ROOT: &CStr = c"/";
    // SAFETY: constant strings.
    unsafe {
        done(libc::unshare(libc::CLONE_NEWNS))?;
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        let none = std::ptr::null();
        done(libc::mount(none, ROOT.as_ptr(), none, flags, none.cast()))?;
        done(libc::umount2(c"/proc".as_ptr(), libc::MNT_DETACH))?;
        done(libc::umount2(c"/sys".as_ptr(), libc::MNT_DETACH))
    }
}

const LIMIT: &str = "134217728";
const V1: &str = "/sys/fs/cgroup/memory/rsalloc-storm";
const V2: &str = "/sys/fs/cgroup/rsalloc-storm";

/// A memory cgroup with a limit, of the version that there is.
struct Cgroup(&'static str);

impl Cgroup {
    fn make() -> Result<Cgroup> {
        let (folder, limit) = match Path::new("/sys/fs/cgroup/memory").is_dir() {
            true => (V1, "memory.limit_in_bytes"),
            false => (V2, "memory.max"),
        };
        let _ = fs::create_dir(folder);
        let made = Cgroup(folder);
        fs::write(Path::new(folder).join(limit), LIMIT).context("no memory cgroup to be had")?;
        Ok(made)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(self.0);
    }
}

fn enter_cgroup() -> IoResult<()> {
    // `fs::write` would allocate; here that is allowed only of what is async-signal-safe.
    let enter = |path: &CStr| {
        // SAFETY: a constant string; the descriptor is closed by exec.
        unsafe {
            let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            fd >= 0 && libc::write(fd, c"0".as_ptr().cast(), 1) == 1
        }
    };
    let entered = enter(c"/sys/fs/cgroup/memory/rsalloc-storm/cgroup.procs")
        || enter(c"/sys/fs/cgroup/rsalloc-storm/cgroup.procs");
    if entered { Ok(()) } else { Err(Error::last_os_error()) }
}

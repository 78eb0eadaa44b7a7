//! Filters of system calls (seccomp(2)) that a child installs before it runs its program.

use std::io::{Error, Result};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A system call, one of its arguments and its value if only that is meant, and what the kernel answers.
pub type Rule = (i64, Option<(u32, u32)>, u32);

/// The call succeeds, and nothing is done.
pub const LIE: u32 = libc::SECCOMP_RET_ERRNO;

/// madvise(MADV_DONTNEED), as old qemu-user and some sandboxes have it.
pub const NO_ADVICE: Rule = (libc::SYS_madvise, Some((2, libc::MADV_DONTNEED as u32)), LIE);
/// mmap as it is used in the place of an own mapping, and by nothing else.
pub const NO_MAPPING: Rule = (
    libc::SYS_mmap,
    Some((
        3,
        (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED) as u32,
    )),
    LIE,
);
pub const NO_FENCE: Rule = (libc::SYS_membarrier, None, LIE);

/// The kernels that lie, and what `rsalloc check` says of them.
pub const LIARS: [(&[Rule], &str); 3] =
    [(&[NO_ADVICE], "mmap"), (&[NO_ADVICE, NO_MAPPING], "none"), (&[NO_FENCE], "madvise")];

/// Has `command` run with these rules; what none of them names is allowed.
pub fn install(command: &mut Command, rules: &[Rule]) {
    let filter = program(rules);
    // SAFETY: the closure makes two system calls, and uses memory that was made before.
    unsafe {
        command.pre_exec(move || {
            let (len, first) = (filter.len() as u16, filter.as_ptr().cast_mut());
            let program = libc::sock_fprog { len, filter: first };
            done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            done(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program))
        });
    }
}

fn done(result: i32) -> Result<()> {
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

fn program(rules: &[Rule]) -> Vec<libc::sock_filter> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let unless =
        |value, skip| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
    let leave = |action| instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action);
    let mut program = Vec::new();
    for &(call, argument, action) in rules {
        program.push(load(0)); // seccomp_data.nr
        match argument {
            None => program.push(unless(call as u32, 1)),
            Some((index, value)) => {
                program.push(unless(call as u32, 3));
                program.push(load(16 + 8 * index)); // the low half of seccomp_data.args
                program.push(unless(value, 1));
            }
        }
        program.push(leave(action));
    }
    program.push(leave(libc::SECCOMP_RET_ALLOW));
    program
}

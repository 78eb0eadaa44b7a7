//! Systems that are not as they should be: calls that succeed and do nothing, filters that kill for what
//! glibc's malloc does not need, and a setuid program, which the environment must not steer.

mod common;

use common::filter::{self, LIARS};
use common::{Mode, ON_RSALLOC, c, library};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output};

#[test]
fn cleared_objects_are_zero_on_kernels_that_lie() {
    for mode in ON_RSALLOC {
        for (rules, name) in LIARS {
            let mut command = common::child(mode, "a_body_that_dirties_and_clears");
            filter::install(&mut command, rules);
            let output = command.output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && text.contains("1 passed"),
                "{mode:?}, {name}: {} {text} {}",
                output.status,
                String::from_utf8_lossy(&output.stderr),
            );
        }
    }
}

/// For tests that start a child in a special way: 7,000 cleared objects in the place of dirty ones.
#[test]
fn a_body_that_dirties_and_clears() {
    const SIZES: [usize; 7] = [24, 500, 8_000, 33_000, 40_000, 66_000, 270_000];
    let mut dirty = 0;
    for round in 0..20 {
        let size = |n: usize| SIZES[(n + round) % SIZES.len()] + n % 100;
        // SAFETY: live objects of its own, written and read no further than they are long.
        unsafe {
            let objects: Vec<_> = (0..350).map(|n| (c::malloc(size(n)), size(n))).collect();
            for &(object, size) in &objects {
                assert!(!object.is_null());
                (0..size).step_by(4_096).for_each(|at| object.cast::<u8>().add(at).write(0xaa));
            }
            objects.into_iter().for_each(|(object, _)| c::free(object));
            c::malloc_trim(0);
            let objects: Vec<_> = (0..350).map(|n| (c::calloc(1, size(n)), size(n))).collect();
            for (object, size) in objects {
                assert!(!object.is_null());
                let is_zero = |at| object.cast::<u8>().add(at).read() == 0;
                dirty += usize::from(!(0..size).step_by(4_096).all(is_zero));
                c::free(object);
            }
        }
    }
    assert_eq!(dirty, 0, "dirty ones of 7,000 cleared objects");
}

/// What a program is that has a filter: `when` it gets it, and what it does then.
const FILTERED: &str = r#"
    #include <errno.h>
    #include <linux/filter.h>
    #include <linux/seccomp.h>
    #include <malloc.h>
    #include <pthread.h>
    #include <stddef.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    /* glibc 2.36: its malloc; pthread_create and the end of a thread; what ends a program. */
    static const int always[] = {
        SYS_brk, SYS_mmap, SYS_munmap, SYS_mremap, SYS_madvise, SYS_mprotect, SYS_futex, SYS_getrandom,
        SYS_clone, SYS_clone3, SYS_exit, SYS_rseq, SYS_set_robust_list, SYS_rt_sigaction,
        SYS_rt_sigprocmask, SYS_write, SYS_exit_group,
    };
    /* Its start: exec, the dynamic linker, the first thread. */
    static const int at_start[] = {
        SYS_execve, SYS_access, SYS_openat, SYS_newfstatat, SYS_fstat, SYS_read, SYS_pread64, SYS_close,
        SYS_arch_prctl, SYS_set_tid_address, SYS_prlimit64, SYS_readlink,
    };

    static void fail(const char *what) { write(2, what, strlen(what)); _exit(1); }

    static void install(int with_start) {
        static struct sock_filter code[100];
        unsigned short n = 0;
        code[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
        size_t all = sizeof always / sizeof *always, more = with_start ? sizeof at_start / sizeof *at_start : 0;
        for (size_t i = 0; i < all + more; i++) {
            int call = i < all ? always[i] : at_start[i - all];
            code[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 1);
            code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
        }
        code[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
        struct sock_fprog program = { n, code };
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
            fail("no filter\n");
    }

    static void *work(void *unused) {
        enum { N = 2000 };
        static __thread unsigned char *kept[N];
        for (int round = 0; round < 3; round++) {
            for (int i = 0; i < N; i++) {
                size_t size = 1 + (i * 37 + round * 101) % 9000 + (i % 500 == 0) * 300000;
                kept[i] = i % 3 ? malloc(size) : calloc(1, size);
                if (!kept[i]) fail("null\n");
                memset(kept[i], i, size);
            }
            for (int i = 0; i < N; i++) {
                if (i % 7 == 0) kept[i] = realloc(kept[i], 10000 + i);
                if (kept[i][0] != (unsigned char)i) fail("contents\n");
                free(kept[i]);
            }
            void *aligned = 0;
            if (posix_memalign(&aligned, 1 << 20, 100000)) fail("posix_memalign\n");
            free(aligned);
            char *sparse = malloc(33000);
            if (!sparse) fail("null\n");
            free(sparse);
            char *huge = malloc(1 << 20);
            for (int mib = 8; mib < 80; mib *= 2) if (!(huge = realloc(huge, (size_t)mib << 20))) fail("realloc\n");
            free(huge);
            if (malloc((size_t)1 << 50)) fail("not null\n");
            malloc_trim(0);
        }
        return 0;
    }

    int main(int argc, char **argv) {
        if (!strcmp(argv[1], "exec")) {
            install(1);
            argv[1] = "run";
            execv(argv[0], argv);
            fail("exec\n");
        }
        free(malloc(100));
        if (!strcmp(argv[1], "late")) install(0);
        if (!strcmp(argv[2], "getpid")) syscall(SYS_getpid);
        pthread_t threads[8];
        int count = !strcmp(argv[2], "threads") ? 8 : 0;
        for (int life = 0; life < 2 && count; life++) {
            for (int i = 0; i < count; i++) if (pthread_create(&threads[i], 0, work, 0)) fail("thread\n");
            for (int i = 0; i < count; i++) pthread_join(threads[i], 0);
        }
        work(0);
        write(1, "lived", 5);
        return 0;
    }
"#;

/// One run: when the filter comes, what the program does, and what is added to RSALLOC_CONF.
fn filtered(program: &Path, mode: Mode, when: &str, what: &str, conf: &str) -> Output {
    let mut command = Command::new(program);
    common::in_mode(&mut command, mode);
    let of_mode = command.get_envs().find(|(name, _)| *name == "RSALLOC_CONF");
    let of_mode = of_mode.and_then(|(_, value)| value?.to_str().map(str::to_owned));
    let conf: Vec<_> = of_mode.into_iter().chain([conf.to_owned()]).collect();
    command.env("RSALLOC_CONF", conf.join(",")).args([when, what]);
    command.output().unwrap()
}

fn lived(output: &Output) -> bool {
    output.status.success() && output.stdout == b"lived"
}

#[test]
fn filters_that_kill_for_more_than_malloc_needs() {
    let program = common::compile("cc", "filtered", FILTERED, &["-O1", "-pthread", "-w"]).unwrap();
    let run = |mode, when, what, conf| filtered(&program, mode, when, what, conf);
    for mode in ON_RSALLOC {
        for (when, what, conf) in [
            // A program of one thread needs no fence, if libc's word for that can be read.
            ("late", "alone", if cfg!(sections) { "" } else { "membarrier:off" }),
            ("late", "threads", "membarrier:off"),
            ("exec", "alone", "membarrier:off"),
            ("exec", "threads", "membarrier:off"),
        ] {
            let output = run(mode, when, what, conf);
            assert!(lived(&output), "{mode:?}, {when}, {what}, {conf:?}: {output:?}");
        }
        // The controls: the filter is there, and kills; and for membarrier too, where it is called.
        for (when, what, conf) in [("late", "getpid", ""), ("exec", "alone", "")] {
            if when == "exec" && mode == Mode::Hardened && !cfg!(sections) {
                continue; // Neither sections nor biased shards: nothing to fence.
            }
            let output = run(mode, when, what, conf);
            let signal = output.status.signal();
            assert_eq!(signal, Some(libc::SIGSYS), "{mode:?}, {when}, {what}: {output:?}");
        }
    }
}

/// A user that owns nothing.
const UNPRIVILEGED_USER: u32 = 65_534;

/// A setuid copy of a program that has the library built in, run by another user: the setting is ignored. A
/// copy that is not setuid obeys it.
#[test]
fn a_setuid_program_ignores_the_environment() {
    // SAFETY: no arguments.
    if unsafe { libc::geteuid() } != 0 {
        return common::note("RSALLOC_CONF in a setuid program: only root can make one");
    }
    // Not in the build's folder, which another user may not enter.
    let folder = std::env::temp_dir().join(format!("rsalloc-setuid-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    let copy = folder.join("librsalloc.so.0");
    std::fs::copy(library(), &copy).unwrap();
    // It says whether it is set-user-id, as the kernel told it.
    let source = r#"
        #include <stdlib.h>
        #include <sys/auxv.h>
        int main(void) { free(malloc(100)); return getauxval(AT_SECURE) ? 7 : 0; }
    "#;
    // By its soname, and where that lies.
    let here = format!("-Wl,-rpath,{}", folder.display());
    let arguments = [copy.to_str().unwrap(), here.as_str()];
    let made = common::compile("cc", "setuid-built", source, &arguments).unwrap();
    let run = |name: &str, owner: u32, mode: u32| {
        let program = folder.join(name);
        common::copy_program(&made, &program);
        chown(&program, Some(owner), None).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(mode)).unwrap();
        let mut command = Command::new(&program);
        command
            .env_clear()
            .env("RSALLOC_CONF", "verbose:1,mode:atomic")
            .uid(UNPRIVILEGED_USER)
            .gid(UNPRIVILEGED_USER);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (plain, setuid) = (run("plain", 0, 0o755), run("setuid", 0, 0o4755));
    let setgid = run("setgid", 0, 0o2755);
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(plain.0, Some(0));
    assert!(plain.1.contains("atomic path (configured)"), "obeyed: {}", plain.1);
    if setuid.0 == Some(0) {
        return common::skip("RSALLOC_CONF in a setuid program: the file system has none (nosuid)");
    }
    assert_eq!((setuid.0, setuid.1.as_str()), (Some(7), ""), "setuid");
    assert_eq!((setgid.0, setgid.1.as_str()), (Some(7), ""), "setgid");
}

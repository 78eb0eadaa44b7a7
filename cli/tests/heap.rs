//! A heap read from outside: what `rsalloc stats` says of programs that know what they hold.

mod command_line;

use command_line::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Says what malloc_info says, and does nothing until it reads a byte: `f` frees the small objects of the last round, `d` ends it by
/// a core dump, any other starts a round more.
const HOLDER: &str = r#"
    #include <malloc.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>
    static char out[65536];
    static void *small[1000];
    int main(int argc, char **argv) {
        setvbuf(stdout, out, _IOFBF, sizeof out);
        char byte;
        for (;;) {
            malloc_info(0, stdout);
            struct mallinfo2 m = mallinfo2();
            printf("mallinfo2 %zu %zu %zu %zu %zu %zu\n", m.arena, m.uordblks, m.fordblks, m.hblks, m.hblkhd, m.keepcost);
            fflush(stdout);
            if (read(0, &byte, 1) != 1) return 0;
            if (byte == 'd') abort();
            if (byte == 'f') {
                for (int i = 0; i < 1000; i++) free(small[i]);
                continue;
            }
            for (int i = 0; i < 1000; i++) memset(small[i] = malloc(3000), 1, 3000);
            for (int i = 0; i < 3; i++) memset(malloc(1 << 20), 1, 1 << 20);
            memset(malloc(40 << 20), 1, 40 << 20);
        }
    }
"#;

/// Object sizes of what a round takes, and of the small ones of them.
const ROUND_BYTES: u64 = SMALL_BYTES + 3 * (1 << 20) + (40 << 20);
const SMALL_BYTES: u64 = 1000 * 3072;

struct Holder {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Holder {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn send(&mut self, byte: u8) {
        self.child.stdin.as_mut().unwrap().write_all(&[byte]).unwrap();
    }

    /// What the process itself says of its numbers, which its C functions say in other terms too.
    fn own_numbers(&mut self) -> Vec<(String, u64)> {
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.starts_with("mallinfo2 ")) {
            lines.push(self.lines.next().unwrap().unwrap());
        }
        let of =
            |start: &str| lines.iter().rfind(|line| line.trim_start().starts_with(start)).unwrap();
        let attributes = |line: &str| -> Vec<(String, u64)> {
            let attributes = line.trim_end_matches("/>").split_ascii_whitespace();
            let pairs = attributes.filter_map(|attribute| attribute.split_once('='));
            let number = |value: &str| value.trim_matches('"').parse().ok();
            pairs.filter_map(|(name, value)| Some((name.to_owned(), number(value)?))).collect()
        };
        let own = attributes(of("<rsalloc "));
        let n = |wanted: &str| own.iter().find(|(name, _)| name == wanted).unwrap().1;
        let (in_use, free) = (
            n("live_bytes") - n("large_bytes"),
            n("cached_bytes") + n("slab_free_bytes") + n("dirty_bytes") + n("sampled_free_bytes"),
        );
        let expected =
            [in_use + free, in_use, free, n("large_count"), n("large_bytes"), n("dirty_bytes")];
        let mallinfo: Vec<u64> =
            of("mallinfo2 ").split(' ').skip(1).map(|number| number.parse().unwrap()).collect();
        assert_eq!(mallinfo, expected, "mallinfo2");
        let size = |start: &str| {
            attributes(of(start)).into_iter().find(|(name, _)| name == "size").unwrap().1
        };
        let totals = ["fast", "rest", "mmap"].map(|kind| size(&format!("<total type=\"{kind}\"")));
        assert_eq!(
            totals,
            [n("cached_bytes"), free - n("cached_bytes"), n("large_bytes")],
            "malloc_info"
        );
        assert_eq!(size("<system type=\"current\""), in_use + free, "malloc_info");
        own
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the child is not collected.
        assert_eq!(unsafe { libc::kill(self.pid() as i32, signal) }, 0);
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(libc::SIGCONT);
        }
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn holder(name: &str) -> PathBuf {
    common::compile("cc", name, HOLDER, &["-O0", "-w"]).unwrap()
}

fn seen(target: &str) -> Value {
    let text = answer(&mut rsalloc(&["stats", "--json", target]));
    let seen: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(seen["schema"], 3);
    seen
}

fn number(seen: &Value, name: &str) -> u64 {
    seen["stats"][name].as_u64().unwrap_or_else(|| panic!("{name} in {seen}"))
}

/// In each mode: the outside says what the inside says, exactly, and both what the program holds.
#[test]
fn an_idle_process_is_read_exactly() {
    let program = holder("holder");
    let program = program.to_str().unwrap();
    for options in [
        &[][..],
        &["--own"],
        &["--atomic"],
        &["--conf", "hardened:1,guard:0"],
        &["--conf", "profile:4k"],
        &["--own", "--conf", "profile:4k"],
        &["--conf", "hardened:1,guard:0,profile:4k"],
    ] {
        let mut holder = Holder::start(&mut with_library("run", &[options, &[program]].concat()));
        let has = |setting| options.iter().any(|option| option.contains(setting));
        let (is_hardened, is_sampled) = (has("hardened"), has("profile"));
        let mut read = |send: Option<u8>| {
            send.into_iter().for_each(|byte| holder.send(byte));
            let own = holder.own_numbers();
            let outside = seen(&holder.pid().to_string());
            assert_eq!(own.len(), outside["stats"].as_object().unwrap().len());
            for (name, value) in own {
                assert_eq!(number(&outside, &name), value, "{name}, {options:?}");
            }
            adds_up(&outside);
            outside
        };
        let mut before = read(None);
        for _ in 0..3 {
            let after = read(Some(b'.'));
            let since = |name| number(&after, name) - number(&before, name);
            let counts = (
                since("live_bytes"),
                since("large_count"),
                since("huge_count"),
                since("huge_bytes"),
            );
            // A canary behind each object makes the large ones longer, by a page of the heap or of the OS.
            let (pages, page) = if is_hardened { (3 << 16, 4096) } else { (0, 0) };
            let expected = (ROUND_BYTES + pages + page, 4, 1, (40 << 20) + page);
            assert_eq!(counts, expected, "{options:?}");
            before = after;
        }
        let after = read(Some(b'f'));
        let live = number(&before, "live_bytes") - number(&after, "live_bytes");
        assert_eq!(live, SMALL_BYTES, "{options:?}");
        assert!(number(&after, "depot_cached_bytes") > 0, "the depot is not tested: {after}");
        // Of 1,000 objects of 3,000 bytes about 520 are samples, and hardened all lie where others do.
        let sampled = ["sampled_count", "sampled_free_bytes"]
            .map(|name| number(&before, name) + number(&after, name));
        assert_eq!(sampled.map(|number| number > 100), [is_sampled && !is_hardened; 2], "{after}");
    }
}

/// The sums of the classes and of the shards are those of the heap, and all that is mapped is for something.
fn adds_up(seen: &Value) {
    let each = |list: &str, of: &dyn Fn(&Value) -> u64| -> u64 {
        seen[list].as_array().unwrap().iter().map(of).sum()
    };
    let bytes = |name: &'static str| {
        move |class: &Value| class[name].as_u64().unwrap() * class["size"].as_u64().unwrap()
    };
    let n = |name| number(seen, name);
    let outside_slabs = n("large_bytes") + n("sampled_bytes");
    assert_eq!(each("classes", &bytes("live")), n("live_bytes") - outside_slabs);
    assert_eq!(each("classes", &bytes("in_shards")), n("shard_cached_bytes"));
    assert_eq!(each("classes", &bytes("in_depot")), n("depot_cached_bytes"));
    assert_eq!(each("classes", &bytes("free_in_slabs")), n("slab_free_bytes"));
    assert_eq!(each("classes", &|class| class["slab_bytes"].as_u64().unwrap()), n("slab_bytes"));
    assert_eq!(each("shards", &|shard| shard["bytes"].as_u64().unwrap()), n("shard_cached_bytes"));
    assert_eq!(each("shards", &|shard| shard["refills"].as_u64().unwrap()), n("refills"));
    for name in ["refilled_objects", "flushed_objects"] {
        assert_eq!(each("classes", &|class| class[name].as_u64().unwrap()), n(name), "{name}");
        let by_shards = each("shards", &|shard| shard[name].as_u64().unwrap());
        assert!((1..=n(name)).contains(&by_shards) || n(name) == 0, "{name}: {by_shards}");
    }
    for class in seen["classes"].as_array().unwrap() {
        let of = |name: &str| class[name].as_u64().unwrap();
        let above = of("refilled_objects") - of("flushed_objects");
        assert_eq!(above, of("live") + of("in_shards"), "with the program or in a shard: {class}");
    }
    assert_eq!(n("cached_bytes"), n("shard_cached_bytes") + n("depot_cached_bytes"));
    let parts = [
        "live_bytes",
        "cached_bytes",
        "slab_free_bytes",
        "slab_tail_bytes",
        "dirty_bytes",
        "clean_bytes",
        "sampled_free_bytes",
    ];
    assert_eq!(parts.map(n).iter().sum::<u64>(), n("mapped_bytes"), "{seen}");
    let resident = seen["process"]["resident_bytes"].as_u64().unwrap();
    assert!(resident >= n("live_bytes"), "all of it was written to");
    assert!(seen["process"]["resident_peak_bytes"].as_u64().unwrap() >= resident);
}

#[test]
fn a_stopped_process_is_read_and_stays_as_it_is() {
    let program = holder("holder-stopped");
    let mut holder = Holder::start(&mut with_library("run", &[program.to_str().unwrap()]));
    let own = holder.own_numbers();
    holder.signal(libc::SIGSTOP);
    // Up to the CPU times of its children; the kernel adds up resident pages late.
    let stat = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", holder.child.id())).unwrap();
        stat.split_inclusive(' ').take(17).collect::<String>()
    };
    wait_for(|| stat().contains(") T "));
    let before = stat();
    let first = seen(&holder.child.id().to_string());
    own.iter().for_each(|(name, value)| assert_eq!(number(&first, name), *value, "{name}"));
    let took = cpu_time(rsalloc(&["stats", "--json", &holder.child.id().to_string()]));
    assert!(took < Duration::from_millis(10), "{took:?}");
    assert_eq!(stat(), before, "nothing ran");
}

/// The processor's time that a command takes from its start on: how long it waits for the processor is the machine's.
#[expect(clippy::zombie_processes, reason = "wait4 collects it, with the time that it took")]
fn cpu_time(mut command: Command) -> Duration {
    let child = command.stdout(Stdio::null()).spawn().unwrap();
    // SAFETY: live words; the child is collected here alone.
    let usage = unsafe {
        let (mut status, mut usage) = (0, std::mem::zeroed::<libc::rusage>());
        let pid = child.id() as libc::pid_t;
        assert_eq!(libc::wait4(pid, &raw mut status, 0, &raw mut usage), pid);
        assert_eq!(status, 0);
        usage
    };
    let duration =
        |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1000);
    duration(usage.ru_utime) + duration(usage.ru_stime)
}

#[test]
fn a_core_file_is_read() {
    let folder = fresh_folder("cores");
    let program = holder("holder-dumped");
    let mut command = with_library("run", &[program.to_str().unwrap()]);
    let mut holder = Holder::start(unlimited_core(command.current_dir(&folder)));
    holder.own_numbers();
    holder.send(b'.');
    let own = holder.own_numbers();
    let pid = holder.pid().to_string();
    let running = seen(&pid);
    let gcore = folder.join("of-gcore");
    let by_debugger = Command::new("gcore").arg("-o").arg(&gcore).arg(&pid).output();
    holder.send(b'd');
    let status = holder.child.wait().unwrap();
    assert!(!status.success());
    let mut tested = 0;
    let mut compare = |core: &Path| {
        let dumped = seen(core.to_str().unwrap());
        own.iter().for_each(|(name, value)| assert_eq!(number(&dumped, name), *value, "{name}"));
        for what in ["classes", "shards", "report", "program", "pid"] {
            assert_eq!(dumped[what], running[what], "{what}");
        }
        assert_eq!(
            (&dumped["process"], &dumped["core"]),
            (&Value::Null, &core.to_str().unwrap().into())
        );
        let text = answer(&mut rsalloc(&["stats", core.to_str().unwrap()]));
        assert!(
            text.starts_with(&format!("core file {} (holder-dumped)", core.display())),
            "{text}"
        );
        assert!(
            answer(&mut rsalloc(&["check", core.to_str().unwrap()]))
                .contains("is active in core file")
        );
        tested += 1;
    };
    match by_debugger {
        Ok(done) if done.status.success() => compare(&folder.join(format!("of-gcore.{pid}"))),
        _ => common::note("a core file of gcore: there is no gcore, or it may not trace"),
    }
    match [folder.join("core"), folder.join(format!("core.{pid}"))]
        .into_iter()
        .find(|core| core.exists())
    {
        Some(core) => {
            compare(&core);
            let bytes = std::fs::read(&core).unwrap();
            let cut = folder.join("cut");
            std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
            let line = error(&mut rsalloc(&["stats", cut.to_str().unwrap()]), 3);
            assert!(line.contains("core file") || line.contains("not active"), "{line}");
        }
        None => common::note("a core file of the kernel: core_pattern leads elsewhere"),
    }
    assert!(
        tested > 0 || std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap() != "core\n"
    );
}

/// The kernel writes a core file of any size for what `command` starts.
fn unlimited_core(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    let raise = || {
        let limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: a live struct. Where it is refused, no core file comes, which is noted.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) };
        Ok(())
    };
    // SAFETY: one system call.
    unsafe { command.pre_exec(raise) }
}

fn wait_for(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn text_lines_up_and_a_watched_process_gives_rows_until_it_ends() {
    let program = holder("holder-watched");
    let mut holder = Holder::start(&mut with_library("run", &[program.to_str().unwrap()]));
    holder.own_numbers();
    let pid = holder.pid().to_string();
    let text = answer(&mut rsalloc(&["stats", "--all", &pid]));
    let live: Vec<_> = text.lines().filter(|line| line.trim_start().starts_with("live ")).collect();
    assert_eq!(live.len(), 1, "{text}");
    let bytes = number(&seen(&pid), "live_bytes").to_string();
    assert!(live[0].replace(',', "").contains(&bytes), "{text}");
    for table in ["\n class ", "\nshard "] {
        let rows = text.split(table).nth(1).unwrap().split("\n\n").next().unwrap();
        assert!(rows.lines().count() > 1, "{table:?}: {text}");
    }
    let mut watching = rsalloc(&["stats", "--watch", "0.05", &pid]);
    let watching = watching.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    drop(holder);
    let output = watching.wait_with_output().unwrap();
    let rows = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && rows.lines().count() > 2, "{rows}");
    assert!(rows.lines().all(|row| row.len() == rows.lines().next().unwrap().len()), "{rows}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, format!("rsalloc: process {pid} has ended, or runs another program\n"));
}

#[test]
fn what_cannot_be_read_is_said_in_a_line() {
    let text = common::scratch().join("no-core");
    std::fs::write(&text, "text").unwrap();
    for (target, said) in [
        ("4194999".into(), "there is no process 4194999".into()),
        ("no/such/file".into(), "no/such/file is neither the id of a process nor a core file: No such file or directory (os error 2)".into()),
        (text.display().to_string(), format!("{} is no core file of this machine", text.display())),
        ("2".into(), "process 2 has no memory of its own (a thread of the kernel)".to_owned()),
    ] {
        if target == "2" && !std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
            common::note("stats of a thread of the kernel: there is none here");
            continue;
        }
        for command in ["stats", "check", "conf"] {
            assert_eq!(error(&mut rsalloc(&[command, &target]), 3), format!("rsalloc: {said}"));
        }
    }
    let mut zombie = Command::new("true").spawn().unwrap();
    let pid = zombie.id().to_string();
    wait_for(|| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().contains(") Z "));
    let line = error(&mut rsalloc(&["stats", &pid]), 3);
    assert_eq!(
        line,
        format!("rsalloc: process {pid} has ended; only its exit status is left (a zombie)")
    );
    zombie.wait().unwrap();
}

/// A process of another user: what the kernel refuses is named.
#[test]
fn a_process_that_may_not_be_read_is_said_to_be_one() {
    // SAFETY: no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return common::note("stats without the right to read a process: needs root to give it up");
    }
    let own = std::process::id().to_string();
    let mut command = rsalloc(&["stats", &own]);
    let line = error(std::os::unix::process::CommandExt::uid(&mut command, 65534), 3);
    assert!(
        line.starts_with(&format!("rsalloc: may not look into process {own}: ask as its user")),
        "{line}"
    );
}

/// Processes end while they are read: each answer is numbers or one line.
#[test]
fn a_process_that_ends_meanwhile_gives_numbers_or_a_line() {
    let program = holder("holder-ending");
    for round in 0..40 {
        let mut holder = Holder::start(&mut with_library("run", &[program.to_str().unwrap()]));
        holder.own_numbers();
        let pid = holder.pid().to_string();
        let reading = rsalloc(&["stats", "--json", &pid])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        std::thread::sleep(Duration::from_micros(100 * round));
        holder.signal(libc::SIGKILL);
        let output = reading.unwrap().wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        match output.status.code() {
            Some(0) => {
                assert!(number(&serde_json::from_slice(&output.stdout).unwrap(), "live_bytes") > 0)
            }
            Some(3) => assert!(
                said.starts_with("rsalloc: process ") && said.lines().count() == 1,
                "{said}"
            ),
            other => panic!("{other:?}: {said}"),
        }
    }
}

/// Blocks of other versions, in programs that have nothing else of rsalloc.
#[test]
fn blocks_of_other_versions_are_read_as_far_as_they_go() {
    let planted = |name: &str, block: &str| {
        let source = PLANTED.replace("BLOCK", block);
        let program = common::compile("cc", name, &source, &["-O0", "-w"]).unwrap();
        Running::talker(clean(&mut Command::new(program)))
    };
    // As version 2 was at first: mode, reason, index, shards and the sums of its last request.
    let old = planted(
        "planted-2",
        "long block[22] = { MAGIC, 176L << 32 | 2, 1L << 32, 1, 2, 5L << 32 };",
    );
    let line = error(&mut rsalloc(&["stats", &old.pid()]), 3);
    assert!(
        line.contains("planted-2 is of an older version, whose statistics cannot be read"),
        "{line}"
    );
    let text = String::from_utf8(rsalloc(&["check", &old.pid()]).output().unwrap().stdout).unwrap();
    assert!(
        text.contains("per CPU, by rseq registered by rsalloc")
            && text.contains("shards:          5"),
        "{text}"
    );

    let newer = planted(
        "planted-9",
        "long block[22] = { MAGIC, 176L << 32 | 9, 1L << 32, 1, 2, 5L << 32 };",
    );
    let line = error(&mut rsalloc(&["stats", &newer.pid()]), 3);
    assert!(
        line.contains(
            "planted-9: the report of rsalloc is of version 9, and this command reads up to 3"
        ),
        "{line}"
    );

    // Of this version, with two classes of another layout, and with fewer words than this one has: no shards yet.
    let shorter = planted("planted-3", SHORTER);
    let seen = seen(&shorter.pid());
    assert_eq!(
        (&seen["report"]["mode"], &seen["report"]["reason"]),
        (&"rseq_own".into(), &"none".into())
    );
    let class = &seen["classes"][0];
    let expected = [
        ("size", 48),
        ("live", 1234 - 30),
        ("in_depot", 30),
        ("free_in_slabs", 10 * 200 - 1234),
        ("slabs", 10),
    ];
    expected.iter().for_each(|(name, value)| assert_eq!(class[*name], *value, "{name}: {class}"));
    assert_eq!(seen["classes"].as_array().unwrap().len(), 1);
    assert_eq!(number(&seen, "live_bytes"), 48 * 1204);
    assert_eq!(number(&seen, "slab_bytes"), 10 * 3 * 4096);
    assert_eq!(seen["shards"], serde_json::json!([]));
}

const PLANTED: &str = r#"
    #include <unistd.h>
    #define MAGIC 0x00636f6c6c617372L
    BLOCK
    int main(void) {
        write(1, "!", 1);
        char byte;
        read(0, &byte, 1);
        return 0;
    }
"#;

const SHORTER: &str = r#"
    static struct { int row[6]; } rows[2] = { {}, { 48, 200, 3, 15, 8 } };
    static struct { long other, slabs, out; } slabs[2] = { {}, { 7, 10, 1234 } };
    static long depot[2] = { 0, 0xab02 };
    extern long block[];
    long block[] = {
        MAGIC, (40L * 8) << 32 | 3,
        2, 0, 0, 0, 0, 0, 0, 0,
        (long)block, (long)rows, sizeof rows[0], 2, (long)&slabs[0].slabs, sizeof slabs[0], (long)&slabs[0].out,
        (long)depot, sizeof depot[0], 0, 0xff, 0, 0, 0, 0, 0,
        0, 0, 0, /* shards */ 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* bytes of a page */ 4096,
        /* behind its end */ 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    };
"#;

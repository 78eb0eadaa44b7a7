//! `rsalloc report`: what the page says is what `stats --json` says of the same process.

mod command_line;

use command_line::*;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Takes objects of several sizes, frees most of the small ones, answers, and waits.
const FRAGMENTED: &str = r#"
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>
    static void *small[60000];
    int main(void) {
        for (int i = 0; i < 60000; i++) memset(small[i] = malloc(40 + i % 900), 1, 40);
        for (int i = 0; i < 60000; i++) if (i % 50) free(small[i]);
        for (int i = 0; i < 3; i++) memset(malloc(100 << 10), 1, 100 << 10);
        for (int i = 0; i < 3; i++) memset(malloc(1 << 20), 1, 1 << 20);
        memset(malloc(40 << 20), 1, 40 << 20);
        void *gone = malloc(3 << 20);
        memset(gone, 1, 3 << 20);
        free(gone);
        write(1, "!", 1);
        char byte;
        while (read(0, &byte, 1) == 1) {}
        return 0;
    }
"#;

fn fragmented(mode: &[&str]) -> Running {
    let program = common::compile("cc", "fragmented", FRAGMENTED, &["-O0", "-w"]).unwrap();
    let mut command = with_library("run", mode);
    Running::talker(command.arg("--").arg(program))
}

fn page(folder: &Path, arguments: &[&str]) -> String {
    let path = folder.join("report.html");
    let output =
        rsalloc(&["report", "-o", path.to_str().unwrap()]).args(arguments).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let lines = 1 + usize::from(arguments.contains(&"--seconds"));
    assert!(output.status.success() && said.lines().count() == lines, "{said}");
    std::fs::read_to_string(path).unwrap()
}

/// The number that the page shows under a name, which it shows once.
#[track_caller]
fn shown(page: &str, name: &str) -> u64 {
    let start = format!("<data class=\"{name}\" value=\"");
    let mut found = page.split(&start).skip(1).map(|rest| rest.split('"').next().unwrap());
    let value = found.next().unwrap_or_else(|| panic!("no {name} in the page")).parse().unwrap();
    assert!(found.next().is_none(), "{name} is there twice");
    value
}

/// Bytes of a part of the picture; a part that is empty is not shown.
fn drawn(page: &str, part: &str) -> u64 {
    let name = format!("picture_{part}");
    if page.contains(&format!("class=\"{name}\"")) { shown(page, &name) } else { 0 }
}

#[test]
fn the_page_says_and_draws_what_the_counters_say() {
    let folder = fresh_folder("report-numbers");
    for mode in [&[][..], &["--own"], &["--atomic"]] {
        let running = fragmented(mode);
        let pid = running.pid();
        // SAFETY: the child is not collected.
        assert_eq!(unsafe { libc::kill(running.0.id() as i32, libc::SIGSTOP) }, 0);
        let stats: Value =
            serde_json::from_str(&answer(&mut rsalloc(&["stats", "--json", &pid]))).unwrap();
        let page = page(&folder, &[&pid]);
        // SAFETY: as above.
        assert_eq!(unsafe { libc::kill(running.0.id() as i32, libc::SIGCONT) }, 0);

        let number = |name: &str| stats["stats"][name].as_u64().unwrap();
        for name in [
            "live_bytes",
            "large_count",
            "large_bytes",
            "huge_count",
            "huge_bytes",
            "cached_bytes",
            "shard_cached_bytes",
            "depot_cached_bytes",
            "slab_free_bytes",
            "slab_bytes",
            "slab_tail_bytes",
            "dirty_bytes",
            "clean_bytes",
            "purged_bytes_total",
            "metadata_bytes",
        ] {
            assert_eq!(shown(&page, name), number(name), "{name}, {mode:?}");
        }
        let resident = stats["process"]["resident_bytes"].as_u64().unwrap();
        assert_eq!(shown(&page, "resident_bytes"), resident);
        assert!(number("huge_bytes") >= 40 << 20 && number("slab_free_bytes") > 1 << 20, "{stats}");

        let small = ["To64", "To512", "To4K", "To32K", "To256K"].map(|part| drawn(&page, part));
        let handed_out = number("live_bytes") - number("large_bytes") + number("cached_bytes");
        assert_eq!(small.iter().sum::<u64>(), handed_out, "{mode:?}");
        assert!(small[1] > 0 && small[4] >= 3 * (100 << 10), "{small:?}");
        assert_eq!(drawn(&page, "FreeInSlabs"), number("slab_free_bytes"));
        assert_eq!(drawn(&page, "Tail"), number("slab_tail_bytes"));
        assert_eq!(drawn(&page, "Large"), number("large_bytes") - number("huge_bytes"));
        assert_eq!(drawn(&page, "Dirty"), number("dirty_bytes"));
        assert_eq!(drawn(&page, "Clean"), number("clean_bytes"));
        assert_eq!(drawn(&page, "Unsettled"), 0);
        assert!(shown(&page, "sparse_slabs") > 0, "most slabs hold few objects");
        // Said only if something is cached, which a release may have taken already (`decay`).
        if number("cached_bytes") > 0 {
            assert!(shown(&page, "release_most_bytes") >= number("dirty_bytes"));
        }
    }
}

#[test]
fn a_page_needs_nothing_else() {
    let folder = fresh_folder("report-alone");
    let running = fragmented(&[]);
    let page = page(&folder, &[&running.pid(), "--seconds", "0.3"]);
    for outside in ["http:", "https:", "<script", "url(http", "@import", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.len() < 1 << 20, "{} bytes", page.len());
    assert!(page.contains("Memory over time") && page.contains("after 0."), "it was sampled");
}

#[test]
fn an_interrupt_ends_the_time_and_the_page_is_written() {
    let folder = fresh_folder("report-interrupted");
    let path = folder.join("report.html");
    let running = fragmented(&[]);
    let mut command = rsalloc(&["report", &running.pid(), "--seconds", "3600", "-o"]);
    let child = command.arg(&path).stderr(std::process::Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(!path.exists(), "it waits");
    // SAFETY: the child is not collected.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(path).unwrap();
    assert!(page.contains("Memory over time") && page.contains("</html>"));
}

/// A program is shown when it was largest, and its end is passed on.
#[test]
fn a_program_is_shown_at_its_largest() {
    let folder = fresh_folder("report-program");
    let path = folder.join("report.html");
    let script = "b = bytearray(48 << 20); import time; time.sleep(0.4); del b; time.sleep(0.2); raise SystemExit(7)";
    let mut command = rsalloc(&["report", "-o", path.to_str().unwrap(), "--lib"]);
    let output =
        command.arg(common::library()).args(["--", "python3", "-c", script]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(&path).unwrap();
    assert!(shown(&page, "huge_bytes") >= 48 << 20);
    assert!(page.contains("when most of its heap could be resident"));
}

#[test]
fn a_sampled_process_has_a_flame_graph() {
    let folder = fresh_folder("report-profile");
    let running = fragmented(&["--conf", "profile:16k"]);
    let sampled = page(&folder, &[&running.pid()]);
    assert!(sampled.contains("rsalloc-flame") && sampled.contains("id=\"profile\""));
    assert!(sampled.contains("main"), "the site has a name");
    let running = fragmented(&[]);
    assert!(!page(&folder, &[&running.pid()]).contains("rsalloc-flame"));
}

#[test]
fn what_cannot_be_reported_is_said() {
    let folder = fresh_folder("report-errors");
    let path = folder.join("report.html");
    let report = |arguments: &[&str]| {
        let mut command = rsalloc(&["report", "-o", path.to_str().unwrap()]);
        command.args(arguments);
        command
    };
    let own = std::process::id().to_string();
    assert!(error(&mut report(&[&own]), 3).contains("not active"));
    assert!(error(&mut report(&["999999999"]), 3).contains("no process"));
    assert!(error(&mut report(&[&own, "--seconds", "0"]), 3).contains("above 0"));
    assert!(error(&mut report(&["--", "/no/such"]), 127).contains("not found"));
    let running = fragmented(&[]);
    let mut nowhere = rsalloc(&["report", &running.pid(), "-o", "/no/folder/x.html"]);
    assert!(error(&mut nowhere, 3).contains("there is no folder /no/folder"));
    assert!(!path.exists());
    let mut brief = Command::new(env!("CARGO_BIN_EXE_rsalloc"));
    brief.args([
        "report",
        "--lib",
        common::library().to_str().unwrap(),
        "-o",
        path.to_str().unwrap(),
        "--",
        "/bin/true",
    ]);
    let output = brief.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "the program's");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(path.exists() != said.contains("before it could be looked at"), "{said}");
}

//! Names that a terminal would obey: of processes, of programs' files and of functions. No command's answer has them as they are.

mod command_line;

use command_line::*;
use std::path::Path;
use std::process::Command;

/// Has such a name, allocates in a function of such a name, and waits.
const PROGRAM: &str = r#"
    #include <stdlib.h>
    #include <string.h>
    #include <sys/prctl.h>
    #include <unistd.h>
    __attribute__((noinline)) void *hoard(void) {
        void *last = 0;
        for (int i = 0; i < 20000; i++) { void **object = malloc(1000); *object = last; last = object; }
        return last;
    }
    void *kept;
    int main(int argc, char **argv) {
        prctl(PR_SET_NAME, "\x1b[2J\a\xc2\x9b\x31m\"<&\n\r", 0, 0, 0);
        kept = hoard();
        write(1, "!", 1);
        char byte;
        while (read(0, &byte, 1) == 1) {}
        if (argc > 1) abort();
        return 0;
    }
"#;

/// Fails if a terminal would obey `text`.
#[track_caller]
fn assert_plain(what: &str, text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let bad = text.chars().find(|c| c.is_control() && !"\n\t".contains(*c));
    assert_eq!(bad, None, "{what}: {text:?}");
}

#[test]
fn no_command_passes_on_what_a_terminal_obeys() {
    let built = common::compile("cc", "named", PROGRAM, &["-O1", "-w"]).unwrap();
    let folder = fresh_folder("names").join("a\x1b]0;title\x07b");
    std::fs::create_dir_all(&folder).unwrap();
    let program = folder.join("named");
    let mut rename = Command::new("objcopy");
    rename.arg("--redefine-sym=hoard=hoard_\x1b[31m_red").arg(built).arg(&program);
    assert!(rename.status().unwrap().success(), "objcopy is where cc is");
    let conf = ["--conf", "profile:4k", "--"];
    let mut command = with_library("run", &conf);
    let running = Running::talker(command.arg(&program));
    let pid = running.pid();
    let status = std::fs::read(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains(&b'\x1b'), "the kernel passes it on: the test is of something");
    let page = folder.join("report.html");
    let text = folder.join("text");
    std::fs::write(&text, format!("{}+0x1000\n", program.display())).unwrap();
    let [page, text] = [&page, &text].map(|path| path.to_str().unwrap());
    let core = folder.join("core");
    let core = core.to_str().unwrap();
    let gcore = Command::new("gcore").args(["-o", core, &pid]).output();
    let core = format!("{core}.{pid}");
    let commands: &[&[&str]] = &[
        &["stats", "--all", &pid],
        &["stats", "--json", &pid],
        &["stats", &core],
        &["check", &pid],
        &["check", "--json", &pid],
        &["conf", &pid],
        &["metrics", "--classes", &pid],
        &["top", "--once"],
        &["top", "--once", &pid],
        &["report", &pid, "-o", page],
        &["profile", &pid, "--top", "--folded", "-"],
        &["profile", &pid, "--svg", "-"],
        &["profile", "--seconds", "0.1", &core, "--top"],
        &["symbolize", text],
        &["set", &pid, "dirty:4m"],
        &["release", &pid],
        &["stats", page],
        &["run", page],
        &["--no\x1b[31m"],
    ];
    for arguments in commands {
        if arguments.contains(&&*core) && !gcore.as_ref().is_ok_and(|done| done.status.success()) {
            common::note("names in a core file: gcore made none");
            continue;
        }
        let output = rsalloc(arguments).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(!said.is_empty(), "{arguments:?}");
        assert_plain(&format!("{arguments:?}"), &said);
        let is_of_process = arguments.contains(&&*pid) && !arguments.contains(&"conf");
        assert!(
            !is_of_process || output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&said)
        );
    }
    assert_plain("the page", &std::fs::read(Path::new(page)).unwrap());
    // What can be shown of the names is there.
    let shown = answer(&mut rsalloc(&["stats", &pid]));
    assert!(shown.contains("(?[2J??1m\"<&"), "{shown}");
    let sites = answer(&mut rsalloc(&["top", "--once", &pid]));
    assert!(sites.contains("hoard_?[31m_red"), "{sites}");
}

//! What a program declares by `rsalloc::config!` holds from the first allocation on, shows its origin, and gives way
//! to the environment.
#![forbid(unsafe_code)]

#[path = "../../alloc-core/tests/support/again.rs"]
mod again;

use rsalloc::{Config, Mode, Origin, RequestedMode, RsAlloc, Setting, StatsAtExit, Value};

#[global_allocator]
static GLOBAL: RsAlloc = RsAlloc;

rsalloc::config!(
    Config::new()
        .mode(RequestedMode::Atomic)
        .dirty_bytes(3 << 20)
        .guard_one_in(500)
        .membarrier(false)
        .profile_bytes(1 << 20)
        .stats_at_exit(StatsAtExit::JsonFile("/dev/null"))
);

/// The part of a child: shows its settings in place of a test.
const CHILD: &str = "RSALLOC_TEST_CHILD";

/// `key:value origin` of each setting of a child with this text in its environment.
fn settings_with(test: &str, conf: &str) -> Vec<String> {
    let mut child = again::this_program();
    child.args(["--exact", test, "--nocapture", "--test-threads=1"]);
    let output = child.env(CHILD, "1").env("RSALLOC_CONF", conf).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn show() {
    println!();
    for setting in rsalloc::settings() {
        println!("{setting} {:?}", setting.origin);
    }
}

fn setting(key: &str) -> Setting {
    rsalloc::settings().find(|setting| setting.key == key).unwrap()
}

#[test]
fn a_declaration_takes_effect() {
    assert_eq!(rsalloc::report().mode, Mode::Atomic, "{}", rsalloc::report());
    assert_eq!(rsalloc::report().guard_one_in, Some(500));
    assert!(!rsalloc::report().membarrier);
    for said in
        ["mode:atomic", "guard:500", "membarrier:off", "profile:1048576", "stats_at_exit:/dev/null"]
    {
        let found = rsalloc::settings().find(|setting| setting.to_string() == said);
        assert_eq!(found.map(|setting| setting.origin), Some(Origin::Program), "{said}");
    }
    assert_eq!(setting("hardened").origin, Origin::Default);
}

#[test]
fn the_environment_overrides_a_declaration() {
    if std::env::var_os(CHILD).is_some() {
        return show();
    }
    let conf = "mode:auto,guard:off,membarrier:true,stats_at_exit:no";
    let seen = settings_with("the_environment_overrides_a_declaration", conf);
    let wanted = [
        "mode:auto Environment",
        "dirty:3145728 Program",
        "guard:0 Environment",
        "membarrier:on Environment",
        "stats_at_exit:off Environment",
        "verbose:off Default",
    ];
    for wanted in wanted {
        assert!(seen.iter().any(|line| line == wanted), "no {wanted} in {seen:?}");
    }
}

#[test]
fn statistics_at_exit_are_written_by_a_program_without_the_library() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let test = "statistics_at_exit_are_written_by_a_program_without_the_library";
    let run = |conf| {
        let mut child = again::this_program();
        child.args(["--exact", test]).env(CHILD, "1").env("RSALLOC_CONF", conf);
        String::from_utf8(child.output().unwrap().stderr).unwrap()
    };
    assert_eq!(run(""), "", "declared to go to a file");
    let text = run("stats_at_exit:on");
    assert!(text.contains("mode: ") && text.contains("live_bytes "), "{text}");
    let text = run("stats_at_exit:/proc/self/no-such-folder/x");
    assert!(text.starts_with("rsalloc: cannot write the statistics to /proc/self/no"), "{text}");
}

#[test]
fn a_call_changes_what_was_declared() {
    rsalloc::limit_dirty(5 << 20);
    let dirty = setting("dirty");
    assert_eq!((dirty.value, dirty.origin), (Value::Number(5 << 20), Origin::Call));
    rsalloc::limit_dirty(3 << 20);
}

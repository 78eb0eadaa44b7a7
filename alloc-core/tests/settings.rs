//! Settings of a process, once it has begun: what the environment said stays, whatever init finds out; the rest is
//! the default, or what another setting brings along.

#[path = "support/again.rs"]
mod again;

use again::this_program;
use rsalloc_core::{Origin, Setting};

const CONF: &str = "RSALLOC_CONF";

fn main() {
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    if std::env::args().any(|argument| argument == "show") {
        return show();
    }
    settings_from_the_environment_stay();
    hardened_sets_guards_unless_they_are_set();
    without_settings_the_defaults_hold();
    every_switch_takes_each_spelling();
    other_spellings_are_refused();
}

/// Prints a line for each setting of this process: key, value, origin.
fn show() {
    // SAFETY: live.
    unsafe { rsalloc_core::free(rsalloc_core::allocate(1)) };
    for Setting { key, value, origin, .. } in rsalloc_core::settings() {
        let origin = match origin {
            Origin::Default => "default",
            Origin::Program => "program",
            Origin::Environment => "environment",
            _ => "call",
        };
        println!("{key} {value} {origin}");
    }
}

/// The settings of a process with this text in its environment, of which it says nothing on standard error.
fn settings(conf: Option<&str>) -> Vec<String> {
    let (settings, complaints) = run(conf);
    assert_eq!(complaints, "", "{conf:?}");
    settings
}

/// The settings of a process with this text in its environment, and what it says on standard error.
fn run(conf: Option<&str>) -> (Vec<String>, String) {
    let mut command = this_program();
    command.arg("show").env_remove(CONF).envs(conf.map(|conf| (CONF, conf)));
    let output = command.output().expect("it starts");
    assert!(output.status.success(), "{conf:?}: {output:?}");
    let lines = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    (lines, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn has(conf: &str, wanted: &str) {
    let settings = settings(Some(conf));
    assert!(settings.iter().any(|line| line == wanted), "{conf}: no {wanted} in {settings:?}");
}

fn settings_from_the_environment_stay() {
    let said = [
        ("mode", "atomic", "atomic"),
        ("index", "mm_cid", "mm_cid"),
        ("cache", "123k", "125952"),
        ("dirty", "7m", "7340032"),
        ("stats_at_exit", "/dev/null", "/dev/null"),
        ("verbose", "no", "off"),
        ("hardened", "1", "on"),
        ("guard", "3", "3"),
        ("membarrier", "off", "off"),
        ("profile", "64k", "65536"),
    ];
    let conf: Vec<_> = said.iter().map(|(key, text, _)| format!("{key}:{text}")).collect();
    let settings = settings(Some(&conf.join(",")));
    for (key, _, value) in said {
        let wanted = format!("{key} {value} environment");
        assert!(settings.contains(&wanted), "no {wanted} in {settings:?}");
    }
    let count = settings.iter().filter(|line| line.ends_with(" environment")).count();
    assert_eq!(count, said.len(), "what was not said is not the environment's: {settings:?}");
}

fn hardened_sets_guards_unless_they_are_set() {
    has("hardened:1", "guard 1000 environment");
    has("hardened:1,guard:0", "guard 0 environment");
    has("guard:0,hardened:1", "guard 0 environment");
    has("hardened:0", "guard 0 default");
    has("guard:5", "hardened off default");
}

fn without_settings_the_defaults_hold() {
    let settings = settings(None);
    assert!(!settings.is_empty());
    assert!(settings.iter().all(|line| line.ends_with(" default")), "{settings:?}");
}

const SWITCHES: [&str; 3] = ["verbose", "hardened", "membarrier"];

fn every_switch_takes_each_spelling() {
    for (spellings, value) in
        [(["1", "on", "true", "yes"], "on"), (["0", "off", "false", "no"], "off")]
    {
        for spelling in spellings {
            for key in SWITCHES {
                let settings = run(Some(&format!("{key}:{spelling}"))).0;
                let wanted = format!("{key} {value} environment");
                assert!(settings.contains(&wanted), "{spelling}: no {wanted} in {settings:?}");
            }
            let exit = if value == "on" { "text" } else { value };
            let settings = run(Some(&format!("stats_at_exit:{spelling}"))).0;
            assert!(settings.contains(&format!("stats_at_exit {exit} environment")), "{spelling}");
        }
    }
    has("guard:7,guard:off", "guard 0 environment");
    has("profile:on", "profile 524288 environment");
    has("profile:on,profile:no", "profile 0 environment");
}

fn other_spellings_are_refused() {
    for item in [
        "hardened:2",
        "verbose:",
        "membarrier:On",
        "guard:on",
        "cache:off",
        "mode:1",
        "profile:100",
        "profile:2g",
    ] {
        let (settings, complaints) = run(Some(item));
        let line = format!("rsalloc: RSALLOC_CONF: bad value '{item}': ignored");
        assert!(complaints.starts_with(&line) && complaints.lines().count() == 1, "{complaints}");
        assert!(settings.iter().all(|line| line.ends_with(" default")), "{item}: {settings:?}");
    }
}

//! `rsalloc generate FOLDER`: the man pages and the completions of shells, made from the command's own options.
//!
//! Promises the same files in each run: no date but that of the version.

use crate::Cli;
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Where shells look, from `/usr`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "share/bash-completion/completions/rsalloc"),
    (Shell::Zsh, "share/zsh/site-functions/_rsalloc"),
    (Shell::Fish, "share/fish/vendor_completions.d/rsalloc.fish"),
];

/// Writes all of them.
pub fn generate(folder: &Path) -> Result<ExitCode> {
    let mut command = Cli::command();
    command.build();
    for (shell, place) in COMPLETIONS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut shown(&command), "rsalloc", &mut text);
        write(&folder.join(place), &text)?;
    }
    let pages = folder.join("share/man/man1");
    write(&pages.join("rsalloc.1"), &page(&shown(&command), "rsalloc")?)?;
    for sub in shown(&command).get_subcommands() {
        let name = format!("rsalloc-{}", sub.get_name());
        write(&pages.join(format!("{name}.1")), &page(sub, &name)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The command without what is hidden and without `help`, which has a page of its own nowhere.
fn shown(command: &Command) -> Command {
    let subs =
        command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    let mut shown = Command::new("rsalloc")
        .about(command.get_about().cloned().unwrap_or_default())
        .after_help(command.get_after_help().cloned().unwrap_or_default())
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_subcommand(true)
        .subcommand_required(true);
    for sub in subs {
        shown = shown.subcommand(sub.clone());
    }
    shown
}

fn page(command: &Command, name: &str) -> Result<Vec<u8>> {
    let is_sub = name != "rsalloc";
    let command = if is_sub {
        // In the synopsis: the words that are typed.
        command.clone().bin_name(name.replacen('-', " ", 1)).display_name(name.to_owned())
    } else {
        command.clone()
    };
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .section("1")
        .source(concat!("rsalloc ", env!("CARGO_PKG_VERSION")))
        .manual("rsalloc")
        .date("");
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut out)?;
    }
    if command.get_subcommands().next().is_some() {
        man.render_subcommands_section(&mut out)?;
    }
    if command.get_after_help().is_some() {
        man.render_extra_section(&mut out)?;
    }
    tail(is_sub).to_writer(&mut out)?;
    Ok(out)
}

/// What each page ends with; the main one has the settings.
fn tail(is_sub: bool) -> Roff {
    let mut roff = Roff::new();
    if is_sub {
        roff.control("SH", ["SEE ALSO"]);
        roff.text([bold("rsalloc"), roman("(1), "), bold("librsalloc"), roman("(3)")]);
        return roff;
    }
    roff.control("SH", ["ENVIRONMENT"]);
    roff.control("TP", []);
    roff.text([bold("RSALLOC_CONF")]);
    roff.text([roman(
        "Settings of a program on rsalloc, written KEY:VALUE,KEY:VALUE. Numbers take k, m and g; switches take on and off. \
         Ignored in setuid programs. The keys, with their defaults:",
    )]);
    roff.control("RS", []);
    for setting in rsalloc_core::settings() {
        roff.control("TP", []);
        roff.text([bold(setting.key), roman(format!(" ({})", setting.value))]);
        roff.text([roman(setting.help)]);
    }
    roff.control("RE", []);
    roff.control("SH", ["FILES"]);
    roff.control("TP", []);
    roff.text([bold("librsalloc.so.0")]);
    roff.text([roman(
        "The allocator, which run and others load into programs: beside this command, in ../lib or in ../lib64.",
    )]);
    roff.control("TP", []);
    roff.text([bold("/etc/ld.so.preload")]);
    roff.text([roman(
        "A line with the path of librsalloc.so.0 here has every program of the system use it, setuid ones included.",
    )]);
    roff.control("SH", ["EXAMPLES"]);
    for (line, what) in EXAMPLES {
        roff.control("TP", []);
        roff.text([bold(line)]);
        roff.text([roman(what)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([
        bold("librsalloc"),
        roman("(3), "),
        bold("ld.so"),
        roman("(8), "),
        bold("malloc"),
        roman("(3)"),
    ]);
    roff
}

/// `cargo xtask walk` runs each line.
const EXAMPLES: [(&str, &str); 4] = [
    ("rsalloc run sort /etc/passwd", "Runs a program on rsalloc."),
    ("rsalloc check", "Says what run would get here: caches per CPU or the atomic path, and why."),
    (
        "rsalloc run --conf limit:auto,dirty:4m sort /etc/passwd",
        "Runs a program with settings of its own.",
    ),
    (
        "rsalloc profile -o heap.pb.gz -- sort /etc/passwd",
        "Writes down which code of a program allocates, for go tool pprof and others.",
    ),
];

fn write(path: &Path, text: &[u8]) -> Result<()> {
    let folder = path.parent().context("a file in no folder")?;
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, text))
        .with_context(|| format!("cannot write {}", path.display()))
}

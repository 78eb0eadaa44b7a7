//! `cargo xtask loom`: the models of `loom/`, each in every order of its operations within its bound.
//!
//! Promises that a model which finds a broken order, or does not come to its end in time, fails the command; and, with
//! `--control`, that each defect of [`defects::all`], put into a copy of the engine, is found by its model.

mod defects;

use crate::parallel;
use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Put known defects into a copy of the engine; succeed if every one is found
    #[arg(long)]
    control: bool,
    /// Run only these models, or with `--control` only their defects
    #[arg(long, value_delimiter = ',')]
    model: Vec<String>,
}

/// The package of the models.
const MODELS: &str = "rsalloc-loom";
/// A model that takes longer has too many orders.
const SECONDS_EACH: u32 = 300;
/// Models that run at once.
const AT_ONCE: usize = 2;
/// The variable that names the defect of a run.
const DEFECT: &str = "RSALLOC_LOOM_DEFECT";

/// Runs the command.
pub fn main(arguments: &Arguments) -> anyhow::Result<()> {
    let begin = Instant::now();
    let faults = match arguments.control {
        true => control(&arguments.model)?,
        false => go_through(&arguments.model)?,
    };
    println!("{:.0} s", begin.elapsed().as_secs_f64());
    let what = if arguments.control { "defects not found" } else { "models failed" };
    ensure!(faults == 0, "{faults} {what}");
    Ok(())
}

/// Runs the models; returns how many failed.
fn go_through(wanted: &[String]) -> anyhow::Result<usize> {
    let models = build(tools::root(), MODELS)?;
    let list = tools::output(&mut Command::new(&models))?;
    let names: Vec<&str> = list.lines().collect();
    for name in wanted {
        ensure!(names.contains(&&**name), "no model {name}; there are: {}", names.join(", "));
    }
    let names = names.into_iter().filter(|name| is_wanted(name, wanted));
    faults(names.collect(), |name| {
        let output = run(&models, name, None)?;
        let text = String::from_utf8_lossy(&output.stdout);
        // A run that prints no count has explored nothing.
        if output.status.success() && text.contains("executions") {
            print!("{text}");
            return Ok(true);
        }
        println!("{name:<16}FAILED: {}\n{text}{}", output.status, reason(&output));
        Ok(false)
    })
}

/// Runs each defect's model on it; returns how many defects were not found.
fn control(wanted: &[String]) -> anyhow::Result<usize> {
    let defects: Vec<_> = defects::all().filter(|d| is_wanted(d.model, wanted)).collect();
    for name in wanted {
        ensure!(defects.iter().any(|d| d.model == name), "no defect of a model {name}");
    }
    let copy = tempfile::tempdir().context("create a folder for the copy")?;
    defects::write(tools::root(), copy.path())?;
    let models = build(copy.path(), defects::MODELS)?;
    faults(defects, |defect| {
        let output = run(&models, defect.model, Some(defect.name))?;
        // Found by a check of the model, not by the clock nor by a signal.
        let found = output.status.code() == Some(1);
        let verdict = if found { "found: " } else { "NOT FOUND" };
        let reason = if found { reason(&output) } else { output.status.to_string() };
        println!("{:<24}{:<24}{verdict}{reason}", defect.name, defect.model);
        Ok(found)
    })
}

/// Whether a model is among those that the command names; all are if it names none.
fn is_wanted(model: &str, wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|name| name == model)
}

/// Builds the models that lie in `root` as the package `name`; their program.
fn build(root: &Path, name: &str) -> anyhow::Result<PathBuf> {
    let release = tools::release_dir()?;
    let target = release.parent().context("a build has a folder above it")?;
    let mut build = tools::cargo(&["build", "--release", "--quiet", "--locked"]);
    build.arg("--manifest-path").arg(root.join("loom/Cargo.toml"));
    // Warnings about engine code that no model uses would only hide others.
    build.env("RUSTFLAGS", "--cap-lints=allow").arg("--target-dir").arg(target.join("loom"));
    tools::run(&mut build).context("the models do not build")?;
    Ok(target.join("loom/release").join(name))
}

fn run(models: &Path, name: &str, defect: Option<&str>) -> anyhow::Result<Output> {
    let mut command = Command::new("timeout");
    command.arg(SECONDS_EACH.to_string()).arg(models).arg(name).stdin(Stdio::null());
    command.env_remove(DEFECT).envs(defect.map(|defect| (DEFECT, defect)));
    command.output().context("cannot start `timeout`, which coreutils has")
}

/// Runs `is_good` on each item, [`AT_ONCE`] at a time; returns how many are not good.
fn faults<T: Send>(
    items: Vec<T>,
    is_good: impl Fn(T) -> anyhow::Result<bool> + Sync,
) -> anyhow::Result<usize> {
    ensure!(!items.is_empty(), "there was nothing to run");
    let results = parallel::each(items, AT_ONCE, is_good)?;
    Ok(results.iter().filter(|&&good| !good).count())
}

/// What the panic said.
fn reason(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let mut lines = text.lines().skip_while(|line| !line.contains("panicked at")).skip(1);
    lines.next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_run_and_counted() {
        assert_eq!(faults(vec![1, 2, 3, 4, 5], |item| Ok(item != 3)).unwrap(), 1);
        assert!(faults(vec![(); 0], |()| Ok(true)).is_err());
        assert!(faults(vec![()], |()| anyhow::bail!("no")).is_err());
    }
}

//! A process that publishes its statistics (`publish:PATH`), dumped and restored: `cargo lab criu --publish`.
//!
//! The file is mapped, so the restored process goes on with it: readers see the numbers from before the dump until the first
//! renewal, then new ones. CRIU restores nothing, and names the file, if that is gone or has another length.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use super::cycle;
use super::images::{Criu, Way};
use super::kind::Kind;
use super::process::{Process, WAIT_LIMIT};

/// What is done to the file while its process is dumped.
type Damage = fn(&Path) -> Result<()>;

const DAMAGES: [(&str, Damage); 3] = [
    ("removed", |file| Ok(fs::remove_file(file)?)),
    ("longer", |file| set_len(file, |len| len + 4096)),
    ("cut", |file| set_len(file, |_| 4096)),
];

fn set_len(file: &Path, change: fn(u64) -> u64) -> Result<()> {
    let file = File::options().write(true).open(file)?;
    Ok(file.set_len(change(file.metadata()?.len()))?)
}

/// Puts processes through a cycle each: with the file as it was left, and damaged in each way.
pub fn run(criu: &Criu) -> Result<()> {
    let mut whole = Publisher::start()?;
    whole.dump(criu)?;
    let waited = whole.restore_and_judge(criu, WAIT_LIMIT)?;
    println!("the file goes on after the restore: renewed {} ms later", waited.as_millis());
    for (name, damage) in DAMAGES {
        let mut publisher = Publisher::start()?;
        publisher.dump(criu)?;
        damage(&publisher.file).with_context(|| format!("the file is to be {name}"))?;
        match publisher.restore_and_judge(criu, WAIT_LIMIT) {
            Ok(_) => bail!("a process was restored although its file was {name}"),
            Err(error) => {
                let said = format!("{error:#}");
                let file = publisher.file.display().to_string();
                // CRIU names files without the first slash.
                ensure!(said.contains(file.trim_start_matches('/')), "{name}: {said}");
                println!("nothing is restored with the file {name}: {said}");
            }
        }
    }
    Ok(())
}

/// Whether a restored process that does not go on with its file is seen.
pub fn control(criu: &Criu) -> Result<bool> {
    let mut publisher = Publisher::start()?;
    publisher.dump(criu)?;
    // Another process's view of the same path: the restored one has its own file mapped, and readers this one.
    publisher.swaps_file = true;
    let said = match publisher.restore_and_judge(criu, Duration::from_secs(2)) {
        Ok(_) => "nothing".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    let red = said.contains("is not renewed");
    println!(
        "{:<9} publish, readers have another file: {said}",
        if red { "red" } else { "NOT SEEN" }
    );
    Ok(red)
}

/// A victim that publishes.
struct Publisher {
    process: Process,
    file: PathBuf,
    /// What its file said before the dump.
    before: Option<Value>,
    swaps_file: bool,
    images: TempDir,
    /// Holds the file.
    _scratch: TempDir,
}

impl Publisher {
    fn start() -> Result<Publisher> {
        let images = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
        let scratch = tempfile::tempdir()?;
        let file = scratch.path().join("published.rsalloc");
        let process = Process::start(&Kind::publishing(&file), scratch.path())?;
        ensure!(writer(&said(&file)?) == "runs", "it does not publish");
        Ok(Publisher { process, file, before: None, swaps_file: false, images, _scratch: scratch })
    }

    fn dump(&mut self, criu: &Criu) -> Result<()> {
        let way = Way::Once;
        self.process.dump(criu, self.images.path(), way, WAIT_LIMIT)?;
        self.process.child.reap()?;
        let left = said(&self.file)?;
        ensure!(writer(&left) == "gone", "of a dumped process: {}", left["published"]);
        self.before = Some(left);
        Ok(())
    }

    /// How long after the restore the file was renewed.
    fn restore_and_judge(&mut self, criu: &Criu, limit: Duration) -> Result<Duration> {
        let before = self.before.as_ref().context("not dumped")?;
        let images = self.images.path().join("images");
        // As the dump left it: the restored process may renew its own at once.
        let copy = self.file.with_extension("copy");
        if self.swaps_file {
            fs::copy(&self.file, &copy)?;
        }
        cycle::restore(criu, &mut self.process.child, &images)?;
        if self.swaps_file {
            fs::rename(&copy, &self.file)?;
        }
        let begin = Instant::now();
        self.process.goes_on(WAIT_LIMIT).context("after the restore")?;
        loop {
            let now = said(&self.file)?;
            if renewed(&now)? > renewed(before)? {
                ensure!(writer(&now) == "runs", "after a renewal: {}", now["published"]);
                let [old, new] = [before, &now].map(|said| said["stats"]["refills"].as_u64());
                ensure!(new > old, "the numbers stand still: {old:?}, {new:?} refills");
                return Ok(begin.elapsed());
            }
            ensure!(begin.elapsed() < limit, "after the restore the file is not renewed");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What `rsalloc stats` says of a published file.
fn said(file: &Path) -> Result<Value> {
    let mut command = Command::new(tools::release_dir()?.join("rsalloc"));
    command.args(["stats", "--json"]).arg(file);
    Ok(serde_json::from_str(&tools::output(&mut command)?)?)
}

fn writer(said: &Value) -> &str {
    said["published"]["writer"].as_str().unwrap_or_default()
}

fn renewed(said: &Value) -> Result<u64> {
    said["published"]["renewed_ms"].as_u64().context("it is not said when the file was renewed")
}

//! redis-server with a known data set, dumped and restored again and again: `cargo lab criu --redis`.
//!
//! After each restore every value is read back and compared with a model outside of the server, then some are replaced
//! or deleted, so that the heap moves on. The server's freeing thread is given a database to free right before the
//! dump. Over a unix socket, no connection of which is open during a dump.
//!
//! I1: every thread has rseq registered from its start. With own registration a thread has none before
//! it allocates, so that mode is not for this.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use super::child::Child;
use super::cycle;
use super::identity::Identity;
use super::images::{self, Criu, Way};
use super::kind::{Kind, MODES};
use crate::programs::rows::text;
use crate::programs::rows::wire::{Redis, expect};

const KEYS: u64 = 4000;
const CHANGES: u64 = 500;
/// Keys of the database that is freed in the background.
const PASSING: &[u8] = b"100000";
/// How long a busy machine may take to answer.
const WAIT_LIMIT: Duration = Duration::from_secs(30);
/// The first bytes of every value, by which the control finds them in an image.
const MARK: &[u8] = b"a value of rsalloc: ";

/// Puts a server on `kind` through `cycles`; fails at the first value that is not what was stored.
pub fn run(criu: &Criu, kind: &Kind, cycles: usize) -> Result<()> {
    let mut server = Server::start(kind)?;
    let (mut caught, mut compared, mut bytes) = (0, 0, 0);
    let bar = ProgressBar::new(cycles as u64).with_style(
        ProgressStyle::with_template("{elapsed_precise} {wide_bar} {pos}/{len} redis")
            .expect("a constant template"),
    );
    for number in 1..=cycles {
        let taken = server.turn(criu, |_| Ok(())).with_context(|| format!("cycle {number}"))?;
        caught += taken.caught;
        compared += taken.compared;
        bytes += taken.bytes;
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!(
        "redis on {}: {cycles} cycles ok, {caught} threads caught in a section, {compared} values compared, {} changed; mean image {:.1} MB",
        kind.name,
        CHANGES * cycles as u64,
        bytes as f64 / cycles as f64 / 1e6
    );
    Ok(())
}

/// Whether a byte changed in each value of an image is seen, and nothing else.
pub fn control(criu: &Criu) -> Result<bool> {
    let mut server = Server::start(&MODES[0])?;
    server.turn(criu, |_| Ok(())).context("redis without a defect")?;
    println!("green     redis, no defect");
    let said = match server.turn(criu, |folder| images::flip_behind(folder, MARK, 1)) {
        Ok(_) => "nothing".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    let red = said.contains("is not what was stored");
    let seen = if red { "red" } else { "NOT SEEN" };
    println!("{seen:<9} redis, a bit of each value flipped in the image: {said}");
    Ok(red)
}

/// The server, and what it must hold.
struct Server<'a> {
    child: Child,
    kind: &'a Kind,
    identity: Identity,
    socket: PathBuf,
    model: Model,
    /// Holds the socket.
    _scratch: TempDir,
}

/// What a cycle showed.
struct Taken {
    caught: usize,
    compared: u64,
    bytes: u64,
}

impl Server<'_> {
    /// Starts it and fills it.
    fn start(kind: &Kind) -> Result<Server<'_>> {
        tools::apt_install(&["redis-server"])?;
        let scratch = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
        let socket = scratch.path().join("redis.sock");
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--enable-debug-command", "local"]);
        command.args(["--lazyfree-lazy-user-del", "yes", "--unixsocket"]).arg(&socket);
        let child = Child::start(&mut command, kind, scratch.path())?;
        let mut model = Model { versions: vec![None; KEYS as usize], numbers: Rng::with_seed(1) };
        let mut redis = connect(&socket, &child)?;
        for key in 0..KEYS {
            model.store(&mut redis, key)?;
        }
        let identity = identity(&child, kind)?;
        let server = Server { child, kind, identity, socket, model, _scratch: scratch };
        server.holds_its_data_in_the_library()?;
        Ok(server)
    }

    /// One cycle, with `damage` done to its images.
    fn turn(&mut self, criu: &Criu, damage: fn(&Path) -> Result<()>) -> Result<Taken> {
        let images = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
        self.leave()?;
        let dump = criu.dump(self.child.pid(), images.path(), Way::Once)?;
        self.child.reap()?;
        damage(&dump.images)?;
        cycle::restore(criu, &mut self.child, &dump.images)?;
        let now = identity(&self.child, self.kind).context("after the restore")?;
        ensure!(now == self.identity, "after the restore: {now:?} instead of {:?}", self.identity);
        let mut redis = connect(&self.socket, &self.child).context("after the restore")?;
        let compared = self.model.compare(&mut redis).context("after the restore")?;
        self.model.change(&mut redis)?;
        Ok(Taken { caught: dump.caught, compared, bytes: dump.bytes })
    }

    /// Gives the freeing thread work, and closes the last connection.
    fn leave(&self) -> Result<()> {
        let mut redis = connect(&self.socket, &self.child)?;
        populate(&mut redis)?;
        drop(redis);
        // The server still has to notice: a half-closed connection can't be dumped.
        let begin = Instant::now();
        while sockets(&self.socket)? > 1 {
            ensure!(begin.elapsed() < WAIT_LIMIT, "redis does not close a connection");
            std::thread::yield_now();
        }
        Ok(())
    }

    /// An error unless the data lie in the library's heap: the cycles would show another allocator.
    fn holds_its_data_in_the_library(&self) -> Result<()> {
        let inspector = tools::release_dir()?.join("rsalloc");
        let mut command = Command::new(inspector);
        command.args(["stats", "--json", &self.child.pid().to_string()]);
        // The library answers in a call that takes a slow path.
        let asked = std::thread::spawn(move || tools::output(&mut command));
        let mut redis = connect(&self.socket, &self.child)?;
        while !asked.is_finished() {
            populate(&mut redis)?;
        }
        let answer = asked.join().expect("it only runs a command")?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        let live = answer["stats"]["live_bytes"].as_u64().context("rsalloc names no live bytes")?;
        let stored = self.model.bytes();
        ensure!(live > stored, "{live} bytes live in the library, but redis stores {stored}");
        Ok(())
    }
}

/// Which value each key has.
struct Model {
    /// None: the key is not there.
    versions: Vec<Option<u64>>,
    numbers: Rng,
}

impl Model {
    fn store(&mut self, redis: &mut Redis, key: u64) -> Result<()> {
        let version = self.numbers.u64(..);
        redis.ask(&[b"SET", &name(key), &value(version)])?;
        self.versions[key as usize] = Some(version);
        Ok(())
    }

    /// Replaces values, and deletes one in four.
    fn change(&mut self, redis: &mut Redis) -> Result<()> {
        for _ in 0..CHANGES {
            let key = self.numbers.u64(..KEYS);
            if self.numbers.u64(..4) > 0 {
                self.store(redis, key)?;
            } else {
                redis.ask(&[b"DEL", &name(key)])?;
                self.versions[key as usize] = None;
            }
        }
        Ok(())
    }

    /// Reads and compares every key; returns their number.
    fn compare(&self, redis: &mut Redis) -> Result<u64> {
        for (key, version) in (0..).zip(&self.versions) {
            let want = version.map_or_else(|| b"(nil)".to_vec(), value);
            expect(&format!("key:{key}"), &want, &redis.ask(&[b"GET", &name(key)])?)?;
        }
        let count = self.versions.iter().flatten().count().to_string();
        expect("the number of keys", count.as_bytes(), &redis.ask(&[b"DBSIZE"])?)?;
        Ok(self.versions.len() as u64)
    }

    fn bytes(&self) -> u64 {
        self.versions.iter().flatten().map(|&version| value(version).len() as u64).sum()
    }
}

/// Fills the other database, and has it freed in the background.
fn populate(redis: &mut Redis) -> Result<()> {
    redis.ask(&[b"SELECT", b"1"])?;
    redis.ask(&[b"DEBUG", b"POPULATE", PASSING])?;
    redis.ask(&[b"FLUSHDB", b"ASYNC"]).map(drop)
}

fn name(key: u64) -> Vec<u8> {
    format!("key:{key}").into()
}

/// The value of a version: mostly small, one in 64 of many pages.
fn value(version: u64) -> Vec<u8> {
    let bound = if version.is_multiple_of(64) { 100_000 } else { 2000 };
    [MARK, &text(version, 1 + Rng::with_seed(version).u64(..bound) as usize)].concat()
}

fn identity(child: &Child, kind: &Kind) -> Result<Identity> {
    let threads = std::fs::read_dir(format!("/proc/{}/task", child.pid()))?.count();
    Identity::of(child.pid(), kind, threads)
}

/// Connects once the server answers.
fn connect(socket: &Path, child: &Child) -> Result<Redis> {
    let begin = Instant::now();
    loop {
        child.runs()?;
        match Redis::connect(socket).and_then(|mut redis| redis.ask(&[b"PING"]).map(|_| redis)) {
            Ok(redis) => return Ok(redis),
            Err(error) => {
                ensure!(begin.elapsed() < WAIT_LIMIT, "redis is silent: {error:#}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// The server's sockets: the one that listens, and one for each connection.
fn sockets(path: &Path) -> Result<usize> {
    let table = std::fs::read_to_string("/proc/net/unix")?;
    let path = path.to_string_lossy();
    Ok(table.lines().filter(|line| line.ends_with(&*path)).count())
}

//! One cycle: the victim is dumped, dies, is restored, and must go on as if nothing had happened.
//!
//! `redis` restores as it does.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::child::Child;
use super::identity::Identity;
use super::images::{self, Criu, Dump, Way};
use super::kind::Kind;
use super::process::{Process, WAIT_LIMIT};

/// What a cycle took.
pub struct Taken {
    /// The dump.
    pub dump: Dump,
    /// Time of the restore.
    pub restore: Duration,
    /// Whether the process that ran on after a snapshot was judged.
    pub is_judged: bool,
}

/// Damage done to the images, and to the restored process.
pub struct Damage {
    /// Done to the folder of images, before the restore.
    pub images: fn(&Path) -> Result<()>,
    /// Done to the process, after the restore.
    pub process: fn(&Process),
    /// How long the threads may take after the restore.
    pub limit: Duration,
}

/// How often a restore is tried again while another process has one of its process ids, and the pause between.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(200);

/// No damage.
pub const NONE: Damage = Damage { images: |_| Ok(()), process: |_| (), limit: WAIT_LIMIT };

/// Dumps `process` by `way`, restores it, and checks that it goes on with the same `identity`.
pub fn turn(
    criu: &Criu,
    (process, kind, identity): (&mut Process, &Kind, &Identity),
    way: Way,
    damage: &Damage,
) -> Result<Taken> {
    let scratch = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
    let dump = process.dump(criu, scratch.path(), way, WAIT_LIMIT).map_err(|error| {
        // A process that was broken before the dump is not CRIU's fault.
        match process.goes_on(WAIT_LIMIT) {
            Ok(()) => error.context("not dumped, but its threads go on"),
            Err(stuck) => error.context(format!("not dumped, and {stuck:#}")),
        }
    })?;
    let is_judged = way != Way::LeaveRunning || dump.caught == 0;
    if way == Way::LeaveRunning {
        // A thread that CRIU caught in a section runs on in its middle, without the kernel's
        // protection: CRIU moves the instruction pointer only in the image (docs/proof.md).
        if is_judged {
            process.goes_on(WAIT_LIMIT).context("after the snapshot")?;
            process.child.kill()?;
        } else {
            process.discard()?;
        }
    } else {
        process.child.reap()?;
    }
    (damage.images)(&dump.images)?;
    let restore = restore(criu, &mut process.child, &dump.images)?;
    if way == Way::Stopped {
        process.child.signal(libc::SIGCONT);
    }
    (damage.process)(process);
    process.goes_on(damage.limit).context("after the restore")?;
    let now = process.identity(kind).context("after the restore")?;
    ensure!(now == *identity, "after the restore: {now:?} instead of {identity:?}");
    Ok(Taken { dump, restore, is_judged })
}

/// Restores `child`, and says how long that took. A number of the dead process that another process of the
/// machine has got meanwhile is waited for.
pub fn restore(criu: &Criu, child: &mut Child, images: &Path) -> Result<Duration> {
    let mut attempts = 0;
    loop {
        let begin = Instant::now();
        let outcome = criu.restore(images);
        attempts += 1;
        match outcome {
            Ok(()) => {
                child.has_come_back();
                return Ok(begin.elapsed());
            }
            Err(error) if attempts < ATTEMPTS && images::is_number_taken(&error) => {
                eprintln!("a thread's number is taken by another process: restoring again");
                child.reap_remains();
                std::thread::sleep(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
}

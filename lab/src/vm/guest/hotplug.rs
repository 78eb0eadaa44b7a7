//! CPUs that go and come, until told to stop.
//!
//! Each CPU but the first is switched, the absent ones too, so that a machine with holes gets CPUs
//! that no program saw at its start. In the end everything is as it was.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, ensure};

const PAUSE: Duration = Duration::from_millis(20);
/// This file is there once CPUs have gone or come so often.
pub const ENOUGH: (u64, &str) = (10, "/tmp/toggled");

/// The loop.
pub struct Hotplug {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Hotplug {
    /// Starts it.
    pub fn start() -> Result<Hotplug> {
        let switches: Vec<PathBuf> = (1..1024)
            .map(|cpu| PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}/online")))
            .filter(|path| path.exists())
            .collect();
        ensure!(!switches.is_empty(), "no CPU can be switched off");
        // One of an earlier task.
        let _ = fs::remove_file(ENOUGH.1);
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let thread = std::thread::spawn(move || switch(&switches, &seen));
        Ok(Hotplug { stop, thread })
    }

    /// Ends it; how often a CPU went or came.
    pub fn finish(self) -> u64 {
        // Ordering: Relaxed; the thread stops a little later.
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or(0)
    }
}

fn switch(switches: &[PathBuf], stop: &AtomicBool) -> u64 {
    let state = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default().trim() == "1";
    let before: Vec<_> = switches.iter().map(state).collect();
    let mut toggles = 0;
    let set = |path, on| u64::from(fs::write(path, if on { "1" } else { "0" }).is_ok());
    for path in switches.iter().cycle() {
        // Ordering: Relaxed, as above.
        if stop.load(Ordering::Relaxed) {
            break;
        }
        toggles += set(path, !state(path));
        if toggles >= ENOUGH.0 {
            // The task that waits for it reports it if it does not come.
            let _ = File::create(ENOUGH.1);
        }
        std::thread::sleep(PAUSE);
    }
    for (path, on) in switches.iter().zip(before).filter(|(path, on)| state(path) != *on) {
        toggles += set(path, on);
    }
    toggles
}

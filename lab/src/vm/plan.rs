//! What a guest is to do, and what it says it saw: the words that cross the machine's border.
//!
//! The host puts a [`Plan`] into the initramfs; the guest answers with a line for each task, which begins with
//! [`MARK`]. The guest judges nothing.

use serde::{Deserialize, Serialize};

/// Begins a line with a [`Seen`] in JSON.
pub const MARK: &str = "SEEN ";

/// The path of the plan in the guest.
pub const PATH: &str = "/plan.json";

/// All tasks, in order.
#[derive(Serialize, Deserialize)]
pub struct Plan {
    /// What is run.
    pub tasks: Vec<Task>,
}

/// A program to run.
#[derive(Clone, Serialize, Deserialize)]
pub struct Task {
    /// Unique in the plan.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables that are set for it; no other is.
    pub environment: Vec<(String, String)>,
    /// When it counts as hung and is killed.
    pub seconds: u64,
    /// Whether CPUs go and come while it runs.
    pub hotplug: bool,
}

/// How a task went.
#[derive(Clone, Serialize, Deserialize)]
pub struct Seen {
    /// The task's name.
    pub name: String,
    /// How it ended: an exit code, a signal's number, or neither: killed because it hung.
    pub exit: Option<i32>,
    /// See `exit`.
    pub signal: Option<i32>,
    /// Wall time.
    pub seconds: f64,
    /// The end of what it printed.
    pub said: String,
    /// Sections that the kernel aborted in it (`rseq:rseq_ip_fixup`); none: not counted here.
    pub fixups: Option<u64>,
    /// Times that a CPU went or came.
    pub toggles: u64,
}

impl Task {
    /// A program with nothing set, and a minute for it.
    pub fn new(name: &str, command: &[&str]) -> Task {
        Task {
            name: name.to_owned(),
            command: command.iter().map(|&word| word.to_owned()).collect(),
            environment: Vec::new(),
            seconds: 60,
            hotplug: false,
        }
    }

    /// With a variable set.
    pub fn with(mut self, variables: &[(&str, &str)]) -> Task {
        let owned = variables.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        self.environment.extend(owned);
        self
    }

    /// With another limit.
    pub fn within(mut self, seconds: u64) -> Task {
        self.seconds = seconds;
        self
    }
}

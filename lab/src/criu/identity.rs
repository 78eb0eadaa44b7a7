//! What a process runs on, as the library published it and as the kernel knows it.
//!
//! Read before the first dump and after each restore by `process` and `redis`; asks `tools`
//! and `registration`.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::registration::{self, Registration};

/// What must be the same in every life of a process, but for the number of shards.
#[derive(Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The published mode, without the shards; none on glibc's malloc.
    pub report: Option<serde_json::Value>,
    /// The shards that threads had come to: they may come to more, or to those of another machine.
    pub shards: serde_json::Value,
    /// The rseq areas that the kernel knows, thread by thread.
    pub registrations: Vec<Registration>,
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        (&self.report, &self.registrations) == (&other.report, &other.registrations)
    }
}

impl Identity {
    /// What process `pid` of so many `threads` runs on; an error unless that is `kind`.
    pub fn of(pid: i32, kind: &Kind, threads: usize) -> Result<Identity> {
        let mut report =
            kind.published.map(|expected| crate::report::of(pid, expected)).transpose()?;
        let shards = report.as_mut().and_then(|report| report.as_object_mut()?.remove("shards"));
        let shards = shards.unwrap_or_default();
        let registrations = registration::of(pid)?;
        let registered = registrations.iter().filter(|found| found.is_some()).count();
        let wanted = if kind.is_registered { threads } else { 0 };
        ensure!(registered == wanted, "{registered} threads have rseq registered, not {wanted}");
        Ok(Identity { report, shards, registrations })
    }
}

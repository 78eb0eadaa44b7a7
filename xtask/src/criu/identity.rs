//! What a process runs on, as the library published it and as the kernel knows it.
//!
//! Read before the first dump and after each restore by `process` and `redis`; asks `tools`
//! and `registration`.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::registration::{self, Registration};
use crate::tools;

/// What must be the same in every life of a process.
#[derive(PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The published mode; none on glibc's malloc.
    pub report: Option<serde_json::Value>,
    /// The rseq areas that the kernel knows, thread by thread.
    pub registrations: Vec<Registration>,
}

impl Identity {
    /// What process `pid` of so many `threads` runs on; an error unless that is `kind`.
    pub fn of(pid: i32, kind: &Kind, threads: usize) -> Result<Identity> {
        let report = kind.published.map(|expected| tools::report_of(pid, expected)).transpose()?;
        let registrations = registration::of(pid)?;
        let registered = registrations.iter().filter(|found| found.is_some()).count();
        let wanted = if kind.is_registered { threads } else { 0 };
        ensure!(registered == wanted, "{registered} threads have rseq registered, not {wanted}");
        Ok(Identity { report, registrations })
    }
}

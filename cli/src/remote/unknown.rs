//! An architecture without commands: the library there says so (its entry is 0), so nothing here is reached.

use super::Place;
use super::tracee::{Tracee, Unusable};
use anyhow::{Result, bail};

/// See `x86_64.rs`.
pub struct Saved {
    pub signal_mask: u64,
    pub answers: u32,
}

const NOT_HERE: &str = "commands for processes need x86-64 or aarch64";

impl Saved {
    pub fn of(_tracee: &mut Tracee, _place: &Place) -> Result<Result<Self, Unusable>> {
        bail!(NOT_HERE)
    }

    pub fn is_in_timed_call(&self) -> bool {
        false
    }

    pub fn frame(&self, _place: &Place) -> Vec<u8> {
        Vec::new()
    }

    pub fn enter(
        &self,
        _tid: i32,
        _place: &Place,
        _operation: usize,
        _argument: usize,
    ) -> Result<()> {
        bail!(NOT_HERE)
    }

    pub fn forget_restart(&mut self) {}

    #[cfg(test)]
    pub fn forget_vectors(&mut self) {}

    pub fn restore(&self, _tid: i32) -> Result<()> {
        bail!(NOT_HERE)
    }
}

#[cfg(test)]
pub fn instruction(_tid: i32) -> Result<u64> {
    bail!(NOT_HERE)
}

pub fn is_at_command(_tid: i32, _place: &Place) -> Result<bool> {
    bail!(NOT_HERE)
}

//! ptrace(2).

use anyhow::{Result, bail};
use libc::c_void;
use std::io::Error;

/// ptrace(2) with plain words.
pub fn ptrace(
    request: libc::c_uint,
    tid: i32,
    address: usize,
    data: usize,
) -> Result<usize, Error> {
    // SAFETY: requests with words, or whose memory `ptrace_get` lends, change no memory of this process.
    match unsafe { libc::ptrace(request, tid, address as *mut c_void, data as *mut c_void) } {
        -1 => Err(Error::last_os_error()),
        done => Ok(done as usize),
    }
}

/// ptrace(2) with a value that the kernel reads or fills.
pub fn ptrace_get<T>(request: libc::c_uint, tid: i32, address: usize, value: &mut T) -> Result<()> {
    match ptrace(request, tid, address, (&raw mut *value) as usize) {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
            bail!("thread {tid} ended while it was stopped")
        }
        Err(error) => bail!("cannot trace thread {tid}: {error}"),
    }
}

//! A part of a test that has a process of its own: the child of a fork. Unit tests of the crate have this file too.

extern crate std;

/// Runs `life` in a child, whose heap is this process's as it is now, and fails unless it ends without a panic.
#[track_caller]
pub fn in_child(life: impl FnOnce()) {
    let whole_life = || {
        life();
        true
    };
    assert!(holds_in_child(whole_life), "the child");
}

/// Whether `life` returns true in a child.
#[track_caller]
pub fn holds_in_child(life: impl FnOnce() -> bool) -> bool {
    // SAFETY: plain calls; the child ends here, without its parent's destructors.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0, "no child");
        if child == 0 {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(life));
            libc::_exit(i32::from(!outcome.unwrap_or(false)));
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status == 0
    }
}

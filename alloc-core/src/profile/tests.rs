//! Switches of the profile that a fork interrupts.

extern crate std;
use super::*;

/// As a fork finds it while another thread starts a profile for a tracer.
#[test]
fn a_child_forgets_a_start_that_its_parent_was_just_making() {
    in_child(|| {
        std::thread::spawn(begin_for_tracer).join().expect("no panic");
        reset_in_child();
        !is_on() && !is_for_tracer() && SWITCHING.try_acquire().is_some()
    });
}

/// As a handler that forks finds it on top of its own thread's start.
#[test]
fn a_child_goes_on_with_a_start_below_its_own_fork() {
    in_child(|| {
        begin_for_tracer();
        reset_in_child();
        is_for_tracer() && SWITCHING.is_taken_here()
    });
}

fn begin_for_tracer() {
    TryLock::keep(SWITCHING.try_acquire().expect("no other switch"));
    // Ordering: Relaxed, one thread after the other.
    FOR_TRACER.store(true, Ordering::Relaxed);
}

fn is_for_tracer() -> bool {
    // Ordering: Relaxed, as above.
    FOR_TRACER.load(Ordering::Relaxed)
}

fn in_child(holds: fn() -> bool) {
    // SAFETY: plain calls; the child ends here.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            libc::_exit(i32::from(!holds()));
        }
        let mut status = 0;
        assert_eq!((libc::waitpid(child, &raw mut status, 0), status), (child, 0));
    }
}

//! What comes before init is over, or in the middle of it.

#![cfg(not(feature = "portable"))]

#[path = "support/again.rs"]
mod again;
#[path = "support/child.rs"]
#[allow(dead_code, reason = "a part of it is used here")]
mod child;

use rsalloc_core::internals::config::{Key, Origin};
use rsalloc_core::internals::engine::{api, init, settings};
use rsalloc_core::internals::profile;
use std::sync::atomic::{AtomicI32, Ordering};

const NOT_FORKED: i32 = -1;
/// The end of a child of a fork in the middle of init, as waitpid(2) says it.
static CHILD: AtomicI32 = AtomicI32::new(NOT_FORKED);

type Handler = Option<unsafe extern "C" fn()>;

/// What glibc's pthread_atfork calls: init's first call that another thread could fork before. The child, which has none of the
/// handlers, changes a setting.
///
/// # Safety
/// As for pthread_atfork.
#[cfg(target_env = "gnu")]
#[unsafe(no_mangle)]
unsafe extern "C" fn __register_atfork(
    prepare: Handler,
    parent: Handler,
    child: Handler,
    object: *mut libc::c_void,
) -> libc::c_int {
    if std::env::var_os("RSALLOC_TEST_FORKS").is_some() {
        // SAFETY: plain calls; the child ends here.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                let changed = settings::change(Key::Dirty, 1 << 20, Origin::Outside);
                libc::_exit(i32::from(changed.is_err()));
            }
            let mut status = 0;
            libc::waitpid(child, &raw mut status, 0);
            // Ordering: Relaxed, one thread.
            CHILD.store(status, Ordering::Relaxed);
        }
    }
    type Register =
        unsafe extern "C" fn(Handler, Handler, Handler, *mut libc::c_void) -> libc::c_int;
    // SAFETY: libc's function of that name is of this type, and the caller keeps its duties.
    unsafe {
        let next = libc::dlsym(libc::RTLD_NEXT, c"__register_atfork".as_ptr());
        std::mem::transmute::<*mut libc::c_void, Register>(next)(prepare, parent, child, object)
    }
}

#[test]
#[cfg(target_env = "gnu")]
fn a_child_of_a_fork_before_the_handlers_changes_settings() {
    if std::env::var_os("RSALLOC_TEST_FORKS").is_some() {
        assert!(init::ensure());
        assert!(profile::is_on(), "what the configuration asks for");
        assert_eq!(CHILD.load(Ordering::Relaxed), 0, "the child: a setting could not be changed");
        return;
    }
    let mut command = again::this_program();
    command.args(["--exact", "a_child_of_a_fork_before_the_handlers_changes_settings"]);
    command.env("RSALLOC_TEST_FORKS", "1").env("RSALLOC_CONF", "profile:4k");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// A thread that another process has call what the block names may not have allocated yet.
#[test]
fn a_profile_that_is_started_before_init_samples() {
    child::in_child(|| {
        assert_eq!(api::start_profile_for_c(4096), 0);
        let objects: Vec<_> = (0..10_000).map(|_| rsalloc_core::allocate(100)).collect();
        assert!(profile::live() > 100, "{} samples", profile::live());
        // SAFETY: live objects, given up.
        objects.into_iter().for_each(|object| unsafe { rsalloc_core::free(object) });
        assert_eq!((api::stop_profile_for_c(), profile::live()), (0, 0));
        assert_eq!(api::stop_profile_for_c(), libc::ESRCH);
        assert_eq!(rsalloc_core::check(), Ok(()));
    });
}

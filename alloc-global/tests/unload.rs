//! A plugin that was built with the allocator may be closed: the kernel, libc and the plugin's objects
//! still point into it, so it stays.

mod examples;

use std::ffi::CString;
use std::time::Duration;

#[test]
#[cfg_attr(
    target_env = "musl",
    ignore = "musl loads no library at run time that has thread-local storage of the initial-exec model"
)]
fn a_closed_plugin_stays() {
    let path = examples::built("plugin", "libplugin.so");
    let name = CString::new(path.to_str().expect("text")).expect("no NUL");
    for _ in 0..3 {
        // SAFETY: the plugin's function, as it is defined there.
        unsafe {
            let handle = libc::dlopen(name.as_ptr(), libc::RTLD_NOW);
            assert!(!handle.is_null(), "{} is not loaded", path.display());
            let started = libc::dlsym(handle, c"has_started".as_ptr());
            assert!(!started.is_null());
            let started: extern "C" fn() -> bool = std::mem::transmute(started);
            assert!(started(), "a thread could be in an entry before init: docs/adr/0003");
            let work = libc::dlsym(handle, c"work".as_ptr());
            assert!(!work.is_null());
            let work: extern "C" fn() -> usize = std::mem::transmute(work);
            assert_eq!(work(), (1..1000).sum());
            assert_eq!(std::thread::spawn(move || work()).join().expect("no panic"), work());
            assert_eq!(libc::dlclose(handle), 0);
        }
        let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc");
        assert!(maps.contains("libplugin.so"), "unmapped");
        // Preempted, migrated, with new threads and a fork: where the kernel and libc look.
        std::thread::sleep(Duration::from_millis(5));
        std::thread::spawn(|| ()).join().expect("no panic");
        // SAFETY: the child ends at once.
        match unsafe { libc::fork() } {
            // SAFETY: ends the child.
            0 => unsafe { libc::_exit(0) },
            child => {
                let mut status = 0;
                // SAFETY: our own child.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0);
            }
        }
    }
}

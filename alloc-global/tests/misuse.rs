//! Misuse through `GlobalAlloc`, hardened: wrong layouts and freed objects are named at once.

#[path = "../../alloc-core/tests/support/again.rs"]
mod again;

use rsalloc::RsAlloc;
use std::alloc::{GlobalAlloc, Layout};
use std::os::unix::process::ExitStatusExt;

#[global_allocator]
static GLOBAL: RsAlloc = RsAlloc;

const CHILD: &str = "RSALLOC_TEST_CHILD";

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).unwrap()
}

/// Runs the test again in a hardened child, which must end by SIGABRT with the line, and, as a control, in a
/// child that is not hardened, which must come to its end.
fn is_named(test: &str, text: &str, misuse: fn()) {
    if std::env::var_os(CHILD).is_some() {
        misuse();
        std::process::exit(0);
    }
    let run = |conf| {
        let mut command = again::this_program();
        command.args(["--exact", test, "--nocapture", "--test-threads=1"]);
        command.env(CHILD, "1").env("RSALLOC_CONF", conf).output().unwrap()
    };
    for conf in ["hardened:1", "hardened:1,mode:atomic", "hardened:1,guard:1"] {
        let output = run(conf);
        let said = String::from_utf8_lossy(&output.stderr);
        // qemu-user has a line of its own for a signal that ends the program.
        let mut lines =
            said.lines().filter(|line| !line.starts_with("qemu: uncaught target signal 6"));
        let line = lines.next().unwrap_or_default();
        assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{conf}: {output:?}");
        assert!(line.starts_with(&format!("rsalloc: {text}: 0x")), "{conf}: {said}");
        assert_eq!(lines.next(), None, "{conf}: {said}");
    }
    let output = run("");
    assert_eq!(output.status.code(), Some(0), "control: {output:?}");
}

#[test]
fn double_dealloc() {
    is_named("double_dealloc", "double free", || {
        // SAFETY: none: this is the misuse.
        unsafe {
            let p = GLOBAL.alloc(layout(40, 8));
            GLOBAL.dealloc(p, layout(40, 8));
            GLOBAL.dealloc(p, layout(40, 8));
        }
    });
}

#[test]
fn dealloc_of_another_size() {
    is_named("dealloc_of_another_size", "sized free with another size than allocated", || {
        // SAFETY: none: this is the misuse.
        unsafe { GLOBAL.dealloc(GLOBAL.alloc(layout(40, 8)), layout(39, 8)) }
    });
}

#[test]
#[cfg_attr(
    not(all(any(target_arch = "x86_64", target_arch = "aarch64"), not(feature = "portable"))),
    ignore = "without sections it is named by default too, so the control would fail"
)]
fn dealloc_of_another_alignment() {
    let text = "aligned free with another alignment than allocated";
    is_named("dealloc_of_another_alignment", text, || {
        // SAFETY: none: this is the misuse. The cache of the wrong layout's class is not full, so the free is not a slow
        // call, which would be named by default too.
        unsafe {
            let _warm = GLOBAL.alloc(layout(1000, 4096));
            let p = GLOBAL.alloc(layout(1000, 64));
            GLOBAL.dealloc(p, layout(1000, 4096));
            std::process::exit(0);
        }
    });
}

#[test]
fn realloc_of_a_freed_object() {
    is_named("realloc_of_a_freed_object", "realloc of a freed object", || {
        // SAFETY: none: this is the misuse.
        unsafe {
            let p = GLOBAL.alloc(layout(40, 8));
            GLOBAL.dealloc(p, layout(40, 8));
            GLOBAL.realloc(p, layout(40, 8), 3000);
        }
    });
}

#[test]
fn realloc_of_another_size() {
    let text = "sized free with another size than allocated";
    is_named("realloc_of_another_size", text, || {
        // SAFETY: none: this is the misuse.
        unsafe { GLOBAL.realloc(GLOBAL.alloc(layout(40, 8)), layout(20, 8), 3000) };
    });
}

//! Children on the process' memory: a thread shows the rseq areas again while another thread, or a handler on top
//! of the one that shows, starts a child.

use super::{Model, on, threads};
use crate::arch::sections::{area_offset, thread_block_offset};
use crate::atomic::Ordering;
use crate::config::RequestedMode;
use crate::machine;
use crate::rseq::{registration, vfork};
use std::cell::Cell;

/// What init does, and a child that is about to end.
fn start() {
    registration::adopt(RequestedMode::Auto);
    vfork::begin();
    assert!(is_hidden());
}

/// As a section of the calling thread, or of its child, finds it.
fn is_hidden() -> bool {
    area_offset().load(Ordering::Relaxed) != thread_block_offset()
}

/// With no child left, the next one to end shows the areas.
fn finish() {
    vfork::begin();
    vfork::end();
    assert!(!is_hidden());
}

/// One child ends while another one starts.
pub const STARTED: Model = Model {
    name: "child-started",
    preemptions: 3,
    body: || {
        start();
        threads(vec![
            on(0, vfork::end),
            on(1, || {
                vfork::begin();
                assert!(is_hidden(), "a child would run sections");
                vfork::end();
            }),
        ]);
        finish();
    },
};

/// The same, where the kernel tells the other one's end.
pub const WATCHED: Model = Model {
    name: "child-watched",
    preemptions: 3,
    body: || {
        start();
        threads(vec![
            on(0, vfork::end),
            on(1, || {
                let word = vfork::begin_watched().expect("a word");
                assert!(is_hidden(), "a child would run sections");
                // The kernel.
                word.store(0, Ordering::Release);
            }),
        ]);
        finish();
    },
};

thread_local! {
    static BEGUN: Cell<bool> = const { Cell::new(false) };
}

/// A handler starts a child on top of the thread that shows, and returns while it lives.
pub const HANDLER: Model = Model {
    name: "child-handler",
    preemptions: 3,
    body: || {
        start();
        BEGUN.set(false);
        machine::handle(1, || {
            vfork::begin();
            BEGUN.set(true);
        });
        threads(vec![
            on(0, || {
                vfork::end();
                assert!(!BEGUN.get() || is_hidden(), "a child would run sections");
            }),
            on(1, || machine::signal(1)),
        ]);
        if BEGUN.get() {
            vfork::end();
        }
        finish();
    },
};

//! librsalloc_record.so: a trace of a program's allocator calls, for `LD_PRELOAD`.
//!
//! Promises that the program's calls are served by whatever allocator it has below, with the same
//! results and errno; that a free is numbered before it happens and an allocation after it happened,
//! so that the numbers tell which thread had an address when; that what was written is in the file however the
//! process ends; that a child of fork writes nothing. Started by `rsalloc record`; read by
//! `benches::trace`. The file is described in docs/trace.md.
//!
//! I1. Nothing here allocates, nor calls what may (the dynamic linker may: `next` serves it then).
//! I2. No file descriptor stays open: the program may close or reuse any.
//!
//! One way down: `calls` (the functions) -> `next` (the allocator below), `writer` (events) ->
//! `file` (chunks), `thread` (what each thread keeps) -> `format`.

mod calls;
mod file;
#[path = "../../src/trace/format.rs"]
mod format;
mod next;
mod thread;
mod writer;

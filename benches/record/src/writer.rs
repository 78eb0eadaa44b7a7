//! Events: numbered, packed, and put into the calling thread's chunk.
//!
//! Promises that an event is in the file whole or not at all: its first byte, without which the rest is not read, is
//! written last.

use crate::file;
use crate::format::{
    CHUNK_BYTES, CHUNK_HEADER_BYTES, ChunkHeader, EVENT_MAX, LONG, NOTHING, RESIZE, distance, put,
};
use crate::next::Ptr;
use crate::thread::{self, Thread};
use std::sync::atomic::{AtomicU8, Ordering};

/// An object has come to be: numbered after it was given. `align` is 0 where nothing was asked for.
pub fn made(kind: u8, object: Ptr, size: usize, align: usize) {
    if !object.is_null() && file::is_active() {
        let number = next_number();
        write(kind, number, |event| {
            if align != 0 {
                event.number(u64::from(align.trailing_zeros()));
            }
            event.number(size as u64);
            event.address(object);
        });
    }
}

/// An object is about to be given up: numbered before that.
pub fn unmade(kind: u8, object: Ptr) {
    if !object.is_null() && file::is_active() {
        let number = next_number();
        write(kind, number, |event| event.address(object));
    }
}

/// An object is about to be resized: the number for that; none if this process does not record.
pub fn resizing() -> Option<u64> {
    file::is_active().then(next_number)
}

/// It was: `fresh` is where it lies now, null if it could not be.
pub fn resized(before: Option<u64>, object: Ptr, fresh: Ptr, size: usize) {
    let Some(before) = before.filter(|_| file::is_active()) else { return };
    if fresh.is_null() {
        return write(NOTHING, before, |_| {});
    }
    let after = next_number();
    write(RESIZE, before, |event| {
        event.address(object);
        event.number(size as u64);
        event.address(fresh);
        event.number(after - before);
        event.thread.sequence = after;
    });
}

fn next_number() -> u64 {
    // Ordering: SeqCst: the numbers order the calls of all threads, which the allocator below orders too.
    file::header().sequence.fetch_add(1, Ordering::SeqCst)
}

/// An event that is being packed.
struct Event<'a> {
    thread: &'a mut Thread,
    bytes: [u8; EVENT_MAX],
    len: usize,
}

impl Event<'_> {
    fn number(&mut self, value: u64) {
        put(&mut self.bytes, &mut self.len, value);
    }

    fn address(&mut self, object: Ptr) {
        let address = object as u64;
        self.number(distance(self.thread.address, address));
        self.thread.address = address;
    }
}

fn write(kind: u8, number: u64, pack: impl FnOnce(&mut Event)) {
    let own = thread::own();
    // SAFETY: the calling thread's; a handler on top of us that comes here sees that it is busy, and
    // makes no reference.
    if unsafe { (*own).is_busy } {
        // Ordering: Relaxed, a count.
        file::header().lost.fetch_add(1, Ordering::Relaxed);
        return;
    }
    // SAFETY: as above.
    let thread = unsafe {
        (&raw mut (*own).is_busy).write_volatile(true);
        &mut *own
    };
    if longest_event_fits(thread) {
        let since = number.wrapping_sub(thread.sequence);
        let mut event = Event { thread, bytes: [0; EVENT_MAX], len: 1 };
        let short = since.min(u64::from(LONG)) as u8;
        event.bytes[0] = kind | short << 4;
        if short == LONG {
            event.number(since);
        }
        event.thread.sequence = number;
        pack(&mut event);
        let Event { thread, bytes, len } = event;
        let at = (thread.chunk + thread.used) as *mut u8;
        // SAFETY: `longest_event_fits`: the longest event fits.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes[1..].as_ptr(), at.add(1), len - 1);
            // Ordering: Release, after the rest of the event.
            (*at.cast::<AtomicU8>()).store(bytes[0], Ordering::Release);
        }
        thread.used += len;
    } else {
        file::stop();
    }
    // SAFETY: as above.
    unsafe { (&raw mut (*own).is_busy).write_volatile(false) };
}

fn longest_event_fits(thread: &mut Thread) -> bool {
    if thread.chunk != 0 && thread.used + EVENT_MAX <= CHUNK_BYTES {
        return true;
    }
    let header = file::header();
    if thread.number == 0 {
        // Ordering: Relaxed, the number carries no data.
        thread.number = header.threads.fetch_add(1, Ordering::Relaxed) + 1;
    }
    // Ordering: Relaxed, as above.
    let index = header.chunks.fetch_add(1, Ordering::Relaxed);
    let (sequence, address) = (thread.sequence, thread.address);
    let first = ChunkHeader { thread: thread.number, reserved: 0, sequence, address };
    thread.chunk = file::chunk(index, thread.chunk, first);
    thread.used = CHUNK_HEADER_BYTES;
    thread.chunk != 0
}

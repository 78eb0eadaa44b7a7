//! One thread of a program that uses the C heap.
//!
//! Promises that no call is optimised away, and that an object which two owners hold at once, or whose first byte was
//! lost, is noticed.
//!
//! * I1: each allocation writes its tag into the object's first byte and adds it to `written`; each
//!   free adds the byte it finds there to `read`. Once all is freed the two are equal.
//! * I2: an [`Object`] is neither `Copy` nor `Clone`, so safe code frees it once.
#![allow(unsafe_code)]

use crate::latency::clock;
use std::ptr::NonNull;

/// A live object of the C heap. Dropping it leaks the object.
#[derive(Debug)]
#[repr(transparent)]
#[must_use = "an object that is not freed is leaked"]
pub struct Object(NonNull<u8>);

// SAFETY: C's allocation functions may be called with an object of any thread.
unsafe impl Send for Object {}

impl Object {
    /// The object's address, to be given back to [`Object::from_raw`].
    pub fn into_raw(self) -> *mut u8 {
        self.0.as_ptr()
    }

    /// The object at `address`; none for null.
    ///
    /// # Safety
    /// 1. `address` is null or came from [`Object::into_raw`], once for each call.
    pub unsafe fn from_raw(address: *mut u8) -> Option<Self> {
        NonNull::new(address).map(Object)
    }

    /// Writes one byte into each `step` bytes of `from..to`, as a program that fills it does.
    ///
    /// # Safety
    /// 1. `from > 0` (the first byte is the tag) and the object has at least `to` bytes.
    pub unsafe fn touch(&mut self, from: usize, to: usize, step: usize) {
        for offset in (from..to).step_by(step) {
            // SAFETY: duty 1 of the caller.
            unsafe { self.0.add(offset).write_volatile(1) };
        }
    }
}

/// The ledger of what one thread wrote into its objects and read back.
#[derive(Default)]
pub struct Client {
    written: u64,
    read: u64,
    tag: u8,
}

impl Client {
    /// What a program does first when it wakes up: allocates and frees one object of each power of two from 16 B to 512 KiB.
    pub fn wake(&mut self) {
        for octave in 4..20 {
            let object = self.malloc(1 << octave);
            self.free(object);
        }
    }

    /// `malloc(size)`, `size` at least 1.
    #[inline(always)]
    pub fn malloc(&mut self, size: usize) -> Object {
        // SAFETY: malloc takes any size; the object has a first byte.
        unsafe { self.sign(libc::malloc(size).cast(), "malloc") }
    }

    /// `malloc(size)`, `size` at least 1, in no ledger: any client may free it.
    pub fn malloc_untagged(size: usize) -> Object {
        // SAFETY: malloc takes any size.
        let object = NonNull::new(unsafe { libc::malloc(size) }.cast::<u8>());
        let object = object.unwrap_or_else(|| out_of_memory("malloc"));
        // SAFETY: the object is new and has a first byte. A tag of 0 adds nothing to the sum of what is read.
        unsafe { object.write_volatile(0) };
        Object(object)
    }

    /// [`Client::malloc`], and all of the object is written once.
    #[inline(always)]
    pub fn malloc_filled(&mut self, size: usize) -> Object {
        let object = self.malloc(size);
        // SAFETY: the object has `size` bytes, the first of which is the tag.
        unsafe { std::hint::black_box(object.0.add(1)).write_bytes(0x5a, size - 1) };
        object
    }

    /// [`Client::malloc`] of at least 2 bytes, of which the second is written so many times.
    #[inline(always)]
    pub fn malloc_written(&mut self, size: usize, times: usize) -> Object {
        assert!(size >= 2, "the first byte is the tag");
        let object = self.malloc(size);
        for time in 0..times {
            // SAFETY: the object has at least two bytes.
            unsafe { object.0.add(1).write_volatile(time as u8) };
        }
        object
    }

    /// `calloc(1, size)`, `size` at least 1; its first and last byte must be 0.
    #[inline(always)]
    pub fn calloc(&mut self, size: usize) -> Object {
        // SAFETY: calloc takes any size; the object has `size` bytes, at least one.
        unsafe {
            let object: *mut u8 = libc::calloc(1, size).cast();
            if !object.is_null() {
                let dirt = object.read_volatile() | object.add(size - 1).read_volatile();
                self.read += u64::from(dirt) << 32;
            }
            self.sign(object, "calloc")
        }
    }

    /// `posix_memalign(align, size)`, `align` a power of two of at least 8, `size` at least 1.
    #[inline(always)]
    pub fn aligned(&mut self, align: usize, size: usize) -> Object {
        let mut object = std::ptr::null_mut();
        // SAFETY: posix_memalign checks its arguments and writes `object` when it returns 0.
        unsafe {
            if libc::posix_memalign(&mut object, align, size) != 0 {
                object = std::ptr::null_mut();
            }
            self.read += (object as u64 & (align as u64 - 1)) << 32;
            self.sign(object.cast(), "posix_memalign")
        }
    }

    /// `realloc(object, size)`, `size` at least 1.
    #[inline(always)]
    pub fn realloc(&mut self, object: Object, size: usize) -> Object {
        // SAFETY: `object` is live (I2) and is not used after.
        let moved = unsafe { libc::realloc(object.into_raw().cast(), size) };
        Object(NonNull::new(moved.cast()).unwrap_or_else(|| out_of_memory("realloc")))
    }

    /// `free(object)`.
    #[inline(always)]
    pub fn free(&mut self, object: Object) {
        let address = object.into_raw();
        // SAFETY: `address` is live (I2) and has a first byte (I1).
        unsafe {
            self.read += u64::from(address.read_volatile());
            libc::free(address.cast());
        }
    }

    /// [`Client::malloc`], and the ticks of the call alone, without the ledger's work.
    #[inline(always)]
    pub fn malloc_timed(&mut self, size: usize) -> (Object, u64) {
        // SAFETY: malloc takes any size.
        let (object, ticks) = clock::ticks(|| unsafe { libc::malloc(size) });
        // SAFETY: the object is new and has a first byte, `size` being at least 1.
        (unsafe { self.sign(object.cast(), "malloc") }, ticks)
    }

    /// [`Client::free`], and the ticks of the call alone.
    #[inline(always)]
    pub fn free_timed(&mut self, object: Object) -> u64 {
        let address = object.into_raw();
        // SAFETY: `address` is live (I2) and has a first byte (I1).
        unsafe {
            self.read += u64::from(address.read_volatile());
            clock::ticks(|| libc::free(address.cast())).1
        }
    }

    /// Adds another thread's ledger.
    pub fn merge(&mut self, other: &Client) {
        self.written += other.written;
        self.read += other.read;
    }

    /// The sum of all tags when each came back; `None` when an object was damaged, handed out twice
    /// or leaked, a `calloc` was not clear or an address not aligned.
    pub fn checksum(&self) -> Option<u64> {
        (self.written == self.read).then_some(self.written)
    }

    /// # Safety
    /// 1. `object` is null or a new object of at least one byte.
    #[inline(always)]
    unsafe fn sign(&mut self, object: *mut u8, function: &str) -> Object {
        let Some(object) = NonNull::new(object) else { out_of_memory(function) };
        self.tag = self.tag.wrapping_add(1);
        self.written += u64::from(self.tag);
        // SAFETY: duty 1 of the caller.
        unsafe { object.write_volatile(self.tag) };
        Object(object)
    }
}

#[cold]
#[inline(never)]
fn out_of_memory(function: &str) -> ! {
    eprintln!("workload: {function} returned null; give the machine more memory or drop the row");
    std::process::exit(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_closes_when_all_is_freed() {
        let mut client = Client::default();
        let objects = [client.malloc(1), client.calloc(40), client.aligned(4096, 3)];
        assert_eq!(client.checksum(), None, "three objects are live");
        objects.into_iter().for_each(|object| client.free(object));
        assert_eq!(client.checksum(), Some(1 + 2 + 3));
    }

    #[test]
    fn a_damaged_object_is_noticed() {
        let mut client = Client::default();
        let object = client.malloc(16);
        // SAFETY: the object is live.
        unsafe { object.0.write(0xee) };
        client.free(object);
        assert_eq!(client.checksum(), None);
    }
}

//! The entries as calls of the slow paths, which look first whether the thread has a biased shard.
#![allow(missing_docs, reason = "the contract at `arch` says what each macro defines")]

#[macro_export]
macro_rules! c_malloc {
    ($(#[$meta:meta])* $name:ident) => {
        $crate::c_malloc! { $(#[$meta])* $name, $crate::internals::engine::slow::malloc }
    };
    ($(#[$meta:meta])* $name:ident, $slow:path) => {
        $crate::c_malloc! { $(#[$meta])* #[unsafe(no_mangle)] local $name, $slow }
    };
    ($(#[$meta:meta])* local $name:ident, $slow:path) => {
        $(#[$meta])*
        pub extern "C" fn $name(size: usize) -> *mut u8 {
            $slow(size)
        }
    };
}

#[macro_export]
macro_rules! c_calloc {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[unsafe(no_mangle)]
        pub extern "C" fn $name(count: usize, size: usize) -> *mut u8 {
            $crate::internals::engine::slow::calloc(count, size)
        }
    };
}

#[macro_export]
macro_rules! c_posix_memalign {
    ($(#[$meta:meta])* $name:ident, $slow:path) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// 1. `out` may be written.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(out: *mut *mut u8, align: usize, size: usize) -> i32 {
            // SAFETY: duty 1.
            unsafe { $slow(out, align, size) }
        }
    };
}

#[macro_export]
macro_rules! rust_alloc {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        pub extern "C" fn $name(size: usize, align: usize) -> *mut u8 {
            $crate::internals::engine::slow::alloc(size, align)
        }
    };
}

#[macro_export]
macro_rules! c_free {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// 1. `ptr` is null or a live object of this allocator.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(ptr: *mut u8) {
            // SAFETY: duty 1.
            unsafe { $crate::internals::engine::slow::free(ptr) };
        }
    };
}

#[macro_export]
macro_rules! c_free_sized {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// 1. `ptr` is null or a live object of this allocator that was allocated with this size.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(ptr: *mut u8, size: usize) {
            // SAFETY: duty 1.
            unsafe { $crate::internals::engine::slow::free_sized(ptr, size) };
        }
    };
}

#[macro_export]
macro_rules! rust_dealloc {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        ///
        /// # Safety
        /// 1. `ptr` is a live object of this allocator that was allocated with this size and alignment.
        pub unsafe extern "C" fn $name(ptr: *mut u8, size: usize, align: usize) {
            // SAFETY: duty 1.
            unsafe { $crate::internals::engine::slow::dealloc(ptr, size, align) };
        }
    };
}

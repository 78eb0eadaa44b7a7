//! The functions of a librsalloc.so that is opened beside libc's own malloc.
//!
//! The crate that includes this module defines the path of the file.

use libc::{c_int, c_void};
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::sync::OnceLock;

macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Each under its own name.
        pub struct Library {
            $(pub $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            /// # Safety
            /// 1. `handle` is that of a library whose functions have these types.
            unsafe fn of(handle: *mut c_void) -> Self {
                // SAFETY: duty 1.
                unsafe {
                    Library {
                        $($name: std::mem::transmute::<
                            *mut c_void,
                            unsafe extern "C" fn($($argument),*) $(-> $result)?,
                        >(look_up(handle, stringify!($name))),)*
                    }
                }
            }
        }
    };
}

functions! {
    malloc(usize) -> *mut c_void;
    calloc(usize, usize) -> *mut c_void;
    realloc(*mut c_void, usize) -> *mut c_void;
    reallocarray(*mut c_void, usize, usize) -> *mut c_void;
    posix_memalign(*mut *mut c_void, usize, usize) -> c_int;
    aligned_alloc(usize, usize) -> *mut c_void;
    memalign(usize, usize) -> *mut c_void;
    valloc(usize) -> *mut c_void;
    pvalloc(usize) -> *mut c_void;
    free(*mut c_void);
    free_sized(*mut c_void, usize);
    free_aligned_sized(*mut c_void, usize, usize);
    malloc_usable_size(*mut c_void) -> usize;
    malloc_trim(usize) -> c_int;
    mallinfo2() -> MallInfo;
    rsalloc_check() -> c_int;
}

/// glibc's `struct mallinfo2`.
#[repr(C)]
pub struct MallInfo {
    arena: usize,
    ordblks: usize,
    smblks: usize,
    pub hblks: usize,
    pub hblkhd: usize,
    usmblks: usize,
    fsmblks: usize,
    pub uordblks: usize,
    fordblks: usize,
    keepcost: usize,
}

/// The one of this process, opened on first use.
pub fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let path = crate::library_path().into_os_string();
        let name = CString::new(path.clone().into_vec()).expect("a path");
        // SAFETY: a library that may be opened at any time; it stays.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{} can't be opened", path.display());
        // SAFETY: librsalloc.so's functions have their manual pages' types.
        unsafe { Library::of(handle) }
    })
}

/// The address of the library's own `name`, not of libc's.
///
/// # Safety
/// 1. `handle` is open.
unsafe fn look_up(handle: *mut c_void, name: &str) -> *mut c_void {
    let symbol = CString::new(name).expect("a name");
    // SAFETY: duty 1; plain look-ups.
    unsafe {
        let address = libc::dlsym(handle, symbol.as_ptr());
        assert!(!address.is_null(), "librsalloc.so has no {name}");
        // dlsym goes on in what the library needs, and libc has most of these names too.
        let mut home: libc::Dl_info = std::mem::zeroed();
        assert!(libc::dladdr(address, &mut home) != 0, "whose is {name}?");
        let file = std::ffi::CStr::from_ptr(home.dli_fname).to_string_lossy();
        let library = crate::library_path();
        assert!(library.as_os_str() == &*file, "{name} is {file}'s, not {}'s", library.display());
        address
    }
}

/// The calling thread's.
pub fn errno() -> c_int {
    // SAFETY: libc gives the thread's own, always valid.
    unsafe { *libc::__errno_location() }
}

/// As [`errno`].
pub fn set_errno(code: c_int) {
    // SAFETY: as in `errno`.
    unsafe { *libc::__errno_location() = code }
}

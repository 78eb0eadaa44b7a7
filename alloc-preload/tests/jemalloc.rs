//! The functions of jemalloc(3): what they answer is what the statistics say, what they allocate is as of malloc.

mod common;

use common::{c, on_rsalloc};
use libc::{EINVAL, ENOENT, EPERM};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

type Ctl =
    unsafe extern "C" fn(*const c_char, *mut c_void, *mut usize, *const c_void, usize) -> c_int;
type NameToMib = unsafe extern "C" fn(*const c_char, *mut usize, *mut usize) -> c_int;
type ByMib = unsafe extern "C" fn(
    *const usize,
    usize,
    *mut c_void,
    *mut usize,
    *const c_void,
    usize,
) -> c_int;
type Write = unsafe extern "C" fn(*mut c_void, *const c_char);
type Print = unsafe extern "C" fn(Option<Write>, *mut c_void, *const c_char);

/// A function that glibc does not have.
macro_rules! ours {
    ($name:literal as $type:ty) => {
        // SAFETY: the function of that name has that type.
        match unsafe { std::mem::transmute::<*mut c_void, Option<$type>>(c::look_up($name)) } {
            Some(function) => function,
            None => return assert!(!on_rsalloc(), "{:?} is missing", $name),
        }
    };
}

/// Reads a value; its errno if that is refused.
fn read<T: Default>(ctl: Ctl, name: &CStr) -> Result<T, c_int> {
    let (mut value, mut len) = (T::default(), size_of::<T>());
    // SAFETY: a value of that length.
    let result = unsafe { ctl(name.as_ptr(), (&raw mut value).cast(), &raw mut len, null(), 0) };
    if result == 0 { Ok(value) } else { Err(result) }
}

in_each_mode! {
    fn mallctl_says_what_is_held() {
        let ctl = ours!(c"mallctl" as Ctl);
        let bytes = |name: &CStr| read::<usize>(ctl, name).unwrap();
        let before = bytes(c"stats.allocated");
        // SAFETY: freed below, once.
        let large = unsafe { c::malloc(10 << 20) };
        let (allocated, active, resident, mapped) = (
            bytes(c"stats.allocated"), bytes(c"stats.active"), bytes(c"stats.resident"), bytes(c"stats.mapped"),
        );
        assert!(allocated >= before + (10 << 20) && allocated < before + (11 << 20), "{before} {allocated}");
        assert!(allocated <= active && active <= mapped && mapped <= resident, "{allocated} {active} {mapped} {resident}");
        assert_eq!(resident, mapped + bytes(c"stats.metadata"));
        // SAFETY: takes no arguments.
        let info = unsafe { c::mallinfo2() };
        assert_eq!(info.uordblks + info.hblkhd, allocated);
        // SAFETY: allocated above.
        unsafe { c::free(large) };
        // By arena: all are one, and those that a program creates are empty.
        let all = [c"stats.arenas.4096.small.allocated", c"stats.arenas.4096.large.allocated"].map(bytes);
        assert!(all[0] > 0 && all[0] + all[1] <= bytes(c"stats.allocated") + (1 << 20), "{all:?}");
        assert!(bytes(c"stats.arenas.4096.pactive") * bytes(c"arenas.page") >= bytes(c"stats.active"));
        assert_eq!([c"stats.arenas.2.small.allocated", c"stats.arenas.2.pactive", c"stats.arenas.4096.pmuzzy"].map(bytes), [0; 3]);
        let retained = bytes(c"stats.retained");
        // SAFETY: has no value.
        unsafe {
            for name in [c"arena.0.purge", c"arena.1.purge", c"arena.4096.decay", c"arena.2.purge", c"thread.tcache.flush"] {
                assert_eq!(ctl(name.as_ptr(), null_mut(), null_mut(), null(), 0), 0, "{name:?}");
            }
        }
        assert!(bytes(c"stats.retained") > retained, "it went back to the OS");
        assert_eq!(bytes(c"stats.active"), bytes(c"stats.mapped"), "nothing free is resident");
    }

    fn values_have_their_types_and_other_names_are_not_there() {
        let ctl = ours!(c"mallctl" as Ctl);
        let version = read::<usize>(ctl, c"version").unwrap();
        // SAFETY: a string that is never freed.
        let version = unsafe { CStr::from_ptr(version as *const c_char) };
        assert_eq!(version.to_str().unwrap(), concat!("rsalloc-", env!("CARGO_PKG_VERSION")));
        assert_eq!(read::<u32>(ctl, c"arenas.narenas"), Ok(1));
        assert_eq!(read::<bool>(ctl, c"config.prof"), Ok(false));
        let epoch = read::<u64>(ctl, c"epoch").unwrap();
        // SAFETY: a value of that length.
        unsafe { assert_eq!(ctl(c"epoch".as_ptr(), null_mut(), null_mut(), (&raw const epoch).cast(), 8), 0) };
        assert_eq!(read::<u64>(ctl, c"epoch"), Ok(epoch + 1));
        assert_eq!(read::<u32>(ctl, c"stats.allocated"), Err(EINVAL));
        assert_eq!(read::<u32>(ctl, c"arena.0.purge"), Err(EPERM));
        for name in [c"", c"stats", c"prof.active", c"opt.prof", c"background_thread", c"arena.3.purge", c"stats.arenas.3.pactive", c"stats.arenas.0.bins.0.curregs", c"arena.x.purge", c"arena..purge", c"arena.i.purge", c"stats.allocated.", c"thread.allocated"] {
            assert_eq!(read::<usize>(ctl, name), Err(ENOENT), "{name:?}");
        }
        // SAFETY: a value of that length.
        let written = unsafe { ctl(c"stats.allocated".as_ptr(), null_mut(), null_mut(), (&raw const epoch).cast(), 8) };
        assert_eq!(written, EPERM);
    }

    fn numbers_stand_for_names() {
        let ctl = ours!(c"mallctl" as Ctl);
        let to_mib = ours!(c"mallctlnametomib" as NameToMib);
        let by_mib = ours!(c"mallctlbymib" as ByMib);
        let mib = |name: &CStr| -> Result<Vec<usize>, c_int> {
            let (mut mib, mut len) = ([77; 8], 8);
            // SAFETY: so many words.
            let result = unsafe { to_mib(name.as_ptr(), mib.as_mut_ptr(), &raw mut len) };
            if result == 0 { Ok(mib[..len].to_vec()) } else { Err(result) }
        };
        let read_by = |mib: &[usize]| -> Result<usize, c_int> {
            let (mut value, mut len) = (0usize, 8);
            // SAFETY: a value of that length, so many words.
            let result = unsafe { by_mib(mib.as_ptr(), mib.len(), (&raw mut value).cast(), &raw mut len, null(), 0) };
            if result == 0 { Ok(value) } else { Err(result) }
        };
        let page = mib(c"arenas.page").unwrap();
        assert_eq!((page.len(), read_by(&page)), (2, read::<usize>(ctl, c"arenas.page")));
        let mut large = mib(c"stats.arenas.4096.large.allocated").unwrap();
        assert_eq!((large.len(), large[2]), (5, 4096));
        assert_eq!(read_by(&large), read::<usize>(ctl, c"stats.arenas.0.large.allocated"));
        large[2] = 2;
        assert_eq!(read_by(&large), Ok(0));
        assert_eq!(mib(c"prof.dump"), Err(ENOENT));
        assert_eq!((read_by(&[]), read_by(&[1000, 0]), read_by(&page[..1])), (Err(ENOENT), Err(ENOENT), Err(ENOENT)));
        let mut purge = mib(c"arena.0.purge").unwrap();
        for (arena, expected) in [(0, 0), (4096, 0), (7, ENOENT)] {
            purge[1] = arena;
            // SAFETY: has no value; so many words.
            let result = unsafe { by_mib(purge.as_ptr(), purge.len(), null_mut(), null_mut(), null(), 0) };
            assert_eq!(result, expected, "arena {arena}");
        }
    }

    fn nallocx_says_what_malloc_gives() {
        let nallocx = ours!(c"nallocx" as unsafe extern "C" fn(usize, c_int) -> usize);
        for size in (1..2000).chain([32 << 10, 256 << 10, (256 << 10) + 1, 5 << 20, (40 << 20) + 5]) {
            // SAFETY: frees what it has just been given.
            unsafe {
                let object = c::malloc(size);
                assert_eq!(nallocx(size, 0), c::malloc_usable_size(object), "{size}");
                c::free(object);
                let aligned = c::memalign(512, size);
                assert_eq!(nallocx(size, 9), c::malloc_usable_size(aligned), "{size}");
                c::free(aligned);
            }
        }
        // SAFETY: takes numbers alone.
        unsafe { assert_eq!((nallocx(usize::MAX, 0), nallocx(1, 63)), (0, 0)) };
    }

    fn objects_of_mallocx_are_like_all_others() {
        type Resize = unsafe extern "C" fn(*mut c_void, usize, c_int) -> *mut c_void;
        let mallocx = ours!(c"mallocx" as unsafe extern "C" fn(usize, c_int) -> *mut c_void);
        let rallocx = ours!(c"rallocx" as Resize);
        let xallocx = ours!(c"xallocx" as unsafe extern "C" fn(*mut c_void, usize, usize, c_int) -> usize);
        let sallocx = ours!(c"sallocx" as unsafe extern "C" fn(*mut c_void, c_int) -> usize);
        let dallocx = ours!(c"dallocx" as unsafe extern "C" fn(*mut c_void, c_int));
        let sdallocx = ours!(c"sdallocx" as unsafe extern "C" fn(*mut c_void, usize, c_int));
        let ctl = ours!(c"mallctl" as Ctl);
        let (arena, cache) = (read::<u32>(ctl, c"arenas.create").unwrap(), read::<u32>(ctl, c"tcache.create").unwrap());
        // MALLOCX_ARENA, MALLOCX_TCACHE, MALLOCX_ZERO and MALLOCX_LG_ALIGN(9).
        let (flags, zero, aligned) = ((arena as c_int + 1) << 20 | (cache as c_int + 2) << 8, 0x40, 9);
        // SAFETY: objects are used within their size, and freed once.
        unsafe {
            for size in [1, 100, 5000, 300 << 10, 3 << 20] {
                for align in [0, aligned] {
                    let object = mallocx(size, flags | zero | align);
                    assert_eq!(object as usize % (1 << align), 0);
                    assert!(std::slice::from_raw_parts(object.cast::<u8>(), size).iter().all(|&byte| byte == 0));
                    let usable = c::malloc_usable_size(object);
                    assert!(usable >= size && sallocx(object, flags) == usable && xallocx(object, 2 * size, 9, flags) == usable);
                    object.cast::<u8>().write_bytes(7, usable);
                    let grown = 2 * usable + 1000;
                    let moved = rallocx(object, grown, flags | zero | align);
                    assert_eq!(moved as usize % (1 << align), 0);
                    let bytes = std::slice::from_raw_parts(moved.cast::<u8>(), grown);
                    assert!(bytes[..usable].iter().all(|&byte| byte == 7) && bytes[usable..].iter().all(|&byte| byte == 0));
                    let shrunk = rallocx(moved, 1, flags | align);
                    assert_eq!(*shrunk.cast::<u8>(), 7);
                    if align == 0 { sdallocx(shrunk, 1, flags) } else { dallocx(shrunk, flags) }
                }
            }
            // They may come to free, and malloc's objects to them; what cannot be had is null.
            c::free(mallocx(50, 0));
            let object = rallocx(c::malloc(50), 60, 0);
            assert!(rallocx(object, usize::MAX, 0).is_null() && rallocx(object, usize::MAX, aligned).is_null());
            dallocx(object, 0);
            assert!(mallocx(usize::MAX, 0).is_null() && mallocx(1, 63).is_null());
            for name in [c"tcache.flush", c"tcache.destroy"] {
                assert_eq!(ctl(name.as_ptr(), null_mut(), null_mut(), (&raw const cache).cast(), 4), 0);
                assert_eq!(ctl(name.as_ptr(), null_mut(), null_mut(), (&raw const cache).cast(), 8), EINVAL);
                assert_eq!(read::<u32>(ctl, name), Err(EPERM));
            }
        }
    }

    fn zeroed_objects_of_mallocx_hold_no_byte_of_former_ones() {
        type Resize = unsafe extern "C" fn(*mut c_void, usize, c_int) -> *mut c_void;
        let mallocx = ours!(c"mallocx" as unsafe extern "C" fn(usize, c_int) -> *mut c_void);
        let rallocx = ours!(c"rallocx" as Resize);
        let xallocx = ours!(c"xallocx" as unsafe extern "C" fn(*mut c_void, usize, usize, c_int) -> usize);
        let nallocx = ours!(c"nallocx" as unsafe extern "C" fn(usize, c_int) -> usize);
        const ZERO: c_int = 0x40;
        // Objects of all classes from half of `size` to three times as much, filled and freed: the next ones are given in their place.
        let soil = |size: usize, align: c_int| {
            let mut object_size = size / 2 + 1;
            while object_size <= 3 * size + 64 {
                // SAFETY: objects are used within their size, and freed once.
                unsafe {
                    let objects = [(); 3].map(|()| mallocx(object_size, align));
                    for object in objects {
                        object.cast::<u8>().write_bytes(0xa5, c::malloc_usable_size(object));
                    }
                    objects.into_iter().for_each(|object| c::free(object));
                    object_size = (nallocx(object_size, align) + 1).max(object_size + object_size / 8);
                }
            }
        };
        // What may be used: `kept` bytes that the test wrote, then zeroes.
        let look = |object: *mut c_void, kept: usize, what: &str| {
            assert!(!object.is_null(), "{what}");
            // SAFETY: a live object; all of it may be used.
            let bytes = unsafe { std::slice::from_raw_parts(object.cast::<u8>(), c::malloc_usable_size(object)) };
            let wrong = bytes.iter().enumerate().find(|&(at, &byte)| byte != if at < kept { 7 } else { 0 });
            assert_eq!(wrong, None, "{what}, of {} bytes, {kept} kept", bytes.len());
        };
        let sizes = (1..400).step_by(9).chain([100, 1000, 1100, 2050, 5000, 9000, 40_000, 300 << 10, (3 << 20) + 5]);
        for (size, align) in sizes.flat_map(|size| [(size, 0), (size, 9)]) {
            // SAFETY: objects are used within their size, and freed once.
            unsafe {
                soil(size, align);
                let mut object = mallocx(size, ZERO | align);
                look(object, 0, &format!("mallocx({size}, {align})"));
                // By a little, which may stay where it is or leave room for more; and by much.
                for percent in [103, 110, 112, 120, 125, 200, 101] {
                    let real = c::malloc_usable_size(object);
                    object.cast::<u8>().write_bytes(7, real);
                    assert_eq!(xallocx(object, 2 * real, 0, ZERO | align), real);
                    look(object, real, "xallocx");
                    let wanted = (real * percent).div_ceil(100);
                    soil(wanted, align);
                    object = rallocx(object, wanted, ZERO | align);
                    look(object, real, &format!("rallocx({real} to {wanted}, {align})"));
                }
                // What a smaller one may use is the program's too, so that it grows again to bytes that are known.
                let real = c::malloc_usable_size(object);
                object.cast::<u8>().write_bytes(7, real);
                soil(size, align);
                object = rallocx(object, size, ZERO | align);
                look(object, c::malloc_usable_size(object), &format!("rallocx({real} to {size}, {align})"));
                c::free(object);
            }
        }
    }

    fn zeroed_memory_of_mallocx_that_is_fresh_is_not_touched() {
        let mallocx = ours!(c"mallocx" as unsafe extern "C" fn(usize, c_int) -> *mut c_void);
        let resident_pages = || -> usize {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse().unwrap()
        };
        for align in [0, 12, 21] {
            let before = resident_pages();
            // SAFETY: used within its size, and freed once.
            unsafe {
                let object = mallocx(1 << 30, 0x40 | align);
                assert!(!object.is_null() && (object as usize).is_multiple_of(1 << align));
                let grown = resident_pages().saturating_sub(before);
                assert!(grown < 1000, "{grown} pages, align {align}");
                assert_eq!((*object.cast::<u8>(), *object.cast::<u8>().add((1 << 30) - 1)), (0, 0));
                c::free(object);
            }
        }
    }

    fn malloc_stats_print_hands_on_strings() {
        let print = ours!(c"malloc_stats_print" as Print);
        unsafe extern "C" fn take(text: *mut c_void, piece: *const c_char) {
            // SAFETY: the test's string, and a string.
            unsafe { (*text.cast::<String>()).push_str(CStr::from_ptr(piece).to_str().unwrap()) }
        }
        let mut text = String::new();
        // SAFETY: `take` takes what it is given.
        unsafe { print(Some(take), (&raw mut text).cast(), null()) };
        assert!(text.starts_with("rsalloc-") && text.contains("\nlive_bytes "), "{text}");
    }
}

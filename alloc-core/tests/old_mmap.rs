//! A kernel before 4.17, which takes MAP_FIXED_NOREPLACE for a hint and maps elsewhere where something lies already:
//! an address that was not asked for is no answer, and what was mapped there is unmapped again.
//!
//! Played by a filter (seccomp(2)): SIGSYS in the place of such a call, whose handler does it without the flag.

#[path = "support/trapped.rs"]
mod trapped;

use rsalloc_core::internals::os::{self, Place};
use std::sync::atomic::{AtomicUsize, Ordering};
use trapped::do_trapped;

const BYTES: usize = 1 << 20;

/// Calls that the handler did, and what the last one mapped.
static CALLS: AtomicUsize = AtomicUsize::new(0);
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// One test, since the filter stays with its thread.
#[test]
fn a_mapping_at_another_address_is_unmapped() {
    let page = os::page_bytes();
    let taken = os::map(Place::Anywhere, page).expect("memory");
    // SAFETY: mapped above.
    unsafe { (taken as *mut u8).write(7) };
    let free = os::map(Place::Anywhere, page).expect("memory");
    // SAFETY: mapped above, known to no other code.
    unsafe { os::unmap(free, page) };
    take_the_flag_for_a_hint();

    assert_eq!(os::map(Place::Exactly(taken), page), Err(libc::EEXIST));
    assert!(CALLS.load(Ordering::Relaxed) > 0, "the kernel is an old one");
    // SAFETY: mapped above.
    assert_eq!(unsafe { (taken as *const u8).read() }, 7, "what was there stays");
    let elsewhere = MAPPED.load(Ordering::Relaxed);
    assert_ne!(elsewhere, taken);
    assert!(!is_mapped(elsewhere), "a page is left that no code knows of");
    assert_eq!(os::map(Place::Exactly(free), page), Ok(free), "a hint at a free place is followed");
    assert!(is_mapped(free));

    the_heap_is_whole();
    assert!(CALLS.load(Ordering::Relaxed) > 2, "the heap never asked for a place");
}

/// Its first segment has a place in the page-map range, and a foreign mapping has the next one.
fn the_heap_is_whole() {
    let first = rsalloc_core::allocate(BYTES);
    assert!(!first.is_null());
    let segment = rsalloc_core::internals::units::SEGMENT_BYTES;
    let next = (first as usize & !(segment - 1)) + segment;
    let foreign = os::map(Place::Exactly(next), os::page_bytes()).expect("the place is free");
    let objects: Vec<_> = (0..3 * segment / BYTES).map(|_| rsalloc_core::allocate(BYTES)).collect();
    for &object in &objects {
        assert!(!object.is_null());
        let bytes = object as usize..object as usize + BYTES;
        assert!(!bytes.contains(&foreign), "an object where something else lies");
        // SAFETY: live, and so long.
        unsafe { object.cast::<usize>().write(object as usize) };
    }
    for object in objects {
        // SAFETY: live.
        unsafe {
            assert_eq!(object.cast::<usize>().read(), object as usize);
            rsalloc_core::free(object);
        }
    }
    // SAFETY: mapped above; live.
    unsafe {
        assert_eq!((foreign as *const u8).read(), 0);
        rsalloc_core::free(first);
    }
    assert_eq!(rsalloc_core::check(), Ok(()));
}

fn is_mapped(address: usize) -> bool {
    let mut resident = 0;
    // SAFETY: tells about one page.
    unsafe { libc::mincore(address as *mut libc::c_void, 1, &raw mut resident) == 0 }
}

extern "C" fn on_trap(_signal: i32, _info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the context of the call that was trapped: done here without the flag, its outcome told as the kernel
    // tells it.
    unsafe {
        do_trapped(context, |[address, len, prot, flags, file, offset]| {
            let flags = flags & !i64::from(libc::MAP_FIXED_NOREPLACE);
            let mapped = libc::syscall(libc::SYS_mmap, address, len, prot, flags, file, offset);
            MAPPED.store(mapped as usize, Ordering::Relaxed);
            CALLS.fetch_add(1, Ordering::Relaxed);
            if mapped == -1 { -i64::from(*libc::__errno_location()) } else { mapped }
        });
    }
}

/// Installs the filter for the calling thread.
fn take_the_flag_for_a_hint() {
    let instruction =
        |code: u32, jt, jf, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, leave) = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, libc::BPF_RET | libc::BPF_K);
    let (is_equal, has_bits) =
        (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K);
    let flags = std::mem::offset_of!(libc::seccomp_data, args) + 8 * 3;
    let mut filter = [
        instruction(load, 0, 0, std::mem::offset_of!(libc::seccomp_data, nr) as u32),
        instruction(is_equal, 0, 3, libc::SYS_mmap as u32),
        instruction(load, 0, 0, flags as u32),
        instruction(has_bits, 0, 1, libc::MAP_FIXED_NOREPLACE as u32),
        instruction(leave, 0, 0, libc::SECCOMP_RET_TRAP),
        instruction(leave, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the handler fits its flags; the program is live and well-formed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_trap as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGSYS, &action, std::ptr::null_mut()), 0);
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
    }
}

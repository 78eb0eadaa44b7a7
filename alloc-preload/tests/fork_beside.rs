//! Forks while other threads hold locks under which they allocate: libc's own, which its fork takes after the
//! allocator's handler, and those of libraries whose fork handlers were registered first. glibc's malloc is locked
//! last of all; the allocator can't be, so no thread may wait for a fork for ever.

mod common;

use common::{Mode, c};
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// A round takes milliseconds: after so long it hangs, and SIGALRM ends the process.
const HANGS_SECONDS: u32 = 60;
const ROUNDS: usize = 3;
/// How long a holder waits for the forking thread to be on its way, and the forks of the last test go on.
const ON_ITS_WAY: Duration = Duration::from_millis(20);
const FORKING: Duration = Duration::from_millis(700);

/// What the holder and the forking thread tell each other.
static HELD: AtomicBool = AtomicBool::new(false);
static FORKS: AtomicBool = AtomicBool::new(false);

/// Under a lock that the forking thread wants: waits until that one is on its way, then allocates more than caches
/// have, small and large.
fn allocate_while_forking() {
    HELD.store(true, Ordering::SeqCst);
    while !FORKS.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    thread::sleep(ON_ITS_WAY);
    allocate_all_sizes();
}

fn allocate_all_sizes() {
    let mut kept = [(ptr::null_mut(), 0); 40];
    for round in 0..4u8 {
        for (index, slot) in kept.iter_mut().enumerate() {
            let len = match index % 8 {
                0 => 300_000 << (index / 8),
                _ => 32 << (index % 8 + usize::from(round)),
            };
            // SAFETY: live objects of its own, filled and read no further than they are long.
            unsafe {
                let object = c::malloc(len);
                assert!(!object.is_null(), "{len} B");
                c::fill(object, len.min(64), round);
                *slot = (object, len);
            }
        }
        for &(object, len) in &kept {
            // SAFETY: as above.
            unsafe {
                c::assert_filled(object, len.min(64), round);
                c::free(object);
            }
        }
    }
}

/// Forks; the child allocates and ends.
fn fork_one() {
    // SAFETY: the child uses the allocator alone.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork");
    if child == 0 {
        // SAFETY: a plain call.
        unsafe { libc::alarm(HANGS_SECONDS) };
        allocate_all_sizes();
        // SAFETY: ends the child.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our own child.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert_eq!(status, 0, "the child");
}

/// Forks while a thread is in `hold`, which takes a lock and under it calls `allocate_while_forking`.
fn fork_while(hold: impl Fn() + Sync) {
    // SAFETY: a plain call.
    unsafe { libc::alarm(HANGS_SECONDS) };
    for _ in 0..ROUNDS {
        HELD.store(false, Ordering::SeqCst);
        FORKS.store(false, Ordering::SeqCst);
        thread::scope(|scope| {
            scope.spawn(&hold);
            while !HELD.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            FORKS.store(true, Ordering::SeqCst);
            fork_one();
        });
    }
    // SAFETY: a plain call.
    unsafe { libc::alarm(0) };
}

unsafe extern "C" {
    fn fopencookie(
        cookie: *mut c_void,
        mode: *const c_char,
        functions: Functions,
    ) -> *mut libc::FILE;
}

/// glibc's `cookie_io_functions_t`.
#[repr(C)]
struct Functions {
    read: Option<unsafe extern "C" fn(*mut c_void, *mut c_char, usize) -> isize>,
    write: Option<unsafe extern "C" fn(*mut c_void, *const c_char, usize) -> isize>,
    seek: Option<unsafe extern "C" fn(*mut c_void, *mut i64, c_int) -> c_int>,
    close: Option<unsafe extern "C" fn(*mut c_void) -> c_int>,
}

fn stream(mode: &std::ffi::CStr, functions: Functions) -> *mut libc::FILE {
    // SAFETY: the functions live for ever, and look at no cookie.
    let stream = unsafe { fopencookie(ptr::null_mut(), mode.as_ptr(), functions) };
    assert!(!stream.is_null());
    stream
}

/// What a fork handler that was registered before the allocator's locks.
static OF_A_LIBRARY: Mutex<()> = Mutex::new(());
static LIBRARY_IS_USED: AtomicBool = AtomicBool::new(false);
static LOCKED: AtomicPtr<std::sync::MutexGuard<'static, ()>> = AtomicPtr::new(ptr::null_mut());

/// Before all constructors, so also before the allocator's.
#[used]
#[unsafe(link_section = ".preinit_array")]
static FIRST: extern "C" fn() = register_first;

extern "C" fn register_first() {
    // SAFETY: the handlers live for ever.
    unsafe { libc::pthread_atfork(Some(lock_library), Some(unlock_library), Some(unlock_library)) };
}

extern "C" fn lock_library() {
    if LIBRARY_IS_USED.load(Ordering::SeqCst) {
        let guard = Box::new(OF_A_LIBRARY.lock().unwrap());
        LOCKED.store(Box::into_raw(guard), Ordering::SeqCst);
    }
}

extern "C" fn unlock_library() {
    let guard = LOCKED.swap(ptr::null_mut(), Ordering::SeqCst);
    if !guard.is_null() {
        // SAFETY: from `lock_library`, by the same thread or its copy.
        drop(unsafe { Box::from_raw(guard) });
    }
}

static REPORTED: AtomicU32 = AtomicU32::new(0);

in_each_mode! {
    /// fflush(NULL) has the list of streams, which fork takes.
    fn the_list_of_streams() {
        unsafe extern "C" fn write(_: *mut c_void, _: *const c_char, len: usize) -> isize {
            allocate_while_forking();
            len as isize
        }
        let stream = stream(c"w", Functions { read: None, write: Some(write), seek: None, close: None });
        let (stream, put) = (AtomicPtr::new(stream), AtomicUsize::new(0));
        fork_while(|| {
            // SAFETY: a live stream.
            unsafe {
                libc::fputs(c"text".as_ptr(), stream.load(Ordering::SeqCst));
                libc::fflush(ptr::null_mut());
            }
            put.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(put.load(Ordering::SeqCst), ROUNDS);
    }

    /// One thread reads a line, another waits for its stream in fflush(NULL), with the list of streams in hand.
    fn a_stream_that_the_list_waits_for() {
        unsafe extern "C" fn read(_: *mut c_void, to: *mut c_char, len: usize) -> isize {
            let flusher = thread::spawn(|| {
                // SAFETY: all streams.
                unsafe { libc::fflush(ptr::null_mut()) };
            });
            // Into its wait for this stream, as a rule.
            thread::sleep(ON_ITS_WAY);
            allocate_while_forking();
            REPORTED.fetch_add(1, Ordering::SeqCst);
            // Ends after the stream is given up.
            drop(flusher);
            // SAFETY: the buffer is of that length.
            unsafe {
                to.write_bytes(b'x', len);
                to.add(len - 1).write(b'\n' as c_char);
            }
            len as isize
        }
        let stream = stream(c"r", Functions { read: Some(read), write: None, seek: None, close: None });
        let stream = AtomicPtr::new(stream);
        fork_while(|| {
            let (mut line, mut len) = (ptr::null_mut(), 0);
            // SAFETY: a live stream, and a line that getline makes.
            unsafe {
                assert!(libc::getline(&mut line, &mut len, stream.load(Ordering::SeqCst)) > 0);
                libc::free(line.cast());
            }
        });
        assert_eq!(REPORTED.load(Ordering::SeqCst) as usize, ROUNDS);
    }

    /// The lock of a library whose fork handlers were registered before the allocator's.
    fn a_lock_of_an_older_fork_handler() {
        LIBRARY_IS_USED.store(true, Ordering::SeqCst);
        fork_while(|| {
            let _guard = OF_A_LIBRARY.lock().unwrap();
            allocate_while_forking();
        });
        LIBRARY_IS_USED.store(false, Ordering::SeqCst);
    }

    /// What can't be held on purpose: forks beside threads that go in and out of libc's other locks.
    fn everything_else_of_libc() {
        static STOP: AtomicBool = AtomicBool::new(false);
        if shows_stale_fork_handlers() {
            common::note("pthread_atfork beside forks: glibc calls from its freed list, which this mode shows");
        }
        // SAFETY: a plain call.
        unsafe { libc::alarm(HANGS_SECONDS) };
        let loops: [fn(); 6] = [names, locales, conversions, libraries, keys, fork_handlers];
        static ROUNDS_DONE: [AtomicUsize; 6] = [const { AtomicUsize::new(0) }; 6];
        thread::scope(|scope| {
            for (work, done) in loops.into_iter().zip(&ROUNDS_DONE) {
                scope.spawn(move || {
                    while !STOP.load(Ordering::SeqCst) {
                        work();
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            let all_work = || ROUNDS_DONE.iter().all(|done| done.load(Ordering::SeqCst) >= ROUNDS);
            let begin = Instant::now();
            while begin.elapsed() < FORKING || !all_work() {
                fork_one();
            }
            STOP.store(true, Ordering::SeqCst);
        });
        // SAFETY: a plain call.
        unsafe { libc::alarm(0) };
    }
}

/// A C library that is linked to the program has its constructor run before the preloaded allocator's.
const PLUGIN: &str = r#"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
enum { REQUESTS = 11570 };
int plugin_refused, plugin_ran, plugin_armed;
static char *kept[REQUESTS];
static char *request(int i) {
    size_t size = i % 500 ? 1 + (size_t)i * 17 % 33000 : (size_t)300000 << (i / 500 % 8);
    char *object = malloc(size);
    if (object) *object = (char)i; else plugin_refused++;
    return object;
}
static void prepare(void) {
    if (!plugin_armed) return;
    plugin_ran++;
    for (int i = 0; i < REQUESTS; i++) kept[i] = request(i);
}
static void after(void) {
    if (!plugin_armed) return;
    plugin_ran++;
    for (int i = 0; i < REQUESTS; i++) {
        char *object = request(i);
        if (object && kept[i] && *object != *kept[i]) abort();
        free(object);
        free(kept[i]);
    }
}
__attribute__((constructor)) static void start(void) { pthread_atfork(prepare, after, after); }
"#;
const PLUGGED: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
extern int plugin_refused, plugin_ran, plugin_armed;
static atomic_int stop;
static int defects(void) {
    int (*check)(void) = (int (*)(void))(uintptr_t)dlsym(RTLD_DEFAULT, "rsalloc_check");
    return plugin_refused || (check && check());
}
static void *work(void *unused) {
    while (!stop) {
        void *kept[200];
        for (int i = 0; i < 200; i++) kept[i] = malloc(1 + (size_t)i * 997 % 40000);
        for (int i = 0; i < 200; i++) free(kept[i]);
    }
    return unused;
}
int main(void) {
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) pthread_create(&threads[i], NULL, work, NULL);
    plugin_armed = 1;
    alarm(60);
    for (int i = 0; i < 3; i++) {
        pid_t child = fork();
        if (child == 0) _exit(defects() != 0);
        int status;
        if (waitpid(child, &status, 0) != child || status) return 2;
    }
    plugin_armed = 0;
    stop = 1;
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    printf("%d handlers, %d refused\n", plugin_ran, plugin_refused);
    return plugin_ran != 6 || defects();
}
"#;

#[test]
fn a_linked_librarys_fork_handlers_are_served() {
    let arguments = ["-shared", "-fPIC", "-pthread", "-fno-builtin"];
    let plugin = common::compile("cc", "libplugin_atfork.so", PLUGIN, &arguments).unwrap();
    let plugin = plugin.to_str().unwrap();
    let arguments = [plugin, "-Wl,-rpath,$ORIGIN", "-pthread", "-ldl"];
    let program = common::compile("cc", "plugged_atfork", PLUGGED, &arguments).unwrap();
    for mode in common::ALL {
        let mut command = std::process::Command::new(&program);
        common::in_mode(&mut command, mode);
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{mode:?}: {} {text}", output.status);
    }
}

/// The database of services, and the resolver.
fn names() {
    // SAFETY: names that end with a zero; what is given is freed.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        let (mut buffer, mut found) = ([0; 4096], ptr::null_mut());
        let (at, len) = (buffer.as_mut_ptr(), buffer.len());
        libc::getpwnam_r(c"daemon".as_ptr(), &mut entry, at, len, &mut found);
        let mut hints: libc::addrinfo = std::mem::zeroed();
        hints.ai_flags = libc::AI_NUMERICHOST;
        let mut list = ptr::null_mut();
        let status = libc::getaddrinfo(c"127.0.0.1".as_ptr(), ptr::null(), &hints, &mut list);
        assert_eq!(status, 0);
        libc::freeaddrinfo(list);
    }
}

fn locales() {
    // SAFETY: a name that ends with a zero; other threads of this test format nothing by it.
    unsafe {
        let locale = libc::newlocale(libc::LC_ALL_MASK, c"C.UTF-8".as_ptr(), ptr::null_mut());
        assert!(!locale.is_null());
        libc::freelocale(locale);
        assert!(!libc::setlocale(libc::LC_COLLATE, c"C".as_ptr()).is_null());
    }
}

fn conversions() {
    // SAFETY: names that end with a zero.
    unsafe {
        let converter = libc::iconv_open(c"UTF-16".as_ptr(), c"UTF-8".as_ptr());
        assert_ne!(converter as isize, -1);
        libc::iconv_close(converter);
    }
}

/// The loader's, and its list of thread-local storage.
fn libraries() {
    // SAFETY: a library without constructors.
    unsafe {
        let library = libc::dlopen(c"libanl.so.1".as_ptr(), libc::RTLD_NOW);
        let library = match library.is_null() {
            true => libc::dlopen(c"libm.so.6".as_ptr(), libc::RTLD_NOW),
            false => library,
        };
        assert!(!library.is_null());
        libc::dlclose(library);
    }
}

fn keys() {
    // More than the first level has, so that a second one is allocated: by a thread of its own, which loses it.
    let made = thread::spawn(|| {
        let mut keys = [0; 40];
        // SAFETY: keys of our own.
        unsafe {
            for key in &mut keys {
                assert_eq!(libc::pthread_key_create(key, None), 0);
                libc::pthread_setspecific(*key, ptr::without_provenance(1));
            }
            for key in keys {
                assert!(!libc::pthread_getspecific(key).is_null());
                libc::pthread_key_delete(key);
            }
        }
    });
    made.join().unwrap();
}

/// Whether the mode overwrites or seals freed memory. glibc (2.36, `__run_postfork_handlers`) reads a handler's address from
/// the list after it has let go of the list's lock, when another thread's registration may have freed the list.
fn shows_stale_fork_handlers() -> bool {
    matches!(common::mode(), Some(Mode::Hardened | Mode::Guarded))
}

/// Its list grows under its lock, which fork takes between two handlers. Slowly: each one stays.
fn fork_handlers() {
    static MADE: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn nothing() {}
    if !shows_stale_fork_handlers() && MADE.fetch_add(1, Ordering::SeqCst) < 2000 {
        // SAFETY: the handler lives for ever.
        unsafe { libc::pthread_atfork(Some(nothing), None, None) };
    }
    thread::sleep(Duration::from_micros(300));
}

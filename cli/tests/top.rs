//! `rsalloc top`: in a terminal of 80 columns and 24 lines, and printed once.

mod command_line;

use command_line::*;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

const ENTERED: &str = "\x1b[?1049h";
const LEFT: &str = "\x1b[?1049l";

/// `rsalloc top` in a terminal.
struct Screen {
    terminal: File,
    slave: File,
    before: libc::termios,
    child: Child,
    seen: String,
}

impl Screen {
    fn start(arguments: &[&str]) -> Screen {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: live words; the descriptors are new, and the files' own.
        let (terminal, slave) = unsafe {
            let (name, mode) = (std::ptr::null_mut(), std::ptr::null_mut());
            assert_eq!(
                libc::openpty(
                    &raw mut master,
                    &raw mut slave,
                    name,
                    mode,
                    &raw const size as *mut _
                ),
                0
            );
            libc::fcntl(master, libc::F_SETFL, libc::O_NONBLOCK);
            // A command of another test that had them would keep the terminal.
            libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC);
            libc::fcntl(slave, libc::F_SETFD, libc::FD_CLOEXEC);
            (File::from_raw_fd(master), File::from_raw_fd(slave))
        };
        let before = mode(&slave);
        let mut command: Command = rsalloc(&["top", "--delay", "0.1"]);
        command.args(arguments).env("TERM", "xterm").env("NO_COLOR", "1").env("LC_ALL", "C");
        let copy = || slave.try_clone().unwrap();
        let child = command.stdin(copy()).stdout(copy()).stderr(copy()).spawn().unwrap();
        Screen { before, terminal, slave, child, seen: String::new() }
    }

    /// Waits until `text` was written.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let begin = Instant::now();
        while !self.seen.contains(text) {
            assert!(begin.elapsed() < Duration::from_secs(60), "no {text:?} in {:?}", self.seen);
            self.read();
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        while let Ok(read @ 1..) = self.terminal.read(&mut bytes) {
            self.seen += &String::from_utf8_lossy(&bytes[..read]);
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.terminal.write_all(keys).unwrap();
    }

    /// Waits for the end, after which the terminal is as it was.
    #[track_caller]
    fn end(mut self) -> (ExitStatus, String) {
        let begin = Instant::now();
        let status = loop {
            self.read();
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(begin.elapsed() < Duration::from_secs(60), "it does not end"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        self.read();
        let now = mode(&self.slave);
        assert_eq!(
            (now.c_lflag, now.c_iflag),
            (self.before.c_lflag, self.before.c_iflag),
            "the terminal's mode"
        );
        assert!(self.seen.contains(ENTERED), "{:?}", self.seen);
        assert!(self.seen.rfind(LEFT) > self.seen.rfind(ENTERED), "{:?}", self.seen);
        (status, self.seen)
    }
}

fn mode(terminal: &File) -> libc::termios {
    // SAFETY: a live struct; the descriptor is the file's.
    unsafe {
        let mut mode = std::mem::zeroed();
        assert_eq!(libc::tcgetattr(terminal.as_raw_fd(), &raw mut mode), 0);
        mode
    }
}

/// The numbers of the sequences that select how characters look; from 30 on they are colours.
fn colours(seen: &str) -> impl Iterator<Item = u32> {
    let sequences = seen.split("\x1b[").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        rest[end..].starts_with('m').then_some(&rest[..end])
    });
    sequences.flat_map(|numbers| numbers.split(';').filter_map(|number| number.parse().ok()))
}

fn cat() -> Running {
    Running::cat(&mut with_library("run", &["cat"]))
}

#[test]
fn it_ends_when_its_terminal_goes_away() {
    let mut screen = Screen::start(&[]);
    screen.wait_for(ENTERED);
    let Screen { terminal, slave, mut child, .. } = screen;
    drop((terminal, slave));
    let begin = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(20) {
            child.kill().unwrap();
            panic!("it does not end");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn q_ctrl_c_and_signals_leave_the_terminal_as_it_was() {
    let running = cat();
    for (keys, signal, code) in [
        (&b"q"[..], 0, 0),
        (b"\x03", 0, 0),
        (b"", libc::SIGTERM, 128 + 15),
        (b"", libc::SIGHUP, 128 + 1),
    ] {
        let mut screen = Screen::start(&[]);
        screen.wait_for("RESIDENT");
        screen.wait_for(&running.pid());
        screen.press(keys);
        if signal != 0 {
            // SAFETY: the child is not collected.
            assert_eq!(unsafe { libc::kill(screen.child.id() as i32, signal) }, 0);
        }
        let (status, seen) = screen.end();
        assert_eq!((status.code(), status.signal()), (Some(code), None), "{keys:?} {signal}");
        assert!(!colours(&seen).any(|number| number >= 30), "no colours: {seen:?}");
    }
}

#[test]
fn a_process_is_opened_and_its_end_is_said() {
    let running = cat();
    let pid = running.pid();
    let mut screen = Screen::start(&[&pid]);
    screen.wait_for("IN USE");
    screen.wait_for("refills/s");
    drop(running);
    screen.wait_for("has ended");
    screen.press(b"q");
    assert_eq!(screen.end().0.code(), Some(0));
}

#[test]
fn once_prints_what_stats_says() {
    let running = cat();
    let pid = running.pid();
    let list = answer(&mut rsalloc(&["top", "--once"]));
    let row = list
        .lines()
        .find(|line| line.trim_start().starts_with(&pid))
        .unwrap_or_else(|| panic!("{list}"));
    let stats: serde_json::Value =
        serde_json::from_str(&answer(&mut rsalloc(&["stats", "--json", &pid]))).unwrap();
    let fields: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(fields[1], "cat", "{list}");
    assert_eq!(
        fields.last(),
        Some(&stats["report"]["mode"].as_str().unwrap().trim_start_matches("rseq_"))
    );
    // As 12.3K or 1.2M.
    let bytes = |text: &str| {
        let (number, unit) = text.split_at(text.find(['K', 'M']).unwrap_or(text.len()));
        number.parse::<f64>().unwrap()
            * [1.0, 1024.0, 1048576.0][["", "K", "M"].iter().position(|u| *u == unit).unwrap()]
    };
    for (field, name) in
        [(3, "live_bytes"), (4, "cached_bytes"), (5, "slab_free_bytes"), (6, "dirty_bytes")]
    {
        let (shown, real) = (bytes(fields[field]), stats["stats"][name].as_f64().unwrap());
        assert!((shown - real).abs() <= real * 0.05 + 1.0, "{name}: {shown} and {real} in {row}");
    }
    let one = answer(&mut rsalloc(&["top", "--once", &pid]));
    assert!(one.starts_with(&format!("cat (process {pid})")) && one.contains("IN USE"), "{one}");
    assert!(list.lines().chain(one.lines()).all(|line| line.chars().count() <= 100));
}

#[test]
fn what_cannot_be_shown_is_said() {
    let running = cat();
    let said = error(&mut rsalloc(&["top", &running.pid()]), 3);
    assert!(said.contains("needs a terminal") && said.contains("stats --watch"), "{said}");
    assert!(
        error(&mut rsalloc(&["top", "--once", &std::process::id().to_string()]), 3)
            .contains("not active")
    );
    assert!(error(&mut rsalloc(&["top", "--once", "999999999"]), 3).contains("no process"));
    assert!(error(&mut rsalloc(&["top", "--once", "--delay", "0"]), 3).contains("above 0"));
}

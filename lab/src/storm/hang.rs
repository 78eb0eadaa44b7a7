//! Where the threads of a hung process stand, told by /proc, without a debugger.
//!
//! What can't be read is left out.

use std::fmt::Write;
use std::fs;

use crate::programs::active::tree;

/// The most threads that are listed.
const THREADS_MAX: usize = 24;

/// A line for each thread of `pid` and its descendants.
pub fn describe(pid: i32) -> String {
    let mut text = String::new();
    let threads = tree(pid).into_iter().flat_map(|pid| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.map(move |task| (pid, task.path()))
    });
    for (pid, task) in threads.take(THREADS_MAX) {
        let read = |name| fs::read_to_string(task.join(name)).unwrap_or_default();
        let thread = task.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kernel = read("stack").lines().take(4).map(plain).collect::<Vec<_>>().join(" < ");
        let call = read("syscall");
        let words: Vec<_> = call.split_whitespace().collect();
        let at = words.last().and_then(|word| usize::from_str_radix(&word[2..], 16).ok());
        let place = at.map(|at| place(pid, at)).unwrap_or_default();
        let number = words.first().copied().unwrap_or("?");
        let _ = write!(
            text,
            "\n  {pid}/{thread} {} wchan {} call {number} at {place} kernel {kernel}",
            read("comm").trim(),
            read("wchan"),
        );
    }
    text
}

/// `[<0>] futex_wait+0x1/0x2` as its name alone.
fn plain(line: &str) -> &str {
    let name = line.split_whitespace().last().unwrap_or_default();
    name.split('+').next().unwrap_or_default()
}

/// The file that address `at` of the process lies in, and the offset there.
fn place(pid: i32, at: usize) -> String {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    for line in maps.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let bounds = words[0].split_once('-').unwrap_or_default();
        let (Ok(from), Ok(to)) =
            (usize::from_str_radix(bounds.0, 16), usize::from_str_radix(bounds.1, 16))
        else {
            continue;
        };
        if (from..to).contains(&at) && words.len() > 5 {
            let offset = usize::from_str_radix(words[2], 16).unwrap_or(0) + at - from;
            let file = words[5].rsplit('/').next().unwrap_or_default();
            return format!("{file}+{offset:#x}");
        }
    }
    format!("{at:#x}")
}

//! redis-server, which asks jemalloc's `mallctl` about memory: on rsalloc the answers are rsalloc's.

mod command_line;

use command_line::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

struct Redis(Child, BufReader<UnixStream>);

impl Redis {
    fn start(command: &mut Command, socket: &Path) -> Option<Self> {
        let arguments = ["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"];
        command.args(arguments).arg(socket).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        for _ in 0..1000 {
            if let Ok(stream) = UnixStream::connect(socket) {
                return Some(Self(child, BufReader::new(stream)));
            }
            if child.try_wait().unwrap().is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("redis-server does not answer");
    }

    /// The reply to an inline command: a line, or a bulk string.
    fn ask(&mut self, command: &str) -> String {
        writeln!(self.1.get_mut(), "{command}\r").unwrap();
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        let Some(len) = line.strip_prefix('$') else { return line };
        let mut bulk = vec![0; len.trim().parse::<usize>().unwrap() + 2];
        std::io::Read::read_exact(&mut self.1, &mut bulk).unwrap();
        String::from_utf8(bulk).unwrap()
    }

    /// Sets 20,000 keys of 1,001 bytes, which are written at once and answered at once.
    fn fill(&mut self) {
        for thousand in 0..20 {
            let command = |key: i32| format!("SETRANGE key:{key} 1000 x\r\n");
            let commands: String = (0..1000).map(|key| command(1000 * thousand + key)).collect();
            self.1.get_mut().write_all(commands.as_bytes()).unwrap();
            for _ in 0..1000 {
                let mut line = String::new();
                self.1.read_line(&mut line).unwrap();
                assert_eq!(line, ":1001\r\n");
            }
        }
    }

    /// A number of `INFO memory`.
    fn memory(&mut self, name: &str) -> u64 {
        let info = self.ask("INFO memory");
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("{name} is not in {info}")).parse().unwrap()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn redis_says_what_rsalloc_holds() {
    let folder = fresh_folder("redis");
    if !Path::new("/usr/bin/redis-server").exists() {
        return common::note("redis-server on rsalloc: it is not installed");
    }
    let mut redis = Redis::start(
        with_library("run", &["/usr/bin/redis-server"]).current_dir(&folder),
        &folder.join("s"),
    )
    .expect("redis-server ended");
    redis.fill();
    // redis renews its numbers ten times a second.
    std::thread::sleep(Duration::from_millis(500));
    let said = ["allocator_allocated", "allocator_active", "allocator_resident"]
        .map(|name| redis.memory(name));
    let pid = redis.0.id().to_string();
    let seen: Value =
        serde_json::from_str(&answer(&mut rsalloc(&["stats", "--json", &pid]))).unwrap();
    let n = |name: &str| seen["stats"][name].as_u64().unwrap();
    let expected = [
        n("live_bytes"),
        n("slab_bytes") + n("large_bytes") + n("sampled_bytes"),
        n("mapped_bytes") - n("clean_bytes") + n("metadata_bytes"),
    ];
    for (said, expected) in said.into_iter().zip(expected) {
        // It goes on working between the two.
        assert!(said.abs_diff(expected) <= 2 << 20 && expected > 20 << 20, "{said} {expected}");
    }
    assert!(redis.ask("MEMORY MALLOC-STATS").starts_with("rsalloc-"));

    // MEMORY PURGE gives back what is free: nothing that was free stays resident.
    redis.ask("FLUSHALL");
    std::thread::sleep(Duration::from_millis(500));
    assert!(redis.ask("MEMORY PURGE").starts_with("+OK"));
    let seen: Value =
        serde_json::from_str(&answer(&mut rsalloc(&["stats", "--json", &pid]))).unwrap();
    let dirty = seen["stats"]["dirty_bytes"].as_u64().unwrap();
    assert!(dirty < 1 << 20, "{dirty}");
    let refused = redis.ask("CONFIG SET activedefrag yes");
    assert!(
        refused.starts_with("-ERR"),
        "it needs functions of jemalloc that rsalloc does not have: {refused}"
    );
}

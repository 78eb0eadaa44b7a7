//! `rsalloc metrics`: what is exposed is what `stats` says, in formats that Prometheus' own tools take.

mod command_line;

use command_line::*;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn idle() -> Running {
    Running::cat(&mut with_library("run", &["cat"]))
}

/// The value of a sample.
#[track_caller]
fn sample(text: &str, start: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(start));
    let line = line.unwrap_or_else(|| panic!("{start} is not in {text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// `rsalloc metrics --listen`, and where it serves.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        let mut command = rsalloc(&["metrics", "--listen", "127.0.0.1:0"]);
        let mut child = command.args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("rsalloc: serving http://").unwrap();
        let address = address.strip_suffix("/metrics").unwrap().to_owned();
        Self { child, address }
    }

    /// What comes back for these bytes.
    fn exchange(&self, request: &[u8]) -> String {
        let mut client = TcpStream::connect(&self.address).unwrap();
        // The server may answer and close before it has taken all of it.
        let _ = client.write_all(request);
        let _ = client.shutdown(std::net::Shutdown::Write);
        let mut response = Vec::new();
        let _ = client.read_to_end(&mut response);
        String::from_utf8(response).unwrap()
    }

    fn get(&self, headers: &str) -> String {
        self.exchange(format!("GET /metrics HTTP/1.1\r\nHost: it\r\n{headers}\r\n").as_bytes())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn metrics_say_what_stats_says_and_promtool_has_no_complaint() {
    let (first, second) = (idle(), idle());
    let pids = [first.pid(), second.pid()];
    let text = answer(&mut rsalloc(&["metrics", "--classes", "--shards", &pids[0], &pids[1]]));
    for pid in &pids {
        let seen: Value =
            serde_json::from_str(&answer(&mut rsalloc(&["stats", "--json", pid]))).unwrap();
        let labels = format!("{{pid=\"{pid}\",comm=\"cat\"}} ");
        for (name, in_json) in [
            ("live_bytes", "live_bytes"),
            ("mapped_bytes", "mapped_bytes"),
            ("large_objects", "large_count"),
            ("refills_total", "refills"),
            ("purged_bytes_total", "purged_bytes_total"),
            ("clean_bytes", "clean_bytes"),
        ] {
            let value = sample(&text, &format!("rsalloc_{name}{labels}"));
            assert_eq!(value, seen["stats"][in_json].as_u64().unwrap(), "{name}");
        }
        assert!(sample(&text, "rsalloc_live_bytes") > 0, "the comparison is of something");
        let resident = sample(&text, &format!("rsalloc_process_resident_bytes{labels}"));
        assert!(resident >= 1 << 20, "{resident}");
        let classes = seen["classes"].as_array().unwrap();
        let used = classes.iter().filter(|class| class["slabs"] != 0).count();
        let samples = text.lines().filter(|line| {
            line.starts_with("rsalloc_class_live_objects{")
                && line.contains(&format!("pid=\"{pid}\""))
        });
        assert_eq!(samples.count(), used);
        let version = format!(
            "rsalloc_build_info{{pid=\"{pid}\",comm=\"cat\",version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        );
        assert!(text.contains(&version), "{text}");
    }
    assert!(!answer(&mut rsalloc(&["metrics", &pids[0]])).contains("rsalloc_class_"));
    promtool(&text, None);
    promtool(&text.replace("rsalloc_refills_total", "rsalloc_refills"), Some("_total"));
}

/// `promtool check metrics`: nothing, or a complaint with these words.
fn promtool(text: &str, complaint: Option<&str>) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let Ok(mut child) = command.stderr(Stdio::piped()).spawn() else {
        return common::note("metrics as promtool sees them: it is not installed");
    };
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    match complaint {
        None => assert!(output.status.success() && said.is_empty(), "{said}"),
        Some(words) => assert!(said.contains(words), "{said}"),
    }
}

#[test]
fn a_server_answers_each_client_and_survives_bad_ones() {
    let process = idle();
    let server = Server::start(&[&process.pid()]);
    let plain = server.get("");
    assert!(
        plain.starts_with("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"),
        "{plain}"
    );
    let (head, body) = plain.split_once("\r\n\r\n").unwrap();
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
    let open = server.get("Accept: application/openmetrics-text;version=1.0.0,*/*;q=0.1\r\n");
    assert!(
        open.contains("\r\nContent-Type: application/openmetrics-text; version=1.0.0"),
        "{open}"
    );
    assert!(open.ends_with("\n# EOF\n"), "{open}");
    // What is served, as Prometheus' own tool sees it; cut short, it complains.
    promtool(body, None);
    promtool(&body[..body.rfind(' ').unwrap()], Some("error while linting"));
    let head = server.exchange(b"HEAD /metrics HTTP/1.0\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{head}");

    // Clients that send nothing, or nothing more, hold no other up.
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let mut client = TcpStream::connect(&server.address).unwrap();
            client.write_all(b"GET /metrics HT").unwrap();
            client
        })
        .collect();
    let long = [b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 20_000]].concat();
    let headers = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(100));
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "405"),
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", "400"),
        (b"GET /metrics", "400"),
        (b"", "400"),
        (b"GET /metrics?a HTTP/1.1\r\n\r\n", "200"),
        (&long, "431"),
        (headers.as_bytes(), "431"),
    ] {
        let response = server.exchange(request);
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {response}");
    }
    drop(slow);

    // A process that goes away is no longer there; the server is.
    drop(process);
    let gone = server.get("");
    assert!(!gone.contains("rsalloc_live_bytes{"), "{gone}");
    assert_eq!(sample(&gone, "rsalloc_processes{state=\"read\"}"), 0);
}

#[test]
fn all_processes_are_found_again_at_each_scrape() {
    let server = Server::start(&["--all"]);
    let is_there =
        |pid: &str| server.get("").contains(&format!("rsalloc_live_bytes{{pid=\"{pid}\","));
    let process = idle();
    let pid = process.pid();
    assert!(is_there(&pid), "it began after the server");
    drop(process);
    assert!(!is_there(&pid), "it has ended");
}

#[test]
fn a_textfile_is_whole_renewed_and_removed() {
    let folder = fresh_folder("textfile");
    let path = folder.join("rsalloc.prom");
    let path = path.to_str().unwrap();
    let process = idle();
    assert_eq!(answer(&mut rsalloc(&["metrics", &process.pid(), "--textfile", path])), "");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(sample(&text, "rsalloc_live_bytes") > 0);
    promtool(&text, None);
    promtool(&text.replace("rsalloc_refills_total", "rsalloc_refills"), Some("_total"));
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "nothing beside it");

    let mut keeping =
        rsalloc(&["metrics", "--all", "--textfile", path, "--every", "0.05"]).spawn().unwrap();
    let says = |live: bool| {
        let text = std::fs::read_to_string(path).unwrap();
        text.contains(&format!("rsalloc_live_bytes{{pid=\"{}\",", process.pid())) == live
            && text.lines().last().unwrap().starts_with("rsalloc_process_swapped_bytes") | !live
    };
    wait_for(|| says(true));
    let pid = process.pid();
    drop(process);
    wait_for(|| !std::fs::read_to_string(path).unwrap().contains(&format!("pid=\"{pid}\"")));
    // A renewal that fails does not end it.
    let away = fresh_folder("textfile-away").join("folder");
    std::fs::rename(&folder, &away).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    assert!(keeping.try_wait().unwrap().is_none(), "it goes on");
    std::fs::create_dir(&folder).unwrap();
    wait_for(|| Path::new(path).exists());
    // SAFETY: the child is not collected.
    unsafe { libc::kill(keeping.id() as i32, libc::SIGTERM) };
    assert!(keeping.wait().unwrap().success());
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "its own end leaves nothing");
}

/// The kernel gives a container's first process no signal that it has not asked for.
#[test]
fn a_containers_first_process_ends_by_sigterm() {
    let (ready, port) = (fresh_folder("first-process").join("said"), "127.0.0.1:0");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_rsalloc")]);
    command.args(["metrics", "--all", "--listen", port]);
    let mut child = command.stderr(std::fs::File::create(&ready).unwrap()).spawn().unwrap();
    wait_for(|| !std::fs::read_to_string(&ready).unwrap().is_empty());
    if !std::fs::read_to_string(&ready).unwrap().contains("serving") {
        let _ = child.wait();
        return common::note("a container's first process: this user cannot make one");
    }
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let first: i32 = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
    // SAFETY: unshare has not collected it.
    unsafe { libc::kill(first, libc::SIGTERM) };
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None => assert!(begin.elapsed() < Duration::from_secs(60), "it does not end"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(status.success(), "{status}");
}

fn wait_for(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited too long");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Prometheus itself, in both formats: what it stores is what the process holds.
#[test]
fn prometheus_scrapes_it() {
    let process = idle();
    let server = Server::start(&[&process.pid()]);
    let folder = fresh_folder("prometheus");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- job_name: rsalloc\n  static_configs: [{{targets: ['{}']}}]\n",
        server.address
    );
    std::fs::write(folder.join("prometheus.yml"), config).unwrap();
    let mut command = Command::new("prometheus");
    command.current_dir(&folder).stderr(Stdio::null()).stdout(Stdio::null());
    command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
    let Ok(prometheus) =
        command.args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"]).spawn()
    else {
        return common::note("a scrape by Prometheus: it is not installed");
    };
    let prometheus = Ended(prometheus);
    let query = || -> Option<Value> {
        let mut client = TcpStream::connect(("127.0.0.1", port)).ok()?;
        let request = "GET /api/v1/query?query=rsalloc_refills_total HTTP/1.0\r\n\r\n";
        client.write_all(request.as_bytes()).ok()?;
        let mut response = String::new();
        client.read_to_string(&mut response).ok()?;
        let answer: Value = serde_json::from_str(response.split_once("\r\n\r\n")?.1).ok()?;
        answer["data"]["result"].as_array()?.first().cloned()
    };
    wait_for(|| query().is_some());
    let stored = query().unwrap();
    drop(prometheus);
    let seen: Value =
        serde_json::from_str(&answer(&mut rsalloc(&["stats", "--json", &process.pid()]))).unwrap();
    assert_eq!(stored["metric"]["comm"], "cat");
    assert_eq!(stored["value"][1], seen["stats"]["refills"].to_string(), "{stored}");
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_cannot_be_exposed_is_said_in_a_line() {
    let process = idle();
    let pid = process.pid();
    let folder = fresh_folder("no-textfile");
    let nowhere = folder.join("none/x.prom");
    let other = Running::cat(clean(&mut Command::new("cat")));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    for (arguments, said) in [
        (&[][..], "the following required arguments were not provided: <PID|FILE|FOLDER>..."),
        (&["4194999"], "there is no process 4194999"),
        (&[&other.pid()], &format!("rsalloc is not active in process {}", other.pid())),
        (
            &[&pid, "--textfile", "x.txt"],
            "x.txt: node_exporter reads files whose names end in .prom",
        ),
        (&[&pid, "--textfile", nowhere.to_str().unwrap()], "x.prom: No such file or directory"),
        (
            &[&pid, "--listen", "localhost"],
            "invalid value 'localhost' for '--listen <ADDRESS:PORT>'",
        ),
        (&[&pid, "--listen", &taken], &format!("cannot listen at {taken}: Address already in use")),
        (&[&pid, "--every", "1"], "--textfile"),
        (&[&pid, "--textfile", "x.prom", "--every", "0"], "a number of seconds above 0"),
    ] {
        let line = error(rsalloc(&["metrics"]).args(arguments), 3);
        assert!(line.contains(said), "{line}");
    }
    assert!(!Path::new("x.prom").exists());
}

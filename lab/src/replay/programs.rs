//! Traces to start with: programs at work for a second or so, recorded where they are installed.
//!
//! Kept in the build folder, so that later runs replay the same. Installs Debian packages.

use anyhow::{Context, ensure};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A program and how it is recorded.
struct Program {
    name: &'static str,
    packages: &'static [&'static str],
    /// Has it recorded into the file, with a folder for what it needs.
    record: fn(&Path, &Path) -> anyhow::Result<()>,
}

const ALL: &[Program] = &[
    Program { name: "python3", packages: &["python3"], record: python },
    Program { name: "sqlite3", packages: &["sqlite3"], record: sqlite },
    Program { name: "redis", packages: &["redis-server", "redis-tools"], record: redis },
    Program { name: "cc1", packages: &["gcc"], record: cc1 },
    Program { name: "python3-threads", packages: &["python3"], record: python_threads },
];

/// Their names.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|program| program.name).collect()
}

/// The traces of the programs with these names, all if there are none; what is missing is recorded.
pub fn record(names: &[String]) -> anyhow::Result<Vec<PathBuf>> {
    let folder = tools::release_dir()?.with_file_name("traces");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let wanted = ALL
        .iter()
        .filter(|program| names.is_empty() || names.iter().any(|name| name == program.name));
    wanted
        .map(|program| {
            let trace = folder.join(program.name).with_extension("trace");
            if !trace.is_file() {
                tools::apt_install(program.packages)?;
                eprintln!("recording {}", program.name);
                let scratch = tempfile::tempdir_in(&folder).context("no space for a program")?;
                let unfinished = scratch.path().join("trace");
                (program.record)(&unfinished, scratch.path())
                    .with_context(|| format!("{} can't be recorded", program.name))?;
                std::fs::rename(&unfinished, &trace).context("keep the trace")?;
            }
            Ok(trace)
        })
        .collect()
}

fn recorder(trace: &Path, only: Option<&str>) -> anyhow::Result<Command> {
    let mut command = Command::new(tools::release_dir()?.join("rsalloc"));
    command.arg("record").arg("--output").arg(trace);
    if let Some(name) = only {
        command.args(["--only", name]);
    }
    command.arg("--").stdin(Stdio::null());
    Ok(command)
}

/// Parses and prints JSON and source text; its own small objects go through `malloc`.
fn python(trace: &Path, _: &Path) -> anyhow::Result<()> {
    const SCRIPT: &str = "import ast, json, re, random\n\
        random.seed(1)\n\
        rows = [{'id': i, 'name': 'n%d' % i, 'tags': [random.random() for _ in range(8)]} for i in range(6000)]\n\
        for _ in range(3): rows = json.loads(json.dumps(rows))\n\
        text = open(re.__file__.replace('re/__init__', 'argparse')).read()\n\
        for _ in range(2): ast.unparse(ast.parse(text))\n\
        words = re.findall(r'[a-z_]+', text)\n\
        print(len(sorted(set(words))), len(rows))";
    let mut command = recorder(trace, None)?;
    command.args(["/usr/bin/python3", "-c", SCRIPT]).env("PYTHONMALLOC", "malloc");
    command.env("PYTHONHASHSEED", "0");
    tools::output(&mut command).map(drop)
}

/// A table with an index, joined, updated and deleted from.
fn sqlite(trace: &Path, _: &Path) -> anyhow::Result<()> {
    const SCRIPT: &str = "create table t(a integer primary key, b text, c real);\n\
        with recursive n(x) as (select 1 union all select x + 1 from n where x < 60000)\n\
        insert into t select x, hex(x * 2654435761 % 1000003), x * 0.5 from n;\n\
        create index i on t(b);\n\
        select count(*), sum(x.c) from t x join t y on x.b = y.b;\n\
        update t set b = b || 'x' where a % 3 = 0;\n\
        delete from t where a % 5 = 0;\n\
        select count(distinct substr(b, 1, 3)), max(length(b)) from t;";
    let mut command = recorder(trace, None)?;
    command.args(["sqlite3", ":memory:", SCRIPT]);
    tools::output(&mut command).map(drop)
}

/// The compiler proper on a file of a thousand functions.
fn cc1(trace: &Path, scratch: &Path) -> anyhow::Result<()> {
    let source = scratch.join("many.c");
    let mut text = String::from("#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n");
    for i in 0..600 {
        text += &format!(
            "struct s{i} {{ int a[{i} + 1]; struct s{i} *next; }};\n\
             static int f{i}(struct s{i} *s, int n) {{ int sum = 0;\n\
             for (int j = 0; j < n && s; j++, s = s->next) sum += s->a[j % ({i} + 1)] * {i};\n\
             if (sum > {i}) printf(\"%d\\n\", sum); return sum + (int)strlen(\"text {i}\"); }}\n\
             int g{i}(void *p) {{ return f{i}(p, {i} % 7) + f{i}(p, {i}); }}\n"
        );
    }
    std::fs::write(&source, text)?;
    let mut command = recorder(trace, Some("cc1"))?;
    command.args(["gcc", "-O2", "-c", "-o"]).arg(scratch.join("many.o")).arg(&source);
    tools::output(&mut command).map(drop)
}

/// Threads that take each other's objects from a queue.
fn python_threads(trace: &Path, _: &Path) -> anyhow::Result<()> {
    const SCRIPT: &str = "import json, queue, sys, threading\n\
        sys.setswitchinterval(0.0002)\n\
        todo, done = queue.Queue(200), queue.Queue()\n\
        def work():\n\
        \x20 while (item := todo.get()) is not None:\n\
        \x20   done.put(json.loads(json.dumps({'n': item, 'list': [str(i) * 3 for i in range(60)]})))\n\
        threads = [threading.Thread(target=work) for _ in range(4)]\n\
        for t in threads: t.start()\n\
        for i in range(5000): todo.put({'number': i, 'text': 'x' * (i % 300)})\n\
        for t in threads: todo.put(None)\n\
        for t in threads: t.join()\n\
        print(sum(len(done.get()) for _ in range(5000)))";
    let mut command = recorder(trace, None)?;
    command.args(["/usr/bin/python3", "-c", SCRIPT]).env("PYTHONMALLOC", "malloc");
    tools::output(&mut command).map(drop)
}

/// A server under a load of mixed commands.
fn redis(trace: &Path, scratch: &Path) -> anyhow::Result<()> {
    let socket = scratch.join("socket");
    let mut server = recorder(trace, None)?;
    server.args(["redis-server", "--port", "0", "--save", "", "--appendonly", "no"]);
    server.arg("--unixsocket").arg(&socket).stdout(Stdio::null()).current_dir(scratch);
    let mut server = Server(server.spawn().context("cannot start redis-server")?);
    let begin = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        ensure!(begin.elapsed() < Duration::from_secs(20), "redis-server does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut load = Command::new("redis-benchmark");
    load.arg("-s").arg(&socket).args(["-q", "-n", "20000", "-r", "5000", "-d", "200", "-P", "8"]);
    tools::output(load.args(["-t", "set,get,incr,lpush,lpop,sadd,hset,zadd,lrange_100"]))?;
    let mut stop = Command::new("redis-cli");
    tools::output(stop.arg("-s").arg(&socket).args(["shutdown", "nosave"]))?;
    ensure!(server.0.wait()?.success(), "redis-server failed");
    Ok(())
}

/// Killed when dropped.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! Programs that developers wait for: g++, git, cargo.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use fastrand::Rng;

use super::{Program, digest, no_inputs, text};
use crate::programs::trial::Trial;

/// g++ on one large file.
pub const GPP: Program = Program {
    name: "g++",
    about: "compiles a file of templates to assembly and to a program, both compared",
    packages: &["g++"],
    quick: true,
    timeout: Duration::from_secs(400),
    prepare: no_inputs,
    run: gpp,
};

fn gpp(trial: &mut Trial) -> Result<String> {
    fs::write(trial.path("large.cpp"), cpp(trial.scale.pick(20, 2)))?;
    let compile = ["-std=c++17", "-O2", "-g", "large.cpp", "-o"];
    trial.run_seen(Command::new("g++").args(compile).args(["large.s", "-S"]), "cc1plus")?;
    trial.run_seen(Command::new("g++").args(compile).arg("large"), "cc1plus")?;
    let files = [trial.path("large.s"), trial.path("large")];
    let digests = digest(trial, &[&files[0], &files[1]])?;
    Ok(digests + &trial.run(&mut Command::new(&files[1]))?)
}

/// A C++ program of `parts` unlike classes, each of which draws in much of the library.
pub(super) fn cpp(parts: u32) -> String {
    let mut source = String::from(
        "#include <algorithm>\n#include <functional>\n#include <iostream>\n#include <map>\n\
         #include <memory>\n#include <numeric>\n#include <regex>\n#include <string>\n\
         #include <tuple>\n#include <unordered_map>\n#include <variant>\n#include <vector>\n\
         template <int N> struct Chain { using Next = Chain<N - 1>;\n\
         static long sum(long x) { return Next::sum(x * 31 + N) ^ N; } };\n\
         template <> struct Chain<0> { static long sum(long x) { return x; } };\n",
    );
    for part in 0..parts {
        let depth = 100 + part;
        let _ = write!(
            source,
            "struct Part{part} {{ int id; std::string name;\n\
             bool operator<(const Part{part}& o) const {{ return std::tie(name, id) < std::tie(o.name, o.id); }} }};\n\
             static long part{part}(long seed) {{\n\
               std::map<Part{part}, std::vector<std::unique_ptr<Part{part}>>> tree;\n\
               std::unordered_map<std::string, std::variant<int, std::string, Part{part}>> table;\n\
               for (int i = 0; i < 50; i++) {{\n\
                 auto name = std::to_string((seed * {part} + i * 7919) % 101);\n\
                 tree[Part{part}{{i % 7, name}}].push_back(std::make_unique<Part{part}>(Part{part}{{i, name}}));\n\
                 if (i % 3) table[name] = i; else table[name] = Part{part}{{i, name}}; }}\n\
               std::vector<std::function<long(long)>> steps;\n\
               for (auto& [key, list] : tree) for (auto& p : list)\n\
                 steps.push_back([&p, id = key.id](long x) {{ return x * 33 + p->id + id; }});\n\
               std::stable_sort(steps.begin(), steps.end(), [](auto& a, auto& b) {{ return a(1) < b(1); }});\n\
               for (auto& [key, v] : table) seed += std::visit([](auto& x) -> long {{ return sizeof x; }}, v);\n\
               return std::accumulate(steps.begin(), steps.end(), Chain<{depth}>::sum(seed),\n\
                 [](long x, auto& f) {{ return f(x); }}) + table.size(); }}\n"
        );
    }
    source.push_str("int main() { long x = 1; for (int i = 0; i < 400; i++) {\n");
    for part in 0..parts {
        let _ = writeln!(source, "x = part{part}(x); if (i % 100 == 0) std::cout << x << '\\n';");
    }
    source.push_str("} return std::regex_match(\"abc\", std::regex(\"[a-c]+\")) ? 0 : 1; }\n");
    source
}

/// git on a repository of its own.
pub const GIT: Program = Program {
    name: "git",
    about: "clone, gc, fsck, log and blame of a generated repository, all objects compared",
    packages: &["git"],
    quick: true,
    timeout: Duration::from_secs(300),
    prepare: |inputs, scale| repository(inputs, scale.pick(1500, 200)),
    run: git,
};

pub(super) fn git(trial: &mut Trial) -> Result<String> {
    let source = trial.inputs.join("source");
    let git = |arguments: &[&str]| {
        let mut command = Command::new("/usr/bin/git");
        command.args(["-c", "safe.directory=*"]).args(arguments);
        command
    };
    trial.run_seen(git(&["clone", "--no-local"]).arg(&source).arg("copy"), "git")?;
    let within = ["-C", "copy", "-c", "pack.threads=4"];
    let mut output = String::new();
    for step in [
        &["gc", "--prune=now"][..],
        &["repack", "-adf", "--depth=50", "--window=20"],
        &["fsck", "--full", "--strict"],
        &["log", "--stat", "--format=%H %an %s"],
        &["blame", "--porcelain", "file-3"],
        &["cat-file", "--batch-all-objects", "--batch-check"],
    ] {
        let said = trial.run(&mut git(&[&within[..], step].concat()))?;
        writeln!(output, "{step:?}\n{said}")?;
    }
    ensure!(output.lines().count() > 500, "git printed too little: {output}");
    Ok(output)
}

/// Commits that each change a few of 200 files.
pub(super) fn repository(inputs: &Path, commits: u64) -> Result<()> {
    let mut numbers = Rng::with_seed(11);
    let mut stream = Vec::new();
    for commit in 0..commits {
        let mut put = |bytes: &[u8]| stream.extend_from_slice(bytes);
        let message = format!("commit {commit}");
        put(format!(
            "commit refs/heads/main\ncommitter A <a@example.org> {} +0000\n",
            1_700_000_000 + commit
        )
        .as_bytes());
        put(format!("data {}\n{message}\n", message.len()).as_bytes());
        for _ in 0..4 {
            let (file, len) = (numbers.u64(..200), 2000 + numbers.u64(..6000) as usize);
            let mut lines = text(file, len);
            lines.extend_from_slice(&text(commit, 400));
            lines.iter_mut().filter(|byte| **byte == b'-').for_each(|byte| *byte = b'\n');
            put(format!("M 100644 inline file-{file}\ndata {}\n", lines.len()).as_bytes());
            put(&lines);
            put(b"\n");
        }
        if commit == 0 {
            put(b"M 100644 inline file-3\ndata 6\nfirst\n\n");
        }
    }
    let (folder, import) = (inputs.join("source"), inputs.join("import"));
    fs::write(&import, stream)?;
    let run = |arguments: &[&str], stdin: Stdio| -> Result<()> {
        let output = Command::new("/usr/bin/git")
            .args(arguments)
            .arg("--quiet")
            .stdin(stdin)
            .current_dir(inputs)
            .output()?;
        ensure!(
            output.status.success(),
            "git {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    };
    run(&["init", "--bare", "--initial-branch=main", "source"], Stdio::null())?;
    let folder = folder.to_string_lossy();
    run(&["-C", &folder, "fast-import"], fs::File::open(import)?.into())
}

/// cargo on a Rust program without dependencies.
pub const CARGO: Program = Program {
    name: "cargo",
    about: "builds a Rust program offline and runs it (rustc itself links jemalloc; cargo, cc, ld do not)",
    packages: &["gcc"],
    quick: false,
    timeout: Duration::from_secs(240),
    prepare: no_inputs,
    run: cargo,
};

fn cargo(trial: &mut Trial) -> Result<String> {
    let modules = trial.scale.pick(40, 8);
    let folder = trial.path("small");
    fs::create_dir_all(folder.join("src"))?;
    fs::write(
        folder.join("Cargo.toml"),
        "[package]\nname = \"small\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n",
    )?;
    let mut main = String::from("fn main() {\n    let mut x = 1;\n    for _ in 0..20 {\n");
    for module in 0..modules {
        fs::write(folder.join(format!("src/part{module}.rs")), rust(module))?;
        main = format!(
            "mod part{module};\n{main}    x = part{module}::run(x);\n    println!(\"{{x}}\");\n"
        );
    }
    fs::write(folder.join("src/main.rs"), main + "}}\n")?;
    // The toolchain's own programs: rustup's stand-ins would have to find its settings.
    let sysroot = tools::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let tool = |name| Path::new(sysroot.trim()).join("bin").join(name);
    let mut build = Command::new(tool("cargo"));
    build.args(["build", "--offline", "--release", "--jobs", "2"]).current_dir(&folder);
    build.env("RUSTC", tool("rustc"));
    trial.run(&mut build)?;
    let program = folder.join("target/release/small");
    let digest = digest(trial, &[&program])?;
    Ok(digest + &trial.run(&mut Command::new(&program))?)
}

fn rust(module: u32) -> String {
    format!(
        "use std::collections::{{BTreeMap, HashMap}};\n\
         #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]\n\
         enum Item {{ One(u64), Text(String), Many(Vec<Item>) }}\n\
         fn make(depth: u64) -> Item {{ match depth % 3 {{\n\
           0 => Item::One(depth), 1 => Item::Text(format!(\"{{depth:x}}\")),\n\
           _ => Item::Many((0..depth % 7).map(|d| make((depth / 2).saturating_sub(d))).collect()) }} }}\n\
         pub fn run(seed: u64) -> u64 {{\n\
           let mut sorted = BTreeMap::new();\n\
           let mut counted: HashMap<Item, u64> = HashMap::new();\n\
           for i in 0..{} {{ let item = make(i * {module} + seed % 13);\n\
             *counted.entry(item.clone()).or_default() += i;\n\
             sorted.insert(item, i); }}\n\
           let text = format!(\"{{sorted:?}}\");\n\
           text.bytes().fold(counted.values().sum(), |x: u64, b| x.wrapping_mul(31) + u64::from(b)) }}\n",
        500 + module
    )
}

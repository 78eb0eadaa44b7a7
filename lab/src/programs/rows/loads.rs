//! The rows of `compare --programs`: the catalogue's exercises with loads of about a second.
//!
//! Read by `compare`. Clients of servers run as tools, without the library, so that the figures are
//! the server's; what would dwarf the program under test is done in `prepare`.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use super::analysis;
use super::build_tools::{cpp, git, repository};
use super::databases::{Postgres, fill_redis, on_redis, sqlite_rows};
use super::languages::script;
use super::servers::{memcached, nginx, pages};
use super::wire::Redis;
use super::{Exercise, Program, digest, no_inputs};
use crate::programs::trial::{Scale, Trial};

/// All of them, in the order of the table.
pub const ALL: &[&Program] = &[
    &row(
        "redis",
        "a known data set, then redis-benchmark, 6 commands",
        &["redis-server", "redis-tools"],
        no_inputs,
        redis,
    ),
    &row(
        "memcached",
        "8 connections set, get, replace and delete",
        &["memcached"],
        no_inputs,
        |trial| memcached(trial, 2500),
    ),
    &row(
        "nginx",
        "files, gzip and a proxy under ab",
        &["nginx-light", "apache2-utils"],
        pages,
        |trial| nginx(trial, 2000),
    ),
    &row(
        "postgres",
        "pgbench with 8 clients, then sorts and joins",
        &["postgresql"],
        database,
        postgres,
    ),
    &row("sqlite3", "inserts, indices, joins, deletes, vacuum", &["sqlite3"], no_inputs, |trial| {
        sqlite_rows(trial, 50_000)
    }),
    &row(
        "rocksdb",
        "db_bench: random fill, random and ordered reads",
        &["rocksdb-tools"],
        no_inputs,
        rocksdb,
    ),
    &row(
        "clickhouse",
        "300,000 rows inserted, grouped, joined, sorted",
        &["clickhouse-server", "gcc"],
        analysis::without_jemalloc,
        analysis::clickhouse,
    ),
    &row(
        "python3",
        "trees, json, regular expressions; small objects by Python's own allocator",
        &["python3"],
        no_inputs,
        |trial| python(trial, "pymalloc"),
    ),
    &row("python3-malloc", "the same with PYTHONMALLOC=malloc", &["python3"], no_inputs, |trial| {
        python(trial, "malloc")
    }),
    &row(
        "numpy",
        "arrays of many sizes sorted, grouped, transformed, on python3",
        &["python3-numpy"],
        no_inputs,
        analysis::numpy,
    ),
    &row(
        "node-sharp",
        "pictures scaled, turned and packed by a native add-on",
        &["nodejs"],
        analysis::with_sharp,
        analysis::sharp,
    ),
    &row(
        "perl",
        "hashes, regular expressions, sorting, threads, fork",
        &["perl"],
        no_inputs,
        |trial| {
            script(
                trial,
                "/usr/bin/perl",
                "work.pl",
                include_str!("../scripts/work.pl"),
                &["45000"],
            )
        },
    ),
    &row(
        "lua",
        "tables, strings, coroutines under three collector settings",
        &["lua5.4"],
        no_inputs,
        |trial| {
            script(trial, "lua5.4", "work.lua", include_str!("../scripts/work.lua"), &["100000"])
        },
    ),
    &row("gcc", "one file of 220 functions to assembly", &["gcc"], no_inputs, gcc),
    &row("g++", "one file of templates to assembly", &["g++"], no_inputs, gpp),
    &row(
        "git",
        "clone, gc, repack, fsck, log, blame of 500 commits",
        &["git"],
        |inputs, _| repository(inputs, 500),
        git,
    ),
    &row(
        "ghostscript",
        "10 pages of curves and text to pictures",
        &["ghostscript"],
        postscript,
        ghostscript,
    ),
];

const fn row(
    name: &'static str,
    about: &'static str,
    packages: &'static [&'static str],
    prepare: fn(&Path, Scale) -> Result<()>,
    run: Exercise,
) -> Program {
    Program { name, about, packages, quick: false, timeout: Duration::from_secs(60), prepare, run }
}

fn redis(trial: &mut Trial) -> Result<String> {
    on_redis(trial, |trial, socket| {
        let mut redis = Redis::connect(socket)?;
        fill_redis(&mut redis, 10_000)?;
        let digest = redis.ask(&[b"DEBUG", b"DIGEST"])?;
        trial.tool(
            Command::new("redis-benchmark")
                .arg("-s")
                .arg(socket)
                .args(["--dbnum", "1", "-q", "-r", "10000", "-n", "60000", "-c", "20", "-P", "16"])
                .args(["-d", "200", "-t", "set,get,lpush,sadd,hset,zadd"]),
        )?;
        let list = redis.ask(&[b"SELECT", b"1"]).and_then(|_| redis.ask(&[b"LLEN", b"mylist"]))?;
        ensure!(list == b"60000", "the list has {} items", String::from_utf8_lossy(&list));
        redis.ask(&[b"FLUSHDB"])?;
        redis.ask(&[b"SELECT", b"0"])?;
        ensure!(digest == redis.ask(&[b"DEBUG", b"DIGEST"])?, "the data set was changed");
        Ok(String::from_utf8(digest)?)
    })
}

/// An empty database, to be copied.
fn database(inputs: &Path, _: Scale) -> Result<()> {
    let postgres = Postgres::new(inputs.join("postgres"))?;
    tools::output(&mut postgres.init()).map(drop)
}

fn postgres(trial: &mut Trial) -> Result<String> {
    let postgres = Postgres::new(trial.path("postgres"))?;
    let empty = trial.inputs.join("postgres/data");
    trial.tool(Command::new("cp").arg("-a").arg(empty).arg(postgres.data()))?;
    postgres.under_load(trial, 150, Trial::tool)
}

fn rocksdb(trial: &mut Trial) -> Result<String> {
    let mut bench = Command::new("db_bench");
    bench.args(["--benchmarks=fillrandom,readrandom,readseq", "--num=60000", "--value_size=400"]);
    bench.args(["--seed=7", "--threads=1", "--write_buffer_size=8388608", "--cache_size=8388608"]);
    bench.args(["--compression_type=none", "--disable_wal=true"]).arg("--db").arg(trial.path("db"));
    let said = trial.run(&mut bench)?;
    // The keys are drawn from the seed: how many are met is always the same.
    let found = said.lines().find_map(|line| line.strip_prefix("readrandom")?.split_once('('));
    let (_, found) = found.with_context(|| format!("db_bench found no keys: {said}"))?;
    ensure!(found.contains(" of 60000 found"), "db_bench: {found}");
    Ok(found.to_owned())
}

fn python(trial: &mut Trial, allocator: &str) -> Result<String> {
    fs::write(trial.path("work.py"), include_str!("../scripts/work.py"))?;
    let mut python = Command::new("/usr/bin/python3");
    python.args(["work.py", "25"]).env("PYTHONHASHSEED", "0");
    let output = trial.run(python.env("PYTHONMALLOC", allocator))?;
    ensure!(output.lines().count() == 75, "work.py printed too little: {output}");
    Ok(output)
}

fn gcc(trial: &mut Trial) -> Result<String> {
    fs::write(trial.path("large.c"), c(220))?;
    let mut gcc = Command::new("gcc");
    trial.run_seen(gcc.args(["-O1", "-g", "-S", "large.c", "-o", "large.s"]), "cc1")?;
    digest(trial, &[&trial.path("large.s")])
}

/// A C program of `parts` unlike functions.
fn c(parts: u64) -> String {
    let mut source = String::from("struct S { int a, b; struct S *next; long v[4]; };\n");
    let mut numbers = Rng::with_seed(3);
    for part in 0..parts {
        let [a, b, d] = [7, 31, 97].map(|bound| 1 + numbers.u64(..bound));
        let _ = write!(
            source,
            "static long part{part}(struct S *s, long x) {{ long r = x;\n\
               for (int i = 0; i < {b}; i++) {{ s->v[i & 3] += x * {a} + i; r ^= s->v[(i + {a}) & 3];\n\
                 if (r % {d} == {a}) {{ s->a = i; r += s->next ? s->next->b : {part}; }}\n\
                 switch ((r >> 3) & 7) {{ "
        );
        for case in 0..numbers.u64(..8) {
            let _ =
                write!(source, "case {case}: r = r * {} + s->v[{}]; break; ", case + a, case & 3);
        }
        let _ = write!(source, "default: r -= s->b; }} }}\n  return r; }}\n");
    }
    source.push_str("long all(struct S *s, long x) {\n");
    for part in 0..parts {
        let _ = writeln!(source, "x = part{part}(s, x);");
    }
    source + "return x; }\n"
}

fn gpp(trial: &mut Trial) -> Result<String> {
    fs::write(trial.path("large.cpp"), cpp(1))?;
    let mut gpp = Command::new("g++");
    gpp.args(["-std=c++17", "-O0", "-g", "-S", "large.cpp", "-o", "large.s"]);
    trial.run_seen(&mut gpp, "cc1plus")?;
    digest(trial, &[&trial.path("large.s")])
}

fn postscript(inputs: &Path, _: Scale) -> Result<()> {
    let mut numbers = Rng::with_seed(5);
    let mut source = String::from("%!PS-Adobe-3.0\n");
    for page in 0..PAGES {
        let _ = writeln!(source, "/Times-Roman findfont {} scalefont setfont", 8 + page % 9);
        for line in 0..60 {
            let at = 780 - 12 * line;
            let _ = writeln!(
                source,
                "40 {at} moveto (page {page} line {line}: {:x}{:x}) show",
                numbers.u64(..),
                numbers.u64(..)
            );
        }
        for _ in 0..300 {
            let [x, y, u, v, s, t] =
                [600, 800, 600, 800, 600, 800].map(|bound| numbers.u64(..bound));
            let grey = numbers.u64(..10);
            let _ = writeln!(
                source,
                "0.{grey} setgray {x} {y} moveto {u} {v} {s} {t} {y} {x} curveto stroke"
            );
        }
        source.push_str("showpage\n");
    }
    Ok(fs::write(inputs.join("pages.ps"), source)?)
}

/// Pages that ghostscript draws.
const PAGES: u64 = 10;

fn ghostscript(trial: &mut Trial) -> Result<String> {
    let mut gs = Command::new("gs");
    gs.args(["-q", "-dNOPAUSE", "-dBATCH", "-sDEVICE=pnggray", "-r72", "-dTextAlphaBits=4"]);
    gs.args(["-dGraphicsAlphaBits=4", "-sOutputFile=page-%d.png"]);
    trial.run(gs.arg(trial.inputs.join("pages.ps")))?;
    let pages: Vec<_> = (1..=PAGES).map(|page| trial.path(&format!("page-{page}.png"))).collect();
    digest(trial, &pages.iter().map(AsRef::as_ref).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = ALL.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}

//! Databases: redis, PostgreSQL, sqlite3.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fastrand::Rng;

use super::wire::{Redis, expect};
use super::{Program, no_inputs, text};
use crate::programs::trial::Trial;

/// redis-server under redis-benchmark.
pub const REDIS: Program = Program {
    name: "redis",
    about: "a known data set under redis-benchmark and BGSAVE, every value and the digest checked",
    packages: &["redis-server", "redis-tools"],
    quick: true,
    timeout: Duration::from_secs(180),
    prepare: no_inputs,
    run: redis,
};

fn redis(trial: &mut Trial) -> Result<String> {
    on_redis(trial, redis_load)
}

/// Starts a server, puts `load` on it, and stops it.
pub(super) fn on_redis(
    trial: &mut Trial,
    load: fn(&mut Trial, &Path) -> Result<String>,
) -> Result<String> {
    let socket = trial.path("redis.sock");
    let mut start = Command::new("redis-server");
    // Lazy: another thread frees. No io-threads: they spin, for minutes on a busy machine.
    start.args([
        "--port",
        "0",
        "--save",
        "",
        "--lazyfree-lazy-user-del",
        "yes",
        "--lazyfree-lazy-user-flush",
        "yes",
        "--enable-debug-command",
        "local",
    ]);
    start.arg("--unixsocket").arg(&socket);
    let server = trial.serve(&mut start, || {
        Redis::connect(&socket).is_ok_and(|mut redis| redis.ask(&[b"PING"]).is_ok())
    })?;
    let output = load(trial, &socket).map_err(|error| trial.blame(&server, error))?;
    trial.stop(server, libc::SIGTERM)?;
    Ok(output)
}

fn redis_load(trial: &mut Trial, socket: &Path) -> Result<String> {
    let keys = trial.scale.pick(20_000, 4_000);
    let mut redis = Redis::connect(socket)?;
    fill_redis(&mut redis, keys)?;
    let requests = trial.scale.pick("200000", "30000");
    let tests = "set,get,incr,lpush,rpop,sadd,hset,spop,zadd,lrange_100,mset";
    trial.run(
        Command::new("redis-benchmark")
            .arg("-s")
            .arg(socket)
            .args(["--dbnum", "1", "-q", "-r", "10000"])
            .args(["-n", requests, "-c", "20", "-P", "16", "-d", "100", "-t", tests]),
    )?;
    redis.ask(&[b"BGSAVE"])?;
    // Written while the forked child saves: every second value is replaced, every fourth deleted.
    for key in (0..keys).step_by(2) {
        redis.pipe(&[set(key, 1)])?;
        if key % 4 == 0 {
            redis.ask(&[b"DEL", format!("key:{key}").as_bytes()])?;
        }
    }
    while info(&mut redis, "rdb_bgsave_in_progress")? == "1" {
        ensure!(!trial.time_left().is_zero(), "BGSAVE does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
    let saved = info(&mut redis, "rdb_last_bgsave_status")?;
    ensure!(saved == "ok", "BGSAVE: {saved}");
    redis.ask(&[b"SELECT", b"1"])?;
    redis.ask(&[b"FLUSHDB"])?;
    redis.ask(&[b"SELECT", b"0"])?;
    let before = redis.ask(&[b"DEBUG", b"DIGEST"])?;
    redis.ask(&[b"DEBUG", b"RELOAD"])?;
    expect("the digest after a reload", &before, &redis.ask(&[b"DEBUG", b"DIGEST"])?)?;
    for key in 0..keys {
        let name = format!("key:{key}");
        let want =
            if key % 4 == 0 { b"(nil)".to_vec() } else { value(key, u64::from(key % 2 == 0)) };
        expect(&name, &want, &redis.ask(&[b"GET", name.as_bytes()])?)?;
    }
    Ok(String::from_utf8(before)?)
}

/// Puts a known data set into database 0: `keys` strings, and as many members of each other type.
pub(super) fn fill_redis(redis: &mut Redis, keys: u64) -> Result<()> {
    for batch in 0..keys / 100 {
        let range = batch * 100..(batch + 1) * 100;
        redis.pipe(&range.clone().map(|key| set(key, 0)).collect::<Vec<_>>())?;
        let other = range.flat_map(|key| {
            let (field, item) = (format!("f{key}"), format!("item {key}"));
            ["HSET hash", "ZADD sorted", "RPUSH list", "SADD set"].map(|command| {
                let mut words: Vec<Vec<u8>> = command.split(' ').map(Into::into).collect();
                match command {
                    "HSET hash" => words.push(field.clone().into()),
                    "ZADD sorted" => words.push(key.to_string().into()),
                    _ => (),
                }
                words.push(item.clone().into());
                words
            })
        });
        redis.pipe(&other.collect::<Vec<_>>())?;
    }
    Ok(())
}

/// What is stored under a key.
fn value(key: u64, version: u64) -> Vec<u8> {
    text(key * 31 + version, 1 + (Rng::with_seed(key).u64(..2000) as usize))
}

fn set(key: u64, version: u64) -> Vec<Vec<u8>> {
    vec![b"SET".to_vec(), format!("key:{key}").into(), value(key, version)]
}

fn info(redis: &mut Redis, field: &str) -> Result<String> {
    let all = String::from_utf8(redis.ask(&[b"INFO"])?)?;
    let value = all.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    Ok(value.unwrap_or_default().to_owned())
}

/// sqlite3 with integrity_check.
pub const SQLITE: Program = Program {
    name: "sqlite3",
    about: "inserts, indices, joins, deletes, vacuum; integrity_check and a dump compared",
    packages: &["sqlite3"],
    quick: true,
    timeout: Duration::from_secs(180),
    prepare: no_inputs,
    run: sqlite,
};

fn sqlite(trial: &mut Trial) -> Result<String> {
    let rows = trial.scale.pick(200_000, 20_000);
    sqlite_rows(trial, rows)
}

/// The exercise on a table of `rows` rows.
pub(super) fn sqlite_rows(trial: &mut Trial, rows: u32) -> Result<String> {
    let script = format!(
        "PRAGMA journal_mode=wal;
         CREATE TABLE t(id INTEGER PRIMARY KEY, a INTEGER, b TEXT, c BLOB);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {rows})
           INSERT INTO t SELECT i, (i*7919)%10007, printf('%0*d', 10+i%90, i), zeroblob(i%300) FROM n;
         CREATE INDEX t_a ON t(a, b);
         CREATE INDEX t_b ON t(b);
         UPDATE t SET b = b || '-' || a WHERE a % 3 = 0;
         DELETE FROM t WHERE a % 5 = 0;
         CREATE TABLE g AS SELECT a, count(*) n, group_concat(id) ids, sum(length(b)) l FROM t GROUP BY a;
         SELECT count(*), sum(a), sum(length(b)), sum(length(c)) FROM t;
         SELECT count(*), sum(x.id + y.id) FROM t x JOIN t y ON x.a = y.a WHERE x.id % 37 = 0;
         SELECT a, n, l, length(ids), hex(substr(ids, 1, 20)) FROM g ORDER BY l DESC, a LIMIT 2000;
         SELECT json_group_array(json_object('a', a, 'n', n)) FROM g;
         PRAGMA integrity_check;
         VACUUM;
         PRAGMA integrity_check;
         SELECT id, a, b FROM t WHERE id % 11 = 0 ORDER BY b;"
    );
    fs::write(trial.path("script.sql"), script)?;
    let output = trial.run(Command::new("sqlite3").args(["data.db", ".read script.sql"]))?;
    let checks = output.lines().filter(|line| *line == "ok").count();
    ensure!(checks == 2, "integrity_check said ok {checks} times of 2");
    Ok(output)
}

/// PostgreSQL under pgbench.
pub const POSTGRES: Program = Program {
    name: "postgres",
    about: "initdb, pgbench with 8 clients, balances that must agree, queries compared",
    packages: &["postgresql"],
    quick: false,
    timeout: Duration::from_secs(240),
    prepare: no_inputs,
    run: postgres,
};

fn postgres(trial: &mut Trial) -> Result<String> {
    let postgres = Postgres::new(trial.path("postgres"))?;
    trial.run(&mut postgres.init())?;
    let transactions = trial.scale.pick(1500, 200);
    postgres.under_load(trial, transactions, Trial::run)
}

/// How a client of a server is run: under test or not.
type Client = fn(&mut Trial, &mut Command) -> Result<String>;

/// A PostgreSQL in a folder of its own.
pub(super) struct Postgres {
    account: Account,
    home: PathBuf,
}

impl Postgres {
    /// Makes the folder.
    pub fn new(home: PathBuf) -> Result<Postgres> {
        let account = Account::for_server()?;
        fs::create_dir(&home)?;
        account.give(&home)?;
        Ok(Postgres { account, home })
    }

    /// What makes an empty database.
    pub fn init(&self) -> Command {
        let mut init = self.command("initdb");
        init.args(["--auth=trust", "--username=postgres", "--no-sync", "-D"]).arg(self.data());
        init
    }

    /// Where the database lies.
    pub fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    /// Starts a server, lets `client`s put `transactions` by 8 connections and queries on it, and
    /// stops it.
    pub fn under_load(
        &self,
        trial: &mut Trial,
        transactions: u32,
        client: Client,
    ) -> Result<String> {
        let mut start = self.command("postgres");
        start.arg("-D").arg(self.data()).arg("-k").arg(&self.home);
        for setting in
            ["listen_addresses=", "fsync=off", "shared_buffers=64MB", "work_mem=1MB", "jit=off"]
        {
            start.args(["-c", setting]);
        }
        let probe =
            || self.command("pg_isready").output().is_ok_and(|output| output.status.success());
        let server = trial.serve(&mut start, probe)?;
        let output =
            self.load(trial, transactions, client).map_err(|error| trial.blame(&server, error))?;
        // SIGINT: fast shutdown, which waits for no client.
        trial.stop(server, libc::SIGINT)?;
        Ok(output)
    }

    fn load(&self, trial: &mut Trial, transactions: u32, client: Client) -> Result<String> {
        client(trial, self.command("pgbench").args(["-i", "-q", "-s", "3"]))?;
        let count = transactions.to_string();
        client(
            trial,
            self.command("pgbench")
                .args(["-n", "-c", "8", "-j", "2", "-M", "prepared", "-t", &count]),
        )?;
        let mut ask =
            |query: &str| client(trial, self.command("psql").args(["-X", "-A", "-t", "-c", query]));
        let sums = ask(
            "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = sum(delta),
                (SELECT sum(bbalance) FROM pgbench_branches) = sum(delta),
                (SELECT sum(tbalance) FROM pgbench_tellers) = sum(delta), count(*) FROM pgbench_history",
        )?;
        let want = format!("t|t|t|{}", 8 * transactions);
        ensure!(sums.trim() == want, "balances: {} instead of {want}", sums.trim());
        let rows = ask(
            "CREATE TABLE t AS SELECT i, (i * 7919) % 10007 AS a, md5(i::text) AS b FROM generate_series(1, 200000) i;
         CREATE INDEX ON t(a, b); ANALYZE t;
         SELECT md5(string_agg(b, ',' ORDER BY b DESC)), count(DISTINCT a), sum(a) FROM t;
         SELECT md5(string_agg(x, ',' ORDER BY a)) FROM (SELECT a, string_agg(b, '' ORDER BY i) x FROM t GROUP BY a) g;
         SELECT md5(jsonb_agg(jsonb_build_object(b, a) ORDER BY i)::text) FROM t WHERE i % 7 = 0;
         SELECT count(*) FROM t x JOIN t y USING (a) WHERE x.b < y.b AND x.b ~ '^[0-7]+a'",
        )?;
        Ok(sums + &rows)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(format!("/usr/lib/postgresql/15/bin/{program}"));
        command
            .env("PGHOST", &self.home)
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .current_dir(&self.home);
        self.account.take(&mut command);
        command
    }
}

/// The user that PostgreSQL runs as: it refuses root.
struct Account(Option<(u32, u32)>);

impl Account {
    fn for_server() -> Result<Account> {
        // SAFETY: geteuid has no preconditions.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(Account(None));
        }
        let users = fs::read_to_string("/etc/passwd")?;
        let entry = users.lines().find_map(|line| line.strip_prefix("postgres:"));
        let mut fields =
            entry.context("no user postgres: reinstall postgresql-common")?.split(':').skip(1);
        let mut id = || fields.next().unwrap_or_default().parse::<u32>();
        Ok(Account(Some((id()?, id()?))))
    }

    fn take(&self, command: &mut Command) {
        if let Account(Some((user, group))) = *self {
            command.uid(user).gid(group);
        }
    }

    fn give(&self, folder: &Path) -> Result<()> {
        let Account(Some((user, group))) = *self else { return Ok(()) };
        Ok(std::os::unix::fs::chown(folder, Some(user), Some(group))?)
    }
}

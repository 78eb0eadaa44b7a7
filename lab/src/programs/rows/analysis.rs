//! Programs that compute on columns, arrays and pictures: ClickHouse, python with numpy, node with a native add-on.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::servers::free_address;
use super::wire::post;
use crate::programs::trial::{Scale, Trial};

/// Rows of the table that ClickHouse aggregates.
const VISITS: u64 = 300_000;

/// What ClickHouse is asked: sums are of whole numbers and eighths, lists are sorted, so that threads change nothing.
const QUERIES: [&str; 6] = [
    "SELECT count(), uniqExact(user), uniqExact(page), sum(length(words)), sum(took) FROM visits",
    "SELECT user, count() AS n, arraySlice(arraySort(groupArray(page)), 1, 3), quantileExact(0.9)(took) \
     FROM visits GROUP BY user ORDER BY n DESC, user LIMIT 50",
    "SELECT word, count() AS n, uniqExact(user) FROM visits ARRAY JOIN words AS word \
     GROUP BY word ORDER BY n DESC, word LIMIT 50",
    "SELECT page, n, m FROM (SELECT page, count() AS n FROM visits GROUP BY page) ANY INNER JOIN \
     (SELECT page, max(took) AS m FROM visits WHERE page LIKE '%q=7%' GROUP BY page) USING page \
     ORDER BY n DESC, page LIMIT 50",
    "SELECT id, page FROM visits ORDER BY reverse(page), id LIMIT 50",
    "SELECT id % 8 AS part, sum(cityHash64(page, toString(words))) FROM visits GROUP BY part ORDER BY part",
];

/// A library in the place of jemalloc, which Debian's ClickHouse is linked with: the C library's malloc and C++'s new
/// are then what it runs on, and any allocator can be preloaded.
pub(super) fn without_jemalloc(inputs: &Path, _: Scale) -> Result<()> {
    let source = inputs.join("mallctl.c");
    // 2 is ENOENT: no such setting.
    fs::write(&source, "int mallctl(void) { return 2; }\n")?;
    let mut cc = Command::new("gcc");
    cc.args(["-shared", "-fPIC", "-Wl,-soname,libjemalloc.so.2", "-o"]);
    tools::output(cc.arg(inputs.join("libjemalloc.so.2")).arg(source)).map(drop)
}

/// A server whose table is filled and asked.
pub(super) fn clickhouse(trial: &mut Trial) -> Result<String> {
    let address = free_address()?;
    let (folder, port) = (trial.folder.display().to_string(), address.port());
    fs::write(
        trial.path("config.xml"),
        format!(
            "<yandex><logger><level>warning</level><console>1</console></logger>\
             <http_port>{port}</http_port><listen_host>127.0.0.1</listen_host>\
             <path>{folder}/data/</path><tmp_path>{folder}/data/tmp/</tmp_path>\
             <mark_cache_size>67108864</mark_cache_size><users_config>users.xml</users_config>\
             <default_profile>default</default_profile><default_database>default</default_database></yandex>"
        ),
    )?;
    fs::write(
        trial.path("users.xml"),
        "<yandex><profiles><default><max_threads>2</max_threads></default></profiles>\
         <users><default><password></password><networks><ip>127.0.0.1</ip></networks>\
         <profile>default</profile><quota>default</quota></default></users>\
         <quotas><default></default></quotas></yandex>",
    )?;
    let mut start = Command::new("clickhouse-server");
    start.arg(format!("--config-file={folder}/config.xml"));
    start.env("LD_LIBRARY_PATH", &trial.inputs);
    let server = trial.serve(&mut start, || ask(address, "SELECT 1").is_ok())?;
    let output = aggregate(address).map_err(|error| trial.blame(&server, error))?;
    // Debian's 18.16 often aborts when it is told to end, without a library too.
    trial.kill(server)?;
    Ok(output)
}

fn aggregate(address: SocketAddr) -> Result<String> {
    ask(
        address,
        "CREATE TABLE visits (id UInt64, user UInt32, page String, words Array(String), took Float64) \
         ENGINE = MergeTree ORDER BY (user, id)",
    )?;
    let insert = format!(
        "INSERT INTO visits SELECT number, intHash32(number) % 40000, \
         concat('/path/', toString(intHash64(number) % 9000), '?q=', toString(number % 77)), \
         splitByChar(' ', concat(toString(number % 13), ' a', toString(number % 101), ' bc', \
         toString(intHash32(number) % 1009))), (intHash64(number) % 100000) / 8 \
         FROM system.numbers LIMIT {VISITS}"
    );
    ask(address, &insert)?;
    let answers = QUERIES.iter().map(|query| ask(address, query)).collect::<Result<Vec<_>>>()?;
    let lines: Vec<_> = answers.iter().map(|answer| answer.lines().count()).collect();
    ensure!(lines == [1, 50, 50, 50, 50, 8], "ClickHouse answered with {lines:?} lines");
    let counted = answers[0].split('\t').next().unwrap_or_default();
    ensure!(counted == VISITS.to_string(), "ClickHouse counts {counted} of {VISITS} rows");
    Ok(answers.concat())
}

fn ask(address: SocketAddr, query: &str) -> Result<String> {
    String::from_utf8(post(address, "/", query)?).context("ClickHouse answered what is not text")
}

/// numpy on arrays of many sizes.
pub(super) fn numpy(trial: &mut Trial) -> Result<String> {
    fs::write(trial.path("arrays.py"), include_str!("../scripts/arrays.py"))?;
    let mut python = Command::new("/usr/bin/python3");
    python.args(["arrays.py", "60"]).env("PYTHONHASHSEED", "0").env("OPENBLAS_NUM_THREADS", "1");
    let output = trial.run(&mut python)?;
    ensure!(output.ends_with("60 rounds\n"), "arrays.py printed too little: {output}");
    Ok(output)
}

/// The version of sharp, an add-on for node that brings libvips; npm installs it with its library.
const SHARP: &str = "sharp@0.35.5";

/// sharp, fetched by npm the first time and kept in the build folder.
pub(super) fn with_sharp(inputs: &Path, _: Scale) -> Result<()> {
    let kept = tools::release_dir()?.with_file_name("npm").join(SHARP);
    let module: PathBuf = kept.join("node_modules");
    if !module.join("sharp").is_dir() {
        if !tools::has("npm") {
            tools::apt_install(&["npm"])?;
        }
        eprintln!("fetching {SHARP}");
        fs::create_dir_all(&kept)?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"]);
        tools::output(npm.arg("--prefix").arg(&kept).arg(SHARP))
            .with_context(|| format!("npm cannot install {SHARP}"))?;
    }
    Ok(std::os::unix::fs::symlink(module, inputs.join("node_modules"))?)
}

/// node with pictures that sharp scales, turns, packs and unpacks, several at once.
pub(super) fn sharp(trial: &mut Trial) -> Result<String> {
    let script = trial.path("pictures.js");
    fs::write(&script, include_str!("../scripts/pictures.js"))?;
    let mut node = Command::new("node");
    node.arg(script).arg("24").env("NODE_PATH", trial.inputs.join("node_modules"));
    let output = trial.run(&mut node)?;
    ensure!(output.lines().count() == 24, "pictures.js printed too little: {output}");
    Ok(output)
}

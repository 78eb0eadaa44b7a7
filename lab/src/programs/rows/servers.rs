//! Servers under load: nginx, memcached.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::wire::{Cache, expect, get_page};
use super::{Program, no_inputs, text};
use crate::programs::trial::{Scale, Trial};

/// nginx under ab.
pub const NGINX: Program = Program {
    name: "nginx",
    about: "files, gzip and a proxy under ab; every page compared",
    packages: &["nginx-light", "apache2-utils"],
    quick: false,
    timeout: Duration::from_secs(120),
    prepare: pages,
    run: |trial| nginx(trial, trial.scale.pick(20_000, 3_000)),
};

const PAGES: u64 = 40;

/// Request headers: one that asks for compressed pages, and one that changes nothing.
const GZIP: (&str, &str) = ("Accept-Encoding", "gzip");
const NO_HEADER: (&str, &str) = ("A", "b");

pub(super) fn pages(inputs: &Path, _: Scale) -> Result<()> {
    for page in 0..PAGES {
        fs::write(
            inputs.join(format!("{page}.txt")),
            text(page, 100 + (page * page * 300) as usize),
        )?;
    }
    Ok(())
}

/// The exercise with so many requests for each way to a page.
pub(super) fn nginx(trial: &mut Trial, requests: u32) -> Result<String> {
    let address = free_address()?;
    // SAFETY: geteuid has no preconditions.
    let user = if unsafe { libc::geteuid() } == 0 { "user root;" } else { "" };
    let (root, run) = (trial.inputs.display(), trial.folder.display());
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {run}/{name};"))
        .join(" ");
    let configuration = format!(
        "daemon off; {user} worker_processes 2; pid {run}/nginx.pid; error_log stderr error;
         events {{ worker_connections 512; }}
         http {{ {temporary} access_log {run}/access.log; root {root};
           gzip_types text/plain; gzip_http_version 1.0; gzip_min_length 50;
           server {{ listen {address}; location / {{ }}
             location /packed/ {{ alias {root}/; gzip on; }}
             location /passed/ {{ proxy_pass http://{address}/; proxy_buffers 8 4k; }} }} }}"
    );
    fs::write(trial.path("nginx.conf"), configuration)?;
    let mut start = Command::new("nginx");
    start
        .arg("-p")
        .arg(&trial.folder)
        .arg("-c")
        .arg(trial.path("nginx.conf"))
        .args(["-e", "stderr"]);
    let server = trial.serve(&mut start, || get_page(address, "/0.txt", NO_HEADER).is_ok())?;
    let output =
        nginx_load(trial, address, requests).map_err(|error| trial.blame(&server, error))?;
    trial.stop(server, libc::SIGQUIT)?;
    Ok(output)
}

fn nginx_load(trial: &mut Trial, address: SocketAddr, requests: u32) -> Result<String> {
    for (path, (name, value)) in [("", NO_HEADER), ("packed/", GZIP), ("passed/", NO_HEADER)] {
        let header = format!("{name}: {value}");
        let url = format!("http://{address}/{path}7.txt");
        let count = requests.to_string();
        let said = trial.tool(
            Command::new("ab").args(["-q", "-k", "-c", "32", "-n", &count, "-H", &header, &url]),
        )?;
        let figure = |name: &str| {
            said.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        let complete = figure("Complete requests:").context("ab gave no count")?;
        ensure!(complete == count, "ab {url}: {complete} of {count} requests answered");
        let failed = (figure("Failed requests:"), figure("Non-2xx responses:"));
        ensure!(failed == (Some("0".into()), None), "ab {url}: failed requests {failed:?}");
    }
    for page in 0..PAGES {
        let name = format!("{page}.txt");
        let want = fs::read(trial.inputs.join(&name))?;
        expect(&name, &want, &get_page(address, &format!("/{name}"), NO_HEADER)?)?;
        expect(&name, &want, &get_page(address, &format!("/passed/{name}"), NO_HEADER)?)?;
        let packed = get_page(address, &format!("/packed/{name}"), GZIP)?;
        ensure!(packed.starts_with(&[0x1f, 0x8b]), "{name} came back without gzip");
        let file = trial.path(&format!("{name}.gz"));
        fs::write(&file, packed)?;
        let plain = trial.tool(Command::new("gzip").arg("-dc").arg(&file))?;
        expect(&name, &want, plain.as_bytes())?;
    }
    Ok(format!("{PAGES} pages in three ways, {requests} requests each"))
}

/// memcached with values verified.
pub const MEMCACHED: Program = Program {
    name: "memcached",
    about: "8 connections that set, get, replace and delete; every value verified",
    packages: &["memcached"],
    quick: true,
    timeout: Duration::from_secs(120),
    prepare: no_inputs,
    run: |trial| memcached(trial, trial.scale.pick(10_000, 1_500)),
};

/// The exercise with so many keys for each connection.
pub(super) fn memcached(trial: &mut Trial, keys: u64) -> Result<String> {
    let address = free_address()?;
    let mut start = Command::new("memcached");
    start.args([
        "-l",
        "127.0.0.1",
        "-p",
        &address.port().to_string(),
        "-U",
        "0",
        "-m",
        "512",
        "-t",
        "4",
    ]);
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } == 0 {
        start.args(["-u", "root"]);
    }
    let server = trial.serve(&mut start, || Cache::connect(address).is_ok())?;
    let output = cache_load(address, keys).map_err(|error| trial.blame(&server, error))?;
    trial.stop(server, libc::SIGTERM)?;
    Ok(output)
}

/// Eight connections that each write, change and verify `keys` values of their own.
pub fn cache_load(address: SocketAddr, keys: u64) -> Result<String> {
    let connection = |own: u64| -> Result<u64> {
        let mut cache = Cache::connect(address)?;
        let value = |key: u64, version: u64| {
            text(own * 1_000_003 + key * 7 + version, 1 + (key * 7919 % 6000) as usize)
        };
        let name = |key: u64| format!("{own}:{key}");
        let mut verified = 0;
        for key in 0..keys {
            cache.set(&name(key), &value(key, 0))?;
            let earlier = key / 2;
            expect(
                &name(earlier),
                &value(earlier, 0),
                &cache.get(&name(earlier))?.unwrap_or_default(),
            )?;
            verified += 1;
        }
        for key in (0..keys).step_by(3) {
            cache.set(&name(key), &value(key + 1, 1))?;
        }
        for key in (0..keys).step_by(5) {
            cache.delete(&name(key))?;
        }
        for key in 0..keys {
            let want = match key {
                key if key % 5 == 0 => None,
                key if key % 3 == 0 => Some(value(key + 1, 1)),
                key => Some(value(key, 0)),
            };
            let got = cache.get(&name(key))?;
            ensure!(
                got.is_some() == want.is_some(),
                "{}: there {}, not as left",
                name(key),
                got.is_some()
            );
            expect(&name(key), &want.unwrap_or_default(), &got.unwrap_or_default())?;
            verified += 1;
        }
        Ok(verified)
    };
    let verified: Result<Vec<u64>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|own| scope.spawn(move || connection(own))).collect();
        threads.into_iter().map(|thread| thread.join().expect("clients do not panic")).collect()
    });
    Ok(format!("{} values verified", verified?.iter().sum::<u64>()))
}

/// A loopback address that was free a moment ago.
pub fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

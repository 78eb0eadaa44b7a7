//! What a profile says, against exact counts of the same run: each caller of malloc with more than 1 % of the bytes lies within
//! the error that sampling has.

mod command_line;

use command_line::*;
use common::{compile, library, preload, scratch};
use rsalloc_pprof::Profile;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

const INTERVAL: u64 = 1024;

/// How far a sum of `exact` bytes may be off. Exceeded by chance with a probability of at most 1e-9: Bernstein's inequality, where
/// an object of s bytes, which counts s / p with p = 1 - exp(-s / interval), is off by at most an interval and has a
/// variance of s * s * (1 - p) / p, less than s * interval. At most 100 callers have 1 % of the bytes each, of two kinds in three
/// programs: all in all below 1e-6.
fn allowed(exact: f64) -> f64 {
    let (log, interval) = ((2.0f64 / 1e-9).ln(), INTERVAL as f64);
    let linear = log * interval / 3.0;
    linear + (linear * linear + 2.0 * log * exact * interval).sqrt()
}

/// What one caller allocated, and still holds: objects and bytes each.
type Counts = [u64; 4];

/// The counts by caller, from the file that tests/profiled/exact.c keeps.
fn exact(file: &Path) -> HashMap<u64, Counts> {
    let bytes = std::fs::read(file).unwrap();
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect();
    let sites = words.chunks_exact(5).filter(|site| site[0] != 0);
    sites.map(|site| (site[0], [site[1], site[2], site[3], site[4]])).collect()
}

/// The same as the profile has it: by the caller of the library that counts.
fn sampled(profile: &Profile) -> HashMap<u64, Counts> {
    let mut sums: HashMap<u64, Counts> = HashMap::new();
    let counts = |index: &usize| {
        let mapping = profile.locations[*index].mapping;
        mapping.is_some_and(|index| profile.mappings[index].file.ends_with("exact.so"))
    };
    for sample in &profile.samples {
        let own = sample.locations.iter().position(counts);
        let caller = own.and_then(|at| sample.locations.get(at + 1));
        let caller = caller.map_or(0, |&index| profile.locations[index].address + 1);
        let sums = sums.entry(caller).or_default();
        sums.iter_mut().zip(&sample.values).for_each(|(sum, &value)| *sum += value as u64);
    }
    sums
}

/// The sums that are off by more than sampling explains, and how many were compared.
fn compare(exact: &HashMap<u64, Counts>, sampled: &HashMap<u64, Counts>) -> (usize, Vec<String>) {
    let (mut compared, mut off) = (0, Vec::new());
    for (at, what) in [(1, "allocated"), (3, "live")] {
        let total: u64 = exact.values().map(|counts| counts[at]).sum();
        let callers: HashSet<&u64> = exact.keys().chain(sampled.keys()).collect();
        for caller in callers {
            let of = |sums: &HashMap<u64, Counts>| sums.get(caller).map_or(0, |counts| counts[at]);
            let (estimate, exact) = (of(sampled), of(exact));
            if estimate.max(exact) * 100 < total {
                continue;
            }
            let (estimate, exact) = (estimate as f64, exact as f64);
            compared += 1;
            if (estimate - exact).abs() > allowed(exact) {
                off.push(format!(
                    "{caller:#x} {what}: {estimate} of {exact}, allowed are {:.0}",
                    allowed(exact)
                ));
            }
        }
    }
    (compared, off)
}

/// Runs `program` until it says something, and compares.
fn check(name: &str, program: &mut Command) {
    let arguments = ["-shared", "-fPIC", "-O1", "-g", "-pthread"];
    let shim =
        compile("cc", &format!("{name}-exact.so"), include_str!("profiled/exact.c"), &arguments)
            .unwrap();
    let folder = fresh_folder(&format!("truth-{name}"));
    let (file, output) = (folder.join("exact"), folder.join("heap.pb.gz"));
    clean(program).env("LD_PRELOAD", preload(&[&shim, library()])).env("EXACT", &file);
    program.env("RSALLOC_CONF", format!("profile:{INTERVAL}"));
    let running = Running::talker(program);
    let arguments = ["profile", &running.pid(), "--no-symbols", "-o", output.to_str().unwrap()];
    let done = rsalloc(&arguments).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && said.contains("is sampled already"), "{said}");
    let profile = Profile::read(&std::fs::read(&output).unwrap()).unwrap();
    assert_eq!(profile.period, INTERVAL as i64);
    let (exact, sampled) = (exact(&file), sampled(&profile));
    let (compared, off) = compare(&exact, &sampled);
    assert!(off.is_empty(), "{name}: {compared} sums compared\n{}", off.join("\n"));
    assert!(compared >= 6, "{name}: only {compared} sums to compare");
    // The measure must see a bias of a few percent, of all sites or of one.
    let total: u64 = exact.values().map(|counts| counts[1]).sum();
    let (&largest, counts) = exact.iter().max_by_key(|(_, counts)| counts[1]).unwrap();
    let percent = (100.0 * 2.0 * allowed(counts[1] as f64) / counts[1] as f64).ceil();
    assert!(percent < 15.0, "{name}: {total} bytes are too few for this measure");
    let mut biased = sampled.clone();
    biased.get_mut(&largest).unwrap()[1] += (counts[1] as f64 * percent / 100.0) as u64;
    assert_eq!(compare(&exact, &biased).1.len(), 1, "{name}: a bias of {percent} % goes unseen");
}

#[test]
fn a_cpp_program() {
    let source = include_str!("profiled/store.cc");
    let Some(program) = compile("c++", "store", source, &["-O2", "-g", "-pthread"]) else { return };
    check("store", &mut Command::new(program));
}

#[test]
fn a_rust_service() {
    let program = scratch().join("service");
    let source: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests/profiled/service.rs"].iter().collect();
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["--edition", "2024", "-O", "-g", "-o"]).arg(&program).arg(source);
    assert!(rustc.status().unwrap().success());
    check("service", &mut Command::new(program));
}

#[test]
fn python() {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/profiled/words.py"].iter().collect();
    if !Path::new("/usr/bin/python3").exists() {
        return common::skip("a profile of python3: there is no /usr/bin/python3");
    }
    // Its own allocator would ask for arenas only.
    let mut command = Command::new("/usr/bin/python3");
    check("python", command.arg(script).env("PYTHONMALLOC", "malloc"));
}

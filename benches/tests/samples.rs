//! Samples tell apart what a process does.

use benches::process::Edge;
use benches::samples::{Sampler, Samples};
use std::time::{Duration, Instant};

/// The samples of `work`; none where the kernel refuses them.
fn during(work: impl Fn()) -> Option<Samples> {
    let sampler = match Sampler::new() {
        Ok(sampler) => sampler,
        Err(error) => {
            assert!(error.to_string().contains("samples"), "{error}");
            eprintln!("not tested here: {error}");
            return None;
        }
    };
    sampler.at(Edge::Begin);
    work();
    sampler.at(Edge::End);
    Some(sampler.read().unwrap())
}

fn for_a_while(work: impl Fn()) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(300) {
        work();
    }
}

fn total(samples: &Samples) -> u64 {
    let user: u64 = samples.user.iter().map(|(.., count)| count).sum();
    user + samples.system_calls + samples.faults + samples.elsewhere
}

// One test: samples are of the whole process, in which no other test may run.
#[test]
fn loops_calls_faults_and_short_threads_are_told_apart() {
    let computing = || {
        for_a_while(|| {
            std::hint::black_box((0..10_000_u64).map(std::hint::black_box).sum::<u64>());
        });
    };
    let Some(samples) = during(computing) else { return };
    let user: u64 = samples.user.iter().map(|(.., count)| count).sum();
    assert!(total(&samples) > 40 && user * 10 > total(&samples) * 8, "{samples:?}");
    let own = std::env::current_exe().unwrap().display().to_string();
    assert!(samples.user.iter().any(|(file, ..)| samples.files[*file] == own), "{samples:?}");

    let calling = || for_a_while(|| drop(std::fs::read("/proc/self/maps")));
    let samples = during(calling).unwrap();
    assert!(samples.system_calls * 2 > total(&samples), "{samples:?}");

    let touching = || {
        for_a_while(|| {
            let mut memory = memmap2::MmapMut::map_anon(8 << 20).unwrap();
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        });
    };
    let samples = during(touching).unwrap();
    assert!(samples.faults * 3 > total(&samples), "{samples:?}");

    // Each lives for less than the time between two samples.
    let threads = || for_a_while(|| std::thread::spawn(|| {}).join().unwrap());
    let samples = during(threads).unwrap();
    assert!(total(&samples) > 20, "{samples:?}");
}

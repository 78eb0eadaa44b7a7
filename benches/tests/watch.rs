//! Processes that are started are sampled, with what they start, and no others.

use benches::samples::{Samples, Watch};
use std::process::{Child, Command};

/// Counts in a shell that another shell starts, then reads files.
const WORK: &str = "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'; \
                    for i in 1 2 3 4; do dd if=/dev/zero of=/dev/null bs=64k count=4000 2>/dev/null; done; :";

fn start(line: &str) -> Child {
    Command::new("sh").args(["-c", line]).spawn().expect("a shell")
}

/// The number of samples in files whose names contain `part`.
fn of_files(samples: &Samples, part: &str) -> u64 {
    let own = samples.user.iter().filter(|(file, ..)| samples.files[*file].contains(part));
    own.map(|(.., count)| count).sum()
}

#[test]
fn a_process_and_its_children_are_sampled_and_no_others() {
    let watch = match Watch::begin() {
        Ok(watch) => watch,
        Err(error) => {
            assert!(error.to_string().contains("samples"), "{error}");
            eprintln!("not tested here: {error}");
            return;
        }
    };
    let (mut wanted, mut other) = (start(WORK), start("while :; do :; done"));
    let ended = wanted.wait().unwrap();
    other.kill().unwrap();
    other.wait().unwrap();
    assert!(ended.success());
    let samples = watch.end(&[wanted.id()]).unwrap();
    let shells = ["/dash", "/bash", "/busybox"];
    let shell: u64 = shells.iter().map(|name| of_files(&samples, name)).sum();
    assert!(shell > 20 && of_files(&samples, "/libc.so.6") > 0, "{samples:?}");
    assert!(samples.system_calls > 20, "dd reads and writes: {samples:?}");

    // Of nothing that was started meanwhile there is nothing.
    let watch = Watch::begin().unwrap();
    let ended = start("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done").wait().unwrap();
    assert!(ended.success());
    let samples = watch.end(&[1]).unwrap();
    assert!(samples.user.is_empty() && samples.faults + samples.system_calls == 0, "{samples:?}");
}

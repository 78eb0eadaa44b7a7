//! Random sequences for the fuzz targets' replays, without a fuzzer: what coverage costs goes into more
//! operations.
//!
//! `drive TARGET SEED OPERATIONS`: at least so many objects come or go, each looked at by the oracle of the target. A
//! failure is printed as a test to paste, also when the allocator ends the process.

use arbitrary::{Arbitrary, Unstructured};
use rsalloc_fuzz::objects::Defect;
use rsalloc_fuzz::{Case, DEFECT, Step, operations, tiers};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::exit;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of the longest input.
const LEN_MAX: u64 = 8000;
/// One case of so many has heavy steps, and is as short as the fuzzer's.
const HEAVY: u64 = 32;
const HEAVY_LEN_MAX: u64 = 1000;

/// What `on_signal` prints: the number of the case that runs, and how to print it.
static SEED: AtomicU64 = AtomicU64::new(0);
static SHOW: std::sync::OnceLock<fn(u64) -> String> = std::sync::OnceLock::new();

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (seed, wanted) = match words.as_slice() {
        [_, seed, wanted] => (seed.parse(), wanted.parse()),
        _ => usage(),
    };
    let (Ok(seed), Ok(wanted)) = (seed, wanted) else { usage() };
    match words[0].as_str() {
        "operations" => drive::<operations::Op>(seed, wanted, operations::replay),
        "tiers" => drive::<tiers::Op>(seed, wanted, tiers::replay),
        _ => usage(),
    }
}

fn usage() -> ! {
    eprintln!("usage: drive operations|tiers SEED OPERATIONS");
    exit(2)
}

fn drive<Op: Step>(seed: u64, wanted: u64, replay: fn(&[Op], Option<Defect>) -> u64) {
    SHOW.get_or_init(|| |seed| format!("{:?}", case::<Op>(seed)));
    for signal in [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS] {
        let handler: extern "C" fn(i32) = on_signal;
        // SAFETY: a handler of this program, for signals that end it.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
    let defect = Defect::wanted(DEFECT);
    let (mut done, mut cases) = (0, 0);
    while done < wanted {
        let seed = seed.wrapping_add(cases).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        SEED.store(seed, Ordering::Relaxed);
        let case = case::<Op>(seed);
        match catch_unwind(AssertUnwindSafe(|| replay(&case.0, defect))) {
            Ok(moves) => done += moves,
            Err(_) => {
                println!("{case:?}");
                exit(1);
            }
        }
        cases += 1;
    }
    println!("{done} operations in {cases} cases");
}

/// The allocator, or the processor, ended the program: the case that ran, as a test.
extern "C" fn on_signal(_signal: i32) {
    // The program's own memory is libc's, so printing may work; if not, the seed is in the parent's hands.
    if let Some(show) = SHOW.get() {
        println!("{}", show(SEED.load(Ordering::Relaxed)));
    }
    exit(1);
}

fn case<Op: Step>(seed: u64) -> Case<Op> {
    let mut state = seed | 1;
    let mut next = || {
        // xorshift64*, Vigna 2016.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    };
    let heavy = next() >> 32 & (HEAVY - 1) == 0;
    let len = next() % if heavy { HEAVY_LEN_MAX } else { LEN_MAX } + 1;
    let bytes: Vec<u8> = (0..len).map(|_| (next() >> 32) as u8).collect();
    let mut case = Case::arbitrary(&mut Unstructured::new(&bytes)).unwrap_or(Case(Vec::new()));
    case.0.retain(|op: &Op| heavy || !op.is_heavy());
    case
}

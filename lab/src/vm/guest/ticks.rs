//! How many instructions the hot entries execute, on a machine whose clock counts them.
//!
//! Under `-icount shift=0` the time stamp counter goes up by one with each instruction, so the
//! difference to a call of a lone `ret` is exact, where no tracer can step through a section. Printed
//! as JSON by a task with the library preloaded.

use std::arch::{asm, naked_asm};
use std::collections::BTreeMap;
use std::ffi::CStr;

use anyhow::{Result, ensure};

const SIZE: usize = 48;
const SAMPLES: usize = 1000;
/// Samples that must agree: the others were interrupted.
const AGREEING: usize = SAMPLES * 9 / 10;

/// Prints the count of each entry.
pub fn ticks() -> Result<()> {
    let [malloc, free, free_sized] = [c"malloc", c"free", c"free_sized"].map(find);
    ensure!(malloc != 0 && free_sized != 0, "rsalloc is not in this process");
    let nothing = nothing as extern "C" fn() as usize;
    let mut counts: [Vec<u64>; 3] = Default::default();
    for round in 0..2 * SAMPLES {
        // SAFETY: each is a function of these arguments; what malloc gives is freed once.
        let samples = unsafe {
            let (base, _) = call(nothing, 0, 0);
            let (allocated, object) = call(malloc, SIZE, 0);
            let (freed, _) = call(free, object, 0);
            let (_, object) = call(malloc, SIZE, 0);
            let (freed_sized, _) = call(free_sized, object, SIZE);
            // The lone `ret` is an instruction too.
            [allocated, freed, freed_sized].map(|ticks| (ticks + 1).wrapping_sub(base))
        };
        // The first ones warm up.
        if round >= SAMPLES {
            counts.iter_mut().zip(samples).for_each(|(all, sample)| all.push(sample));
        }
    }
    let mut answer = BTreeMap::new();
    for (name, mut all) in ["malloc", "free", "free_sized"].into_iter().zip(counts) {
        all.sort_unstable();
        let middle = all[all.len() / 2];
        let agreeing = all.iter().filter(|&&count| count == middle).count();
        ensure!(agreeing >= AGREEING, "{name}: {agreeing} of {SAMPLES} samples say {middle}");
        answer.insert(name, middle);
    }
    println!("{}", serde_json::to_string(&answer)?);
    Ok(())
}

fn find(name: &CStr) -> usize {
    // SAFETY: the name ends in zero.
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) as usize }
}

#[unsafe(naked)]
extern "C" fn nothing() {
    naked_asm!("ret")
}

/// Ticks around a call, and what it returned.
///
/// # Safety
/// 1. `function` is a C function that may be called with these arguments.
unsafe fn call(function: usize, first: usize, second: usize) -> (u64, usize) {
    let (ticks, result);
    // SAFETY: duty 1; what a C function may change is declared.
    unsafe {
        asm!(
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "mov r12, rax",
            "call r14",
            "mov r13, rax",
            "rdtsc",
            "shl rdx, 32",
            "or rax, rdx",
            "sub rax, r12",
            in("r14") function,
            inout("rdi") first => _,
            inout("rsi") second => _,
            out("r12") _,
            out("r13") result,
            out("rax") ticks,
            clobber_abi("C"),
        );
    }
    (ticks, result)
}

//! Sequences of calls that once broke something, as the fuzz target `c_abi` prints them; see
//! `cargo xtask fuzz`. To add one, paste the test that a failed run printed and name it after what broke.

#[path = "fuzzed/c_abi.rs"]
mod c_abi;
mod common;
#[path = "fuzzed/library.rs"]
mod library;
#[allow(dead_code, reason = "shared with the tests of alloc-core")]
#[path = "../../alloc-core/tests/fuzzed/objects.rs"]
mod objects;

fn library_path() -> std::path::PathBuf {
    common::library().into()
}

#[test]
fn sample_of_calls() {
    use c_abi::{Op::*, replay};
    replay(
        &[
            Burst { size: 40, count: 300 },
            Calloc { count: 100, size: 3000 },
            Calloc { count: 1 << 32, size: 1 << 32 },
            Realloc { pick: 300, size: 1_200_000 },
            Reallocarray { pick: 7, count: 5, size: 20 },
            Reallocarray { pick: 7, count: usize::MAX, size: 2 },
            ReallocNull { size: 0 },
            Realloc { pick: 0, size: 0 },
            PosixMemalign { align: 64, size: 0 },
            PosixMemalign { align: 4, size: 1 },
            PosixMemalign { align: 1 << 63, size: 1 },
            AlignedAlloc { align: 1000, size: 1 },
            FreeSized { pick: 0 },
            AlignedAlloc { align: (1 << 63) + 1, size: 1 },
            Memalign { align: 1 << 21, size: 1 },
            Valloc { size: 5000 },
            Pvalloc { size: usize::MAX },
            Malloc { size: usize::MAX },
            FreeNull { align: 3, size: 300_000 },
            FreeMany { pick: 3, count: 290 },
            Trim { pad: 0 },
            FreeSized { pick: 2 },
            Free { pick: 0 },
            Check,
        ],
        None,
    );
}

/// What finds a defect must find one that was made.
#[test]
fn defects_are_found() {
    use c_abi::{Op::*, replay};
    use objects::Defect::{Contents, Errno, Lost, Overlap};
    for defect in [Contents, Overlap, Lost, Errno] {
        let red = std::panic::catch_unwind(|| {
            replay(&[Burst { size: 40, count: 2 }, Check], Some(defect));
        });
        assert!(red.is_err(), "{defect:?}");
    }
}

//! `front ROW`: as `workload`, for Rust programs on a `#[global_allocator]` chosen by a feature.
//!
//! One way down: this (the allocator) -> `rows` (the table) -> `heap` (calls one by one) and `programs`; with
//! the feature `applications` the rows are those of ../applications, with `queries` those of ../queries.

#[cfg(not(any(feature = "applications", feature = "queries")))]
mod heap;
#[cfg(not(any(feature = "applications", feature = "queries")))]
mod programs;
mod rows;

macro_rules! serve {
    ($($feature:literal: $allocator:path;)*) => {
        $(
            #[cfg(feature = $feature)]
            #[global_allocator]
            static GLOBAL: $allocator = $allocator;
        )*
        /// The allocator that serves this program.
        const ALLOCATOR: &str = {
            #[allow(unused_mut, unused_assignments)]
            let mut name = "system";
            $(
                #[cfg(feature = $feature)]
                {
                    name = $feature;
                }
            )*
            name
        };
    };
}

serve! {
    "rsalloc": rsalloc::RsAlloc;
    "mimalloc": mimalloc::MiMalloc;
    "jemalloc": tikv_jemallocator::Jemalloc;
    "snmalloc": snmalloc_rs::SnMalloc;
    "rpmalloc": rpmalloc::RpMalloc;
    "tcmalloc": tcmalloc_better::TCMalloc;
}

#[cfg(feature = "tcmalloc")]
fn per_cpu() -> Option<bool> {
    unsafe extern "C" {
        fn MallocExtension_Internal_GetPerCpuCachesActive() -> bool;
    }
    // SAFETY: tcmalloc declares it so in internal_malloc_extension.h.
    Some(unsafe { MallocExtension_Internal_GetPerCpuCachesActive() })
}

#[cfg(not(feature = "tcmalloc"))]
fn per_cpu() -> Option<bool> {
    None
}

fn main() -> anyhow::Result<()> {
    benches::cli::main(&rows::rows(), || ALLOCATOR.to_owned(), per_cpu)
}

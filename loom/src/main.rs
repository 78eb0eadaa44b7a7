//! The engine's own files under loom: every order of a few operations of two or three threads.
//!
//! `models NAME` runs one model, `models` lists them. The modules below the protocols are the models' own: `atomic`
//! (loom's atomics behind the engine's memory), `os` and `arch` (a machine whose sections can be aborted). Everything
//! else is compiled from `alloc-core/src`.

#![allow(dead_code, reason = "the engine is more than its protocols")]

mod arch;
mod atomic;
mod guard;
mod machine;
mod models;
mod os;
mod parts;
mod profile;
mod sanitizer;
mod world;

#[path = "../../alloc-core/src/canary.rs"]
mod canary;
#[path = "../../alloc-core/src/config/mod.rs"]
mod config;
#[path = "../../alloc-core/src/counters/mod.rs"]
mod counters;
#[path = "../../alloc-core/src/sums/mod.rs"]
mod sums;
#[path = "../../alloc-core/src/cpu_cache/mod.rs"]
mod cpu_cache;
#[path = "../../alloc-core/src/depot/mod.rs"]
mod depot;
mod engine;
#[path = "../../alloc-core/src/fail.rs"]
mod fail;
#[path = "../../alloc-core/src/hot.rs"]
mod hot;
#[path = "../../alloc-core/src/domain.rs"]
mod domain;
#[path = "../../alloc-core/src/node.rs"]
mod node;
#[path = "../../alloc-core/src/object/mod.rs"]
mod object;
#[path = "../../alloc-core/src/page_heap/mod.rs"]
mod page_heap;
#[path = "../../alloc-core/src/page_map.rs"]
mod page_map;
#[path = "../../alloc-core/src/report.rs"]
mod report;
#[path = "../../alloc-core/src/rseq/mod.rs"]
mod rseq;
#[path = "../../alloc-core/src/secret.rs"]
mod secret;
#[path = "../../alloc-core/src/region.rs"]
mod region;
#[path = "../../alloc-core/src/size_class.rs"]
mod size_class;
#[path = "../../alloc-core/src/slab/mod.rs"]
mod slab;
#[path = "../../alloc-core/src/sync/mod.rs"]
mod sync;
#[path = "../../alloc-core/src/postponed.rs"]
mod postponed;
#[path = "../../alloc-core/src/token_bucket.rs"]
mod token_bucket;
#[path = "../../alloc-core/src/units.rs"]
mod units;

fn main() {
    match std::env::args().nth(1) {
        None => models::ALL.iter().for_each(|model| println!("{}", model.name)),
        Some(name) => match models::ALL.iter().find(|model| model.name == name) {
            Some(model) => models::run(model),
            None => {
                eprintln!("no model {name}; `models` lists them");
                std::process::exit(2);
            }
        },
    }
}

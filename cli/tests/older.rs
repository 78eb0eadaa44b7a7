//! The heap of a process with an older rsalloc: a newer command reads it.
//!
//! `fixtures/heap-of-ec557d4.core.gz` is a core file of gcore, of a C program on the library of commit ec557d4 (the first with a
//! map of its counters, block of version 3). Of its 24,266 pages the 16 are left without which the command of that day gave
//! another answer; all code is gone. Older layouts, by hand, are in `heap.rs`.

mod command_line;

use command_line::*;
use flate2::read::GzDecoder;
use serde_json::Value;
use std::io::Read;

/// What the process itself said, by malloc_info(3), before it was dumped.
const SAID: &str = "mapped_bytes=95617024 metadata_bytes=992960 live_bytes=65555920 large_bytes=45088768 \
    large_count=4 cached_bytes=6248432 slab_free_bytes=5473824 dirty_bytes=0 purged_bytes_total=9437184 refills=1264 \
    flushes=331 aborts=0 atomic_ops=0 huge_bytes=41943040 huge_count=1 shard_cached_bytes=1480688 \
    depot_cached_bytes=4767744 slab_bytes=32571392 slab_tail_bytes=381984 clean_bytes=17956864 guarded_bytes=0 \
    guarded_count=0";

#[test]
fn a_heap_of_the_first_version_with_a_map_is_read_exactly() {
    let packed = include_bytes!("fixtures/heap-of-ec557d4.core.gz");
    let mut core = Vec::new();
    GzDecoder::new(&packed[..]).read_to_end(&mut core).unwrap();
    let path = common::scratch().join("heap-of-ec557d4.core");
    std::fs::write(&path, &core).unwrap();
    let path = path.to_str().unwrap();
    let seen: Value =
        serde_json::from_str(&answer(&mut rsalloc(&["stats", "--json", path]))).unwrap();
    let said: Vec<(&str, u64)> = SAID
        .split_ascii_whitespace()
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name, value.parse().unwrap()))
        .collect();
    assert_eq!(said.len(), 22);
    for (name, value) in said {
        assert_eq!(seen["stats"][name], value, "{name}");
    }
    assert_eq!(seen["classes"].as_array().unwrap().len(), 97);
    // It does not count these: they are not known, and not 0.
    for name in ["refilled_objects", "flushed_objects"] {
        assert_eq!(seen["stats"].get(name), None, "{name}");
        for list in ["classes", "shards"] {
            let rows = seen[list].as_array().unwrap();
            assert!(rows.iter().all(|row| row[name].is_null()), "{name} of {list}");
        }
    }
    let all = answer(&mut rsalloc(&["stats", "--all", path]));
    let class = all.lines().find(|line| line.trim_start().starts_with("45 ")).unwrap_or(&all);
    assert!(!all.contains("objects refilled") && class.ends_with(" -"), "{all}");
    assert_eq!(
        (&seen["program"], &seen["report"]["mode"], &seen["report"]["gives_back"]),
        (&"holder".into(), &"rseq_libc".into(), &"madvise".into())
    );
    let text = answer(&mut rsalloc(&["check", path]));
    assert!(text.contains("per CPU, by rseq as libc registered it"), "{text}");
    // It has fewer settings than this version: those that it has are shown.
    let conf = answer(&mut rsalloc(&["conf", path]));
    let keys: Vec<_> = conf.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(keys.len(), 9, "{conf}");
    assert_eq!((keys[0], keys[8]), ("mode", "membarrier"));

    // Damaged in the block's map, it is not read as if it were sound.
    let block = core.windows(8).position(|window| window == b"rsalloc\0").unwrap();
    core[block + 8] ^= 0x40;
    std::fs::write(path, &core).unwrap();
    let line = error(&mut rsalloc(&["stats", path]), 3);
    assert!(line.contains("the report of rsalloc is of version 67"), "{line}");
}

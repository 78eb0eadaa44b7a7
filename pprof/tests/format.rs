//! The format, checked by readers that are not ours: the message as prost reads it, and `go tool pprof`.

use prost::Message;
use rsalloc_pprof::{
    Amount, Function, HeapProfile, HeapSample, Line, Mapping, Profile, Symbolized,
};
use std::process::Command;

/// The fields of profile.proto (github.com/google/pprof/proto) that a heap profile has.
mod proto {
    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Profile {
        #[prost(message, repeated, tag = "1")]
        pub sample_type: Vec<ValueType>,
        #[prost(message, repeated, tag = "2")]
        pub sample: Vec<Sample>,
        #[prost(message, repeated, tag = "3")]
        pub mapping: Vec<Mapping>,
        #[prost(message, repeated, tag = "4")]
        pub location: Vec<Location>,
        #[prost(message, repeated, tag = "5")]
        pub function: Vec<Function>,
        #[prost(string, repeated, tag = "6")]
        pub string_table: Vec<String>,
        #[prost(int64, tag = "9")]
        pub time_nanos: i64,
        #[prost(int64, tag = "10")]
        pub duration_nanos: i64,
        #[prost(message, optional, tag = "11")]
        pub period_type: Option<ValueType>,
        #[prost(int64, tag = "12")]
        pub period: i64,
        #[prost(int64, repeated, tag = "13")]
        pub comment: Vec<i64>,
        #[prost(int64, tag = "14")]
        pub default_sample_type: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct ValueType {
        #[prost(int64, tag = "1")]
        pub kind: i64,
        #[prost(int64, tag = "2")]
        pub unit: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Sample {
        #[prost(uint64, repeated, tag = "1")]
        pub location_id: Vec<u64>,
        #[prost(int64, repeated, tag = "2")]
        pub value: Vec<i64>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Mapping {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub memory_start: u64,
        #[prost(uint64, tag = "3")]
        pub memory_limit: u64,
        #[prost(uint64, tag = "4")]
        pub file_offset: u64,
        #[prost(int64, tag = "5")]
        pub filename: i64,
        #[prost(int64, tag = "6")]
        pub build_id: i64,
        #[prost(bool, tag = "7")]
        pub has_functions: bool,
        #[prost(bool, tag = "9")]
        pub has_line_numbers: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Location {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(uint64, tag = "2")]
        pub mapping_id: u64,
        #[prost(uint64, tag = "3")]
        pub address: u64,
        #[prost(message, repeated, tag = "4")]
        pub line: Vec<Line>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Line {
        #[prost(uint64, tag = "1")]
        pub function_id: u64,
        #[prost(int64, tag = "2")]
        pub line: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub struct Function {
        #[prost(uint64, tag = "1")]
        pub id: u64,
        #[prost(int64, tag = "2")]
        pub name: i64,
        #[prost(int64, tag = "4")]
        pub filename: i64,
    }
}

fn sample(stack: &[u64], allocated: (u64, u64), live: (u64, u64)) -> HeapSample {
    let amount = |(objects, bytes)| Amount { objects, bytes };
    HeapSample { stack: stack.to_vec(), allocated: amount(allocated), live: amount(live) }
}

/// Two stacks through three places, two of which have functions.
fn profile() -> Profile {
    let heap = HeapProfile {
        interval_bytes: 512 << 10,
        time_nanos: 1_700_000_000_000_000_000,
        duration_nanos: 30_000_000_000,
        mappings: vec![Mapping {
            start: 0x5555_0000_0000,
            end: 0x5555_0001_0000,
            file_offset: 0x1000,
            file: "/opt/no-such-program".into(),
            build_id: "00ff10".into(),
            symbolized: Symbolized::Lines,
        }],
        samples: vec![
            sample(&[0x5555_0000_0101, 0x5555_0000_0201], (7, 7 << 20), (3, 3 << 20)),
            sample(&[0x5555_0000_0301, 0x5555_0000_0201], (1, 5 << 20), (1, 5 << 20)),
        ],
        comments: vec!["per CPU".into()],
    };
    let mut profile = heap.to_pprof();
    for (name, line) in [("read_request", 17), ("serve", 40)] {
        let function =
            Function { name: name.into(), system_name: name.into(), file: "server.c".into() };
        profile.functions.push(function);
        let index = profile.functions.len() - 1;
        profile.locations[index].lines.push(Line { function: index, line });
    }
    profile
}

#[test]
fn what_is_written_is_read_back() {
    let profile = profile();
    let mut bytes = Vec::new();
    profile.write(&mut bytes).unwrap();
    assert_eq!(Profile::read(&bytes).unwrap(), profile);
    assert_eq!(Profile::read(&profile.encode()).unwrap(), profile, "not compressed");
}

#[test]
fn prost_reads_the_fields_of_the_format() {
    let seen = proto::Profile::decode(&*profile().encode()).unwrap();
    let text = |index: i64| &*seen.string_table[index as usize];
    let types: Vec<_> = seen.sample_type.iter().map(|t| (text(t.kind), text(t.unit))).collect();
    assert_eq!(
        types,
        [
            ("alloc_objects", "count"),
            ("alloc_space", "bytes"),
            ("inuse_objects", "count"),
            ("inuse_space", "bytes")
        ]
    );
    assert_eq!(text(0), "");
    assert_eq!(text(seen.default_sample_type), "inuse_space");
    let period = seen.period_type.as_ref().unwrap();
    assert_eq!((text(period.kind), text(period.unit), seen.period), ("space", "bytes", 512 << 10));
    assert_eq!(seen.time_nanos, 1_700_000_000_000_000_000);
    assert_eq!(seen.duration_nanos, 30_000_000_000);
    assert_eq!(text(seen.comment[0]), "per CPU");
    let mapping = &seen.mapping[0];
    assert_eq!(
        (mapping.id, mapping.memory_start, mapping.file_offset),
        (1, 0x5555_0000_0000, 4096)
    );
    assert_eq!(
        (text(mapping.filename), text(mapping.build_id)),
        ("/opt/no-such-program", "00ff10")
    );
    assert!(mapping.has_functions && mapping.has_line_numbers);
    assert_eq!(seen.sample[0].location_id, [1, 2]);
    assert_eq!(seen.sample[1].value, [1, 5 << 20, 1, 5 << 20]);
    assert_eq!((seen.location[0].address, seen.location[0].mapping_id), (0x5555_0000_0100, 1));
    let name = |location: usize| {
        let line = &seen.location[location].line[0];
        (text(seen.function[line.function_id as usize - 1].name), line.line)
    };
    assert_eq!((name(0), name(1)), (("read_request", 17), ("serve", 40)));
}

#[test]
fn what_prost_writes_is_read() {
    // Ids of another program's choice, fields in its order, numbers that are not packed.
    let mut seen = proto::Profile::decode(&*profile().encode()).unwrap();
    seen.location.iter_mut().for_each(|location| location.id += 1 << 40);
    seen.sample.iter_mut().flat_map(|s| &mut s.location_id).for_each(|id| *id += 1 << 40);
    assert_eq!(Profile::read(&seen.encode_to_vec()).unwrap().samples, profile().samples);
    seen.sample[0].location_id[0] = 5;
    let why = Profile::read(&seen.encode_to_vec()).unwrap_err().to_string();
    assert_eq!(why, "an id that nothing has");
}

#[test]
fn damaged_profiles_are_errors() {
    let mut zipped = Vec::new();
    profile().write(&mut zipped).unwrap();
    assert_eq!(Profile::read(&zipped[..40]).unwrap_err().to_string(), "damaged gzip data");
    let plain = profile().encode();
    let mut refused = 0;
    for len in 0..plain.len() {
        refused += usize::from(Profile::read(&plain[..len]).is_err());
    }
    assert!(refused > plain.len() / 2, "{refused} of {}", plain.len());
    // Any byte may be any other: it must not end the process.
    for at in 0..plain.len() {
        let mut bytes = plain.clone();
        bytes[at] ^= 0xff;
        let _ = Profile::read(&bytes);
    }
    assert!(Profile::read(b"no profile at all").is_err());
}

#[test]
fn go_tool_pprof_reads_it() {
    let file = std::env::temp_dir().join(format!("rsalloc-format-{}.pb.gz", std::process::id()));
    profile().write(std::fs::File::create(&file).unwrap()).unwrap();
    let pprof = |arguments: &[&str]| {
        let mut command = Command::new("go");
        command.args(["tool", "pprof", "-symbolize=none"]).args(arguments).arg(&file);
        command.env("PPROF_TMPDIR", std::env::temp_dir()).output()
    };
    let top = match pprof(&["-top"]) {
        Ok(output) => output,
        Err(error) => {
            // .ci/run installs it, and says so if it cannot.
            assert!(std::env::var_os("CI").is_none(), "go cannot be run: {error}");
            return println!("SKIPPED: go is not installed, so `go tool pprof` was not tried");
        }
    };
    let raw = pprof(&["-raw"]).unwrap();
    std::fs::remove_file(&file).unwrap();
    let said = String::from_utf8_lossy(&top.stderr);
    let top_text = String::from_utf8_lossy(&top.stdout);
    assert!(top.status.success(), "{said}");
    let has = |words: &[&str]| {
        top_text.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == words)
    };
    assert!(top_text.contains("Type: inuse_space"), "{top_text}");
    assert!(has(&["3MB", "37.50%", "100%", "3MB", "37.50%", "read_request"]), "{top_text}");
    assert!(has(&["0", "0%", "100%", "8MB", "100%", "serve"]), "{top_text}");
    let raw_text = String::from_utf8_lossy(&raw.stdout);
    assert!(raw_text.contains("PeriodType: space bytes"), "{raw_text}");
    assert!(
        raw_text.contains(
            "alloc_objects/count alloc_space/bytes inuse_objects/count inuse_space/bytes[dflt]"
        ),
        "{raw_text}"
    );
    assert!(raw_text.contains("/opt/no-such-program 00ff10"), "{raw_text}");
}

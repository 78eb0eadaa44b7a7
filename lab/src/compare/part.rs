//! The parts of docs/benchmarks/tables.md (and of docs/scale.md) that commands write.
//!
//! A part stands between two marks; what is outside of them is left alone.

use anyhow::Context;
use std::path::{Path, PathBuf};

/// A generated part.
#[derive(Debug)]
pub struct Part {
    /// What its marks say.
    mark: &'static str,
    /// Where its plots lie, below docs/benchmarks.
    pub folder: &'static str,
    /// The heading that a new part gets.
    heading: &'static str,
    /// What the reader must know of the figures.
    pub notes: &'static str,
}

/// The C functions by LD_PRELOAD.
pub const C: Part = Part { mark: "compare", folder: "", heading: "## The C functions", notes: "" };

/// The C functions against an allocator that does nothing.
pub const FLOOR: Part = Part {
    mark: "compare-floor",
    folder: "floor",
    heading: "## The floor",
    notes: "The floor is a library whose malloc returns the next object of a ring and whose free returns at once: \
            what the loop, the calls and the kernel take by themselves.",
};

/// Rust programs on a `#[global_allocator]`.
pub const FRONT: Part =
    Part { mark: "compare-front", folder: "front", heading: "## The Rust front", notes: "" };

/// Whole programs.
pub const PROGRAMS: Part = Part {
    mark: "compare-programs",
    folder: "programs",
    heading: "## Programs",
    notes: "Each program's output must equal that of a run without the library, and the library was \
            seen in the process (ours in its mode, by what it publishes; Google's tcmalloc with rseq \
            areas, by ptrace; the others by /proc/PID/maps). CPU time is user and system time of \
            the program and the descendants it waited for, of a server until its end; clients run on \
            the C library and are left out. Wall time is from start to end. Peak RSS is the largest \
            process. glibc's library is preloaded like the others, because redis-server is linked \
            with jemalloc. A geometric mean is that of the multiples of the best peer over the rows \
            where every allocator has a figure.",
};

/// How long single calls take.
pub const LATENCY: Part = Part {
    mark: "compare-latency",
    folder: "latency",
    heading: "## Latency",
    notes: "The time stamp counter is read before and after each malloc, each free, and nothing at \
            all, one after the other in the same threads; fences keep the call in between. What \
            the two readings cost is in every figure and the same for all: the rows `nothing` show it, \
            and what interrupts and preemption do to any short piece of code. A call's own share is \
            what stands above `nothing`; the largest times are the machine's where `nothing` has them \
            too. Percentiles are upper ends of buckets 1/32 wide, medians over the rounds; a virtual machine's \
            counter may move in steps of some 10 ns, and the middle of the spread is read off the \
            tables of means instead. The first touch of an object is not timed. The curves join all rounds.",
};

/// Recorded programs.
pub const REPLAY: Part =
    Part { mark: "replay", folder: "replay", heading: "## Recorded programs", notes: "" };

/// Live and resident bytes over the phases of a load.
pub const MEMORY_PHASES: Part = memory("memory-phases", "## Memory over time");

/// What stays resident.
pub const MEMORY_IDLE: Part = memory("memory-idle", "## Memory of an idle process");

/// What threads cost.
pub const MEMORY_THREADS: Part = memory("memory-threads", "## Memory with many threads");

const fn memory(mark: &'static str, heading: &'static str) -> Part {
    Part { mark, folder: "memory", heading, notes: "" }
}

/// Slow paths by CPUs, in docs/scale.md.
pub const SCALE: Part = Part { mark: "scale", folder: "", heading: "## Counts", notes: "" };

impl Part {
    /// Puts `text` between the marks of this part in the file at `path`.
    pub fn write(&self, path: &Path, text: &str) -> anyhow::Result<()> {
        let old = std::fs::read_to_string(path).unwrap_or_else(|_| "# Benchmarks\n".to_owned());
        make_folder_of(path)?;
        std::fs::write(path, self.replace(&old, text))
            .with_context(|| format!("write {}", path.display()))
    }

    /// What stands between the marks of this part in `text`.
    pub fn of<'a>(&self, text: &'a str) -> Option<&'a str> {
        let (begin, end) = self.marks();
        Some(text.split_once(&begin)?.1.split_once(&end)?.0)
    }

    fn marks(&self) -> (String, String) {
        (format!("<!-- {}: begin -->", self.mark), format!("<!-- {}: end -->", self.mark))
    }

    /// Where the plots go.
    pub fn folder_in(&self, docs: &Path) -> PathBuf {
        docs.join("benchmarks").join(self.folder)
    }

    /// The file of the samples that the tables are made of, below the folder `docs`.
    pub fn samples_in(&self, docs: &Path) -> PathBuf {
        docs.join("benchmarks/samples").join(self.mark).with_extension("csv")
    }

    /// `old` with what stands between the marks replaced by `new`; the marks are added if missing.
    fn replace(&self, old: &str, new: &str) -> String {
        let (begin, end) = self.marks();
        let (before, after) = match (old.split_once(&begin), old.split_once(&end)) {
            (Some((before, _)), Some((_, after))) => (before.to_owned(), after),
            _ => (format!("{}\n\n{}\n\n", old.trim_end(), self.heading), "\n"),
        };
        format!("{before}{begin}\n{}\n{end}{after}", new.trim())
    }
}

/// Makes the folder that a file is to lie in.
pub fn make_folder_of(path: &Path) -> anyhow::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_generated_part_is_replaced() {
        let first = C.replace("# Benchmarks\n\nWords.\n", "one");
        assert!(first.starts_with("# Benchmarks\n\nWords.\n") && first.contains("\none\n"));
        let with_tail = first + "More words.\n";
        let second = C.replace(&with_tail, "two");
        assert_eq!(second, with_tail.replace("one", "two"));
        let both = FRONT.replace(&second, "three");
        assert!(both.starts_with(second.trim_end()) && both.contains("\nthree\n"));
        assert!(both.contains("\n## The Rust front\n\n<!-- compare-front: begin -->\n"));
    }
}

//! The layout of a heap profile in memory: a header of words, a table of stacks, their frames, a table of live samples.
//!
//! Promises that a reader finds all of it from the header's address, which the published block names
//! ([`HeapMap::profile`](crate::sums::HeapMap)): in a running or stopped process, or in a core file. Sizes and distances of
//! records are data of the header. Header and records only grow at their ends; a field that is missing reads as 0.
//!
//! ```text
//! Header --> stacks   |no stack|stack 1|stack 2|..    each with its totals, and where its frames are
//!        --> frames   |pc|pc|pc|..                    of each stack the innermost first
//!        --> samples  |sample|free|sample|..          objects that are live
//! ```
//!
//! **Frames.** A frame is the address behind a call. The first is that of the call of malloc, or of the function of the
//! allocator that called it. The place of the call is one byte before, for each frame: where a signal interrupted code, the
//! frame is the interrupted address plus 1.
//!
//! **Weights.** A sample stands for `weight / WEIGHT_ONE` objects of its size; the expectation of the sum over the samples is
//! the number that the program has allocated. For an object of `size` bytes and a mean interval of `interval` bytes it is
//! `1 / (1 - exp(-size / interval))`. The totals of stacks are sums of weights, and of `size * weight / WEIGHT_ONE`.
//!
//! Invariants:
//! I1. Tables stay where they are and are never unmapped; `stacks`, `frames` and `samples` are 0 before the first start.
//! I2. A stack with `frame_count` other than 0 is complete: its frames do not change until `generation` does.
//! I3. A sample's fields belong together if `sequence` is even and the same before and after they are read.

macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $name<W> {
            $($(#[$doc])* pub $field: W,)*
        }

        impl<W> $name<W> {
            /// The same with other words.
            pub fn map<Q>(&self, mut f: impl FnMut(&W) -> Q) -> $name<Q> {
                $name { $($field: f(&self.$field),)* }
            }

            /// Number of words.
            pub const WORDS: usize = [$(stringify!($field)),*].len();
        }

        impl $name<u64> {
            /// From its words; those that are missing read as 0. None if one of them is none.
            pub fn from_words(mut words: impl Iterator<Item = Option<u64>>) -> Option<Self> {
                Some($name { $($field: words.next().unwrap_or(Some(0))?,)* })
            }
        }
    };
}

words! {
    /// What a reader begins with.
    Header {
        /// [`NEVER_STARTED`], [`RUNNING`] or [`STOPPED`]. The records stay when a profile is stopped.
        state,
        /// How often a profile was started. Records of a former profile are forgotten at a start.
        generation,
        /// The mean number of bytes between two samples.
        interval_bytes,
        /// Nanoseconds since the epoch at the last start.
        started_ns,
        /// The same at the last stop; 0 while the profile runs.
        stopped_ns,
        /// Address of the first [`Stack`], and bytes from each to the next.
        stacks, /// See `stacks`.
        stack_stride,
        /// Stacks up to the highest number that was given out.
        stacks_used,
        /// Address of the frames, words that are used of them.
        frames, /// See `frames`.
        frames_used,
        /// Address of the first [`Sample`], and bytes from each to the next.
        samples, /// See `samples`.
        sample_stride,
        /// Samples up to the highest number that was given out.
        samples_used,
        /// Samples that were counted at the stack number 0, since no further stack could be kept.
        dropped_stacks,
        /// Samples that are missing in the live totals, since no record or no memory of its own was there for the object.
        dropped_samples,
        /// Stacks that were cut off after [`FRAMES_MAX`] frames.
        truncated_stacks,
    }
}

words! {
    /// A distinct stack and its totals. Number 0 is that of samples without a stack.
    Stack {
        /// Number of the first frame.
        first_frame,
        /// Frames; 0: the stack is not complete yet, or is number 0.
        frame_count,
        /// A hash of the frames.
        hash,
        /// Samples of this stack since the start.
        samples,
        /// What they stand for: objects times [`WEIGHT_ONE`], and bytes.
        allocated_weight, /// See `allocated_weight`.
        allocated_bytes,
        /// Of these, what was freed again.
        freed_weight, /// See `freed_weight`.
        freed_bytes,
    }
}

words! {
    /// A sampled object that is live.
    Sample {
        /// Odd while the record changes.
        sequence,
        /// Address of the object; 0: the record is free.
        address,
        /// Bytes that were asked for.
        size,
        /// Objects that it stands for, times [`WEIGHT_ONE`].
        weight,
        /// Number of its stack.
        stack,
        /// Nanoseconds since the epoch when it was allocated.
        allocated_ns,
        /// The generation of the profile that it belongs to.
        generation,
        /// Of a free record: the number of the next one.
        next_free,
    }
}

impl Stack<u64> {
    /// Objects and bytes that were allocated, and of these the live ones. Freed while this was read may be more than what was
    /// allocated before.
    pub fn amounts(&self) -> [(u64, u64); 2] {
        let objects = |weight: u64| weight.saturating_add(WEIGHT_ONE / 2) / WEIGHT_ONE;
        [
            (objects(self.allocated_weight), self.allocated_bytes),
            (
                objects(self.allocated_weight.saturating_sub(self.freed_weight)),
                self.allocated_bytes.saturating_sub(self.freed_bytes),
            ),
        ]
    }
}

/// No profile was ever started.
pub const NEVER_STARTED: u64 = 0;
/// Allocations are sampled.
pub const RUNNING: u64 = 1;
/// They were, and the records are kept.
pub const STOPPED: u64 = 2;

/// The weight of a sample that stands for itself alone.
pub const WEIGHT_ONE: u64 = 1 << 16;

/// The most frames of a stack.
pub const FRAMES_MAX: usize = 128;

/// Bytes that `size` bytes with this weight stand for.
pub const fn weighted_bytes(size: u64, weight: u64) -> u64 {
    ((size as u128 * weight as u128) / WEIGHT_ONE as u128) as u64
}

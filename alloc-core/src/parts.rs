//! The parts that a build may leave out, by the cargo feature of their name (docs/adr/0044).
//!
//! Promises: this is the one place that asks for such a feature, but for the text of the entries (`mm_cid`). Each function that a part is entered by looks at the constant of
//! the part first, so that the compiler and the linker leave out what lies behind. The published block has the same words with
//! and without them.

/// The sampled heap profile.
pub const PROFILE: bool = cfg!(feature = "profile");
/// Objects between guard pages.
pub const GUARD: bool = cfg!(feature = "guard");
/// The settings `limit` and `limit_hard`, and caches that obey a quota of CPUs.
pub const LIMITS: bool = cfg!(feature = "limits");
/// Memory nodes that are told apart (NUMA).
pub const NODES: bool = cfg!(feature = "nodes");
/// What the process says of itself unasked: `stats_at_exit`, `publish` and `verbose`.
pub const REPORTS: bool = cfg!(feature = "reports");
/// Entries that find their shard by `mm_cid`, not by `cpu_id` (docs/adr/0059).
pub const ENTRIES_BY_MM_CID: bool = cfg!(feature = "mm_cid");

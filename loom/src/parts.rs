//! Every part is in the models: the features of the engine's crate are not set here.

pub const PROFILE: bool = true;
pub const GUARD: bool = true;
pub const LIMITS: bool = true;
pub const NODES: bool = true;
pub const REPORTS: bool = true;
/// The usual build's.
pub const ENTRIES_BY_MM_CID: bool = false;

//! What the models' files use of the engine's top.

#[path = "../../alloc-core/src/engine/large.rs"]
pub mod large;
#[path = "../../alloc-core/src/engine/request.rs"]
pub mod request;

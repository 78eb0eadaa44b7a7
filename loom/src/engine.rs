//! The one room of the engine's top that the observers look at.

#[path = "../../alloc-core/src/engine/large.rs"]
pub mod large;
#[path = "../../alloc-core/src/engine/request.rs"]
pub mod request;

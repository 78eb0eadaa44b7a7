//! The policies of the caches: how much a shard may hold ([`capacity`]), and when what it holds goes home ([`decay`], [`idle`]).
//!
//! Promises: a policy decides by approximate numbers and moves objects by the operations of shards only, so none of its
//! mistakes loses an object.
#![forbid(unsafe_code)]

pub(super) mod capacity;
pub(super) mod decay;
pub(super) mod idle;

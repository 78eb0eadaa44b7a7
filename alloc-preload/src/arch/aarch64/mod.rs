//! aarch64, AAPCS64.

mod children;
mod jumps;

pub use children::enter;
pub use jumps::image;
pub(crate) use jumps::{
    address_of, call_or_jump, jump_to_found, jump_to_slot, jump_to_symbol,
    jump_to_symbol_without_second, weak_address_of,
};

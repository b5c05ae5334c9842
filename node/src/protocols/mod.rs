//! The protocols a node speaks, one module each.

pub mod echo;
pub mod gossip;
pub mod hold;
pub mod identify;
pub mod perf;
pub mod ping;

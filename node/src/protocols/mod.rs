//! The protocols a node speaks, one module each.

pub mod autonat;
pub mod dcutr;
pub mod echo;
pub(crate) mod frame;
pub mod gossip;
pub mod hold;
pub mod identify;
pub mod perf;
pub mod ping;
pub mod relay;
pub mod rendezvous;

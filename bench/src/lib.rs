//! barewire beside its peers and the machine's limits.
//!
//! [`compare`] runs every stack and every limit in interleaved rounds and prints the ratio table, [`gossip`] does so for
//! gossipsub; [`relay`] and [`udp_relay`] are the delaying relays for long paths; [`ends`] are the two ends of each limit.

pub mod compare;
pub mod ends;
pub mod gossip;
pub mod measure;
pub mod relay;
pub mod stacks;
pub mod table;
mod targets;
pub mod udp_relay;

/// One sentence about what went wrong.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

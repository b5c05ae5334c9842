//! barewire beside its peers and the machine's limits.
//!
//! [`compare`] runs every stack and every limit in interleaved rounds and prints the ratio table; [`relay`] and
//! [`udp_relay`] are the delaying relays it measures long paths with; [`ends`] are the two ends of each limit.

pub mod compare;
pub mod ends;
pub mod measure;
pub mod relay;
pub mod stacks;
pub mod table;
mod targets;
pub mod udp_relay;

/// One sentence about what went wrong.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

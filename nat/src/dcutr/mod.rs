//! DCUtR: two nodes that are connected through a relay open a direct connection through their routers, by dialling each other at the
//! same time.
//!
//! The node whose relayed connection is inbound **initiates**; the one that dialled **responds**. [`Exchange`] is what they say to each
//! other before one attempt, and when each begins to dial; [`Attempts`] is how often a peer gets one.

mod attempts;
mod exchange;
mod message;

pub use self::{
    attempts::{Attempts, AttemptsConfig},
    exchange::{Exchange, ExchangeError, MAX_ADDRS, Punch, Side, Step, initiator_side},
    message::{MAX_MESSAGE, MessageError, PunchMessage},
};

/// Protocol id.
pub const PROTOCOL: &str = "/libp2p/dcutr";

//! Dialling: several addresses of a peer at once, a little apart, until one of them is a connection.
//!
//! What is tried when is decided by [`Planner`], which knows no socket and reads no clock. Names are
//! looked up anew for each dial, while addresses without names are tried already.

mod black_hole;
mod driver;
mod join;
mod names;
mod planner;
mod stats;
mod target;

use std::time::Duration;

pub use barewire_transport::dns::{
    DnsConfig, DnsLimits, DropReason, Dropped, Lookup, LookupError, RecordKind, Resolution,
    ResolveError, Resolver,
};

pub use self::{
    black_hole::{BlackHole, BlackHoleState},
    planner::{DialLimits, Outcome, Plan, Planner, Skip, Step},
    stats::{DialStats, TransportDials},
    target::{DialEvent, DialStep, DialTarget},
};
pub(crate) use self::{driver::Dialer, join::Whom};

/// Settings of dialling.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialConfig {
    /// Limits on how much is tried.
    pub limits: DialLimits,
    /// Deadline of one address. Default 15 s, as go-libp2p.
    pub address_timeout: Duration,
    /// The same for an address on this machine or in a private network. Default 5 s, as go-libp2p.
    pub private_timeout: Duration,
    /// Deadline of a dial. Default 60 s, as go-libp2p.
    pub timeout: Duration,
    /// Lets public names lead into private networks, to this machine and to link-local addresses.
    /// Default false: then they do only if this node itself listens in such a network and in no
    /// public one, and to link-local addresses never.
    pub private_names: bool,
}

impl Default for DialConfig {
    fn default() -> Self {
        Self {
            limits: DialLimits::default(),
            address_timeout: Duration::from_secs(15),
            private_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(60),
            private_names: false,
        }
    }
}

//! Circuit relay v2: a node that others can reach carries streams between two that cannot reach each other.
//!
//! [`HopMessage`] and [`StopMessage`] are what goes over the wire, [`Voucher`] is the relay's signed word. [`Ledger`] is the relay's
//! account of who has reserved and whose circuits run; [`Keeper`] decides for a client which relays to ask when.

mod keeper;
mod ledger;
mod message;
mod voucher;

use std::time::Duration;

pub use self::{
    keeper::{Action, Failure, Keeper, KeeperConfig},
    ledger::{CircuitId, Ledger, LedgerConfig, Origin, Refusal, Reserved},
    message::{HopMessage, MAX_ADDRS, MAX_MESSAGE, MessageError, Reservation, Status, StopMessage},
    voucher::{Voucher, VoucherError},
};

/// Protocol id of what clients ask a relay for.
pub const HOP_PROTOCOL: &str = "/libp2p/circuit/relay/0.2.0/hop";
/// Protocol id of what a relay asks the target of a circuit.
pub const STOP_PROTOCOL: &str = "/libp2p/circuit/relay/0.2.0/stop";

/// What a circuit may carry. go-libp2p's relays count each direction, rust-libp2p's both together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limit {
    /// How long it lasts; `None` for ever.
    pub duration: Option<Duration>,
    /// Bytes; `None` any number.
    pub data: Option<u64>,
}

impl Limit {
    /// No limit at all.
    pub const NONE: Self = Self {
        duration: None,
        data: None,
    };

    /// Whether it limits nothing.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.duration.is_none() && self.data.is_none()
    }
}

/// 2 minutes and 128 KiB, as go- and rust-libp2p.
impl Default for Limit {
    fn default() -> Self {
        Self {
            duration: Some(Duration::from_secs(120)),
            data: Some(128 << 10),
        }
    }
}

//! A say in who is connected to.

use std::fmt;

use barewire_base::{Multiaddr, PeerId};
use barewire_transport::{Connection, Role};

/// Decides about connections at four moments. Each hook may refuse by an error that says why.
///
/// The hooks are called on the tasks that make connections, one at a time per connection, so they
/// must be quick and must not block. By default everything is allowed.
///
/// A refusal is counted as [`Incident::Gated`](crate::Incident::Gated) and logged. The remote is told
/// code `0x1007` where it can be told: over QUIC, and over TCP once the muxer is agreed. A caller
/// that dials gets [`DialError::Gated`](crate::DialError::Gated).
pub trait ConnectionGater: fmt::Debug + Send + Sync + 'static {
    /// Before an address is dialled. `peer` is known when the address names it.
    fn before_dial(&self, peer: Option<&PeerId>, addr: &Multiaddr) -> Result<(), Gated> {
        let _ = (peer, addr);
        Ok(())
    }

    /// A remote has connected; nothing was read from it. A refused one is closed without a word.
    fn on_accept(&self, remote: &Multiaddr) -> Result<(), Gated> {
        let _ = remote;
        Ok(())
    }

    /// The remote has proved who it is. [`Role::Client`] if this side dialled.
    fn after_security(&self, peer: &PeerId, role: Role, remote: &Multiaddr) -> Result<(), Gated> {
        let _ = (peer, role, remote);
        Ok(())
    }

    /// The connection is ready and will be handed out.
    fn after_mux(&self, connection: &Connection) -> Result<(), Gated> {
        let _ = connection;
        Ok(())
    }
}

/// Why a gater refused; for the log, not for the remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Gated(pub &'static str);

//! Dialling through a relay.

use std::sync::Arc;

use barewire_base::{Multiaddr, PeerId, Protocol};
use barewire_nat::relay::{HOP_PROTOCOL, HopMessage, Limit, Status};
use barewire_transport::{CircuitLimit, Connection, InboundStreams, RawConnection, Role};

use super::{RelayError, wire};
use crate::{
    dial::{DialTarget, Whom},
    endpoint::Shared,
    error::DialError,
};

/// Whether an address leads through a relay.
pub(crate) fn is_circuit(addr: &Multiaddr) -> bool {
    addr.iter().any(|part| part == Protocol::P2pCircuit)
}

/// A relayed address taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Circuit {
    /// The relay's own address, with its peer id.
    pub(super) relay_addr: Multiaddr,
    pub(super) relay: PeerId,
    pub(super) target: Option<PeerId>,
}

impl Circuit {
    /// `None` unless the address is `/…/p2p/RELAY/p2p-circuit[/p2p/PEER]` and names one relay.
    pub(super) fn of(addr: &Multiaddr) -> Option<Self> {
        let mut before = addr.clone();
        let target = before.peer_id();
        if target.is_some() {
            before.pop();
        }
        if before.pop() != Some(Protocol::P2pCircuit) || is_circuit(&before) {
            return None;
        }
        let relay = before.peer_id()?;
        let whole = target != Some(relay);
        whole.then_some(Self {
            relay_addr: before,
            relay,
            target,
        })
    }
}

pub(super) fn circuit_limit(limit: Limit) -> Option<CircuitLimit> {
    let Limit { duration, data } = limit;
    (!limit.is_none()).then_some(CircuitLimit { duration, data })
}

impl Shared {
    /// Connects through a relay: to it first, unless there is a connection. The caller sets the deadline. Cancel-safe.
    pub(crate) async fn dial_circuit(
        self: &Arc<Self>,
        addr: &Multiaddr,
        expected: Option<PeerId>,
    ) -> Result<(Connection, InboundStreams), DialError> {
        let failed = |error| DialError::Relay {
            addr: addr.clone(),
            error,
        };
        let dialled = self.through_relay(addr, expected).await;
        dialled.map_err(|error| match error {
            RelayError::Upgrade(error) => DialError::upgrade(addr, error),
            error => failed(error),
        })
    }

    async fn through_relay(
        self: &Arc<Self>,
        addr: &Multiaddr,
        expected: Option<PeerId>,
    ) -> Result<(Connection, InboundStreams), RelayError> {
        let circuit = Circuit::of(addr).ok_or(RelayError::Address)?;
        let target = circuit.target.or(expected).ok_or(RelayError::Address)?;
        if circuit.relay == self.peer_id || circuit.relay == target {
            return Err(RelayError::Address);
        }
        let relay = match self.direct(&circuit.relay) {
            Some(open) => open,
            None => {
                let target = DialTarget::from(vec![circuit.relay_addr]).with_listening_ports();
                let dialled = self.join_dial(&Whom::Peer(circuit.relay), target).await;
                dialled.map_err(|error| RelayError::Dial(Box::new(error)))?
            }
        };
        if relay.info().is_relayed() {
            return Err(RelayError::Nested);
        }
        let opened = relay.open_stream(HOP_PROTOCOL).await;
        let mut stream = opened.map_err(RelayError::Open)?;
        let request = wire::framed(&HopMessage::Connect { peer: target });
        let written = stream.write_chunk(request).await;
        written.map_err(RelayError::Stream)?;
        let limit = match wire::read(&mut stream).await? {
            HopMessage::Status {
                status: Status::Ok,
                limit,
                ..
            } => circuit_limit(limit),
            HopMessage::Status { status, .. } => return Err(RelayError::Refused(status)),
            _ => return Err(RelayError::Unexpected),
        };
        let addr = addr.clone().without_peer();
        let raw = RawConnection::circuit(stream, addr, limit);
        let upgraded = self
            .transports
            .upgrade(raw, Role::Client, Some(target))
            .await;
        upgraded.map_err(RelayError::Upgrade)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_base::Keypair;

    use super::*;

    #[test]
    fn one_relay_and_another_peer() {
        let [relay, peer] = [1, 2].map(|n| Keypair::from_seed(&[n; 32]).peer_id());
        let of = |text: &str| Circuit::of(&text.parse().unwrap());
        let at = format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}");
        let circuit = of(&format!("{at}/p2p-circuit/p2p/{peer}")).unwrap();
        assert_eq!((circuit.relay, circuit.target), (relay, Some(peer)));
        assert_eq!(circuit.relay_addr.to_string(), at);
        assert_eq!(of(&format!("{at}/p2p-circuit")).unwrap().target, None);
        for bad in [
            at.clone(),
            format!("{at}/p2p-circuit/p2p/{relay}"),
            format!("/ip4/192.0.2.1/tcp/1/p2p-circuit/p2p/{peer}"),
            format!("{at}/p2p-circuit/p2p/{peer}/p2p-circuit/p2p/{peer}"),
            format!("{at}/p2p-circuit/p2p/{peer}/p2p-circuit"),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
    }
}

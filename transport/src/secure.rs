//! The secure channels a connection may be upgraded with.

use std::sync::Arc;

use barewire_base::PeerId;
use barewire_mux::Role;
use barewire_security::{Secured, noise, tls};
use bytes::BytesMut;

use crate::error::UpgradeError;

/// A secure channel with what all its handshakes share.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Security {
    /// `/noise`
    Noise(Arc<noise::Config>),
    /// `/tls/1.0.0`
    Tls(Arc<tls::Config>),
}

impl Security {
    /// Its multistream id.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Noise(_) => noise::PROTOCOL,
            Self::Tls(_) => tls::PROTOCOL,
        }
    }

    pub(crate) fn start(
        &self,
        role: Role,
        expected: Option<PeerId>,
    ) -> Result<Handshake, UpgradeError> {
        match self {
            Self::Noise(config) => {
                let mut rng = rand::rng();
                match role {
                    Role::Client => noise::Handshake::initiator(config, expected, &mut rng),
                    Role::Server => noise::Handshake::responder(config, &mut rng),
                }
                .map(Handshake::Noise)
                .map_err(UpgradeError::Handshake)
            }
            Self::Tls(config) => match role {
                Role::Client => tls::Handshake::client(config, expected),
                Role::Server => tls::Handshake::server(config),
            }
            .map(Handshake::Tls)
            .map_err(UpgradeError::Tls),
        }
    }
}

/// A handshake of either kind.
pub(crate) enum Handshake {
    Noise(noise::Handshake),
    Tls(tls::Handshake),
}

impl Handshake {
    pub(crate) fn protocol(&self) -> &'static str {
        match self {
            Self::Noise(_) => noise::PROTOCOL,
            Self::Tls(_) => tls::PROTOCOL,
        }
    }

    /// Bytes not taken have to come again as they are left.
    pub(crate) fn handle_input(&mut self, input: &mut [u8]) -> Result<usize, UpgradeError> {
        match self {
            Self::Noise(handshake) => handshake
                .handle_input(input)
                .map_err(UpgradeError::Handshake),
            Self::Tls(handshake) => handshake.handle_input(input).map_err(UpgradeError::Tls),
        }
    }

    /// Also after an error: what tells the remote why.
    pub(crate) fn poll_transmit(&mut self, out: &mut BytesMut) -> bool {
        match self {
            Self::Noise(handshake) => handshake.poll_transmit(out),
            Self::Tls(handshake) => handshake.poll_transmit(out),
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        match self {
            Self::Noise(handshake) => handshake.is_finished(),
            Self::Tls(handshake) => handshake.is_finished(),
        }
    }

    pub(crate) fn finish(self) -> Result<Secured, UpgradeError> {
        match self {
            Self::Noise(handshake) => handshake.finish().map_err(UpgradeError::Handshake),
            Self::Tls(handshake) => handshake.finish().map_err(UpgradeError::Tls),
        }
    }
}

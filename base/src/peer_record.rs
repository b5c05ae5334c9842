//! Peer records: the addresses of a peer, signed by it.

use prost::Message;

use crate::{
    Fault, Keypair, Multiaddr, PeerId,
    envelope::{EnvelopeError, SignedEnvelope},
    identity::PeerIdError,
    proto::{self, Fields, ScanError, ScanLimits, Value},
};

/// What go- and js-libp2p sign under, and what is signed here.
const DOMAIN: &str = "libp2p-peer-record";
/// Two literal bytes, not a varint.
const PAYLOAD_TYPE: &[u8] = &[0x03, 0x01];

/// What rust-libp2p signs under by default.
const LEGACY_DOMAIN: &str = "libp2p-routing-state";
const LEGACY_PAYLOAD_TYPE: &[u8] = b"/libp2p/routing-state-record";

/// Most fields in a record, addresses included; more than any implementation keeps.
const SCAN_LIMITS: ScanLimits = ScanLimits {
    max_fields: 256,
    max_depth: 0,
};

/// Fields of one address entry, unknown ones included.
const ADDRESS_SCAN_LIMITS: ScanLimits = ScanLimits {
    max_fields: 4,
    max_depth: 0,
};

/// Why a peer record is not accepted, or cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerRecordError {
    /// The envelope around it is invalid.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// The record is not a protobuf message within limits.
    #[error("the peer record is not a valid protobuf message: {0}")]
    Protobuf(#[from] ScanError),
    /// Fields have other types than a record's.
    #[error("the record's fields are not those of a peer record")]
    Malformed,
    /// The record's peer id is no peer id.
    #[error("the record's peer id is invalid: {0}")]
    PeerId(#[from] PeerIdError),
    /// The record speaks of another peer than the one whose key signed it.
    #[error("the record is about {record} but was signed by {signer}")]
    WrongSigner {
        /// The peer in the record.
        record: PeerId,
        /// The peer whose key signed.
        signer: PeerId,
    },
}

impl PeerRecordError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::Envelope(error) => error.fault(),
            _ => Fault::Peer,
        }
    }
}

/// The addresses of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRecord {
    /// The peer.
    pub peer_id: PeerId,
    /// Grows with each record of the peer. Implementations count in different units, so it is only
    /// to be compared: take a record if it is greater than the one already had.
    pub seq: u64,
    /// The peer's addresses, maybe none. Of a received record, those that are understood here.
    pub addrs: Vec<Multiaddr>,
}

/// The record as it is written: all fields, even when they are zero or empty. Reading takes slices, so that many small
/// fields cost no allocation each.
#[derive(Clone, PartialEq, Eq, Message)]
struct Wire {
    #[prost(bytes = "vec", optional, tag = "1")]
    peer_id: Option<Vec<u8>>,
    #[prost(uint64, optional, tag = "2")]
    seq: Option<u64>,
    /// Messages with the address as field 1.
    #[prost(bytes = "vec", repeated, tag = "3")]
    addresses: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct WireAddress {
    #[prost(bytes = "vec", tag = "1")]
    multiaddr: Vec<u8>,
}

impl PeerRecord {
    /// Signs the record in the form go- and js-libp2p accept. Returns the envelope's bytes.
    ///
    /// Addresses with components that not every implementation knows are left out: one of them
    /// would make rust-libp2p refuse the whole record.
    ///
    /// # Errors
    /// [`PeerRecordError::WrongSigner`] if `keypair` is not the peer's.
    pub fn sign(&self, keypair: &Keypair) -> Result<Vec<u8>, PeerRecordError> {
        self.seal(keypair, DOMAIN, PAYLOAD_TYPE)
    }

    /// Signs the record in the form rust-libp2p's identify and rendezvous read, which go- and
    /// js-libp2p refuse. Otherwise as [`sign`](Self::sign).
    ///
    /// # Errors
    /// [`PeerRecordError::WrongSigner`] if `keypair` is not the peer's.
    pub fn sign_legacy(&self, keypair: &Keypair) -> Result<Vec<u8>, PeerRecordError> {
        self.seal(keypair, LEGACY_DOMAIN, LEGACY_PAYLOAD_TYPE)
    }

    fn seal(
        &self,
        keypair: &Keypair,
        domain: &str,
        payload_type: &[u8],
    ) -> Result<Vec<u8>, PeerRecordError> {
        let signer = keypair.peer_id();
        if signer != self.peer_id {
            return Err(PeerRecordError::WrongSigner {
                record: self.peer_id,
                signer,
            });
        }
        let addresses = self.addrs.iter().filter(|addr| addr.is_widely_known());
        let wire = Wire {
            peer_id: Some(self.peer_id.as_bytes().to_vec()),
            seq: Some(self.seq),
            addresses: addresses
                .map(|addr| {
                    WireAddress {
                        multiaddr: addr.as_bytes().to_vec(),
                    }
                    .encode_to_vec()
                })
                .collect(),
        };
        let payload = wire.encode_to_vec();
        Ok(SignedEnvelope::seal(keypair, domain, payload_type, payload)?.encode())
    }

    /// Reads and verifies a signed record in either form in use (go- and js-libp2p's, and
    /// rust-libp2p's default). Addresses not understood here are left out.
    ///
    /// # Errors
    /// [`PeerRecordError`], in the order: envelope, signature, payload type, record, signer.
    pub fn from_envelope(bytes: &[u8]) -> Result<Self, PeerRecordError> {
        let envelope = SignedEnvelope::decode(bytes)?;
        let (domain, payload_type) = if envelope.payload_type() == LEGACY_PAYLOAD_TYPE {
            (LEGACY_DOMAIN, LEGACY_PAYLOAD_TYPE)
        } else {
            (DOMAIN, PAYLOAD_TYPE)
        };
        let payload = envelope.open(domain, payload_type)?;
        let record = Self::decode(payload)?;
        let signer = envelope.public_key().peer_id();
        if signer != record.peer_id {
            return Err(PeerRecordError::WrongSigner {
                record: record.peer_id,
                signer,
            });
        }
        Ok(record)
    }

    fn decode(payload: &[u8]) -> Result<Self, PeerRecordError> {
        proto::scan(payload, &SCAN_LIMITS)?;
        let (mut peer_id, mut seq, mut addrs) = (&[][..], 0, Vec::new());
        let mut fields = Fields::new(payload);
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (1, Value::Bytes(id)) => peer_id = id,
                (2, Value::Varint(number)) => seq = number,
                (3, Value::Bytes(entry)) => addrs.extend(Multiaddr::from_bytes(address(entry)?)),
                (1..=3, _) => return Err(PeerRecordError::Malformed),
                _ => {}
            }
        }
        Ok(Self {
            peer_id: PeerId::from_bytes(peer_id)?,
            seq,
            addrs,
        })
    }
}

/// The address of an entry; empty if there is none.
fn address(entry: &[u8]) -> Result<&[u8], PeerRecordError> {
    proto::scan(entry, &ADDRESS_SCAN_LIMITS)?;
    let (mut address, mut fields) = (&[][..], Fields::new(entry));
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(bytes)) => address = bytes,
            (1, _) => return Err(PeerRecordError::Malformed),
            _ => {}
        }
    }
    Ok(address)
}

#[cfg(test)]
mod tests;

//! The signed word of a relay that somebody has a reservation.

use barewire_base::{
    Fault, Keypair, PeerId,
    envelope::{EnvelopeError, SignedEnvelope},
    proto::{Fields, ScanError, Value, put_bytes_field, put_varint_field},
};

const DOMAIN: &str = "libp2p-relay-rsvp";
/// Two bytes as they are, not a number.
const PAYLOAD_TYPE: &[u8] = &[3, 2];

/// What a relay vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    /// The relay.
    pub relay: PeerId,
    /// Who has the reservation.
    pub peer: PeerId,
    /// Until when, in seconds since 1970.
    pub expiration: u64,
}

/// Why a voucher is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VoucherError {
    /// The envelope cannot be read, or is not signed by the key it names, or holds something else.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
    /// What is in it cannot be read.
    #[error("a voucher is malformed: {0}")]
    Proto(#[from] ScanError),
    /// A field is missing or of another type.
    #[error("field {0} of a voucher is missing or invalid")]
    Field(u32),
    /// Another relay than the one it names has signed it, or it is not from the one that was asked.
    #[error("the voucher is of another relay")]
    OtherRelay,
    /// It is for somebody else.
    #[error("the voucher is for another peer")]
    OtherPeer,
}

impl VoucherError {
    /// The relay's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

impl Voucher {
    /// The envelope with the relay's signature.
    ///
    /// # Errors
    /// [`VoucherError::OtherRelay`] if `keypair` is not the relay's.
    pub fn sign(&self, keypair: &Keypair) -> Result<Vec<u8>, VoucherError> {
        if keypair.peer_id() != self.relay {
            return Err(VoucherError::OtherRelay);
        }
        let mut payload = Vec::new();
        put_bytes_field(1, self.relay.as_bytes(), &mut payload);
        put_bytes_field(2, self.peer.as_bytes(), &mut payload);
        put_varint_field(3, self.expiration, &mut payload);
        Ok(SignedEnvelope::seal(keypair, DOMAIN, PAYLOAD_TYPE, payload)?.encode())
    }

    /// Reads what `relay` gave to `peer`. Whether it has expired is the caller's to say.
    ///
    /// # Errors
    /// [`VoucherError`], in the order: envelope, signature, payload, relay, peer.
    pub fn open(envelope: &[u8], relay: &PeerId, peer: &PeerId) -> Result<Self, VoucherError> {
        let envelope = SignedEnvelope::decode(envelope)?;
        let voucher = Self::decode(envelope.open(DOMAIN, PAYLOAD_TYPE)?)?;
        if voucher.relay != *relay || envelope.public_key().peer_id() != *relay {
            return Err(VoucherError::OtherRelay);
        }
        if voucher.peer != *peer {
            return Err(VoucherError::OtherPeer);
        }
        Ok(voucher)
    }

    fn decode(payload: &[u8]) -> Result<Self, VoucherError> {
        let mut ids = [None, None];
        let mut expiration = None;
        let mut fields = Fields::new(payload);
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (number @ 1..=2, Value::Bytes(id)) => {
                    let id = PeerId::from_bytes(id).map_err(|_| VoucherError::Field(number))?;
                    ids[number as usize - 1] = Some(id);
                }
                (3, Value::Varint(seconds)) => expiration = Some(seconds),
                (number @ 1..=3, _) => return Err(VoucherError::Field(number)),
                _ => {}
            }
        }
        Ok(Self {
            relay: ids[0].ok_or(VoucherError::Field(1))?,
            peer: ids[1].ok_or(VoucherError::Field(2))?,
            expiration: expiration.ok_or(VoucherError::Field(3))?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn only_the_relay_vouches_and_only_for_whom_it_names() {
        let [relay, peer] = [1, 2].map(|n| Keypair::from_seed(&[n; 32]));
        let (relay_id, peer_id) = (relay.peer_id(), peer.peer_id());
        let voucher = Voucher {
            relay: relay_id,
            peer: peer_id,
            expiration: 1_800_000_000,
        };
        assert_eq!(voucher.sign(&peer), Err(VoucherError::OtherRelay));
        let signed = voucher.sign(&relay).unwrap();
        let open = |bytes: &[u8]| Voucher::open(bytes, &relay_id, &peer_id);
        assert_eq!(open(&signed), Ok(voucher.clone()));
        let other = Voucher::open(&signed, &relay_id, &relay_id);
        assert_eq!(other, Err(VoucherError::OtherPeer));
        let other = Voucher::open(&signed, &peer_id, &peer_id);
        assert_eq!(other, Err(VoucherError::OtherRelay));
        // Whose key signs is not whom the payload names.
        let mut payload = Vec::new();
        put_bytes_field(1, relay_id.as_bytes(), &mut payload);
        put_bytes_field(2, peer_id.as_bytes(), &mut payload);
        put_varint_field(3, 1, &mut payload);
        let seal = |domain| SignedEnvelope::seal(&peer, domain, PAYLOAD_TYPE, payload.clone());
        let forged = seal(DOMAIN).unwrap().encode();
        assert_eq!(open(&forged), Err(VoucherError::OtherRelay));
        let foreign = seal("libp2p-peer-record").unwrap().encode();
        assert!(matches!(open(&foreign), Err(VoucherError::Envelope(_))));
        for at in 0..signed.len() {
            let mut bent = signed.clone();
            bent[at] ^= 1;
            assert!(open(&bent).is_err(), "byte {at}");
        }
    }
}

//! Signed envelopes: a payload, the key that vouches for it, and what kind of payload it is.

use prost::Message;

use crate::{
    Fault, Keypair, PublicKey,
    identity::{PublicKeyError, SignatureError},
    proto::{self, ScanError, ScanLimits},
    varint,
};

/// Longest envelope looked at in bytes. The records that travel in envelopes are far smaller;
/// identify's whole message is limited to 8 KiB by its readers.
pub const MAX_ENVELOPE_LEN: usize = 64 * 1024;

/// Four fields, some repeated or unknown ones tolerated.
const SCAN_LIMITS: ScanLimits = ScanLimits {
    max_fields: 16,
    max_depth: 0,
};

/// Why an envelope is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// Longer than [`MAX_ENVELOPE_LEN`].
    #[error("an envelope of {0} bytes is longer than {MAX_ENVELOPE_LEN}")]
    TooLong(usize),
    /// Not a protobuf message within limits.
    #[error("the envelope is not a valid protobuf message: {0}")]
    Protobuf(#[from] ScanError),
    /// Fields have other types than an envelope's.
    #[error("the envelope's fields are not those of an envelope")]
    Malformed,
    /// The key is missing or unusable.
    #[error("the envelope's key is unusable: {0}")]
    Key(#[from] PublicKeyError),
    /// The domain to sign or verify under is empty.
    #[error("an envelope's domain must not be empty")]
    EmptyDomain,
    /// The signature is not the key's over this payload in this domain.
    #[error("the envelope's signature is wrong")]
    Signature(#[from] SignatureError),
    /// The payload is of another type than expected.
    #[error("the envelope holds another type of payload")]
    PayloadType,
}

impl EnvelopeError {
    /// Who is to blame.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::EmptyDomain => Fault::Local,
            _ => Fault::Peer,
        }
    }
}

/// A payload with a signature. The payload of a received one is only given out by
/// [`open`](Self::open), which verifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedEnvelope {
    public_key: PublicKey,
    payload_type: Vec<u8>,
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// The envelope on the wire; field 4 is unused. The key is taken as bytes, because
/// [`PublicKey`] reads and writes its own message.
#[derive(Clone, PartialEq, Eq, Message)]
struct Wire {
    #[prost(bytes = "vec", optional, tag = "1")]
    public_key: Option<Vec<u8>>,
    #[prost(bytes = "vec", tag = "2")]
    payload_type: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    payload: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    signature: Vec<u8>,
}

impl SignedEnvelope {
    /// Signs `payload` under `domain`, which keeps signatures of one use from passing in another.
    ///
    /// # Errors
    /// [`EnvelopeError::EmptyDomain`].
    pub fn seal(
        keypair: &Keypair,
        domain: &str,
        payload_type: &[u8],
        payload: Vec<u8>,
    ) -> Result<Self, EnvelopeError> {
        let signature = keypair
            .sign(&signed_bytes(domain, payload_type, &payload)?)
            .to_vec();
        Ok(Self {
            public_key: keypair.public().clone(),
            payload_type: payload_type.to_vec(),
            payload,
            signature,
        })
    }

    /// Reads an envelope without verifying it.
    ///
    /// # Errors
    /// [`EnvelopeError`] if it is too long, malformed, or its key is missing or unusable.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_ENVELOPE_LEN {
            return Err(EnvelopeError::TooLong(bytes.len()));
        }
        proto::scan(bytes, &SCAN_LIMITS)?;
        let wire = Wire::decode(bytes).map_err(|_| EnvelopeError::Malformed)?;
        // No key at all reads as an empty message, which lacks a type.
        let public_key = PublicKey::from_protobuf(&wire.public_key.unwrap_or_default())?;
        Ok(Self {
            public_key,
            payload_type: wire.payload_type,
            payload: wire.payload,
            signature: wire.signature,
        })
    }

    /// The envelope on the wire.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        Wire {
            public_key: Some(self.public_key.to_protobuf()),
            payload_type: self.payload_type.clone(),
            payload: self.payload.clone(),
            signature: self.signature.clone(),
        }
        .encode_to_vec()
    }

    /// Verifies the signature under `domain`, then that the payload is of type `payload_type`, and
    /// returns the payload.
    ///
    /// # Errors
    /// [`EnvelopeError::EmptyDomain`], [`Signature`](EnvelopeError::Signature) or
    /// [`PayloadType`](EnvelopeError::PayloadType).
    pub fn open(&self, domain: &str, payload_type: &[u8]) -> Result<&[u8], EnvelopeError> {
        let signed = signed_bytes(domain, &self.payload_type, &self.payload)?;
        self.public_key.verify(&signed, &self.signature)?;
        if self.payload_type != payload_type {
            return Err(EnvelopeError::PayloadType);
        }
        Ok(&self.payload)
    }

    /// The key the envelope names. It vouches for nothing before [`open`](Self::open) succeeded.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The type of payload the envelope names.
    #[must_use]
    pub fn payload_type(&self) -> &[u8] {
        &self.payload_type
    }
}

/// The bytes a signature covers: domain, type and payload, each with its length before it.
fn signed_bytes(
    domain: &str,
    payload_type: &[u8],
    payload: &[u8],
) -> Result<Vec<u8>, EnvelopeError> {
    if domain.is_empty() {
        return Err(EnvelopeError::EmptyDomain);
    }
    let parts = [domain.as_bytes(), payload_type, payload];
    let mut out = Vec::with_capacity(parts.iter().map(|part| part.len() + varint::MAX_LEN).sum());
    for part in parts {
        varint::encode(part.len() as u64, &mut out);
        out.extend_from_slice(part);
    }
    Ok(out)
}

#[cfg(test)]
mod tests;

//! The protobuf payload of the second and third handshake message.

use std::sync::Arc;

use barewire_base::proto::{Fields, ScanError, ScanLimits, Value, scan};
use bytes::Bytes;
use prost::Message;

use super::{MAX_MUXERS, PayloadError};

/// What is signed: this and the 32 bytes of the static key.
const SIGNATURE_PREFIX: &[u8] = b"noise-libp2p-static-key:";

/// Fields of the payload: three are defined, the rest leaves room for newer peers.
const PAYLOAD_LIMITS: ScanLimits = ScanLimits {
    max_fields: 16,
    max_depth: 0,
};
/// Field of the extensions that names muxers. That of WebTransport's certificate hashes is skipped like any unknown one.
const MUXERS: u32 = 2;

/// `NoiseHandshakePayload`. Field 3 was early data once; it is skipped like any unknown field.
#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(bytes = "bytes", optional, tag = "1")]
    identity_key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    identity_sig: Option<Bytes>,
    /// `NoiseExtensions`, kept as bytes: nothing in them is worth an allocation.
    #[prost(bytes = "bytes", optional, tag = "4")]
    extensions: Option<Bytes>,
}

/// What we send in it.
#[derive(Clone, PartialEq, Message)]
struct Extensions {
    #[prost(string, repeated, tag = "2")]
    stream_muxers: Vec<String>,
}

/// A received payload. Nothing in it is proven yet.
#[derive(Debug)]
pub(super) struct Payload {
    /// The identity key in protobuf form, empty when absent.
    pub(super) identity_key: Bytes,
    pub(super) identity_sig: Bytes,
    /// Checked. Empty when absent or when they name more than [`MAX_MUXERS`].
    extensions: Bytes,
}

impl Payload {
    /// Decodes a payload. Takes time linear in its bytes and allocates nothing.
    pub(super) fn decode(message: Bytes) -> Result<Self, PayloadError> {
        scan(&message, &PAYLOAD_LIMITS)?;
        let wire = Wire::decode(message).map_err(|_| PayloadError::Field)?;
        let mut extensions = wire.extensions.unwrap_or_default();
        if count_muxers(&extensions)? > MAX_MUXERS {
            extensions = Bytes::new();
        }
        Ok(Self {
            identity_key: wire.identity_key.unwrap_or_default(),
            identity_sig: wire.identity_sig.unwrap_or_default(),
            extensions,
        })
    }

    /// At most [`MAX_MUXERS`] names, in the peer's order.
    pub(super) fn muxers(&self) -> impl Iterator<Item = &str> {
        let mut fields = Fields::new(&self.extensions);
        let fields = std::iter::from_fn(move || fields.next_field().ok().flatten());
        fields.filter_map(|field| match (field.number, field.value) {
            (MUXERS, Value::Bytes(name)) => str::from_utf8(name).ok(),
            _ => None,
        })
    }
}

/// Checks the extensions and counts the muxers in them. However many other fields there are, a newer peer may mean
/// something by them.
fn count_muxers(extensions: &[u8]) -> Result<usize, PayloadError> {
    let mut fields = Fields::new(extensions);
    let mut muxers = 0;
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            (_, Value::StartGroup) => return Err(ScanError::TooDeep(0).into()),
            (_, Value::EndGroup) => return Err(ScanError::Group.into()),
            (MUXERS, Value::Bytes(name)) if str::from_utf8(name).is_ok() => muxers += 1,
            (MUXERS, _) => return Err(PayloadError::Field),
            _ => {}
        }
    }
    Ok(muxers)
}

/// Encodes our own payload. Without muxers it has no extensions at all, as of a peer that knows
/// none.
pub(super) fn encode(identity_key: Vec<u8>, identity_sig: Vec<u8>, muxers: &[Arc<str>]) -> Vec<u8> {
    let extensions = (!muxers.is_empty()).then(|| {
        let stream_muxers = muxers.iter().map(|muxer| muxer.to_string()).collect();
        Extensions { stream_muxers }.encode_to_vec().into()
    });
    Wire {
        identity_key: Some(identity_key.into()),
        identity_sig: Some(identity_sig.into()),
        extensions,
    }
    .encode_to_vec()
}

/// The bytes an identity key signs to vouch for a static key.
pub(super) fn signed_bytes(static_key: &[u8; 32]) -> Vec<u8> {
    [SIGNATURE_PREFIX, static_key].concat()
}

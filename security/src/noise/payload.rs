//! The protobuf payload of the second and third handshake message.

use std::sync::Arc;

use barewire_base::proto::{ScanLimits, scan};
use bytes::Bytes;
use prost::Message;

use super::{MAX_CERTHASHES, MAX_MUXERS, PayloadError};

/// What is signed: this and the 32 bytes of the static key.
const SIGNATURE_PREFIX: &[u8] = b"noise-libp2p-static-key:";

/// Fields of the payload: three are defined, the rest leaves room for newer peers.
const PAYLOAD_LIMITS: ScanLimits = ScanLimits {
    max_fields: 16,
    max_depth: 0,
};
/// Fields of the extensions: a list of muxers and one of hashes at their ends, and as much again of
/// unknown ones.
const EXTENSION_LIMITS: ScanLimits = ScanLimits {
    max_fields: 2 * (MAX_MUXERS + MAX_CERTHASHES),
    max_depth: 0,
};

/// `NoiseHandshakePayload`. Field 3 was early data once; it is skipped like any unknown field.
#[derive(Clone, PartialEq, Message)]
struct Wire {
    #[prost(bytes = "bytes", optional, tag = "1")]
    identity_key: Option<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    identity_sig: Option<Bytes>,
    /// `NoiseExtensions`, kept as bytes until they have been scanned.
    #[prost(bytes = "bytes", optional, tag = "4")]
    extensions: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct Extensions {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    webtransport_certhashes: Vec<Bytes>,
    #[prost(string, repeated, tag = "2")]
    stream_muxers: Vec<String>,
}

/// A received payload. Nothing in it is proven yet.
#[derive(Debug)]
pub(super) struct Payload {
    /// The identity key in protobuf form, empty when absent.
    pub(super) identity_key: Bytes,
    pub(super) identity_sig: Bytes,
    /// At most [`MAX_MUXERS`] names, in the peer's order; empty when absent or longer.
    pub(super) muxers: Vec<String>,
}

impl Payload {
    /// Decodes a payload, whose allocations are bounded before they are made.
    pub(super) fn decode(message: Bytes) -> Result<Self, PayloadError> {
        scan(&message, &PAYLOAD_LIMITS)?;
        let wire = Wire::decode(message).map_err(|_| PayloadError::Field)?;
        let muxers = wire.extensions.map_or(Ok(Vec::new()), muxers)?;
        Ok(Self {
            identity_key: wire.identity_key.unwrap_or_default(),
            identity_sig: wire.identity_sig.unwrap_or_default(),
            muxers,
        })
    }
}

fn muxers(extensions: Bytes) -> Result<Vec<String>, PayloadError> {
    scan(&extensions, &EXTENSION_LIMITS)?;
    let extensions = Extensions::decode(extensions).map_err(|_| PayloadError::Field)?;
    let hashes = extensions.webtransport_certhashes.len();
    if hashes > MAX_CERTHASHES {
        return Err(PayloadError::TooManyCerthashes(hashes));
    }
    let muxers = extensions.stream_muxers;
    Ok(if muxers.len() > MAX_MUXERS {
        Vec::new()
    } else {
        muxers
    })
}

/// Encodes our own payload. Without muxers it has no extensions at all, as of a peer that knows
/// none.
pub(super) fn encode(identity_key: Vec<u8>, identity_sig: Vec<u8>, muxers: &[Arc<str>]) -> Vec<u8> {
    let extensions = (!muxers.is_empty()).then(|| {
        let stream_muxers = muxers.iter().map(|muxer| muxer.to_string()).collect();
        Extensions {
            stream_muxers,
            webtransport_certhashes: Vec::new(),
        }
        .encode_to_vec()
        .into()
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

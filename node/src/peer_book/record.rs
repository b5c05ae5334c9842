//! The stored form of a peer: a version, a checksum, a protobuf message.
//!
//! ```text
//! 1 byte    version: 1
//! 16 bytes  the first half of SHA-256 over the peer id and the message
//! the rest  message Peer {
//!             uint64 last_seen = 1;           // seconds since 1970
//!             repeated Address addrs = 2;
//!             repeated string protocols = 3;
//!             string agent_version = 4;
//!             uint64 record_seq = 5;
//!             bytes signed_record = 6;        // absent: no record
//!           }
//!           message Address {
//!             bytes addr = 1;                 // multiaddr, without /p2p
//!             uint32 source = 2;
//!             uint64 expires = 3;             // absent: never
//!             uint64 last_success = 4;        // absent: never
//!             uint64 last_failure = 5;        // absent: never
//!             uint32 successes = 6;
//!             uint32 failures = 7;
//!           }
//! ```
//!
//! The checksum is there because the database checks its pages only when it repairs them. A record
//! that does not match is refused, never half read.

use std::sync::Arc;

use barewire_base::{
    Multiaddr, PeerId,
    proto::{ScanError, ScanLimits, scan},
};
use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest, Sha256};

use super::{
    book::MAX_STORED,
    entry::{AddressSource, KnownAddress, PeerEntry},
};

/// Longest stored record in bytes: what is known of one peer.
pub const MAX_LEN: usize = 16 * 1024;

const VERSION: u8 = 1;
const CHECKSUM_LEN: usize = 16;
const HEADER_LEN: usize = 1 + CHECKSUM_LEN;

/// Addresses and protocols beside the four single fields, with some to spare.
const SCAN_LIMITS: ScanLimits = ScanLimits {
    max_fields: 1024,
    max_depth: 0,
};
const ADDRESS_SCAN_LIMITS: ScanLimits = ScanLimits {
    max_fields: 16,
    max_depth: 0,
};

/// Why stored bytes are not a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// Longer than [`MAX_LEN`].
    #[error("the record has {0} bytes, more than {MAX_LEN}")]
    TooLong(usize),
    /// Shorter than version and checksum.
    #[error("the record is too short")]
    Truncated,
    /// Written by another version.
    #[error("the record is of version {0}, this is version {VERSION}")]
    Version(u8),
    /// The bytes have changed since they were written.
    #[error("the checksum of the record does not match")]
    Checksum,
    /// The message is no protobuf message within limits.
    #[error("the record is damaged: {0}")]
    Scan(#[from] ScanError),
    /// A field has a type or value it cannot have.
    #[error("a field of the record is damaged")]
    Field,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WirePeer {
    #[prost(uint64, tag = "1")]
    last_seen: u64,
    /// Messages, read on their own after a scan.
    #[prost(bytes = "vec", repeated, tag = "2")]
    addrs: Vec<Vec<u8>>,
    #[prost(string, repeated, tag = "3")]
    protocols: Vec<String>,
    #[prost(string, tag = "4")]
    agent_version: String,
    #[prost(uint64, tag = "5")]
    record_seq: u64,
    #[prost(bytes = "vec", optional, tag = "6")]
    signed_record: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireAddress {
    #[prost(bytes = "vec", tag = "1")]
    addr: Vec<u8>,
    #[prost(uint32, tag = "2")]
    source: u32,
    #[prost(uint64, optional, tag = "3")]
    expires: Option<u64>,
    #[prost(uint64, optional, tag = "4")]
    last_success: Option<u64>,
    #[prost(uint64, optional, tag = "5")]
    last_failure: Option<u64>,
    #[prost(uint32, tag = "6")]
    successes: u32,
    #[prost(uint32, tag = "7")]
    failures: u32,
}

/// The number a source is stored as. Numbers are never used again for something else.
fn source_number(source: AddressSource) -> u32 {
    match source {
        AddressSource::User => 1,
        AddressSource::Connection => 2,
        AddressSource::SignedRecord => 3,
        AddressSource::Identify => 4,
        AddressSource::Dns => 5,
    }
}

fn address(known: &KnownAddress) -> WireAddress {
    WireAddress {
        addr: known.addr.as_bytes().to_vec(),
        source: source_number(known.source),
        expires: known.expires,
        last_success: known.last_success,
        last_failure: known.last_failure,
        successes: known.successes,
        failures: known.failures,
    }
}

fn wire(entry: &PeerEntry) -> WirePeer {
    let addrs = entry.addrs.iter().map(address);
    WirePeer {
        last_seen: entry.last_seen,
        addrs: addrs.map(|addr| addr.encode_to_vec()).collect(),
        protocols: entry.protocols.iter().map(|id| id.to_string()).collect(),
        agent_version: entry.agent_version.clone(),
        record_seq: entry.signed_record.as_ref().map_or(0, |(seq, _)| *seq),
        signed_record: entry.signed_record.as_ref().map(|(_, b)| b.to_vec()),
    }
}

/// Bytes the entry takes when stored.
pub(super) fn encoded_len(entry: &PeerEntry) -> usize {
    HEADER_LEN + wire(entry).encoded_len()
}

/// The stored form.
#[must_use]
pub fn encode(entry: &PeerEntry) -> Vec<u8> {
    let message = wire(entry).encode_to_vec();
    let mut out = Vec::with_capacity(HEADER_LEN + message.len());
    out.push(VERSION);
    out.extend_from_slice(&checksum(&entry.peer_id, &message));
    out.extend_from_slice(&message);
    out
}

fn checksum(peer: &PeerId, message: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut hash = Sha256::new();
    hash.update(peer.as_bytes());
    hash.update(message);
    let mut out = [0; CHECKSUM_LEN];
    out.copy_from_slice(&hash.finalize()[..CHECKSUM_LEN]);
    out
}

/// Reads the stored form. The entry is not connected.
///
/// # Errors
/// [`RecordError`] at the first thing that is wrong.
pub fn decode(peer: &PeerId, bytes: &[u8]) -> Result<PeerEntry, RecordError> {
    if bytes.len() > MAX_LEN {
        return Err(RecordError::TooLong(bytes.len()));
    }
    let (&version, rest) = bytes.split_first().ok_or(RecordError::Truncated)?;
    if version != VERSION {
        return Err(RecordError::Version(version));
    }
    let (sum, message) = rest
        .split_first_chunk::<CHECKSUM_LEN>()
        .ok_or(RecordError::Truncated)?;
    if *sum != checksum(peer, message) {
        return Err(RecordError::Checksum);
    }
    decode_message(peer, message)
}

/// Reads the message behind the checksum; public so that a fuzzer gets past the checksum.
///
/// # Errors
/// [`RecordError`] at the first thing that is wrong.
pub fn decode_message(peer: &PeerId, message: &[u8]) -> Result<PeerEntry, RecordError> {
    scan(message, &SCAN_LIMITS)?;
    let wire = WirePeer::decode(message).map_err(|_| RecordError::Field)?;
    if wire.addrs.len() > MAX_STORED {
        return Err(RecordError::Field);
    }
    let mut entry = PeerEntry::new(*peer, wire.last_seen);
    for bytes in &wire.addrs {
        scan(bytes, &ADDRESS_SCAN_LIMITS)?;
        let stored = WireAddress::decode(&bytes[..]).map_err(|_| RecordError::Field)?;
        let is_stored = |source: &AddressSource| source_number(*source) == stored.source;
        let source = AddressSource::ALL.into_iter().find(is_stored);
        let addr = Multiaddr::from_bytes(&stored.addr).map_err(|_| RecordError::Field)?;
        entry.addrs.push(KnownAddress {
            expires: stored.expires,
            last_success: stored.last_success,
            last_failure: stored.last_failure,
            successes: stored.successes,
            failures: stored.failures,
            ..KnownAddress::new(addr, source.ok_or(RecordError::Field)?)
        });
    }
    entry.addrs.sort_by_cached_key(KnownAddress::rank);
    entry.protocols = wire.protocols.iter().map(|id| Arc::from(&**id)).collect();
    entry.agent_version = wire.agent_version;
    entry.signed_record = wire
        .signed_record
        .map(|record| (wire.record_seq, Bytes::from(record)));
    Ok(entry)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_base::Keypair;

    use super::*;

    fn entry() -> PeerEntry {
        let mut entry = PeerEntry::new(Keypair::from_seed(&[1; 32]).peer_id(), 7);
        for (n, source) in AddressSource::ALL.into_iter().enumerate() {
            let addr = format!("/ip4/10.0.0.1/tcp/{}", n + 1).parse().unwrap();
            let mut known = KnownAddress::new(addr, source);
            known.expires = (n > 0).then_some(n as u64);
            known.failures = n as u32;
            known.last_failure = (n > 0).then_some(99);
            entry.addrs.push(known);
        }
        entry.protocols = vec!["/a".into(), "/b".into()];
        entry.agent_version = "x/1".into();
        entry.signed_record = Some((9, Bytes::from_static(b"record")));
        entry
    }

    #[test]
    fn comes_back_as_it_was() {
        let entry = entry();
        let bytes = encode(&entry);
        assert_eq!(bytes.len(), encoded_len(&entry));
        assert_eq!(decode(&entry.peer_id, &bytes).unwrap(), entry);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let entry = entry();
        let bytes = encode(&entry);
        for bit in 0..8 * bytes.len() {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = decode(&entry.peer_id, &damaged).unwrap_err();
            let expected = match bit {
                0..8 => RecordError::Version(damaged[0]),
                _ => RecordError::Checksum,
            };
            assert_eq!(error, expected);
        }
        for len in 0..bytes.len() {
            assert!(decode(&entry.peer_id, &bytes[..len]).is_err());
        }
        let other = Keypair::from_seed(&[2; 32]).peer_id();
        assert_eq!(decode(&other, &bytes), Err(RecordError::Checksum));
        let long = vec![1; MAX_LEN + 1];
        assert_eq!(
            decode(&other, &long),
            Err(RecordError::TooLong(MAX_LEN + 1))
        );
    }
}

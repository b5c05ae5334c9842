//! What a point holds and hands out at most.

use std::time::Duration;

/// Bounds of a [`Registry`](crate::Registry).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Shortest time to live that may be asked for. Default 2 h, as rust-libp2p and the specification recommend.
    pub min_ttl: Duration,
    /// Longest time to live that may be asked for. Default 72 h, as the specification, go and rust.
    pub max_ttl: Duration,
    /// Time to live of whoever asks for none. Default 2 h, as the specification.
    pub default_ttl: Duration,
    /// Registrations of one peer. Default 32, as rust-libp2p; waku's go point has 1,000.
    pub max_per_peer: usize,
    /// Registrations from one IPv4 address or IPv6 /56; loopback and what has no IP are exempt. Default
    /// 1,000 (own choice: a data centre behind one address, not a sybil's million).
    pub max_per_address: usize,
    /// Registrations in all. Default 100,000 (own choice: at most 1 KiB each with ordinary records).
    pub max_total: usize,
    /// Bytes of records in all. Default 64 MiB (own choice: `max_total` ordinary records, not as many of the longest).
    pub max_bytes: usize,
    /// Longest signed record in bytes. Default 4 KiB (own choice: a key, a signature and `max_address_bytes`).
    pub max_record: usize,
    /// Longest sum of the addresses in a record, in bytes. Default 2,048, as waku's go point.
    pub max_address_bytes: usize,
    /// REGISTERs per second from one address in the long run; addresses as in `max_per_address`. Default
    /// 20 (own choice: a refresh a second of every peer of a small office).
    pub registers_per_second: u32,
    /// REGISTERs from one address at once. Default 1,000 (own choice: everybody of `max_per_address` after a restart).
    pub register_burst: u32,
    /// Registrations in one answer. Default 1,000, as the specification and go.
    pub max_discover: usize,
    /// Bytes of one answer. Default 1 MiB, what rust-libp2p reads.
    pub max_answer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            min_ttl: HOUR * 2,
            max_ttl: HOUR * 72,
            default_ttl: HOUR * 2,
            max_per_peer: 32,
            max_per_address: 1_000,
            max_total: 100_000,
            max_bytes: 64 << 20,
            max_record: 4 << 10,
            max_address_bytes: 2_048,
            registers_per_second: 20,
            register_burst: 1_000,
            max_discover: 1_000,
            max_answer: crate::MAX_MESSAGE,
        }
    }
}

impl Limits {
    /// No bound but memory, for benchmarks.
    #[must_use]
    pub fn unlimited() -> Self {
        Self {
            min_ttl: Duration::from_secs(1),
            max_ttl: Duration::from_secs(u64::from(u32::MAX)),
            max_per_peer: usize::MAX,
            max_per_address: usize::MAX,
            max_total: u32::MAX as usize - 1,
            max_bytes: usize::MAX,
            registers_per_second: u32::MAX,
            register_burst: u32::MAX,
            ..Self::default()
        }
    }
}

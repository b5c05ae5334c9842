//! The messages of both protocols. Each travels with its length before it, at most [`MAX_MESSAGE`] bytes.

use std::time::Duration;

use barewire_base::{
    Fault, Multiaddr, PeerId,
    proto::{Fields, ScanError, Value, put_bytes_field, put_varint_field},
};
use bytes::{BufMut, Bytes};

use super::Limit;

/// Longest message in bytes, without its length, as go- and rust-libp2p.
pub const MAX_MESSAGE: usize = 4096;
/// Addresses of a reservation that are read; the others are ignored (own choice: an identify message holds about as many).
pub const MAX_ADDRS: usize = 32;

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// As asked.
    Ok,
    /// The relay takes no more reservations from there.
    ReservationRefused,
    /// A limit of the relay.
    ResourceLimitExceeded,
    /// Not allowed.
    PermissionDenied,
    /// The target could not be reached.
    ConnectionFailed,
    /// The target has no reservation.
    NoReservation,
    /// The request could not be read.
    MalformedMessage,
    /// The request made no sense there.
    UnexpectedMessage,
    /// A code without a name, or none: a failure.
    Other(u64),
}

impl Status {
    const NAMED: [(Self, u64); 8] = [
        (Self::Ok, 100),
        (Self::ReservationRefused, 200),
        (Self::ResourceLimitExceeded, 201),
        (Self::PermissionDenied, 202),
        (Self::ConnectionFailed, 203),
        (Self::NoReservation, 204),
        (Self::MalformedMessage, 400),
        (Self::UnexpectedMessage, 401),
    ];

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u64 {
        let mut named = Self::NAMED.into_iter();
        match self {
            Self::Other(code) => code,
            named_one => named
                .find_map(|(status, code)| (status == named_one).then_some(code))
                .unwrap_or_default(),
        }
    }

    fn of(code: u64) -> Self {
        let mut named = Self::NAMED.into_iter();
        named
            .find_map(|(status, of)| (of == code).then_some(status))
            .unwrap_or(Self::Other(code))
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::ReservationRefused => "it takes no more reservations from here",
            Self::ResourceLimitExceeded => "a limit of the relay is reached",
            Self::PermissionDenied => "it is not allowed",
            Self::ConnectionFailed => "the relay cannot reach the peer",
            Self::NoReservation => "the peer has no reservation there",
            Self::MalformedMessage => "the relay could not read the request",
            Self::UnexpectedMessage => "the relay did not expect the request",
            Self::Other(code) => return write!(f, "status {code}"),
        })
    }
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is longer than [`MAX_MESSAGE`].
    #[error("a relay message of {0} bytes, at most {MAX_MESSAGE} are allowed")]
    TooLong(usize),
    /// It is not protobuf.
    #[error("a relay message is malformed: {0}")]
    Proto(#[from] ScanError),
    /// A field has another kind of value than it should.
    #[error("field {0} of a relay message has the wrong type")]
    WrongType(u32),
    /// A field that has to be there is not.
    #[error("a relay message lacks field {0}")]
    Missing(u32),
    /// The type is none that exists.
    #[error("a relay message has the unknown type {0}")]
    UnknownType(u64),
    /// The peer is none.
    #[error("a relay message names no valid peer")]
    Peer,
}

impl MessageError {
    /// Always the peer's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }

    /// What to answer.
    #[must_use]
    pub const fn status(&self) -> Status {
        match self {
            Self::UnknownType(_) => Status::UnexpectedMessage,
            _ => Status::MalformedMessage,
        }
    }
}

/// A relay's word that it lets circuits through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Until when, in seconds since 1970.
    pub expire: u64,
    /// Where the relay can be reached, with its peer id behind. Those that cannot be read are left out.
    pub addrs: Vec<Multiaddr>,
    /// The relay's [voucher](super::Voucher) in its envelope. rust-libp2p's relays give none.
    pub voucher: Option<Bytes>,
}

/// What goes over [`HOP_PROTOCOL`](super::HOP_PROTOCOL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HopMessage {
    /// Asks for a reservation.
    Reserve,
    /// Asks for a circuit to a peer.
    Connect {
        /// The peer.
        peer: PeerId,
    },
    /// The answer to either.
    Status {
        /// How it went.
        status: Status,
        /// Of the first, if it went well.
        reservation: Option<Reservation>,
        /// What circuits, or the one that was asked for, may carry.
        limit: Limit,
    },
}

/// What goes over [`STOP_PROTOCOL`](super::STOP_PROTOCOL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopMessage {
    /// A peer asks for a circuit.
    Connect {
        /// Who.
        peer: PeerId,
        /// What it may carry.
        limit: Limit,
    },
    /// The answer.
    Status(Status),
}

impl HopMessage {
    /// A plain answer.
    #[must_use]
    pub const fn status(status: Status) -> Self {
        Self::Status {
            status,
            reservation: None,
            limit: Limit::NONE,
        }
    }

    /// The message without its length. Addresses that would make it too long are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Reserve => put_varint_field(1, 0, &mut out),
            Self::Connect { peer } => {
                put_varint_field(1, 1, &mut out);
                put_peer(peer, &mut out);
            }
            Self::Status {
                status,
                reservation,
                limit,
            } => {
                put_varint_field(1, 2, &mut out);
                if let Some(reservation) = reservation {
                    put_bytes_field(3, &reservation.encode(), &mut out);
                }
                put_limit(4, limit, &mut out);
                put_varint_field(5, status.code(), &mut out);
            }
        }
        out
    }

    /// Reads a message without its length. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let read = Read::of(message)?;
        match read.kind {
            Some(0) => Ok(Self::Reserve),
            Some(1) => Ok(Self::Connect { peer: read.peer()? }),
            Some(2) => Ok(Self::Status {
                status: Status::of(read.numbers[1].unwrap_or_default()),
                reservation: match read.parts[1] {
                    Some(part) => Some(Reservation::decode(part)?),
                    None => None,
                },
                limit: limit(read.parts[2])?,
            }),
            Some(other) => Err(MessageError::UnknownType(other)),
            None => Err(MessageError::Missing(1)),
        }
    }
}

impl StopMessage {
    /// The message without its length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Connect { peer, limit } => {
                put_varint_field(1, 0, &mut out);
                put_peer(peer, &mut out);
                put_limit(3, limit, &mut out);
            }
            Self::Status(status) => {
                put_varint_field(1, 1, &mut out);
                put_varint_field(4, status.code(), &mut out);
            }
        }
        out
    }

    /// Reads a message without its length. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let read = Read::of(message)?;
        match read.kind {
            Some(0) => Ok(Self::Connect {
                peer: read.peer()?,
                limit: limit(read.parts[1])?,
            }),
            Some(1) => Ok(Self::Status(Status::of(
                read.numbers[0].unwrap_or_default(),
            ))),
            Some(other) => Err(MessageError::UnknownType(other)),
            None => Err(MessageError::Missing(1)),
        }
    }
}

impl Reservation {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint_field(1, self.expire, &mut out);
        let voucher = self.voucher.as_deref().unwrap_or_default();
        // What else the message holds takes less than 64 bytes.
        let room = MAX_MESSAGE - 64 - voucher.len().min(MAX_MESSAGE - 64);
        for addr in self.addrs.iter().take(MAX_ADDRS) {
            if out.len() + addr.as_bytes().len() + 4 > room {
                break;
            }
            put_bytes_field(2, addr.as_bytes(), &mut out);
        }
        if !voucher.is_empty() {
            put_bytes_field(3, voucher, &mut out);
        }
        out
    }

    fn decode(part: &[u8]) -> Result<Self, MessageError> {
        let mut fields = Fields::new(part);
        let (mut expire, mut addrs, mut voucher) = (None, Vec::new(), None);
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (1, Value::Varint(seconds)) => expire = Some(seconds),
                (2, Value::Bytes(addr)) if addrs.len() < MAX_ADDRS => {
                    addrs.extend(Multiaddr::from_bytes(addr));
                }
                (2, Value::Bytes(_)) => {}
                (3, Value::Bytes(bytes)) => voucher = Some(Bytes::copy_from_slice(bytes)),
                (number @ 1..=3, _) => return Err(MessageError::WrongType(number)),
                _ => {}
            }
        }
        Ok(Self {
            expire: expire.ok_or(MessageError::Missing(1))?,
            addrs,
            voucher,
        })
    }
}

/// The fields of either message: 1 is its type; 2 to 4 may hold messages, 4 and 5 numbers. A later field replaces an earlier one.
struct Read<'a> {
    kind: Option<u64>,
    parts: [Option<&'a [u8]>; 3],
    numbers: [Option<u64>; 2],
}

impl<'a> Read<'a> {
    fn of(message: &'a [u8]) -> Result<Self, MessageError> {
        if message.len() > MAX_MESSAGE {
            return Err(MessageError::TooLong(message.len()));
        }
        let mut read = Self {
            kind: None,
            parts: [None; 3],
            numbers: [None; 2],
        };
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (1, Value::Varint(kind)) => read.kind = Some(kind),
                (number @ 2..=4, Value::Bytes(part)) => {
                    read.parts[number as usize - 2] = Some(part);
                }
                (number @ 4..=5, Value::Varint(value)) => {
                    read.numbers[number as usize - 4] = Some(value);
                }
                (number @ 1..=5, _) => return Err(MessageError::WrongType(number)),
                _ => {}
            }
        }
        Ok(read)
    }

    /// Who the message speaks of. Its addresses are of no use to anybody.
    fn peer(&self) -> Result<PeerId, MessageError> {
        let mut fields = Fields::new(self.parts[0].ok_or(MessageError::Missing(2))?);
        let mut id = None;
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (1, Value::Bytes(bytes)) => id = Some(bytes),
                (1, _) => return Err(MessageError::WrongType(1)),
                _ => {}
            }
        }
        let id = id.ok_or(MessageError::Peer)?;
        PeerId::from_bytes(id).map_err(|_| MessageError::Peer)
    }
}

/// Zero and absent both mean that there is no limit.
fn limit(part: Option<&[u8]>) -> Result<Limit, MessageError> {
    let mut limit = Limit::NONE;
    let mut fields = Fields::new(part.unwrap_or_default());
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            // The field has 32 bits.
            (1, Value::Varint(seconds)) => {
                let seconds = seconds.min(u32::MAX.into());
                limit.duration = (seconds > 0).then(|| Duration::from_secs(seconds));
            }
            (2, Value::Varint(bytes)) => limit.data = (bytes > 0).then_some(bytes),
            (number @ 1..=2, _) => return Err(MessageError::WrongType(number)),
            _ => {}
        }
    }
    Ok(limit)
}

fn put_peer(peer: &PeerId, out: &mut impl BufMut) {
    let mut part = Vec::new();
    put_bytes_field(1, peer.as_bytes(), &mut part);
    put_bytes_field(2, &part, out);
}

/// Without any limit the field is left out: then a circuit is like any other connection.
fn put_limit(number: u32, limit: &Limit, out: &mut impl BufMut) {
    if limit.is_none() {
        return;
    }
    let mut part = Vec::new();
    if let Some(duration) = limit.duration {
        let seconds = duration.as_secs().clamp(1, u32::MAX.into());
        put_varint_field(1, seconds, &mut part);
    }
    if let Some(data) = limit.data {
        put_varint_field(2, data.max(1), &mut part);
    }
    put_bytes_field(number, &part, out);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_base::Keypair;

    use super::*;

    fn peer() -> PeerId {
        Keypair::from_seed(&[7; 32]).peer_id()
    }

    #[test]
    fn zero_types_are_on_the_wire() {
        assert_eq!(HopMessage::Reserve.encode(), [8, 0]);
        let limit = Limit::default();
        let stop = StopMessage::Connect {
            peer: peer(),
            limit,
        };
        assert_eq!(stop.encode()[..2], [8, 0]);
        assert_eq!(StopMessage::decode(&stop.encode()), Ok(stop));
        let connect = HopMessage::Connect { peer: peer() };
        assert_eq!(HopMessage::decode(&connect.encode()), Ok(connect));
        // A status of CONNECTION_FAILED as the specification's schema has it.
        let failed = HopMessage::status(Status::ConnectionFailed);
        assert_eq!(failed.encode(), [8, 2, 0x28, 0xcb, 1]);
    }

    #[test]
    fn answers_come_back_as_they_were() {
        let addr: Multiaddr = "/ip4/192.0.2.1/tcp/4001".parse().unwrap();
        let addr = addr.with_peer(peer()).unwrap();
        for limit in [Limit::default(), Limit::NONE] {
            let answer = HopMessage::Status {
                status: Status::Ok,
                reservation: Some(Reservation {
                    expire: 1_800_000_000,
                    addrs: vec![addr.clone(); 3],
                    voucher: Some(Bytes::from_static(b"voucher")),
                }),
                limit,
            };
            assert_eq!(HopMessage::decode(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn many_addresses_fit_a_message() {
        let name = "n".repeat(240);
        let addr: Multiaddr = format!("/dns4/{name}/tcp/1").parse().unwrap();
        let answer = HopMessage::Status {
            status: Status::Ok,
            reservation: Some(Reservation {
                expire: u64::MAX,
                addrs: vec![addr; 500],
                voucher: Some(vec![1; 300].into()),
            }),
            limit: Limit::default(),
        };
        let bytes = answer.encode();
        assert!(bytes.len() <= MAX_MESSAGE, "{}", bytes.len());
        let Ok(HopMessage::Status { reservation, .. }) = HopMessage::decode(&bytes) else {
            unreachable!("what was encoded is read");
        };
        assert!(reservation.unwrap().addrs.len() > 10);
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let hop = |bytes: &[u8]| HopMessage::decode(bytes).unwrap_err();
        assert_eq!(hop(&[]), MessageError::Missing(1));
        assert_eq!(hop(&[8, 7]).status(), Status::UnexpectedMessage);
        assert_eq!(hop(&[8, 1]), MessageError::Missing(2));
        assert_eq!(hop(&[8, 1, 0x12, 0]), MessageError::Peer);
        assert_eq!(hop(&[8, 1, 0x12, 3, 10, 1, 0]), MessageError::Peer);
        assert_eq!(hop(&[0x0a, 0]), MessageError::WrongType(1));
        assert_eq!(hop(&[8, 1]).status(), Status::MalformedMessage);
        assert_eq!(hop(&[0; 5000]), MessageError::TooLong(5000));
        // A reservation needs an end; a status of no known code is a failure.
        assert_eq!(hop(&[8, 2, 0x1a, 0]), MessageError::Missing(1));
        let unknown = HopMessage::status(Status::Other(999));
        assert_eq!(HopMessage::decode(&unknown.encode()), Ok(unknown));
    }
}

//! The messages of version 2. Each travels with its length before it.

use barewire_base::{
    Fault, Multiaddr,
    proto::{Fields, ScanError, Value, put_bytes_field, put_fixed64_field, put_varint_field},
};

/// Longest message that is read, in bytes without its length, as go-libp2p.
pub const MAX_MESSAGE: usize = 8192;
/// Longest request that is written: rust-libp2p reads no more than 4,104 bytes.
pub const MAX_REQUEST: usize = 4096;
/// Longest message of a dial-back that is read, as go-libp2p.
pub const MAX_DIAL_BACK: usize = 1024;
/// Addresses of a request that are looked at; the others are ignored. As go-libp2p.
pub const MAX_ADDRS: usize = 50;
/// Bytes of data in one message, as go-libp2p sends them; rust-libp2p reads at most 4,096.
pub const DATA_CHUNK: usize = 4000;

/// What a server makes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResponseStatus {
    /// Something is wrong with the server. Also what an absent status means.
    InternalError,
    /// A limit of the server.
    RequestRejected,
    /// None of the addresses is one that the server dials.
    DialRefused,
    /// It has dialled.
    Ok,
    /// A code without a name: a failure.
    Other(u64),
}

impl ResponseStatus {
    const NAMED: [(Self, u64); 4] = [
        (Self::InternalError, 0),
        (Self::RequestRejected, 100),
        (Self::DialRefused, 101),
        (Self::Ok, 200),
    ];

    fn code(self) -> u64 {
        match self {
            Self::Other(code) => code,
            named => code_of(&Self::NAMED, named),
        }
    }

    fn of(code: u64) -> Self {
        named(&Self::NAMED, code).unwrap_or(Self::Other(code))
    }
}

/// What came of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DialStatus {
    /// There was none. Also what an absent status means.
    Unused,
    /// No connection.
    DialError,
    /// A connection, but the nonce could not be delivered.
    DialBackError,
    /// The nonce was delivered.
    Ok,
    /// A code without a name.
    Other(u64),
}

impl DialStatus {
    const NAMED: [(Self, u64); 4] = [
        (Self::Unused, 0),
        (Self::DialError, 100),
        (Self::DialBackError, 101),
        (Self::Ok, 200),
    ];

    fn code(self) -> u64 {
        match self {
            Self::Other(code) => code,
            named => code_of(&Self::NAMED, named),
        }
    }

    fn of(code: u64) -> Self {
        named(&Self::NAMED, code).unwrap_or(Self::Other(code))
    }
}

pub(super) fn code_of<S: Copy + PartialEq>(table: &[(S, u64)], status: S) -> u64 {
    let mut table = table.iter();
    table
        .find_map(|(named, code)| (*named == status).then_some(*code))
        .unwrap_or_default()
}

pub(super) fn named<S: Copy>(table: &[(S, u64)], code: u64) -> Option<S> {
    let mut table = table.iter();
    table.find_map(|(named, of)| (*of == code).then_some(*named))
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is longer than allowed.
    #[error("an AutoNAT message of {len} bytes, at most {max} are allowed")]
    TooLong {
        /// Its bytes.
        len: usize,
        /// The bytes allowed.
        max: usize,
    },
    /// It is not protobuf.
    #[error("an AutoNAT message is malformed: {0}")]
    Proto(#[from] ScanError),
    /// A field has another kind of value than it should, or one that is too large.
    #[error("field {0} of an AutoNAT message has the wrong type")]
    WrongType(u32),
    /// It is none of those that exist.
    #[error("an AutoNAT message of no known kind")]
    Unknown,
    /// The peer in it is none.
    #[error("an AutoNAT message names no valid peer")]
    Peer,
}

impl MessageError {
    /// Always the peer's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialResponse {
    /// What the server made of the request.
    pub status: ResponseStatus,
    /// Which address it has dialled, from 0.
    pub index: u32,
    /// What came of it.
    pub dial: DialStatus,
}

impl DialResponse {
    /// An answer without a dial.
    #[must_use]
    pub const fn refusal(status: ResponseStatus) -> Self {
        Self {
            status,
            index: 0,
            dial: DialStatus::Unused,
        }
    }
}

/// What goes over [`DIAL_REQUEST_PROTOCOL`](super::DIAL_REQUEST_PROTOCOL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Asks to dial one of these addresses.
    DialRequest {
        /// The most wanted first; `None` where one cannot be read, because answers count them.
        addrs: Vec<Option<Multiaddr>>,
        /// What the server is to say on the connection it makes.
        nonce: u64,
    },
    /// The answer.
    DialResponse(DialResponse),
    /// Asks for bytes before an address is dialled at which the client may not be.
    DialDataRequest {
        /// Which address, from 0.
        index: u32,
        /// How many bytes.
        bytes: u64,
    },
    /// Some of those bytes. What they are is of no matter, so they are not kept.
    DialDataResponse {
        /// How many.
        len: usize,
    },
}

impl Message {
    /// The message without its length. Addresses that would make it longer than [`MAX_REQUEST`] are left out, with all behind them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (mut inner, number) = (Vec::new(), self.number());
        match self {
            Self::DialRequest { addrs, nonce } => {
                for addr in addrs {
                    let addr = addr.as_ref().map_or(&[][..], Multiaddr::as_bytes);
                    // Two tags with lengths of two bytes, and the nonce.
                    if inner.len() + addr.len() + 15 > MAX_REQUEST {
                        break;
                    }
                    put_bytes_field(1, addr, &mut inner);
                }
                put_fixed64_field(2, *nonce, &mut inner);
            }
            Self::DialResponse(response) => {
                put_varint_field(1, response.status.code(), &mut inner);
                put_varint_field(2, response.index.into(), &mut inner);
                put_varint_field(3, response.dial.code(), &mut inner);
            }
            Self::DialDataRequest { index, bytes } => {
                put_varint_field(1, (*index).into(), &mut inner);
                put_varint_field(2, *bytes, &mut inner);
            }
            Self::DialDataResponse { len } => {
                put_bytes_field(1, &vec![0; *len], &mut inner);
            }
        }
        let mut out = Vec::with_capacity(inner.len() + 4);
        put_bytes_field(number, &inner, &mut out);
        out
    }

    const fn number(&self) -> u32 {
        match self {
            Self::DialRequest { .. } => 1,
            Self::DialResponse(_) => 2,
            Self::DialDataRequest { .. } => 3,
            Self::DialDataResponse { .. } => 4,
        }
    }

    /// Reads a message without its length. Unknown fields are ignored; of several kinds in one message the last counts.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        within(message, MAX_MESSAGE)?;
        let (mut fields, mut last) = (Fields::new(message), None);
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (number @ 1..=4, Value::Bytes(inner)) => last = Some((number, inner)),
                (number @ 1..=4, _) => return Err(MessageError::WrongType(number)),
                _ => {}
            }
        }
        match last {
            Some((1, inner)) => dial_request(inner),
            Some((2, inner)) => {
                let [status, index, dial] = numbers(inner)?;
                Ok(Self::DialResponse(DialResponse {
                    status: ResponseStatus::of(status),
                    index: small(2, index)?,
                    dial: DialStatus::of(dial),
                }))
            }
            Some((3, inner)) => {
                let [index, bytes] = numbers(inner)?;
                let index = small(1, index)?;
                Ok(Self::DialDataRequest { index, bytes })
            }
            Some((4, inner)) => {
                let (mut fields, mut len) = (Fields::new(inner), 0);
                while let Some(field) = fields.next_field()? {
                    match (field.number, field.value) {
                        (1, Value::Bytes(data)) => len = data.len(),
                        (1, _) => return Err(MessageError::WrongType(1)),
                        _ => {}
                    }
                }
                Ok(Self::DialDataResponse { len })
            }
            _ => Err(MessageError::Unknown),
        }
    }
}

fn dial_request(inner: &[u8]) -> Result<Message, MessageError> {
    let (mut fields, mut addrs, mut nonce) = (Fields::new(inner), Vec::new(), 0);
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(addr)) if addrs.len() < MAX_ADDRS => {
                addrs.push(Multiaddr::from_bytes(addr).ok().filter(|a| !a.is_empty()));
            }
            (1, Value::Bytes(_)) => {}
            (2, Value::Fixed64(number)) => nonce = number,
            (number @ 1..=2, _) => return Err(MessageError::WrongType(number)),
            _ => {}
        }
    }
    Ok(Message::DialRequest { addrs, nonce })
}

/// The numbers in fields 1 to `N`, 0 where one is absent.
fn numbers<const N: usize>(inner: &[u8]) -> Result<[u64; N], MessageError> {
    let (mut fields, mut numbers) = (Fields::new(inner), [0; N]);
    while let Some(field) = fields.next_field()? {
        let at = usize::try_from(field.number - 1).unwrap_or(usize::MAX);
        match (numbers.get_mut(at), field.value) {
            (Some(place), Value::Varint(number)) => *place = number,
            (Some(_), _) => return Err(MessageError::WrongType(field.number)),
            (None, _) => {}
        }
    }
    Ok(numbers)
}

fn small(number: u32, value: u64) -> Result<u32, MessageError> {
    u32::try_from(value).map_err(|_| MessageError::WrongType(number))
}

pub(super) const fn within(message: &[u8], max: usize) -> Result<(), MessageError> {
    let len = message.len();
    if len > max {
        return Err(MessageError::TooLong { len, max });
    }
    Ok(())
}

/// What goes over [`DIAL_BACK_PROTOCOL`](super::DIAL_BACK_PROTOCOL). Its answer says nothing: [`DIAL_BACK_RESPONSE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DialBack {
    /// That of the request.
    pub nonce: u64,
}

/// The answer to a [`DialBack`] without its length: status OK, written out because go-libp2p waits for a byte.
pub const DIAL_BACK_RESPONSE: [u8; 2] = [8, 0];

impl DialBack {
    /// The message without its length.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let mut out = Vec::new();
        put_fixed64_field(1, self.nonce, &mut out);
        out
    }

    /// Reads a message without its length. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        within(message, MAX_DIAL_BACK)?;
        let (mut fields, mut nonce) = (Fields::new(message), 0);
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (1, Value::Fixed64(number)) => nonce = number,
                (1, _) => return Err(MessageError::WrongType(1)),
                _ => {}
            }
        }
        Ok(Self { nonce })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let addr: Multiaddr = "/ip4/192.0.2.1/udp/1/quic-v1".parse().unwrap();
        let request = Message::DialRequest {
            addrs: vec![None, Some(addr.clone())],
            nonce: 0x0102_0304_0506_0708,
        };
        // An unreadable address keeps its place, and the nonce is little-endian.
        let bytes = request.encode();
        assert_eq!(bytes[..4], [0x0a, bytes.len() as u8 - 2, 0x0a, 0]);
        assert!(bytes.ends_with(&[0x11, 8, 7, 6, 5, 4, 3, 2, 1]));
        for message in [
            request,
            Message::DialResponse(DialResponse {
                status: ResponseStatus::Ok,
                index: 3,
                dial: DialStatus::DialBackError,
            }),
            Message::DialDataRequest {
                index: 1,
                bytes: 100_000,
            },
            Message::DialDataResponse { len: DATA_CHUNK },
        ] {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
        let back = DialBack { nonce: u64::MAX };
        assert_eq!(DialBack::decode(&back.encode()), Ok(back));
        // rust-libp2p reads at most ten bytes here.
        assert_eq!(back.encode().len(), 9);
    }

    #[test]
    fn an_absent_status_is_an_error() {
        let response = Message::decode(&[0x12, 0]).unwrap();
        let failure = DialResponse::refusal(ResponseStatus::InternalError);
        assert_eq!(response, Message::DialResponse(failure));
    }

    #[test]
    fn requests_fit_the_smallest_reader() {
        let long = format!("/dns4/{}/tcp/1", "a".repeat(200));
        let addr: Multiaddr = long.parse().unwrap();
        let message = Message::DialRequest {
            addrs: vec![Some(addr); 50],
            nonce: 1,
        };
        let bytes = message.encode();
        assert!(bytes.len() <= MAX_REQUEST, "{}", bytes.len());
        let Ok(Message::DialRequest { addrs, nonce: 1 }) = Message::decode(&bytes) else {
            unreachable!("it is a request");
        };
        assert_eq!(addrs.len(), 19);
    }

    #[test]
    fn what_is_none_has_a_reason() {
        let error = |bytes: &[u8]| Message::decode(bytes).unwrap_err();
        assert_eq!(error(&[]), MessageError::Unknown);
        assert_eq!(error(&[0x08, 1]), MessageError::WrongType(1));
        // The nonce as a varint; an index beyond 32 bits.
        assert_eq!(error(&[0x0a, 2, 0x10, 1]), MessageError::WrongType(2));
        let index = [0x1a, 7, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(error(&index), MessageError::WrongType(1));
        let truncated = MessageError::Proto(ScanError::Truncated);
        assert_eq!(error(&[0x12, 9, 8]), truncated);
        let (len, max) = (MAX_MESSAGE + 1, MAX_MESSAGE);
        assert_eq!(error(&vec![0; len]), MessageError::TooLong { len, max });
        let back = DialBack::decode(&[8, 1]);
        assert_eq!(back, Err(MessageError::WrongType(1)));
    }
}

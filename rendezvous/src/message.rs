//! The messages, by hand: zero has a meaning in most fields, and a reader needs few of them.

use barewire_base::{
    Fault,
    proto::{Fields, ScanError, Value},
    varint,
};
use bytes::{BufMut, Bytes};

/// Longest message written or read in bytes, what rust-libp2p reads.
pub const MAX_MESSAGE: usize = 1 << 20;
/// Longest namespace in bytes, as the specification and rust-libp2p.
pub const MAX_NAMESPACE: usize = 255;
/// Fields looked at in one message besides registrations. All messages have fewer.
const MAX_FIELDS: usize = 32;
/// Registrations looked at in an answer, some more than points hand out.
const MAX_REGISTRATIONS: usize = 1_024;
/// Bytes kept of an answer's text.
const MAX_TEXT: usize = 256;

const REGISTER: u64 = 0;
const REGISTER_RESPONSE: u64 = 1;
const UNREGISTER: u64 = 2;
const DISCOVER: u64 = 3;
const DISCOVER_RESPONSE: u64 = 4;

/// What a client asks. Texts and records are as they came: the registry judges them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Be found in a namespace.
    Register {
        /// The namespace.
        ns: Bytes,
        /// The envelope of the signed record.
        record: Bytes,
        /// Seconds; 0 for the point's default.
        ttl: u64,
    },
    /// Be found there no more. There is no answer.
    Unregister {
        /// The namespace; empty for all.
        ns: Bytes,
    },
    /// Who is there?
    Discover {
        /// The namespace; empty for all.
        ns: Bytes,
        /// Registrations wanted at most; 0 for as many as the point gives.
        limit: u64,
        /// Of the last answer; empty for none.
        cookie: Bytes,
    },
}

/// One registration in an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its namespace; waku's go point leaves it out when one was asked for.
    pub ns: Bytes,
    /// The envelope of the signed record.
    pub record: Bytes,
    /// Seconds until it expires.
    pub ttl: u64,
}

/// How a request fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Done.
    Ok,
    /// No namespace, or too long.
    InvalidNamespace,
    /// No valid signed record with addresses.
    InvalidSignedPeerRecord,
    /// A time to live that the point does not give.
    InvalidTtl,
    /// Not a cookie of this point for this namespace.
    InvalidCookie,
    /// Not for this peer.
    NotAuthorized,
    /// The point failed.
    InternalError,
    /// A limit of the point is reached.
    Unavailable,
    /// A code unknown here.
    Other(u32),
}

impl Status {
    const ALL: [(Self, u32, &'static str); 8] = [
        (Self::Ok, 0, "OK"),
        (Self::InvalidNamespace, 100, "E_INVALID_NAMESPACE"),
        (
            Self::InvalidSignedPeerRecord,
            101,
            "E_INVALID_SIGNED_PEER_RECORD",
        ),
        (Self::InvalidTtl, 102, "E_INVALID_TTL"),
        (Self::InvalidCookie, 103, "E_INVALID_COOKIE"),
        (Self::NotAuthorized, 200, "E_NOT_AUTHORIZED"),
        (Self::InternalError, 300, "E_INTERNAL_ERROR"),
        (Self::Unavailable, 400, "E_UNAVAILABLE"),
    ];

    /// The number on the wire.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Other(code) => code,
            status => Self::ALL
                .iter()
                .find(|known| known.0 == status)
                .map_or(300, |known| known.1),
        }
    }

    /// The specification's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        let known = Self::ALL.iter().find(|known| known.0 == self);
        known.map_or("an unknown status", |known| known.2)
    }

    fn from_code(code: u64) -> Self {
        let known = Self::ALL.iter().find(|known| u64::from(known.1) == code);
        known.map_or_else(
            || Self::Other(u32::try_from(code).unwrap_or(u32::MAX)),
            |known| known.0,
        )
    }
}

/// What a point answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To REGISTER.
    Register {
        /// How it fared.
        status: Status,
        /// Why, for people. Text of a remote when received.
        text: String,
        /// Seconds granted.
        ttl: u64,
    },
    /// To DISCOVER.
    Discover {
        /// How it fared.
        status: Status,
        /// Why, for people. Text of a remote when received.
        text: String,
        /// Who is there.
        registrations: Vec<Registration>,
        /// For the next request.
        cookie: Bytes,
    },
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not protobuf.
    #[error("the message is not valid protobuf: {0}")]
    Protobuf(#[from] ScanError),
    /// A field of another type than the message's.
    #[error("a field of the message has the wrong type")]
    Malformed,
    /// Too many fields or registrations.
    #[error("the message has too many fields")]
    TooMany,
    /// The type of message is not one that is expected here, or its body is missing.
    #[error("the message is not what is expected here")]
    Unexpected,
}

impl MessageError {
    /// Always the peer's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// Reads a request. An absent type is REGISTER, as canvas-js writes it.
///
/// # Errors
/// [`MessageError`].
pub fn decode_request(message: &Bytes) -> Result<Request, MessageError> {
    let body = Body::of(message)?;
    match (body.kind, body.register, body.unregister, body.discover) {
        (REGISTER, Some(register), ..) => {
            let Registration { ns, record, ttl } = registration(message, register)?;
            Ok(Request::Register { ns, record, ttl })
        }
        (UNREGISTER, _, Some(unregister), _) => {
            let mut ns = Bytes::new();
            each(unregister, |field, value| {
                if field == 1 {
                    ns = slice(message, value)?;
                }
                Ok(())
            })?;
            Ok(Request::Unregister { ns })
        }
        (DISCOVER, _, _, Some(discover)) => {
            let (mut ns, mut limit, mut cookie) = (Bytes::new(), 0, Bytes::new());
            each(discover, |field, value| {
                match field {
                    1 => ns = slice(message, value)?,
                    2 => limit = number(value)?,
                    3 => cookie = slice(message, value)?,
                    _ => {}
                }
                Ok(())
            })?;
            Ok(Request::Discover { ns, limit, cookie })
        }
        _ => Err(MessageError::Unexpected),
    }
}

/// Reads an answer.
///
/// # Errors
/// [`MessageError`].
pub fn decode_answer(message: &Bytes) -> Result<Answer, MessageError> {
    let body = Body::of(message)?;
    match (body.kind, body.registered, body.discovered) {
        (REGISTER_RESPONSE, Some(response), _) => {
            let (mut status, mut text, mut ttl) = (0, String::new(), 0);
            each(response, |field, value| {
                match field {
                    1 => status = number(value)?,
                    2 => text = lossy(value)?,
                    3 => ttl = number(value)?,
                    _ => {}
                }
                Ok(())
            })?;
            let status = Status::from_code(status);
            Ok(Answer::Register { status, text, ttl })
        }
        (DISCOVER_RESPONSE, _, Some(response)) => {
            let (mut status, mut text, mut cookie) = (0, String::new(), Bytes::new());
            let mut registrations = Vec::new();
            let mut fields = Fields::new(response);
            let mut others = 0;
            while let Some(field) = fields.next_field()? {
                match (field.number, field.value) {
                    (1, Value::Bytes(one)) => {
                        if registrations.len() == MAX_REGISTRATIONS {
                            return Err(MessageError::TooMany);
                        }
                        registrations.push(registration(message, one)?);
                        continue;
                    }
                    (1, _) => return Err(MessageError::Malformed),
                    (2, value) => cookie = slice(message, value)?,
                    (3, value) => status = number(value)?,
                    (4, value) => text = lossy(value)?,
                    _ => {}
                }
                others += 1;
                if others > MAX_FIELDS {
                    return Err(MessageError::TooMany);
                }
            }
            Ok(Answer::Discover {
                status: Status::from_code(status),
                text,
                registrations,
                cookie,
            })
        }
        _ => Err(MessageError::Unexpected),
    }
}

/// The outer message.
#[derive(Default)]
struct Body<'a> {
    kind: u64,
    register: Option<&'a [u8]>,
    registered: Option<&'a [u8]>,
    unregister: Option<&'a [u8]>,
    discover: Option<&'a [u8]>,
    discovered: Option<&'a [u8]>,
}

impl<'a> Body<'a> {
    fn of(message: &'a [u8]) -> Result<Self, MessageError> {
        let mut body = Self::default();
        each(message, |field, value| {
            let slot = match field {
                1 => {
                    body.kind = number(value)?;
                    return Ok(());
                }
                2 => &mut body.register,
                3 => &mut body.registered,
                4 => &mut body.unregister,
                5 => &mut body.discover,
                6 => &mut body.discovered,
                _ => return Ok(()),
            };
            *slot = Some(bytes(value)?);
            Ok(())
        })?;
        Ok(body)
    }
}

fn each<'a>(
    message: &'a [u8],
    mut take: impl FnMut(u32, Value<'a>) -> Result<(), MessageError>,
) -> Result<(), MessageError> {
    let mut fields = Fields::new(message);
    for _ in 0..MAX_FIELDS {
        match fields.next_field()? {
            Some(field) => take(field.number, field.value)?,
            None => return Ok(()),
        }
    }
    match fields.next_field()? {
        Some(_) => Err(MessageError::TooMany),
        None => Ok(()),
    }
}

fn registration(message: &Bytes, body: &[u8]) -> Result<Registration, MessageError> {
    let (mut ns, mut record, mut ttl) = (Bytes::new(), Bytes::new(), 0);
    each(body, |field, value| {
        match field {
            1 => ns = slice(message, value)?,
            2 => record = slice(message, value)?,
            3 => ttl = number(value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok(Registration { ns, record, ttl })
}

fn bytes(value: Value<'_>) -> Result<&[u8], MessageError> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        _ => Err(MessageError::Malformed),
    }
}

fn slice(message: &Bytes, value: Value<'_>) -> Result<Bytes, MessageError> {
    let bytes = bytes(value)?;
    if bytes.is_empty() {
        return Ok(Bytes::new());
    }
    Ok(message.slice_ref(bytes))
}

fn number(value: Value<'_>) -> Result<u64, MessageError> {
    match value {
        Value::Varint(number) => Ok(number),
        _ => Err(MessageError::Malformed),
    }
}

fn lossy(value: Value<'_>) -> Result<String, MessageError> {
    let bytes = bytes(value)?;
    let cut = &bytes[..bytes.len().min(MAX_TEXT)];
    Ok(String::from_utf8_lossy(cut).into_owned())
}

impl Request {
    /// The message. All fields are written, except empty cookies, which go-libp2p would refuse, and empty
    /// namespaces of DISCOVER, which rust-libp2p would take for one of that name.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Register { ns, record, ttl } => {
                let mut body = Vec::with_capacity(ns.len() + record.len() + 32);
                put_registration(ns, record, *ttl, &mut body);
                message(REGISTER, 2, &body)
            }
            Self::Unregister { ns } => {
                let mut body = Vec::new();
                put_bytes(1, ns, &mut body);
                message(UNREGISTER, 4, &body)
            }
            Self::Discover { ns, limit, cookie } => {
                let mut body = Vec::new();
                if !ns.is_empty() {
                    put_bytes(1, ns, &mut body);
                }
                if *limit > 0 {
                    put_number(2, *limit, &mut body);
                }
                if !cookie.is_empty() {
                    put_bytes(3, cookie, &mut body);
                }
                message(DISCOVER, 5, &body)
            }
        }
    }
}

impl Answer {
    /// The message. A cookie and all of a registration are always there, because rust-libp2p requires them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        match self {
            Self::Register { status, text, ttl } => {
                put_number(1, status.code().into(), &mut body);
                put_bytes(2, text.as_bytes(), &mut body);
                put_number(3, *ttl, &mut body);
                message(REGISTER_RESPONSE, 3, &body)
            }
            Self::Discover {
                status,
                text,
                registrations,
                cookie,
            } => {
                let mut one = Vec::new();
                for Registration { ns, record, ttl } in registrations {
                    one.clear();
                    put_registration(ns, record, *ttl, &mut one);
                    put_bytes(1, &one, &mut body);
                }
                put_bytes(2, cookie, &mut body);
                put_number(3, status.code().into(), &mut body);
                put_bytes(4, text.as_bytes(), &mut body);
                message(DISCOVER_RESPONSE, 6, &body)
            }
        }
    }
}

impl Registration {
    /// Most bytes it takes in an answer.
    pub(crate) fn room(ns: usize, record: usize) -> usize {
        ns + record + 32
    }
}

fn put_registration(ns: &[u8], record: &[u8], ttl: u64, out: &mut Vec<u8>) {
    put_bytes(1, ns, out);
    put_bytes(2, record, out);
    put_number(3, ttl, out);
}

fn message(kind: u64, field: u32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 16);
    put_number(1, kind, &mut out);
    put_bytes(field, body, &mut out);
    out
}

fn put_number(field: u32, value: u64, out: &mut Vec<u8>) {
    varint::encode(u64::from(field) << 3, out);
    varint::encode(value, out);
}

fn put_bytes(field: u32, value: &[u8], out: &mut Vec<u8>) {
    varint::encode(u64::from(field) << 3 | 2, out);
    varint::encode(value.len() as u64, out);
    out.put_slice(value);
}

#[cfg(test)]
mod tests;

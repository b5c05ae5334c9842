//! The message of version 1, which both sides write. It travels with its length before it.

use barewire_base::{
    Multiaddr, PeerId,
    proto::{Fields, Value, put_bytes_field, put_varint_field},
};

use super::message::{MessageError, code_of, named, within};

/// Longest message in bytes, without its length, as go-libp2p.
pub const V1_MAX_MESSAGE: usize = 4096;
/// Addresses of a request that are read; the others are ignored (own choice: more than a server dials).
const MAX_READ: usize = 64;

/// What a server of version 1 answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum V1Status {
    /// It has connected.
    Ok,
    /// No address led to a connection.
    DialError,
    /// It does not dial: a limit, or no address that it dials.
    DialRefused,
    /// The request makes no sense.
    BadRequest,
    /// Something is wrong with the server.
    InternalError,
    /// A code without a name: a failure.
    Other(u64),
}

impl V1Status {
    const NAMED: [(Self, u64); 5] = [
        (Self::Ok, 0),
        (Self::DialError, 100),
        (Self::DialRefused, 101),
        (Self::BadRequest, 200),
        (Self::InternalError, 300),
    ];

    fn code(self) -> u64 {
        match self {
            Self::Other(code) => code,
            named => code_of(&Self::NAMED, named),
        }
    }
}

impl std::fmt::Display for V1Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ok => "connected",
            Self::DialError => "no address led to a connection",
            Self::DialRefused => "not dialling",
            Self::BadRequest => "the request makes no sense",
            Self::InternalError => "internal error",
            Self::Other(code) => return write!(f, "status {code}"),
        })
    }
}

/// What goes over [`V1_PROTOCOL`](super::V1_PROTOCOL).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum V1Message {
    /// Asks to be dialled.
    Dial {
        /// Who is to be there.
        peer: Option<PeerId>,
        /// Where. Those that cannot be read are left out.
        addrs: Vec<Multiaddr>,
    },
    /// The answer.
    DialResponse {
        /// How it went.
        status: V1Status,
        /// The address that led to the connection.
        addr: Option<Multiaddr>,
    },
}

impl V1Message {
    /// The message without its length. Addresses that would make it too long are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (mut out, mut inner) = (Vec::new(), Vec::new());
        match self {
            Self::Dial { peer, addrs } => {
                let mut who = Vec::new();
                if let Some(peer) = peer {
                    put_bytes_field(1, peer.as_bytes(), &mut who);
                }
                for addr in addrs {
                    // Three tags with lengths of two bytes, and the type.
                    if who.len() + addr.as_bytes().len() + 11 > V1_MAX_MESSAGE {
                        break;
                    }
                    put_bytes_field(2, addr.as_bytes(), &mut who);
                }
                put_bytes_field(1, &who, &mut inner);
                put_varint_field(1, 0, &mut out);
                put_bytes_field(2, &inner, &mut out);
            }
            Self::DialResponse { status, addr } => {
                put_varint_field(1, status.code(), &mut inner);
                put_bytes_field(2, status.to_string().as_bytes(), &mut inner);
                if let Some(addr) = addr {
                    put_bytes_field(3, addr.as_bytes(), &mut inner);
                }
                put_varint_field(1, 1, &mut out);
                put_bytes_field(3, &inner, &mut out);
            }
        }
        out
    }

    /// Reads a message without its length. Unknown fields are ignored, and so is the server's text.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        within(message, V1_MAX_MESSAGE)?;
        let (mut kind, mut dial, mut response) = (None, &[][..], None);
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (1, Value::Varint(number)) => kind = Some(number),
                (2, Value::Bytes(inner)) => dial = inner,
                (3, Value::Bytes(inner)) => response = Some(inner),
                (number @ 1..=3, _) => return Err(MessageError::WrongType(number)),
                _ => {}
            }
        }
        match (kind, response) {
            (Some(0), _) => decode_dial(dial),
            (Some(1), Some(inner)) => decode_response(inner),
            _ => Err(MessageError::Unknown),
        }
    }
}

fn decode_dial(inner: &[u8]) -> Result<V1Message, MessageError> {
    let (mut fields, mut who) = (Fields::new(inner), &[][..]);
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(inner)) => who = inner,
            (1, _) => return Err(MessageError::WrongType(1)),
            _ => {}
        }
    }
    let (mut fields, mut peer, mut addrs) = (Fields::new(who), None, Vec::new());
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(id)) => {
                peer = Some(PeerId::from_bytes(id).map_err(|_| MessageError::Peer)?);
            }
            (2, Value::Bytes(addr)) if addrs.len() < MAX_READ => {
                addrs.extend(Multiaddr::from_bytes(addr));
            }
            (2, Value::Bytes(_)) => {}
            (number @ 1..=2, _) => return Err(MessageError::WrongType(number)),
            _ => {}
        }
    }
    Ok(V1Message::Dial { peer, addrs })
}

fn decode_response(inner: &[u8]) -> Result<V1Message, MessageError> {
    let (mut fields, mut code, mut addr) = (Fields::new(inner), None, None);
    while let Some(field) = fields.next_field()? {
        match (field.number, field.value) {
            (1, Value::Varint(number)) => code = Some(number),
            (3, Value::Bytes(bytes)) => addr = Multiaddr::from_bytes(bytes).ok(),
            (number @ (1 | 3), _) => return Err(MessageError::WrongType(number)),
            _ => {}
        }
    }
    let code = code.ok_or(MessageError::Unknown)?;
    let status = named(&V1Status::NAMED, code).unwrap_or(V1Status::Other(code));
    Ok(V1Message::DialResponse { status, addr })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use barewire_base::Keypair;

    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written() {
        let addr: Multiaddr = "/ip4/192.0.2.1/tcp/1".parse().unwrap();
        let peer = Keypair::from_seed(&[1; 32]).peer_id();
        for message in [
            V1Message::Dial {
                peer: Some(peer),
                addrs: vec![addr.clone(); 3],
            },
            V1Message::DialResponse {
                status: V1Status::Ok,
                addr: Some(addr.clone()),
            },
            V1Message::DialResponse {
                status: V1Status::Other(77),
                addr: None,
            },
        ] {
            assert_eq!(V1Message::decode(&message.encode()), Ok(message));
        }
        let many = V1Message::Dial {
            peer: Some(peer),
            addrs: vec![addr; 1000],
        };
        assert!(many.encode().len() <= V1_MAX_MESSAGE);
    }

    #[test]
    fn what_is_none_has_a_reason() {
        let error = |bytes: &[u8]| V1Message::decode(bytes).unwrap_err();
        assert_eq!(error(&[]), MessageError::Unknown);
        assert_eq!(error(&[8, 1]), MessageError::Unknown);
        assert_eq!(error(&[8, 2]), MessageError::Unknown);
        // An answer without a status, and a peer that is none.
        assert_eq!(error(&[8, 1, 0x1a, 0]), MessageError::Unknown);
        let peer = [8, 0, 0x12, 5, 0x0a, 3, 0x0a, 1, 9];
        assert_eq!(error(&peer), MessageError::Peer);
        assert_eq!(error(&[0x0a, 0]), MessageError::WrongType(1));
        let nobody = V1Message::decode(&[8, 0]).unwrap();
        let (peer, addrs) = (None, Vec::new());
        assert_eq!(nobody, V1Message::Dial { peer, addrs });
    }
}

//! Messages of a hole punch. Each travels with its length before it.

use barewire_base::{
    Fault, Multiaddr,
    proto::{Fields, ScanError, Value, put_bytes_field, put_varint_field},
};

/// Longest message in bytes, without its length, as go- and rust-libp2p.
pub const MAX_MESSAGE: usize = 4096;
/// Addresses that are read at all; the others are ignored (own choice: go-libp2p sends as many as it has).
const MAX_READ: usize = 64;

/// What is said before a hole punch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PunchMessage {
    /// Where the sender may be reached directly. Addresses that cannot be read are left out.
    Connect(Vec<Multiaddr>),
    /// The receiver dials now, the sender in half a round trip.
    Sync,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// It is longer than [`MAX_MESSAGE`].
    #[error("a hole punch message of {0} bytes, at most {MAX_MESSAGE} are allowed")]
    TooLong(usize),
    /// It is not protobuf.
    #[error("a hole punch message is malformed: {0}")]
    Proto(#[from] ScanError),
    /// A field has another kind of value than it should.
    #[error("field {0} of a hole punch message has the wrong type")]
    WrongType(u32),
    /// The type is missing or none that exists.
    #[error("a hole punch message has no known type")]
    UnknownType,
}

impl MessageError {
    /// Always the peer's.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

const CONNECT: u64 = 100;
const SYNC: u64 = 300;

impl PunchMessage {
    /// The message without its length. Addresses that would make it too long are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Sync => put_varint_field(1, SYNC, &mut out),
            Self::Connect(addrs) => {
                put_varint_field(1, CONNECT, &mut out);
                for addr in addrs {
                    // A tag, and a length of two bytes.
                    if out.len() + addr.as_bytes().len() + 3 > MAX_MESSAGE {
                        break;
                    }
                    put_bytes_field(2, addr.as_bytes(), &mut out);
                }
            }
        }
        out
    }

    /// Reads a message without its length. Unknown fields are ignored.
    ///
    /// # Errors
    /// [`MessageError`].
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        if message.len() > MAX_MESSAGE {
            return Err(MessageError::TooLong(message.len()));
        }
        let (mut kind, mut addrs) = (None, Vec::new());
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next_field()? {
            match (field.number, field.value) {
                (1, Value::Varint(number)) => kind = Some(number),
                (2, Value::Bytes(addr)) if addrs.len() < MAX_READ => {
                    addrs.extend(Multiaddr::from_bytes(addr));
                }
                (2, Value::Bytes(_)) => {}
                (number @ 1..=2, _) => return Err(MessageError::WrongType(number)),
                _ => {}
            }
        }
        match kind {
            Some(CONNECT) => Ok(Self::Connect(addrs)),
            Some(SYNC) => Ok(Self::Sync),
            _ => Err(MessageError::UnknownType),
        }
    }
}

//! The table of address components, and how each kind of value looks in binary.

use super::MultiaddrError;
use crate::{PeerId, identity::split_multihash, varint};

/// Longest digest of a certificate hash in bytes: that of SHA-512.
pub(super) const MAX_DIGEST_LEN: usize = 64;

/// What kind of value a component has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Flag,
    Ip4,
    Ip6,
    Port,
    U8,
    U64,
    /// A host, server or zone name.
    Name,
    /// A file path, which swallows the rest of the text.
    Path,
    /// Text that is percent-encoded in the text form.
    Escaped,
    Peer,
    Hash,
    Onion,
    Onion3,
    Garlic64,
    Garlic32,
}

impl Kind {
    /// Bytes of the value, or `None` if a length precedes it.
    const fn fixed_len(self) -> Option<usize> {
        match self {
            Self::Flag => Some(0),
            Self::U8 => Some(1),
            Self::Port => Some(2),
            Self::Ip4 => Some(4),
            Self::U64 => Some(8),
            Self::Onion => Some(12),
            Self::Ip6 => Some(16),
            Self::Onion3 => Some(37),
            Self::Name | Self::Path | Self::Escaped | Self::Peer | Self::Hash => None,
            Self::Garlic64 | Self::Garlic32 => None,
        }
    }

    /// Whether `value`, of the fixed length if there is one, is valid.
    fn accepts(self, value: &[u8]) -> bool {
        match self {
            Self::Flag | Self::Ip4 | Self::Ip6 | Self::Port | Self::U8 | Self::U64 => true,
            // Control characters name no host, but would reach terminals and logs.
            Self::Name => text(value)
                .is_some_and(|name| !name.is_empty() && !name.contains('/') && is_printable(name)),
            Self::Path => text(value).is_some_and(|path| {
                path.len() >= 2
                    && path.starts_with('/')
                    && !path.ends_with('/')
                    && is_printable(path)
            }),
            Self::Escaped => !value.is_empty() && text(value).is_some(),
            Self::Peer => PeerId::from_bytes(value).is_ok(),
            Self::Hash => {
                split_multihash(value).is_some_and(|(_, digest)| digest.len() <= MAX_DIGEST_LEN)
            }
            Self::Onion | Self::Onion3 => !value.ends_with(&[0, 0]),
            // go-multiaddr's lengths: a destination holds two public keys and a certificate; a
            // hashed one is a SHA-256, an encrypted one longer.
            Self::Garlic64 => value.len() >= 386,
            Self::Garlic32 => value.len() == 32 || value.len() >= 35,
        }
    }
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// One line of the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) code: u32,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

const fn row(code: u32, name: &'static str, kind: Kind) -> Row {
    Row { code, name, kind }
}

/// Every component known, by code.
pub(super) static TABLE: [Row; 42] = [
    row(4, "ip4", Kind::Ip4),
    row(6, "tcp", Kind::Port),
    row(33, "dccp", Kind::Port),
    row(41, "ip6", Kind::Ip6),
    row(42, "ip6zone", Kind::Name),
    row(43, "ipcidr", Kind::U8),
    row(53, "dns", Kind::Name),
    row(54, "dns4", Kind::Name),
    row(55, "dns6", Kind::Name),
    row(56, "dnsaddr", Kind::Name),
    row(132, "sctp", Kind::Port),
    row(273, "udp", Kind::Port),
    row(275, "p2p-webrtc-star", Kind::Flag),
    row(276, "p2p-webrtc-direct", Kind::Flag),
    row(277, "p2p-stardust", Kind::Flag),
    row(280, "webrtc-direct", Kind::Flag),
    row(281, "webrtc", Kind::Flag),
    row(290, "p2p-circuit", Kind::Flag),
    row(301, "udt", Kind::Flag),
    row(302, "utp", Kind::Flag),
    row(400, "unix", Kind::Path),
    row(421, "p2p", Kind::Peer),
    row(443, "https", Kind::Flag),
    row(444, "onion", Kind::Onion),
    row(445, "onion3", Kind::Onion3),
    row(446, "garlic64", Kind::Garlic64),
    row(447, "garlic32", Kind::Garlic32),
    row(448, "tls", Kind::Flag),
    row(449, "sni", Kind::Name),
    row(454, "noise", Kind::Flag),
    row(460, "quic", Kind::Flag),
    row(461, "quic-v1", Kind::Flag),
    row(465, "webtransport", Kind::Flag),
    row(466, "certhash", Kind::Hash),
    row(477, "ws", Kind::Flag),
    row(478, "wss", Kind::Flag),
    row(479, "p2p-websocket-star", Kind::Flag),
    row(480, "http", Kind::Flag),
    row(481, "http-path", Kind::Escaped),
    row(777, "memory", Kind::U64),
    row(4770, "x-parity-ws", Kind::Escaped),
    row(4780, "x-parity-wss", Kind::Escaped),
];

/// The row with this code.
pub(super) fn by_code(code: u64) -> Option<&'static Row> {
    let index = TABLE
        .binary_search_by_key(&code, |row| u64::from(row.code))
        .ok()?;
    TABLE.get(index)
}

/// The row with this name; `ipfs` is an old name of `p2p`.
pub(super) fn by_name(name: &str) -> Option<&'static Row> {
    let name = if name == "ipfs" { "p2p" } else { name };
    TABLE.iter().find(|row| row.name == name)
}

/// A component in an address: its row and its value's bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Component<'a> {
    pub(super) row: &'static Row,
    pub(super) value: &'a [u8],
}

impl<'a> Component<'a> {
    /// Reads and checks the component at the front of `input`; returns the bytes it took as well.
    pub(super) fn read(input: &'a [u8]) -> Result<(Self, usize), MultiaddrError> {
        let (code, code_len) = varint::decode(input)?.ok_or(MultiaddrError::Truncated)?;
        let row = by_code(code).ok_or(MultiaddrError::UnknownCode(code))?;
        let rest = &input[code_len..];
        let (value_len, prefix_len) = match row.kind.fixed_len() {
            Some(len) => (len as u64, 0),
            None => varint::decode(rest)?.ok_or(MultiaddrError::Truncated)?,
        };
        let value = usize::try_from(value_len)
            .ok()
            .and_then(|len| rest[prefix_len..].get(..len))
            .ok_or(MultiaddrError::Truncated)?;
        let component = Self { row, value };
        component.check()?;
        Ok((component, code_len + prefix_len + value.len()))
    }

    /// Whether the value is one that this component may have.
    pub(super) fn check(&self) -> Result<(), MultiaddrError> {
        let len_fits = self
            .row
            .kind
            .fixed_len()
            .is_none_or(|len| len == self.value.len());
        if len_fits && self.row.kind.accepts(self.value) {
            Ok(())
        } else {
            Err(MultiaddrError::InvalidValue(self.row.name))
        }
    }

    /// Appends the binary form.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        varint::encode(u64::from(self.row.code), out);
        if self.row.kind.fixed_len().is_none() {
            varint::encode(self.value.len() as u64, out);
        }
        out.extend_from_slice(self.value);
    }
}

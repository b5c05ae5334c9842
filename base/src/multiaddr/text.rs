//! How each kind of value looks in text.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::component::{Component, Kind, MAX_DIGEST_LEN};
use crate::{PeerId, multibase, varint};

/// Longest certificate hash in bytes: code and length before the digest.
const MAX_HASH_LEN: usize = MAX_DIGEST_LEN + 2 * varint::MAX_LEN;

/// Appends the binary value that `text` stands for; the caller checks that value. `None` if the
/// text is not of this kind.
pub(super) fn parse_value(kind: Kind, text: &str, out: &mut Vec<u8>) -> Option<()> {
    match kind {
        Kind::Flag => {}
        Kind::Ip4 => out.extend(text.parse::<Ipv4Addr>().ok()?.octets()),
        Kind::Ip6 => out.extend(text.parse::<Ipv6Addr>().ok()?.octets()),
        Kind::Port => out.extend(number::<u16>(text)?.to_be_bytes()),
        Kind::U8 => out.push(number(text)?),
        Kind::U64 => out.extend(number::<u64>(text)?.to_be_bytes()),
        Kind::Name | Kind::Path => out.extend(text.bytes()),
        Kind::Escaped => unescape(text, out)?,
        Kind::Peer => out.extend_from_slice(text.parse::<PeerId>().ok()?.as_bytes()),
        // Some bases take time quadratic in the length, so what is too long in any base is not read.
        Kind::Hash if text.len() > 8 * MAX_HASH_LEN + 1 => return None,
        Kind::Hash => out.extend(multibase::decode(text)?),
        Kind::Onion | Kind::Onion3 => {
            let (key, port) = text.split_once(':')?;
            out.extend(multibase::from_base32(key)?);
            out.extend(number::<u16>(port)?.to_be_bytes());
        }
        Kind::Garlic64 => out.extend(multibase::from_base64_i2p(text)?),
        Kind::Garlic32 => out.extend(multibase::from_base32(text.trim_end_matches('='))?),
    }
    Some(())
}

/// Digits only: the standard parser also takes a plus sign.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes()
        .all(|digit| digit.is_ascii_digit())
        .then(|| text.parse().ok())?
}

fn unescape(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok()?;
        // The standard parser takes a plus sign as well.
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        out.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail;
    }
    Some(())
}

impl fmt::Display for Component<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.row.name)?;
        let value = self.value;
        match (self.row.kind, value) {
            (Kind::Flag, _) => Ok(()),
            (Kind::Ip4, &[a, b, c, d]) => write!(f, "/{}", Ipv4Addr::new(a, b, c, d)),
            (Kind::Ip6, _) => {
                let octets: [u8; 16] = value.try_into().map_err(|_| fmt::Error)?;
                write!(f, "/{}", Ipv6Addr::from(octets))
            }
            (Kind::Port, &[high, low]) => write!(f, "/{}", u16::from_be_bytes([high, low])),
            (Kind::U8, &[number]) => write!(f, "/{number}"),
            (Kind::U64, _) => {
                let bytes = value.try_into().map_err(|_| fmt::Error)?;
                write!(f, "/{}", u64::from_be_bytes(bytes))
            }
            (Kind::Name, _) => write!(f, "/{}", utf8(value)?),
            // The path brings its own slash.
            (Kind::Path, _) => f.write_str(utf8(value)?),
            (Kind::Escaped, _) => {
                f.write_str("/")?;
                for &byte in value {
                    if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                        write!(f, "{}", char::from(byte))?;
                    } else {
                        write!(f, "%{byte:02X}")?;
                    }
                }
                Ok(())
            }
            (Kind::Peer, _) => {
                write!(f, "/{}", PeerId::from_bytes(value).map_err(|_| fmt::Error)?)
            }
            (Kind::Hash, _) => write!(f, "/{}", multibase::encode_base64url(value)),
            (Kind::Onion | Kind::Onion3, &[ref key @ .., high, low]) => {
                let port = u16::from_be_bytes([high, low]);
                write!(f, "/{}:{port}", multibase::base32(key))
            }
            (Kind::Garlic64, _) => write!(f, "/{}", multibase::base64_i2p(value)),
            (Kind::Garlic32, _) => write!(f, "/{}", multibase::base32(value)),
            _ => Err(fmt::Error),
        }
    }
}

fn utf8(value: &[u8]) -> Result<&str, fmt::Error> {
    std::str::from_utf8(value).map_err(|_| fmt::Error)
}

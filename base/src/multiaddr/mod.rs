//! Self-describing network addresses: `/ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…`.

mod component;
mod protocol;
mod text;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use component::{Component, Kind};
pub use protocol::Protocol;

use crate::{Fault, PeerId, varint::VarintError};

/// Longest address in bytes of its binary form.
pub const MAX_LEN: usize = 1024;

/// Most components an address may have.
pub const MAX_COMPONENTS: usize = 16;

/// Longest text that is looked at. Every byte of a value takes at most three characters when it is
/// percent-encoded, or eight in a certificate hash given as base2.
const MAX_TEXT_LEN: usize = 8 * MAX_LEN;

/// Components that go-, rust- and js-libp2p all read. An address with another one in it makes
/// rust-libp2p refuse the whole signed record that holds it.
const WIDELY_KNOWN: &[&str] = &[
    "ip4",
    "ip6",
    "dns",
    "dns4",
    "dns6",
    "dnsaddr",
    "tcp",
    "udp",
    "quic-v1",
    "ws",
    "wss",
    "tls",
    "sni",
    "noise",
    "webrtc",
    "webrtc-direct",
    "webtransport",
    "certhash",
    "p2p",
    "p2p-circuit",
    "http",
    "https",
    "memory",
];

/// Why something is not an address, or not one that is accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MultiaddrError {
    /// An address without components.
    #[error("the address is empty")]
    Empty,
    /// Longer than [`MAX_LEN`] in binary, or absurdly long as text.
    #[error("the address is longer than {MAX_LEN} bytes")]
    TooLong,
    /// More than [`MAX_COMPONENTS`].
    #[error("the address has more than {MAX_COMPONENTS} components")]
    TooManyComponents,
    /// The binary form ends inside a component.
    #[error("the address ends inside a component")]
    Truncated,
    /// A code or length in the binary form is not a varint.
    #[error("the address holds an invalid varint: {0}")]
    Varint(#[from] VarintError),
    /// A code that stands for no component known here.
    #[error("the address component with code {0} is unknown")]
    UnknownCode(u64),
    /// A name that stands for no component known here, cut to 32 characters.
    #[error("the address component '{0}' is unknown")]
    UnknownName(String),
    /// A component, named here, whose value is missing from the text.
    #[error("the value of the address component '{0}' is missing")]
    MissingValue(&'static str),
    /// A component, named here, has a value it cannot have.
    #[error("the address component '{0}' has an invalid value")]
    InvalidValue(&'static str),
    /// The text does not begin with a slash.
    #[error("an address begins with '/'")]
    NoLeadingSlash,
    /// Something follows a path, which has to be last.
    #[error("nothing may follow the address component '{0}'")]
    NotLast(&'static str),
    /// The address already ends in another peer's id.
    #[error("the address already names another peer")]
    OtherPeer,
}

impl MultiaddrError {
    /// Always [`Fault::Peer`]: whoever gave the address.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Peer
    }
}

/// An address, held in its binary form and checked when it was made. Clones share it.
///
/// The order is that of the binary form.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Multiaddr {
    bytes: Arc<[u8]>,
}

impl Multiaddr {
    /// The address without components, to build others from. It is valid nowhere else: no peer
    /// accepts it and nothing reads it.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            bytes: Arc::new([]),
        }
    }

    /// `/ip4/…/tcp/…` or `/ip6/…/tcp/…`. An IPv6 scope is left out.
    #[must_use]
    pub fn tcp(address: SocketAddr) -> Self {
        Self::socket(address, &[6], &[])
    }

    /// `/ip4/…/udp/…/quic-v1` or `/ip6/…/udp/…/quic-v1`. An IPv6 scope is left out.
    #[must_use]
    pub fn quic(address: SocketAddr) -> Self {
        // Codes 273 and 461 as varints.
        Self::socket(address, &[0x91, 0x02], &[0xcd, 0x03])
    }

    /// An address, its port behind the code of the port's protocol, and what follows.
    fn socket(address: SocketAddr, port_code: &[u8], rest: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(24);
        match address.ip() {
            IpAddr::V4(ip) => {
                bytes.push(4);
                bytes.extend(ip.octets());
            }
            IpAddr::V6(ip) => {
                bytes.push(41);
                bytes.extend(ip.octets());
            }
        }
        bytes.extend(port_code);
        bytes.extend(address.port().to_be_bytes());
        bytes.extend(rest);
        Self {
            bytes: bytes.into(),
        }
    }

    /// The IP address this address begins with, if it does.
    #[must_use]
    pub fn ip(&self) -> Option<IpAddr> {
        ip(self.iter().next()?)
    }

    /// This address with another IP of the same family in front; `None` if it does not begin with
    /// an IP of that family.
    #[must_use]
    pub fn with_ip(&self, new: IpAddr) -> Option<Self> {
        let mut bytes = self.bytes.to_vec();
        match (self.ip()?, new) {
            (IpAddr::V4(_), IpAddr::V4(ip)) => bytes.get_mut(1..5)?.copy_from_slice(&ip.octets()),
            (IpAddr::V6(_), IpAddr::V6(ip)) => bytes.get_mut(1..17)?.copy_from_slice(&ip.octets()),
            _ => return None,
        }
        Some(Self {
            bytes: bytes.into(),
        })
    }

    /// The socket address and the peer of `/ip4|ip6/…/tcp/…[/p2p/…]`; `None` for any other shape.
    #[must_use]
    pub fn to_tcp(&self) -> Option<(SocketAddr, Option<PeerId>)> {
        let mut parts = self.iter();
        let ip = ip(parts.next()?)?;
        let Protocol::Tcp(port) = parts.next()? else {
            return None;
        };
        Some((SocketAddr::new(ip, port), last_peer(parts)?))
    }

    /// The socket address and the peer of `/ip4|ip6/…/udp/…/quic-v1[/p2p/…]`; `None` for any other
    /// shape.
    #[must_use]
    pub fn to_quic(&self) -> Option<(SocketAddr, Option<PeerId>)> {
        let mut parts = self.iter();
        let ip = ip(parts.next()?)?;
        let Protocol::Udp(port) = parts.next()? else {
            return None;
        };
        let Protocol::QuicV1 = parts.next()? else {
            return None;
        };
        Some((SocketAddr::new(ip, port), last_peer(parts)?))
    }

    /// Reads the binary form.
    ///
    /// # Errors
    /// [`MultiaddrError`] if any component is unknown or invalid, or a limit is passed.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, MultiaddrError> {
        check(bytes)?;
        Ok(Self {
            bytes: bytes.into(),
        })
    }

    /// The binary form.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether there is no component.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The components from first to last.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter {
            components: self.components(),
        }
    }

    /// Adds a component at the end.
    ///
    /// # Errors
    /// [`MultiaddrError`] if its value is invalid or a limit would be passed; the address is
    /// unchanged then.
    pub fn push(&mut self, protocol: Protocol<'_>) -> Result<(), MultiaddrError> {
        let mut bytes = Vec::with_capacity(self.bytes.len() + 64);
        bytes.extend_from_slice(&self.bytes);
        protocol.write(&mut bytes)?;
        *self = Self::from_bytes(&bytes)?;
        Ok(())
    }

    /// The address with a component added at the end.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn with(mut self, protocol: Protocol<'_>) -> Result<Self, MultiaddrError> {
        self.push(protocol)?;
        Ok(self)
    }

    /// Removes the last component and returns it.
    pub fn pop(&mut self) -> Option<Protocol<'static>> {
        let mut components = self.components();
        let (mut last, mut start) = (None, 0);
        loop {
            let offset = self.bytes.len() - components.rest.len();
            match components.next() {
                Some(component) => (last, start) = (Some(component), offset),
                None => break,
            }
        }
        let popped = Protocol::from_component(&last?)?.into_owned();
        self.bytes = self.bytes[..start].into();
        Some(popped)
    }

    /// The peer this address leads to: the id in its last component, if that is a `/p2p`.
    #[must_use]
    pub fn peer_id(&self) -> Option<PeerId> {
        match self.iter().last()? {
            Protocol::P2p(peer_id) => Some(peer_id),
            _ => None,
        }
    }

    /// The address with `/p2p/…` at its end.
    ///
    /// # Errors
    /// [`MultiaddrError::OtherPeer`] if it ends in another peer's id, or a limit's error.
    pub fn with_peer(self, peer_id: PeerId) -> Result<Self, MultiaddrError> {
        match self.peer_id() {
            Some(own) if own == peer_id => Ok(self),
            Some(_) => Err(MultiaddrError::OtherPeer),
            None => self.with(Protocol::P2p(peer_id)),
        }
    }

    /// The address without the `/p2p/…` at its end, if there is one.
    #[must_use]
    pub fn without_peer(mut self) -> Self {
        if self.peer_id().is_some() {
            self.pop();
        }
        self
    }

    /// Whether go-, rust- and js-libp2p all know every component, so that the address spoils no
    /// list it is sent in.
    #[must_use]
    pub(crate) fn is_widely_known(&self) -> bool {
        !self.is_empty()
            && self
                .components()
                .all(|component| WIDELY_KNOWN.contains(&component.row.name))
    }

    fn components(&self) -> Components<'_> {
        Components { rest: &self.bytes }
    }
}

fn ip(protocol: Protocol<'_>) -> Option<IpAddr> {
    match protocol {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    }
}

/// The peer, if any, that is all that is left; `None` if anything else is.
fn last_peer<'a>(mut parts: impl Iterator<Item = Protocol<'a>>) -> Option<Option<PeerId>> {
    match (parts.next(), parts.next()) {
        (None, _) => Some(None),
        (Some(Protocol::P2p(peer_id)), None) => Some(Some(peer_id)),
        _ => None,
    }
}

/// Checks a binary address as a whole.
fn check(bytes: &[u8]) -> Result<(), MultiaddrError> {
    if bytes.is_empty() {
        return Err(MultiaddrError::Empty);
    }
    if bytes.len() > MAX_LEN {
        return Err(MultiaddrError::TooLong);
    }
    let mut rest = bytes;
    let mut count = 0;
    while !rest.is_empty() {
        count += 1;
        if count > MAX_COMPONENTS {
            return Err(MultiaddrError::TooManyComponents);
        }
        let (component, used) = Component::read(rest)?;
        rest = &rest[used..];
        // Its text would swallow what follows.
        if component.row.kind == Kind::Path && !rest.is_empty() {
            return Err(MultiaddrError::NotLast(component.row.name));
        }
    }
    Ok(())
}

/// Iterator over a checked address's components.
#[derive(Clone, Debug)]
struct Components<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Components<'a> {
    type Item = Component<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let (component, used) = Component::read(self.rest).ok()?;
        self.rest = &self.rest[used..];
        Some(component)
    }
}

/// Iterator over the components of a [`Multiaddr`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    components: Components<'a>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Protocol<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        Protocol::from_component(&self.components.next()?)
    }
}

impl<'a> IntoIterator for &'a Multiaddr {
    type Item = Protocol<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl FromStr for Multiaddr {
    type Err = MultiaddrError;

    /// Reads the text form. Slashes at the end are ignored, as go-libp2p does.
    fn from_str(text: &str) -> Result<Self, MultiaddrError> {
        if text.len() > MAX_TEXT_LEN {
            return Err(MultiaddrError::TooLong);
        }
        let text = text.trim_end_matches('/');
        if text.is_empty() {
            return Err(MultiaddrError::Empty);
        }
        let mut rest = Some(
            text.strip_prefix('/')
                .ok_or(MultiaddrError::NoLeadingSlash)?,
        );
        let mut bytes = Vec::with_capacity(64);
        let mut value = Vec::new();
        let mut count = 0;
        while let Some(text) = rest {
            count += 1;
            if count > MAX_COMPONENTS {
                return Err(MultiaddrError::TooManyComponents);
            }
            let (name, tail) = split(text);
            let row = component::by_name(name)
                .ok_or_else(|| MultiaddrError::UnknownName(name.chars().take(32).collect()))?;
            value.clear();
            rest = match row.kind {
                Kind::Flag => tail,
                Kind::Path => {
                    // The value is the rest of the text, with the slash before it.
                    let path = text.get(name.len()..).unwrap_or_default();
                    text::parse_value(row.kind, path, &mut value);
                    None
                }
                kind => {
                    let (text, tail) = split(tail.ok_or(MultiaddrError::MissingValue(row.name))?);
                    text::parse_value(kind, text, &mut value)
                        .ok_or(MultiaddrError::InvalidValue(row.name))?;
                    tail
                }
            };
            let component = Component { row, value: &value };
            component.check()?;
            component.write(&mut bytes);
            if bytes.len() > MAX_LEN {
                return Err(MultiaddrError::TooLong);
            }
        }
        Ok(Self {
            bytes: bytes.into(),
        })
    }
}

/// Text up to the next slash, and what comes after it.
fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((head, tail)) => (head, Some(tail)),
        None => (text, None),
    }
}

impl fmt::Display for Multiaddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("/");
        }
        self.components().try_for_each(|component| component.fmt(f))
    }
}

impl fmt::Debug for Multiaddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<&[u8]> for Multiaddr {
    type Error = MultiaddrError;

    fn try_from(bytes: &[u8]) -> Result<Self, MultiaddrError> {
        Self::from_bytes(bytes)
    }
}

impl AsRef<[u8]> for Multiaddr {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl From<SocketAddr> for Multiaddr {
    fn from(address: SocketAddr) -> Self {
        Self::tcp(address)
    }
}

#[cfg(test)]
mod tests;

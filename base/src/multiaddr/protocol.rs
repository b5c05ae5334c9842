//! The typed view of a component.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{
    MultiaddrError,
    component::{Component, by_code},
};
use crate::PeerId;

/// One component of a [`Multiaddr`](super::Multiaddr). What it borrows, it borrows from the
/// address.
///
/// A value made by hand may be invalid (an empty host name, say); adding it to an address checks it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol<'a> {
    /// An IPv4 address.
    Ip4(Ipv4Addr),
    /// A TCP port.
    Tcp(u16),
    /// A DCCP port.
    Dccp(u16),
    /// An IPv6 address.
    Ip6(Ipv6Addr),
    /// The zone of the IPv6 address that follows.
    Ip6Zone(Cow<'a, str>),
    /// The prefix length of the address before it, in bits.
    IpCidr(u8),
    /// A host name with addresses of either family.
    Dns(Cow<'a, str>),
    /// A host name with IPv4 addresses.
    Dns4(Cow<'a, str>),
    /// A host name with IPv6 addresses.
    Dns6(Cow<'a, str>),
    /// A host name whose TXT records hold multiaddrs.
    Dnsaddr(Cow<'a, str>),
    /// An SCTP port.
    Sctp(u16),
    /// A UDP port.
    Udp(u16),
    /// An obsolete signalling server.
    P2pWebrtcStar,
    /// An obsolete form of WebRTC direct.
    P2pWebrtcDirect,
    /// An obsolete signalling server.
    P2pStardust,
    /// WebRTC over the UDP address before it.
    WebrtcDirect,
    /// WebRTC, signalled through the address before it.
    Webrtc,
    /// The peer before it relays to the peer after it.
    P2pCircuit,
    /// UDT over UDP.
    Udt,
    /// uTP over UDP.
    Utp,
    /// A Unix socket's absolute path.
    Unix(Cow<'a, str>),
    /// A peer's id.
    P2p(PeerId),
    /// HTTP over TLS.
    Https,
    /// A version 2 onion service and its port.
    Onion([u8; 10], u16),
    /// A version 3 onion service and its port.
    Onion3([u8; 35], u16),
    /// An I2P destination.
    Garlic64(Cow<'a, [u8]>),
    /// An I2P destination's hash or an encrypted lease set's address.
    Garlic32(Cow<'a, [u8]>),
    /// TLS over what is before it.
    Tls,
    /// The server name for the TLS handshake.
    Sni(Cow<'a, str>),
    /// Noise over what is before it.
    Noise,
    /// QUIC draft 29, not spoken any more.
    Quic,
    /// QUIC version 1 (RFC 9000).
    QuicV1,
    /// WebTransport over QUIC.
    Webtransport,
    /// The multihash of a certificate that will be presented.
    Certhash(Cow<'a, [u8]>),
    /// WebSocket.
    Ws,
    /// WebSocket over TLS, the same as `/tls/ws`.
    Wss,
    /// An obsolete signalling server.
    P2pWebsocketStar,
    /// HTTP.
    Http,
    /// An HTTP path, not percent-encoded.
    HttpPath(Cow<'a, str>),
    /// A listener's number inside this process.
    Memory(u64),
    /// WebSocket with a path; only rust-libp2p knows it.
    XParityWs(Cow<'a, str>),
    /// WebSocket over TLS with a path; only rust-libp2p knows it.
    XParityWss(Cow<'a, str>),
}

impl<'a> Protocol<'a> {
    /// The view of a component whose value has been checked.
    pub(super) fn from_component(component: &Component<'a>) -> Option<Self> {
        let value = component.value;
        Some(match component.row.code {
            4 => Self::Ip4(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?)),
            6 => Self::Tcp(u16::from_be_bytes(value.try_into().ok()?)),
            33 => Self::Dccp(u16::from_be_bytes(value.try_into().ok()?)),
            41 => Self::Ip6(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?)),
            42 => Self::Ip6Zone(text(value)?),
            43 => Self::IpCidr(*value.first()?),
            53 => Self::Dns(text(value)?),
            54 => Self::Dns4(text(value)?),
            55 => Self::Dns6(text(value)?),
            56 => Self::Dnsaddr(text(value)?),
            132 => Self::Sctp(u16::from_be_bytes(value.try_into().ok()?)),
            273 => Self::Udp(u16::from_be_bytes(value.try_into().ok()?)),
            275 => Self::P2pWebrtcStar,
            276 => Self::P2pWebrtcDirect,
            277 => Self::P2pStardust,
            280 => Self::WebrtcDirect,
            281 => Self::Webrtc,
            290 => Self::P2pCircuit,
            301 => Self::Udt,
            302 => Self::Utp,
            400 => Self::Unix(text(value)?),
            421 => Self::P2p(PeerId::from_bytes(value).ok()?),
            443 => Self::Https,
            444 => {
                let (key, port) = value.split_first_chunk::<10>()?;
                Self::Onion(*key, u16::from_be_bytes(port.try_into().ok()?))
            }
            445 => {
                let (key, port) = value.split_first_chunk::<35>()?;
                Self::Onion3(*key, u16::from_be_bytes(port.try_into().ok()?))
            }
            446 => Self::Garlic64(Cow::Borrowed(value)),
            447 => Self::Garlic32(Cow::Borrowed(value)),
            448 => Self::Tls,
            449 => Self::Sni(text(value)?),
            454 => Self::Noise,
            460 => Self::Quic,
            461 => Self::QuicV1,
            465 => Self::Webtransport,
            466 => Self::Certhash(Cow::Borrowed(value)),
            477 => Self::Ws,
            478 => Self::Wss,
            479 => Self::P2pWebsocketStar,
            480 => Self::Http,
            481 => Self::HttpPath(text(value)?),
            777 => Self::Memory(u64::from_be_bytes(value.try_into().ok()?)),
            4770 => Self::XParityWs(text(value)?),
            4780 => Self::XParityWss(text(value)?),
            _ => return None,
        })
    }

    /// The component's number in the multicodec table.
    #[must_use]
    pub const fn code(&self) -> u32 {
        match self {
            Self::Ip4(..) => 4,
            Self::Tcp(..) => 6,
            Self::Dccp(..) => 33,
            Self::Ip6(..) => 41,
            Self::Ip6Zone(..) => 42,
            Self::IpCidr(..) => 43,
            Self::Dns(..) => 53,
            Self::Dns4(..) => 54,
            Self::Dns6(..) => 55,
            Self::Dnsaddr(..) => 56,
            Self::Sctp(..) => 132,
            Self::Udp(..) => 273,
            Self::P2pWebrtcStar => 275,
            Self::P2pWebrtcDirect => 276,
            Self::P2pStardust => 277,
            Self::WebrtcDirect => 280,
            Self::Webrtc => 281,
            Self::P2pCircuit => 290,
            Self::Udt => 301,
            Self::Utp => 302,
            Self::Unix(..) => 400,
            Self::P2p(..) => 421,
            Self::Https => 443,
            Self::Onion(..) => 444,
            Self::Onion3(..) => 445,
            Self::Garlic64(..) => 446,
            Self::Garlic32(..) => 447,
            Self::Tls => 448,
            Self::Sni(..) => 449,
            Self::Noise => 454,
            Self::Quic => 460,
            Self::QuicV1 => 461,
            Self::Webtransport => 465,
            Self::Certhash(..) => 466,
            Self::Ws => 477,
            Self::Wss => 478,
            Self::P2pWebsocketStar => 479,
            Self::Http => 480,
            Self::HttpPath(..) => 481,
            Self::Memory(..) => 777,
            Self::XParityWs(..) => 4770,
            Self::XParityWss(..) => 4780,
        }
    }

    /// The component's name in text.
    #[must_use]
    pub fn name(&self) -> &'static str {
        by_code(u64::from(self.code())).map_or("", |row| row.name)
    }

    /// Appends the component's binary form.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), MultiaddrError> {
        let code = u64::from(self.code());
        let row = by_code(code).ok_or(MultiaddrError::UnknownCode(code))?;
        let value = self.value();
        let component = Component { row, value: &value };
        component.check()?;
        component.write(out);
        Ok(())
    }

    fn value(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Ip4(address) => Cow::Owned(address.octets().to_vec()),
            Self::Ip6(address) => Cow::Owned(address.octets().to_vec()),
            Self::IpCidr(prefix) => Cow::Owned(vec![*prefix]),
            Self::Memory(number) => Cow::Owned(number.to_be_bytes().to_vec()),
            Self::P2p(peer_id) => Cow::Borrowed(peer_id.as_bytes()),
            Self::Onion(key, port) => Cow::Owned([&key[..], &port.to_be_bytes()].concat()),
            Self::Onion3(key, port) => Cow::Owned([&key[..], &port.to_be_bytes()].concat()),
            Self::Tcp(port) | Self::Dccp(port) | Self::Sctp(port) | Self::Udp(port) => {
                Cow::Owned(port.to_be_bytes().to_vec())
            }
            Self::Ip6Zone(text)
            | Self::Dns(text)
            | Self::Dns4(text)
            | Self::Dns6(text)
            | Self::Dnsaddr(text)
            | Self::Unix(text)
            | Self::Sni(text)
            | Self::HttpPath(text)
            | Self::XParityWs(text)
            | Self::XParityWss(text) => Cow::Borrowed(text.as_bytes()),
            Self::Garlic64(bytes) | Self::Garlic32(bytes) | Self::Certhash(bytes) => {
                Cow::Borrowed(bytes)
            }
            Self::P2pWebrtcStar
            | Self::P2pWebrtcDirect
            | Self::P2pStardust
            | Self::WebrtcDirect
            | Self::Webrtc
            | Self::P2pCircuit
            | Self::Udt
            | Self::Utp
            | Self::Https
            | Self::Tls
            | Self::Noise
            | Self::Quic
            | Self::QuicV1
            | Self::Webtransport
            | Self::Ws
            | Self::Wss
            | Self::P2pWebsocketStar
            | Self::Http => Cow::Borrowed(&[]),
        }
    }

    /// The same component, borrowing nothing.
    #[must_use]
    pub fn into_owned(self) -> Protocol<'static> {
        match self {
            Self::Ip4(value) => Protocol::Ip4(value),
            Self::Tcp(value) => Protocol::Tcp(value),
            Self::Dccp(value) => Protocol::Dccp(value),
            Self::Ip6(value) => Protocol::Ip6(value),
            Self::Ip6Zone(value) => Protocol::Ip6Zone(Cow::Owned(value.into_owned())),
            Self::IpCidr(value) => Protocol::IpCidr(value),
            Self::Dns(value) => Protocol::Dns(Cow::Owned(value.into_owned())),
            Self::Dns4(value) => Protocol::Dns4(Cow::Owned(value.into_owned())),
            Self::Dns6(value) => Protocol::Dns6(Cow::Owned(value.into_owned())),
            Self::Dnsaddr(value) => Protocol::Dnsaddr(Cow::Owned(value.into_owned())),
            Self::Sctp(value) => Protocol::Sctp(value),
            Self::Udp(value) => Protocol::Udp(value),
            Self::P2pWebrtcStar => Protocol::P2pWebrtcStar,
            Self::P2pWebrtcDirect => Protocol::P2pWebrtcDirect,
            Self::P2pStardust => Protocol::P2pStardust,
            Self::WebrtcDirect => Protocol::WebrtcDirect,
            Self::Webrtc => Protocol::Webrtc,
            Self::P2pCircuit => Protocol::P2pCircuit,
            Self::Udt => Protocol::Udt,
            Self::Utp => Protocol::Utp,
            Self::Unix(value) => Protocol::Unix(Cow::Owned(value.into_owned())),
            Self::P2p(value) => Protocol::P2p(value),
            Self::Https => Protocol::Https,
            Self::Onion(key, port) => Protocol::Onion(key, port),
            Self::Onion3(key, port) => Protocol::Onion3(key, port),
            Self::Garlic64(value) => Protocol::Garlic64(Cow::Owned(value.into_owned())),
            Self::Garlic32(value) => Protocol::Garlic32(Cow::Owned(value.into_owned())),
            Self::Tls => Protocol::Tls,
            Self::Sni(value) => Protocol::Sni(Cow::Owned(value.into_owned())),
            Self::Noise => Protocol::Noise,
            Self::Quic => Protocol::Quic,
            Self::QuicV1 => Protocol::QuicV1,
            Self::Webtransport => Protocol::Webtransport,
            Self::Certhash(value) => Protocol::Certhash(Cow::Owned(value.into_owned())),
            Self::Ws => Protocol::Ws,
            Self::Wss => Protocol::Wss,
            Self::P2pWebsocketStar => Protocol::P2pWebsocketStar,
            Self::Http => Protocol::Http,
            Self::HttpPath(value) => Protocol::HttpPath(Cow::Owned(value.into_owned())),
            Self::Memory(value) => Protocol::Memory(value),
            Self::XParityWs(value) => Protocol::XParityWs(Cow::Owned(value.into_owned())),
            Self::XParityWss(value) => Protocol::XParityWss(Cow::Owned(value.into_owned())),
        }
    }
}

fn text(value: &[u8]) -> Option<Cow<'_, str>> {
    std::str::from_utf8(value).ok().map(Cow::Borrowed)
}

impl fmt::Display for Protocol<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = by_code(u64::from(self.code())).ok_or(fmt::Error)?;
        let value = self.value();
        Component { row, value: &value }.fmt(f)
    }
}

impl From<IpAddr> for Protocol<'_> {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::Ip4(address),
            IpAddr::V6(address) => Self::Ip6(address),
        }
    }
}

impl From<PeerId> for Protocol<'_> {
    fn from(peer_id: PeerId) -> Self {
        Self::P2p(peer_id)
    }
}

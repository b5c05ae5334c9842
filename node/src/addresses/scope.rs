//! How far an IP address reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an IP address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// This machine.
    Loopback,
    /// One link; over IPv6 it means nothing without the name of the interface.
    Link,
    /// A network behind a router: RFC 1918, RFC 6598 (carrier-grade NAT), RFC 4193, RFC 3879 (the old
    /// site-local ones), RFC 6890 (protocol assignments), RFC 2544 (benchmarks).
    Private,
    /// Everywhere.
    Public,
    /// No host: unspecified, multicast, broadcast, reserved.
    None,
}

impl Scope {
    pub(crate) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Self {
        let [a, b, c, _] = ip.octets();
        if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_link_local() {
            Self::Link
        } else if a == 0 || a >= 224 {
            Self::None
        } else if ip.is_private()
            || (a == 100 && b & 0xc0 == 64)
            || (a, b, c) == (192, 0, 0)
            || (a == 198 && b & 0xfe == 18)
        {
            Self::Private
        } else {
            Self::Public
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        let first = ip.segments()[0];
        if let Some(ip) = embedded(ip) {
            Self::of_v4(ip)
        } else if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_unspecified() || ip.is_multicast() {
            Self::None
        } else if first & 0xffc0 == 0xfe80 {
            Self::Link
        } else if first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfec0 {
            Self::Private
        } else {
            Self::Public
        }
    }
}

/// The IPv4 address that a gateway reaches for an IPv6 address: NAT64 (RFC 6052), 6to4 (RFC 3056),
/// and the old IPv4-compatible ones (RFC 4291, 2.5.5.1).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    match ip.segments() {
        // `::` and `::1` are addresses of their own.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0, 0, 0, 0, 0, 0, high, low] => {
            Some(v4(high, low))
        }
        [0x2002, high, low, ..] => Some(v4(high, low)),
        // For local use (RFC 8215): whoever set it up is in the private network.
        [0x64, 0xff9b, 1, ..] => Some(Ipv4Addr::new(10, 0, 0, 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn each_range_has_its_scope() {
        for (scope, ips) in [
            (
                Scope::Loopback,
                &["127.0.0.1", "::1", "::ffff:127.9.9.9"][..],
            ),
            (Scope::Link, &["169.254.1.1", "fe80::1", "febf::1"]),
            (Scope::Private, &["10.0.0.1", "100.64.0.1", "fd00::1"]),
            (Scope::Private, &["fec0::1", "feff::1", "192.0.0.9"]),
            (Scope::Private, &["198.18.0.1", "198.19.255.255"]),
            (Scope::Public, &["8.8.8.8", "100.128.0.1", "2001:db8::1"]),
            (Scope::Public, &["192.0.1.1", "198.17.0.1", "198.20.0.1"]),
            (Scope::None, &["0.0.0.0", "ff02::1", "255.255.255.255"]),
            (Scope::None, &["::", "240.0.0.1", "224.0.0.1"]),
            // What a gateway makes of them.
            (Scope::Loopback, &["64:ff9b::127.0.0.1", "2002:7f00:1::1"]),
            (Scope::Loopback, &["::127.0.0.1"]),
            (
                Scope::Link,
                &["64:ff9b::169.254.169.254", "2002:a9fe:a9fe::"],
            ),
            (Scope::Private, &["64:ff9b::10.0.0.1", "2002:c0a8:1::1"]),
            (Scope::Private, &["::192.168.1.1", "64:ff9b:1::8.8.8.8"]),
            (Scope::Public, &["64:ff9b::8.8.8.8", "2002:808:808::1"]),
            (Scope::Public, &["::8.8.8.8"]),
            (Scope::None, &["64:ff9b::", "2002::1"]),
        ] {
            for ip in ips {
                assert_eq!(Scope::of(ip.parse().unwrap()), scope, "{ip}");
            }
        }
    }
}

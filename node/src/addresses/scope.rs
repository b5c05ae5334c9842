//! How far an IP address reaches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an IP address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    /// This machine.
    Loopback,
    /// One link; over IPv6 it means nothing without the name of the interface.
    Link,
    /// A network behind a router: RFC 1918, RFC 6598 (carrier-grade NAT), RFC 4193.
    Private,
    /// Everywhere.
    Public,
    /// No host: unspecified, multicast, broadcast.
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
        let [a, b, ..] = ip.octets();
        if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_link_local() {
            Self::Link
        } else if a == 0 || ip.is_multicast() || ip.is_broadcast() {
            Self::None
        } else if ip.is_private() || (a == 100 && b & 0xc0 == 64) {
            Self::Private
        } else {
            Self::Public
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Self {
        let first = ip.segments()[0];
        if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_unspecified() || ip.is_multicast() {
            Self::None
        } else if first & 0xffc0 == 0xfe80 {
            Self::Link
        } else if first & 0xfe00 == 0xfc00 {
            Self::Private
        } else {
            Self::Public
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn each_range_has_its_scope() {
        for (scope, ips) in [
            (Scope::Loopback, ["127.0.0.1", "::1", "::ffff:127.9.9.9"]),
            (Scope::Link, ["169.254.1.1", "fe80::1", "febf::1"]),
            (Scope::Private, ["10.0.0.1", "100.64.0.1", "fd00::1"]),
            (Scope::Public, ["8.8.8.8", "100.128.0.1", "2001:db8::1"]),
            (Scope::None, ["0.0.0.0", "ff02::1", "255.255.255.255"]),
        ] {
            for ip in ips {
                assert_eq!(Scope::of(ip.parse().unwrap()), scope, "{ip}");
            }
        }
    }
}

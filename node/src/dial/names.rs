//! Which resolved addresses may be dialled.

use barewire_base::{Multiaddr, Protocol};
use barewire_transport::dns::name_in;

use crate::addresses::Scope;

/// Top-level names that never lead to a public host (RFC 6761, RFC 6762, RFC 8375, and ICANN's
/// reservation of `internal`).
const LOCAL_NAMES: [&str; 4] = ["localhost", "local", "internal", "home.arpa"];

/// Networks that public names may lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct OwnNetworks {
    /// The user says that names may lead anywhere.
    pub(crate) any: bool,
    /// This node listens on this machine only.
    pub(crate) loopback: bool,
    /// This node listens in a private network and in no public one.
    pub(crate) private: bool,
}

impl OwnNetworks {
    /// Of a node with these listening addresses.
    pub(crate) fn of(any: bool, listening: &[Multiaddr]) -> Self {
        let scopes: Vec<_> = listening
            .iter()
            .filter_map(|addr| addr.ip().map(Scope::of))
            .collect();
        let has = |scope| scopes.contains(&scope);
        Self {
            any,
            loopback: has(Scope::Loopback) && scopes.iter().all(|scope| *scope == Scope::Loopback),
            private: has(Scope::Private) && !has(Scope::Public),
        }
    }

    /// Whether an address may be dialled to which `named` was resolved. Somebody who controls a
    /// public name could otherwise have this node knock at doors inside its own network.
    pub(crate) fn allow(self, named: &Multiaddr, resolved: &Multiaddr) -> bool {
        if self.any || !has_public_name(named) {
            return true;
        }
        match resolved.ip().map(Scope::of) {
            Some(Scope::Public) => true,
            Some(Scope::Private) => self.private,
            Some(Scope::Loopback) => self.loopback,
            Some(Scope::Link | Scope::None) | None => false,
        }
    }
}

fn has_public_name(addr: &Multiaddr) -> bool {
    let Some(
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) | Protocol::Dnsaddr(name),
    ) = name_in(addr)
    else {
        return false;
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let local = |suffix: &&str| {
        name.strip_suffix(*suffix)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    // Names without a dot are completed or answered by the local network.
    name.contains('.') && !LOCAL_NAMES.iter().any(local)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn addr(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn public_names_do_not_lead_into_private_networks() {
        let denied = [
            "127.0.0.1",
            "10.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
        ];
        let denied6 = ["::1", "fe80::1", "fd00::1", "::ffff:127.0.0.1", "::"];
        let all: Vec<_> = denied
            .iter()
            .map(|ip| format!("/ip4/{ip}"))
            .chain(denied6.iter().map(|ip| format!("/ip6/{ip}")))
            .collect();
        let mut refused = 0;
        for transport in ["tcp/1", "tcp/1/ws", "tcp/1/tls/ws", "udp/1/quic-v1"] {
            let named = addr(&format!("/dns/rebind.example/{transport}"));
            for ip in &all {
                let resolved = addr(&format!("{ip}/{transport}"));
                assert!(
                    !OwnNetworks::default().allow(&named, &resolved),
                    "{resolved}"
                );
                assert!(OwnNetworks::of(true, &[]).allow(&named, &resolved));
                refused += 1;
            }
            let public = addr(&format!("/ip4/8.8.8.8/{transport}"));
            assert!(OwnNetworks::default().allow(&named, &public));
        }
        println!("row 26: {refused} of {refused} resolved addresses in denied networks refused");
    }

    #[test]
    fn a_private_node_follows_names_into_its_network() {
        let named = addr("/dns4/a.example/tcp/1");
        let private = addr("/ip4/10.1.1.1/tcp/1");
        let at_home = OwnNetworks::of(false, &[addr("/ip4/10.0.0.1/tcp/1")]);
        assert!(at_home.allow(&named, &private));
        assert!(!at_home.allow(&named, &addr("/ip4/127.0.0.1/tcp/1")));
        assert!(!at_home.allow(&named, &addr("/ip4/169.254.169.254/tcp/1")));
        let both = [addr("/ip4/10.0.0.1/tcp/1"), addr("/ip4/8.8.8.8/tcp/1")];
        assert!(!OwnNetworks::of(false, &both).allow(&named, &private));
    }

    #[test]
    fn local_names_may_be_local() {
        for name in [
            "localhost",
            "node1",
            "a.localhost",
            "printer.local",
            "x.internal",
        ] {
            let named = addr(&format!("/dns4/{name}/tcp/1"));
            assert!(OwnNetworks::default().allow(&named, &addr("/ip4/127.0.0.1/tcp/1")));
        }
        for name in ["localhost.example", "notlocal.xlocal"] {
            let named = addr(&format!("/dns4/{name}/tcp/1"));
            assert!(!OwnNetworks::default().allow(&named, &addr("/ip4/127.0.0.1/tcp/1")));
        }
    }
}

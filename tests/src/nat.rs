//! A world in the middle and homes around it, each behind routers that translate addresses as those of people do. Addresses outside are
//! public ones, because go-libp2p punches holes for no others. Needs root, `ip` and `nft`.
//!
//! ```text
//!   host 10.61.N.2 ── router 5.5.N.2 ──(a cable that takes its time)── 5.5.N.1 world 5.5.0.1
//! ```

use std::time::Duration;

use tokio::process::Command;

use crate::{
    debian,
    netns::{self, Netns, cable},
    process::Failure,
    wan::{Cable, Link},
};

/// Where whoever everybody can reach listens, each in a network of its own.
pub const PUBLIC: [&str; 4] = ["5.5.0.1", "5.6.0.1", "5.7.0.1", "5.8.0.1"];

/// What is between a host and the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nat {
    /// Nothing.
    Open,
    /// A router that gives each port of the host the same outside, and lets anybody answer.
    FullCone,
    /// The same, and only addresses that were written to may answer, from any port.
    AddressRestricted,
    /// The same, and only addresses and ports that were written to may answer.
    PortRestricted,
    /// Another port outside for each that is written to.
    Symmetric,
    /// A port-restricted router behind that of a carrier.
    Double,
    /// A port-restricted router that lets no UDP out.
    UdpBlocked,
    /// A router that translates nothing, and lets nobody in who was not written to.
    Firewall,
    /// A port-restricted router whose cable can be pulled.
    Flap,
}

impl Nat {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Open,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::Double,
        Self::UdpBlocked,
        Self::Firewall,
        Self::Flap,
    ];

    /// For tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::Double => "double",
            Self::UdpBlocked => "udp-blocked",
            Self::Firewall => "firewall",
            Self::Flap => "flap",
        }
    }
}

/// Whether worlds can be made here.
///
/// # Errors
/// Why not.
pub fn available() -> Result<(), String> {
    if !netns::available() {
        return Err("needs root and iproute2 for network namespaces".into());
    }
    debian::install("nft", "nftables")
}

/// What is in the middle.
#[derive(Debug)]
pub struct World {
    namespace: Netns,
    delay: Duration,
}

impl World {
    /// One without homes. A packet takes `delay` from it to a home, and as long back.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn new(delay: Duration) -> Result<Self, Failure> {
        let namespace = Netns::new("world")?;
        for addr in PUBLIC {
            namespace.ip(&format!("addr add {addr}/32 dev lo"))?;
        }
        namespace.sysctl("net.ipv4.ip_forward=1")?;
        Ok(Self { namespace, delay })
    }

    /// Where [`PUBLIC`] addresses are.
    #[must_use]
    pub const fn namespace(&self) -> &Netns {
        &self.namespace
    }

    /// Adds home `number`, which no other has.
    ///
    /// # Errors
    /// What `ip` or `nft` said.
    pub fn home(&self, number: u8, nat: Nat) -> Result<Home, Failure> {
        let host = Netns::new("host")?;
        let mut outside = format!("5.5.{number}.2");
        let mut inside = format!("10.61.{number}.2");
        let mut gateway = format!("10.61.{number}.1");
        if nat == Nat::Open {
            return Ok(Home {
                _cable: self.connect(&host, number, &outside)?,
                host,
                routers: Vec::new(),
                nat,
                inside: outside.clone(),
                outside,
            });
        }
        let mut routers = vec![Netns::new("router")?];
        if nat == Nat::Double {
            // In the addresses that carriers use between themselves and homes.
            let carrier = Netns::new("carrier")?;
            let (above, below) = (format!("100.64.{number}.1"), format!("100.64.{number}.2"));
            behind((&carrier, &above), (&routers[0], "wan", &below))?;
            routers.push(carrier);
        }
        let outermost = &routers[routers.len() - 1];
        let cable = self.connect(outermost, number, &outside)?;
        if nat == Nat::Firewall {
            inside = format!("5.9.{number}.2");
            gateway = format!("5.9.{number}.1");
            self.namespace
                .ip(&format!("route add 5.9.{number}.0/24 via {outside}"))?;
            outside.clone_from(&inside);
        }
        behind((&routers[0], &gateway), (&host, "eth0", &inside))?;
        for router in &routers {
            router.nft(&rules(nat))?;
        }
        Ok(Home {
            _cable: cable,
            host,
            routers,
            nat,
            inside,
            outside,
        })
    }

    /// Gives a namespace the interface `wan`.
    fn connect(&self, to: &Netns, number: u8, addr: &str) -> Result<Cable, Failure> {
        let (world, port) = (&self.namespace, format!("home{number}"));
        let link = Link {
            delay: self.delay,
            loss: 0.0,
            seed: number.into(),
        };
        let laid = Cable::lay((world, &port), (to, "wan"), link)?;
        world.ip(&format!("addr add 5.5.{number}.1/24 dev {port}"))?;
        to.ip(&format!(
            "addr add {addr}/24 dev wan\nroute add default via 5.5.{number}.1"
        ))?;
        Ok(laid)
    }
}

/// A host and what is between it and the world.
#[derive(Debug)]
pub struct Home {
    // It ends first.
    _cable: Cable,
    host: Netns,
    routers: Vec<Netns>,
    nat: Nat,
    inside: String,
    outside: String,
}

impl Home {
    /// What is between it and the world.
    #[must_use]
    pub const fn nat(&self) -> Nat {
        self.nat
    }

    /// Where the host is in its own network.
    #[must_use]
    pub fn inside(&self) -> &str {
        &self.inside
    }

    /// Where the world sees it.
    #[must_use]
    pub fn outside(&self) -> &str {
        &self.outside
    }

    /// Where the host is.
    #[must_use]
    pub const fn host(&self) -> &Netns {
        &self.host
    }

    /// Where its routers are, the nearest first.
    #[must_use]
    pub fn routers(&self) -> &[Netns] {
        &self.routers
    }

    /// A command that runs on the host.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.host.command(program)
    }

    /// Pulls the cable of the outermost router, or of the host if there is none, or plugs it in again. Nobody is told.
    ///
    /// # Errors
    /// What `nft` said.
    pub fn plug(&self, plugged: bool) -> Result<(), Failure> {
        let at = self.routers.last().unwrap_or(&self.host);
        at.nft(if plugged {
            "delete table ip pulled"
        } else {
            "table ip pulled {
                chain in { type filter hook prerouting priority -300; iifname wan drop; }
                chain out { type filter hook postrouting priority 300; oifname wan drop; }
            }"
        })
    }
}

/// Puts a namespace behind the interface `lan` of a router.
fn behind(
    (router, gateway): (&Netns, &str),
    (inner, port, addr): (&Netns, &str, &str),
) -> Result<(), Failure> {
    cable((router, "lan"), (inner, port))?;
    router.ip(&format!("addr add {gateway}/24 dev lan"))?;
    inner.ip(&format!(
        "addr add {addr}/24 dev {port}\nroute add default via {gateway}"
    ))?;
    router.sysctl("net.ipv4.ip_forward=1")
}

/// What nobody inside has asked for gets neither to the router nor past it. What is refused leaves no trace in the router's memory, which
/// would take the port from the host.
const CLOSED: &str = "
    table ip filter {
        chain input { type filter hook input priority 0; iifname wan ct state new drop; }
        chain forward { type filter hook forward priority 0; iifname wan ct state new ct status ! dnat drop; }
    }";
const MASQUERADE: &str = "
    table ip nat {
        chain post { type nat hook postrouting priority 100; oifname wan masquerade; }
    }";
const FULLY_RANDOM: &str = "
    table ip nat {
        chain post { type nat hook postrouting priority 100; oifname wan masquerade fully-random; }
    }";
const NO_UDP: &str = "
    table ip no_udp {
        chain out { type filter hook forward priority 0; meta l4proto udp drop; }
    }";
/// Who is let in to a port that the host has used.
const ANYBODY: &str = "";
const WRITTEN_TO: &str = "ip saddr . th dport @written";

/// Lets those in that `who` matches.
fn cone(who: &str) -> String {
    format!(
        "table ip nat {{
            map udp_ports {{ type inet_service : ipv4_addr; flags dynamic,timeout; timeout 5m; }}
            map tcp_ports {{ type inet_service : ipv4_addr; flags dynamic,timeout; timeout 5m; }}
            set written {{ type ipv4_addr . inet_service; flags dynamic,timeout; timeout 5m; }}
            chain remember {{
                type filter hook forward priority -10;
                oifname wan meta l4proto udp update @udp_ports {{ udp sport : ip saddr }}
                oifname wan meta l4proto tcp update @tcp_ports {{ tcp sport : ip saddr }}
                oifname wan meta l4proto {{ tcp, udp }} update @written {{ ip daddr . th sport }}
            }}
            chain pre {{
                type nat hook prerouting priority -100;
                iifname wan meta l4proto udp {who} dnat to udp dport map @udp_ports
                iifname wan meta l4proto tcp {who} dnat to tcp dport map @tcp_ports
            }}
            chain post {{ type nat hook postrouting priority 100; oifname wan masquerade; }}
        }}"
    )
}

fn rules(nat: Nat) -> String {
    let more = match nat {
        Nat::Open | Nat::Firewall => String::new(),
        Nat::FullCone => cone(ANYBODY),
        Nat::AddressRestricted => cone(WRITTEN_TO),
        Nat::Symmetric => FULLY_RANDOM.to_owned(),
        Nat::UdpBlocked => format!("{MASQUERADE}\n{NO_UDP}"),
        Nat::PortRestricted | Nat::Double | Nat::Flap => MASQUERADE.to_owned(),
    };
    format!("{CLOSED}\n{more}")
}

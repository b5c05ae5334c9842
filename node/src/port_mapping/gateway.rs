//! What the routers' protocols have in common: finding the router, mapping a port, giving it back.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use barewire_nat::mapping::{Port, Transport};
use crab_nat::{
    GATEWAY_PORT, InternetProtocol, PortMapping, PortMappingOptions, PortMappingType,
    TimeoutConfig, natpmp, pcp,
};
use igd_next::{
    AddPortError, PortMappingProtocol, SearchOptions,
    aio::{
        Gateway,
        tokio::{Tokio, search_gateway},
    },
};
use tokio::net::UdpSocket;

use super::{MappingError, MappingProtocol};

/// What routers show to people who look at their mappings.
const DESCRIPTION: &str = "barewire";
/// Of a PCP request without data (RFC 6887, 7.1).
const PCP_HEADER: usize = 24;
/// The version of PCP, and an answer to opcode ANNOUNCE.
const PCP_ANNOUNCED: [u8; 2] = [2, 0x80];
/// The first wait for an answer, doubled with each try (RFC 6886, 3.1: 250 ms).
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Tries after the first: in all 1.75 s.
const RETRIES: usize = 2;

/// The router by one of its protocols.
#[derive(Debug, Clone)]
pub(super) enum Client {
    Upnp {
        gateway: Arc<Gateway<Tokio>>,
        /// This machine, as the router sees it.
        local: Ipv4Addr,
    },
    NatPmp {
        gateway: Ipv4Addr,
    },
    Pcp {
        gateway: Ipv4Addr,
        local: Ipv4Addr,
    },
}

/// What a router has granted.
#[derive(Debug, Clone)]
pub(super) struct Granted {
    pub(super) outside: SocketAddr,
    /// How long it lasts; the longest time for ever.
    pub(super) lifetime: Duration,
    /// What PCP and NAT-PMP are renewed and given back by.
    handle: Option<PortMapping>,
}

impl Client {
    /// Asks whether there is a router that speaks `protocol`. The caller sets the deadline.
    pub(super) async fn find(
        protocol: MappingProtocol,
        gateway: Option<Ipv4Addr>,
    ) -> Result<Self, MappingError> {
        if protocol == MappingProtocol::Upnp {
            let mut options = SearchOptions::default();
            // Out of the interface that leads to the router.
            if let Some(local) = gateway.and_then(|gateway| local_towards(gateway).ok()) {
                options.bind_addr = (local, 0).into();
            }
            let gateway = search_gateway(options).await.map_err(upnp)?;
            let IpAddr::V4(at) = gateway.addr.ip() else {
                return Err(MappingError::NoGateway);
            };
            return Ok(Self::Upnp {
                gateway: Arc::new(gateway),
                local: local_towards(at)?,
            });
        }
        let gateway = gateway.ok_or(MappingError::NoGateway)?;
        let local = local_towards(gateway)?;
        if protocol == MappingProtocol::Pcp {
            announce(gateway, local).await?;
            return Ok(Self::Pcp { gateway, local });
        }
        let asked = natpmp::external_address(gateway.into(), Some(timing())).await;
        asked.map_err(|cause| match cause {
            natpmp::Failure::Socket(cause) => cause.into(),
            natpmp::Failure::Timeout => MappingError::Timeout,
            cause => refused(cause),
        })?;
        Ok(Self::NatPmp { gateway })
    }

    pub(super) const fn protocol(&self) -> MappingProtocol {
        match self {
            Self::Upnp { .. } => MappingProtocol::Upnp,
            Self::NatPmp { .. } => MappingProtocol::NatPmp,
            Self::Pcp { .. } => MappingProtocol::Pcp,
        }
    }

    /// Maps a port, or renews what was granted before. The same port outside as inside if that is free.
    pub(super) async fn map(
        &self,
        port: Port,
        lease: Duration,
        before: Option<Granted>,
    ) -> Result<Granted, MappingError> {
        let number = NonZeroU16::new(port.number).ok_or(MappingError::NoGateway)?;
        let seconds = u32::try_from(lease.as_secs()).unwrap_or(u32::MAX).max(1);
        let outside = before
            .as_ref()
            .map_or(port.number, |one| one.outside.port());
        let options = PortMappingOptions {
            external_port: NonZeroU16::new(outside),
            lifetime_seconds: Some(seconds),
            timeout_config: Some(timing()),
        };
        match self {
            Self::Upnp { gateway, local } => {
                let local = SocketAddr::V4(SocketAddrV4::new(*local, port.number));
                upnp_map(gateway, port.transport, local, outside, seconds).await
            }
            Self::NatPmp { gateway } => {
                let ip = natpmp::external_address((*gateway).into(), Some(timing())).await;
                let ip = ip.map_err(refused)?;
                let of = internet_protocol(port.transport);
                let mapped = natpmp::port_mapping((*gateway).into(), of, number, options).await;
                Ok(granted(ip.into(), mapped.map_err(refused)?))
            }
            Self::Pcp { gateway, local } => {
                let request = pcp::BaseMapRequest::new(
                    (*gateway).into(),
                    (*local).into(),
                    internet_protocol(port.transport),
                    number,
                );
                // A mapping is renewed by the nonce it was made with.
                let before = before.and_then(|one| one.handle);
                let (nonce, ip) = match before.map(|handle| handle.mapping_type()) {
                    Some(PortMappingType::Pcp {
                        nonce, external_ip, ..
                    }) => (Some(nonce), Some(external_ip)),
                    _ => (None, None),
                };
                let mapped = pcp::port_mapping(request, nonce, ip, options).await;
                let mapped = mapped.map_err(refused)?;
                match mapped.mapping_type() {
                    PortMappingType::Pcp { external_ip, .. } => Ok(granted(external_ip, mapped)),
                    PortMappingType::NatPmp => Err(MappingError::NoGateway),
                }
            }
        }
    }

    /// Gives a port back.
    pub(super) async fn unmap(&self, port: Port, granted: Granted) -> Result<(), MappingError> {
        if let Self::Upnp { gateway, .. } = self {
            let outside = granted.outside.port();
            let removed = gateway.remove_port(upnp_protocol(port.transport), outside);
            return removed.await.map_err(upnp);
        }
        match granted.handle {
            Some(handle) => handle.try_drop().await.map_err(|(cause, _)| refused(cause)),
            None => Ok(()),
        }
    }
}

fn granted(ip: IpAddr, mapped: PortMapping) -> Granted {
    Granted {
        outside: SocketAddr::new(ip.to_canonical(), mapped.external_port().get()),
        lifetime: Duration::from_secs(mapped.lifetime().into()),
        handle: Some(mapped),
    }
}

async fn upnp_map(
    gateway: &Gateway<Tokio>,
    transport: Transport,
    local: SocketAddr,
    outside: u16,
    seconds: u32,
) -> Result<Granted, MappingError> {
    let of = upnp_protocol(transport);
    let add = |lease| gateway.add_port(of, outside, local, lease, DESCRIPTION);
    let forever = Duration::MAX;
    let lease = Duration::from_secs(seconds.into());
    let (outside, lifetime) = match add(seconds).await {
        Ok(()) => (outside, lease),
        Err(AddPortError::OnlyPermanentLeasesSupported) => {
            add(0).await.map_err(upnp)?;
            (outside, forever)
        }
        // Somebody else in this network has it.
        Err(AddPortError::PortInUse) => {
            let any = gateway.add_any_port(of, local, seconds, DESCRIPTION).await;
            (any.map_err(upnp)?, lease)
        }
        Err(error) => return Err(upnp(error)),
    };
    let ip = gateway.get_external_ip().await.map_err(upnp)?;
    Ok(Granted {
        outside: SocketAddr::new(ip, outside),
        lifetime,
        handle: None,
    })
}

/// Asks a PCP server whether it is there; crab_nat asks only for mappings.
async fn announce(gateway: Ipv4Addr, local: Ipv4Addr) -> Result<(), MappingError> {
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect((gateway, GATEWAY_PORT)).await?;
    let mut request = [0; PCP_HEADER];
    request[0] = PCP_ANNOUNCED[0];
    request[8..].copy_from_slice(&local.to_ipv6_mapped().octets());
    let mut answer = [0; PCP_HEADER];
    for attempt in 0..=RETRIES {
        socket.send(&request).await?;
        let wait = FIRST_WAIT * (1 << attempt);
        if let Ok(read) = tokio::time::timeout(wait, socket.recv(&mut answer)).await {
            let read = read?;
            // The fourth byte is the result.
            return match answer.get(..read.min(4)) {
                Some([version, kind, _, 0]) if [*version, *kind] == PCP_ANNOUNCED => Ok(()),
                _ => Err(MappingError::Refused("it does not speak PCP".into())),
            };
        }
    }
    Err(MappingError::Timeout)
}

const fn timing() -> TimeoutConfig {
    TimeoutConfig {
        initial_timeout: FIRST_WAIT,
        max_retries: RETRIES,
        max_retry_timeout: None,
    }
}

const fn internet_protocol(transport: Transport) -> InternetProtocol {
    match transport {
        Transport::Tcp => InternetProtocol::Tcp,
        Transport::Udp => InternetProtocol::Udp,
    }
}

const fn upnp_protocol(transport: Transport) -> PortMappingProtocol {
    match transport {
        Transport::Tcp => PortMappingProtocol::TCP,
        Transport::Udp => PortMappingProtocol::UDP,
    }
}

fn upnp(cause: impl std::fmt::Display) -> MappingError {
    MappingError::Refused(cause.to_string())
}

fn refused(cause: impl std::fmt::Display) -> MappingError {
    MappingError::Refused(cause.to_string())
}

/// The address that packets to the router leave from. Sends nothing.
pub(super) fn local_towards(gateway: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let probe = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    probe.connect((gateway, GATEWAY_PORT))?;
    match probe.local_addr()?.ip() {
        IpAddr::V4(ip) => Ok(ip),
        IpAddr::V6(_) => Err(io::ErrorKind::AddrNotAvailable.into()),
    }
}

/// The router that packets to the world go to, as the kernel's table says. `None` where there is none, and where there is no such table:
/// there the router has to be named.
pub(super) fn default_gateway() -> Option<Ipv4Addr> {
    gateway_in(&std::fs::read_to_string("/proc/net/route").ok()?)
}

/// Of `/proc/net/route`: interface, destination, gateway, flags, two unused ones and metric, then mask; numbers in hexadecimal, addresses
/// as the machine holds them.
fn gateway_in(table: &str) -> Option<Ipv4Addr> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, destination, gateway, _, _, _, metric, mask, ..] = fields.as_slice() else {
            return None;
        };
        let number = |text| u32::from_str_radix(text, 16).ok();
        let gateway = number(gateway).filter(|gateway| *gateway != 0)?;
        let everywhere = number(destination)? == 0 && number(mask)? == 0;
        everywhere.then_some((metric.parse::<u32>().ok()?, gateway))
    });
    let (_, gateway) = routes.min_by_key(|(metric, _)| *metric)?;
    Some(Ipv4Addr::from(gateway.to_ne_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_of_the_smallest_metric_leads_to_the_router() {
        let head = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT";
        let of = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let (any, here) = (of([0; 4]), of([10, 0, 0, 0]));
        let (one, two) = (of([10, 0, 0, 1]), of([192, 168, 1, 1]));
        let table = format!(
            "{head}\neth0 {here} {any} 0001 0 0 0 00FFFFFF 0 0 0\neth0 {any} {one} 0003 0 0 600 {any} 0 0 0\n\
             eth1 {any} {two} 0003 0 0 100 {any} 0 0 0\nbroken"
        );
        assert_eq!(gateway_in(&table), Some(Ipv4Addr::new(192, 168, 1, 1)));
        assert_eq!(gateway_in(head), None);
    }
}

//! A socket for each address of the interfaces, in the group of its family.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::UdpSocket, sync::mpsc, task::JoinSet};

use super::packet::MAX_PACKET;

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);
/// As RFC 6762 demands.
const HOPS: u32 = 255;
/// Addresses used at most; a machine with more has interfaces that are not for people.
const MAX_SOCKETS: usize = 64;

struct Member {
    socket: Arc<UdpSocket>,
    group: SocketAddr,
    /// Ends the reader when dropped.
    _reader: JoinSet<()>,
}

/// The sockets there are. What they receive goes to one channel; when that is full it is lost, as on the network.
pub(super) struct Sockets {
    members: BTreeMap<IpAddr, Member>,
    packets: mpsc::Sender<Bytes>,
}

impl Sockets {
    pub(super) fn new(packets: mpsc::Sender<Bytes>) -> Self {
        Self {
            members: BTreeMap::new(),
            packets,
        }
    }

    /// Follows the addresses of the machine. Whether there is a new socket.
    pub(super) fn set_ips(&mut self, ips: &[IpAddr]) -> bool {
        // The group of an IPv6 link is reached from its link-local address; the others lead to the same links.
        let useful = |ip: &&IpAddr| match ip {
            IpAddr::V4(ip) => !ip.is_loopback(),
            IpAddr::V6(ip) => ip.is_unicast_link_local(),
        };
        let ips: Vec<_> = ips.iter().filter(useful).take(MAX_SOCKETS).collect();
        self.members.retain(|ip, _| ips.contains(&ip));
        let mut new = false;
        for ip in ips {
            if self.members.contains_key(ip) {
                continue;
            }
            match self.join(*ip) {
                Ok(member) => {
                    self.members.insert(*ip, member);
                    new = true;
                }
                Err(error) => tracing::warn!(%ip, %error, "no mDNS on this address"),
            }
        }
        new
    }

    pub(super) async fn send(&self, packet: &[u8]) {
        for (ip, member) in &self.members {
            if let Err(error) = member.socket.send_to(packet, member.group).await {
                tracing::debug!(%ip, %error, "an mDNS packet could not be sent");
            }
        }
    }

    fn join(&self, ip: IpAddr) -> io::Result<Member> {
        let domain = if ip.is_ipv4() {
            Domain::IPV4
        } else {
            Domain::IPV6
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        // Others on this machine listen there too.
        socket.set_reuse_address(true)?;
        #[cfg(unix)]
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        let (any, group): (IpAddr, IpAddr) = match ip {
            IpAddr::V4(ip) => {
                // Each socket hears its own interface only.
                #[cfg(target_os = "linux")]
                socket.set_multicast_all_v4(false)?;
                socket.set_multicast_loop_v4(true)?;
                socket.set_multicast_ttl_v4(HOPS)?;
                socket.set_multicast_if_v4(&ip)?;
                socket.join_multicast_v4(&GROUP_V4, &ip)?;
                (Ipv4Addr::UNSPECIFIED.into(), GROUP_V4.into())
            }
            IpAddr::V6(ip) => {
                let index = interface_of(ip)?;
                socket.set_only_v6(true)?;
                #[cfg(target_os = "linux")]
                socket.set_multicast_all_v6(false)?;
                socket.set_multicast_loop_v6(true)?;
                socket.set_multicast_hops_v6(HOPS)?;
                socket.set_multicast_if_v6(index)?;
                socket.join_multicast_v6(&GROUP_V6, index)?;
                (Ipv6Addr::UNSPECIFIED.into(), GROUP_V6.into())
            }
        };
        socket.bind(&SocketAddr::new(any, PORT).into())?;
        let socket = Arc::new(UdpSocket::from_std(socket.into())?);
        let mut reader = JoinSet::new();
        reader.spawn(read(Arc::clone(&socket), self.packets.clone()));
        Ok(Member {
            socket,
            group: SocketAddr::new(group, PORT),
            _reader: reader,
        })
    }
}

async fn read(socket: Arc<UdpSocket>, packets: mpsc::Sender<Bytes>) {
    let mut buffer = vec![0; MAX_PACKET];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, _)) => {
                // Lost when too many wait.
                let _ = packets.try_send(Bytes::copy_from_slice(&buffer[..len]));
            }
            // An ICMP answer to something sent, or the interface is gone; that is seen elsewhere.
            Err(_) => tokio::time::sleep(std::time::Duration::from_secs(1)).await,
        }
        if packets.is_closed() {
            return;
        }
    }
}

/// The number of the interface with this address; link-local addresses say nothing without it.
#[cfg(target_os = "linux")]
fn interface_of(ip: Ipv6Addr) -> io::Result<u32> {
    let wanted = format!("{:032x}", ip.to_bits());
    let table = std::fs::read_to_string("/proc/net/if_inet6")?;
    let line = table.lines().find(|line| line.starts_with(&wanted));
    let index = line.and_then(|line| line.split_whitespace().nth(1));
    let index = index.and_then(|index| u32::from_str_radix(index, 16).ok());
    index.ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
}

/// The system's choice.
#[cfg(not(target_os = "linux"))]
fn interface_of(_: Ipv6Addr) -> io::Result<u32> {
    Ok(0)
}

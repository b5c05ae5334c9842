//! mDNS packets, as far as libp2p uses them: the question for `_p2p._udp.local`, and the answer with addresses in TXT.

use std::net::{IpAddr, Ipv4Addr};

use barewire_base::Multiaddr;

/// Longest packet looked at, in bytes: the most that RFC 6762 allows.
pub const MAX_PACKET: usize = 9_000;
/// Longest packet sent: rust-libp2p reads 4,096 bytes.
pub const MAX_SENT: usize = 3_500;
/// Questions and records looked at in a packet.
const MAX_RECORDS: usize = 256;
/// Addresses taken from a packet.
pub const MAX_ADDRESSES: usize = 64;
/// Labels of a name; more are not in any that matters here.
const MAX_LABELS: usize = 16;

const SERVICE: [&str; 3] = ["_p2p", "_udp", "local"];
const META: [&str; 4] = ["_services", "_dns-sd", "_udp", "local"];
const PREFIX: &[u8] = b"dnsaddr=";

const A: u16 = 1;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const ANY: u16 = 255;
const IN: u16 = 1;
/// In a class: cache flush in a record, an answer by unicast wanted in a question.
const FLAG: u16 = 0x8000;
const HEADER_LEN: usize = 12;
/// In the flags: an answer.
const RESPONSE: u16 = 0x8000;

/// What a packet is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// Somebody asks.
    Query {
        /// For peers.
        service: bool,
        /// For the services there are.
        meta: bool,
    },
    /// Somebody tells.
    Response(Vec<Told>),
}

/// An address with a peer id at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The address.
    pub addr: Multiaddr,
    /// Seconds for which it holds; 0 takes it back.
    pub ttl: u32,
}

/// The bytes are not a DNS packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a DNS packet")]
pub struct NotDns;

/// Reads a packet. Records that are nothing to libp2p, and addresses that are not understood or name no peer, are left out.
///
/// # Errors
/// [`NotDns`].
pub fn parse(packet: &[u8]) -> Result<Packet, NotDns> {
    if packet.len() > MAX_PACKET {
        return Err(NotDns);
    }
    let mut reader = Reader { packet, at: 0 };
    let _id = reader.u16()?;
    let flags = reader.u16()?;
    let mut counts = [0; 4];
    for count in &mut counts {
        *count = usize::from(reader.u16()?);
    }
    let [questions, records @ ..] = counts;
    let records: usize = records.iter().sum();
    if questions + records > MAX_RECORDS {
        return Err(NotDns);
    }
    let (mut service, mut meta) = (false, false);
    for _ in 0..questions {
        let name = reader.name()?;
        let kind = reader.u16()?;
        let class = reader.u16()? & !FLAG;
        if (kind == PTR || kind == ANY) && (class == IN || class == ANY) {
            service |= name.is(&SERVICE);
            meta |= name.is(&META);
        }
    }
    if flags & RESPONSE == 0 {
        return Ok(Packet::Query { service, meta });
    }
    let (mut told, mut instances) = (Vec::new(), Vec::new());
    for _ in 0..records {
        let name = reader.name()?;
        let kind = reader.u16()?;
        let class = reader.u16()? & !FLAG;
        let ttl = reader.u32()?;
        let len = usize::from(reader.u16()?);
        let mut inside = Reader { ..reader };
        let data = reader.take(len)?;
        if class != IN {
            continue;
        }
        if kind == PTR && name.is(&SERVICE) {
            instances.push(inside.name()?);
        // rust-libp2p's instances have names that are not below the service.
        } else if kind == TXT && (name.is_below(&SERVICE) || instances.contains(&name)) {
            addresses(data, ttl, &mut told);
        }
    }
    Ok(Packet::Response(told))
}

fn addresses(mut data: &[u8], ttl: u32, told: &mut Vec<Told>) {
    while let Some((len, rest)) = data.split_first() {
        let Some((text, rest)) = rest.split_at_checked(usize::from(*len)) else {
            return;
        };
        data = rest;
        let Some(addr) = text.strip_prefix(PREFIX) else {
            continue;
        };
        let addr = std::str::from_utf8(addr)
            .ok()
            .and_then(|text| text.parse().ok());
        let addr: Option<Multiaddr> = addr;
        let named = addr.filter(|addr| addr.peer_id().is_some());
        if told.len() < MAX_ADDRESSES {
            told.extend(named.map(|addr| Told { addr, ttl }));
        }
    }
}

/// The question for peers.
#[must_use]
pub fn query() -> Vec<u8> {
    let mut out = header(0, [1, 0, 0, 0]);
    put_name(&SERVICE, &mut out);
    put_u16(PTR, &mut out);
    put_u16(IN, &mut out);
    out
}

/// The answer: addresses of this node, each with its peer id at the end, under a name of the service. Those that fit
/// no TXT string or not the packet are left out.
///
/// There is one TXT record with all of them: go-libp2p keeps the last one of a name. It also wants a host with an IP
/// address, of which it makes nothing.
#[must_use]
pub fn response(name: &str, ttl: u32, addrs: &[Multiaddr]) -> Vec<u8> {
    let ip = addrs.iter().find_map(Multiaddr::ip);
    let ip = ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let mut out = header(RESPONSE | 0x0400, [0, 1, 0, 3]);
    let host = [name, "local"];
    let instance = [&[name][..], &SERVICE].concat();
    put_name(&SERVICE, &mut out);
    put_record(PTR, IN, ttl, &mut out, |out| put_name(&instance, out));
    put_name(&instance, &mut out);
    put_record(SRV, IN | FLAG, ttl, &mut out, |out| {
        [0, 0, 4001].into_iter().for_each(|part| put_u16(part, out));
        put_name(&host, out);
    });
    put_name(&host, &mut out);
    match ip {
        IpAddr::V4(ip) => put_record(A, IN | FLAG, ttl, &mut out, |out| out.extend(ip.octets())),
        IpAddr::V6(ip) => put_record(AAAA, IN | FLAG, ttl, &mut out, |out| {
            out.extend(ip.octets())
        }),
    }
    put_name(&instance, &mut out);
    put_record(TXT, IN | FLAG, ttl, &mut out, |out| {
        for addr in addrs {
            let text = [PREFIX, addr.to_string().as_bytes()].concat();
            if let Ok(len) = u8::try_from(text.len())
                && out.len() + text.len() < MAX_SENT
            {
                out.push(len);
                out.extend_from_slice(&text);
            }
        }
    });
    out
}

/// The answer to who asks for services.
#[must_use]
pub fn meta_response(ttl: u32) -> Vec<u8> {
    let mut out = header(RESPONSE | 0x0400, [0, 1, 0, 0]);
    put_name(&META, &mut out);
    put_record(PTR, IN, ttl, &mut out, |out| put_name(&SERVICE, out));
    out
}

fn header(flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    put_u16(0, &mut out);
    put_u16(flags, &mut out);
    counts
        .into_iter()
        .for_each(|count| put_u16(count, &mut out));
    debug_assert_eq!(out.len(), HEADER_LEN);
    out
}

fn put_u16(value: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Labels of at most 63 bytes; all of them are ours.
fn put_name(labels: &[&str], out: &mut Vec<u8>) {
    for label in labels {
        out.push(label.len() as u8 & 0x3f);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
}

fn put_record(kind: u16, class: u16, ttl: u32, out: &mut Vec<u8>, data: impl FnOnce(&mut Vec<u8>)) {
    put_u16(kind, out);
    put_u16(class, out);
    out.extend_from_slice(&ttl.to_be_bytes());
    let at = out.len();
    put_u16(0, out);
    data(out);
    let len = (out.len() - at - 2) as u16;
    out[at..at + 2].copy_from_slice(&len.to_be_bytes());
}

#[derive(PartialEq, Eq)]
struct Name<'a>(Vec<&'a [u8]>);

impl Name<'_> {
    fn is(&self, labels: &[&str]) -> bool {
        self.0.len() == labels.len() && self.ends_in(labels)
    }

    fn is_below(&self, labels: &[&str]) -> bool {
        self.0.len() > labels.len() && self.ends_in(labels)
    }

    fn ends_in(&self, labels: &[&str]) -> bool {
        let end = self.0.iter().rev().zip(labels.iter().rev());
        end.clone().count() == labels.len()
            && end
                .into_iter()
                .all(|(a, b)| a.eq_ignore_ascii_case(b.as_bytes()))
    }
}

struct Reader<'a> {
    packet: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], NotDns> {
        let end = self.at.checked_add(len).ok_or(NotDns)?;
        let taken = self.packet.get(self.at..end).ok_or(NotDns)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, NotDns> {
        Ok(*self.take(1)?.first().ok_or(NotDns)?)
    }

    fn u16(&mut self) -> Result<u16, NotDns> {
        let bytes = self.take(2)?.try_into().map_err(|_| NotDns)?;
        Ok(u16::from_be_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32, NotDns> {
        let bytes = self.take(4)?.try_into().map_err(|_| NotDns)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// A name. What a pointer leads to lies before the pointer, so that no name goes round in circles.
    fn name(&mut self) -> Result<Name<'a>, NotDns> {
        let mut labels = Vec::new();
        let mut after = None;
        let mut reader = Reader { ..*self };
        loop {
            let begun = reader.at;
            let len = reader.u8()?;
            match len >> 6 {
                0 if len == 0 => break,
                0 if labels.len() < MAX_LABELS => labels.push(reader.take(usize::from(len))?),
                3 => {
                    let to = usize::from(len & 0x3f) << 8 | usize::from(reader.u8()?);
                    after.get_or_insert(reader.at);
                    if to >= begun {
                        return Err(NotDns);
                    }
                    reader.at = to;
                }
                _ => return Err(NotDns),
            }
        }
        self.at = after.unwrap_or(reader.at);
        Ok(Name(labels))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const PEER: &str = "12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X";

    #[test]
    fn what_is_asked_and_told_is_understood() {
        let asked = Packet::Query {
            service: true,
            meta: false,
        };
        assert_eq!(parse(&query()), Ok(asked));
        let addrs: Vec<Multiaddr> = (1..5)
            .map(|port| {
                format!("/ip4/192.0.2.1/tcp/{port}/p2p/{PEER}")
                    .parse()
                    .unwrap()
            })
            .collect();
        let told = addrs
            .iter()
            .map(|addr| Told {
                addr: addr.clone(),
                ttl: 120,
            })
            .collect();
        assert_eq!(
            parse(&response("abc", 120, &addrs)),
            Ok(Packet::Response(told))
        );
        assert_eq!(parse(&meta_response(1)), Ok(Packet::Response(Vec::new())));
    }

    #[test]
    fn names_may_be_compressed_and_in_capitals() {
        let mut packet = header(0, [2, 0, 0, 0]);
        put_name(&["_P2P", "_uDp", "LOCAL"], &mut packet);
        put_u16(ANY, &mut packet);
        put_u16(IN | FLAG, &mut packet);
        // The second: "_services._dns-sd" and a pointer to "_uDp.LOCAL" of the first.
        packet.extend_from_slice(b"\x09_services\x07_dns-sd\xc0\x11");
        put_u16(PTR, &mut packet);
        put_u16(IN, &mut packet);
        let asked = Packet::Query {
            service: true,
            meta: true,
        };
        assert_eq!(parse(&packet), Ok(asked));
    }

    #[test]
    fn an_instance_may_have_a_name_of_its_own() {
        let text = format!("dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/{PEER}");
        let mut packet = header(RESPONSE, [0, 1, 0, 2]);
        put_name(&SERVICE, &mut packet);
        put_record(PTR, IN, 60, &mut packet, |out| put_name(&["one"], out));
        for name in ["one", "other"] {
            put_name(&[name], &mut packet);
            put_record(TXT, IN | FLAG, 60, &mut packet, |out| {
                out.push(text.len() as u8);
                out.extend_from_slice(text.as_bytes());
            });
        }
        let Ok(Packet::Response(told)) = parse(&packet) else {
            unreachable!("it is one")
        };
        assert_eq!(told.len(), 1);
    }

    #[test]
    fn what_is_damaged_is_refused_without_going_round() {
        let whole = response(
            "abc",
            1,
            &[format!("/ip4/192.0.2.1/tcp/1/p2p/{PEER}").parse().unwrap()],
        );
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]), Err(NotDns), "{end}");
        }
        let mut circle = header(0, [1, 0, 0, 0]);
        circle.extend_from_slice(b"\xc0\x0c\x00\x0c\x00\x01");
        assert_eq!(parse(&circle), Err(NotDns));
        assert_eq!(parse(&header(0, [u16::MAX; 4])), Err(NotDns));
        assert_eq!(parse(&[0; MAX_PACKET + 1]), Err(NotDns));
    }

    #[test]
    fn a_packet_has_room_for_what_fits_only() {
        let long = format!("/dns4/{}/tcp/1/p2p/{PEER}", "a".repeat(200))
            .parse()
            .unwrap();
        let good: Multiaddr = format!("/ip4/192.0.2.1/tcp/1/p2p/{PEER}").parse().unwrap();
        let addrs = [&[long], &vec![good; 200][..]].concat();
        let packet = response("abc", 1, &addrs);
        assert!(packet.len() <= MAX_SENT);
        let Ok(Packet::Response(told)) = parse(&packet) else {
            unreachable!("it is one")
        };
        assert!(told.len() > 20 && told.len() < 64);
    }
}

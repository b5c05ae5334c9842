//! The client of AutoNAT as a list of operations: it never sleeps while something is due, makes few requests and none twice at once,
//! believes nothing that fewer networks say than have to, nor anything without a nonce, and forgets requests that are over.
#![no_main]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use barewire_base::{Keypair, Multiaddr, PeerId};
use barewire_nat::autonat::{
    Client, ClientConfig, DialResponse, DialStatus, MAX_DATA, Probe, Reachability, ResponseStatus,
    V1Status, Version, same_stack,
};
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static PEERS: LazyLock<Vec<PeerId>> = LazyLock::new(|| {
    (0..16u8)
        .map(|n| Keypair::from_seed(&[n; 32]).peer_id())
        .collect()
});
static ADDRS: LazyLock<Vec<Multiaddr>> = LazyLock::new(|| {
    (0..8u8)
        .map(|n| {
            let text = match n % 2 {
                0 => format!("/ip4/192.0.2.{n}/tcp/1"),
                _ => format!("/ip4/192.0.2.{n}/udp/1/quic-v1"),
            };
            text.parse().expect("an address")
        })
        .collect()
});

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Op {
    Wait(u32),
    /// A bit for each address.
    Addresses(u8),
    Server {
        peer: u8,
        network: u8,
        v1: bool,
    },
    Gone(u8),
    /// Of one of the requests under way.
    Nonce {
        nth: u8,
        quic: bool,
    },
    Answer {
        nth: u8,
        status: u8,
        index: u8,
        dial: u8,
    },
    Data {
        nth: u8,
        index: u8,
        bytes: u32,
    },
    Failed(u8),
    Stranger(u64),
}

#[derive(Arbitrary, Debug)]
struct Input {
    confirmations: u8,
    ops: Vec<Op>,
}

fuzz_target!(|input: Input| {
    let mut config = ClientConfig::default();
    config.confirmations = usize::from(input.confirmations % 4) + 1;
    config.max_addrs = 6;
    let mut client = Client::new(config.clone());
    let (mut now, mut nonce) = (*START, 0u64);
    let mut under_way: BTreeMap<u64, (Probe, Option<Multiaddr>)> = BTreeMap::new();
    // Which networks have spoken for an address with a nonce, and which against, ever.
    let mut spoke: BTreeSet<(Multiaddr, bool, u8)> = BTreeSet::new();
    let mut networks: BTreeMap<PeerId, u8> = BTreeMap::new();
    // Of servers that have left since, too.
    let mut asked_in: BTreeMap<u64, u8> = BTreeMap::new();
    let mut sent: Vec<(Instant, u64)> = Vec::new();
    for op in input.ops.iter().take(256) {
        let mut steps = 0;
        loop {
            nonce += 1;
            let Some(probe) = client.poll(now, nonce) else {
                break;
            };
            steps += 1;
            assert!(steps < 100, "it never comes to rest");
            assert!((1..=10).contains(&probe.addrs.len()));
            let distinct: BTreeSet<_> = probe.addrs.iter().collect();
            assert_eq!(distinct.len(), probe.addrs.len());
            let network = *networks.get(&probe.server).expect("a server that is known");
            asked_in.insert(nonce, network);
            under_way.insert(nonce, (probe, None));
        }
        assert!(client.pending() <= config.at_once);
        assert!(
            client.poll_timeout().is_none_or(|at| at > now),
            "something is due"
        );
        let pick = |nth: u8| {
            let keys: Vec<u64> = under_way.keys().copied().collect();
            (!keys.is_empty()).then(|| keys[usize::from(nth) % keys.len()])
        };
        match *op {
            Op::Wait(ms) => now += Duration::from_millis((ms % (8 * 3_600_000)).into()),
            Op::Addresses(bits) => {
                let of = ADDRS.iter().enumerate();
                let addrs = of.filter(|(n, _)| bits >> n & 1 == 1);
                client.set_addresses(now, addrs.map(|(_, addr)| addr.clone()).collect());
                assert!(client.tested().len() <= config.max_addrs);
            }
            Op::Server { peer, network, v1 } => {
                let peer = PEERS[usize::from(peer % 16)];
                let before = client.servers().any(|known| *known == peer);
                let ip = IpAddr::from(Ipv4Addr::new(198, 51, network % 8, 1));
                let version = if v1 { Version::V1 } else { Version::V2 };
                client.add_server(now, peer, Some(ip), version);
                if !before {
                    networks.insert(peer, network % 8);
                }
            }
            Op::Gone(peer) => client.remove_server(&PEERS[usize::from(peer % 16)]),
            Op::Nonce { nth, quic } => {
                let Some(nonce) = pick(nth) else { continue };
                let local = match quic {
                    true => "/ip4/10.0.0.1/udp/1/quic-v1",
                    false => "/ip4/10.0.0.1/tcp/1",
                };
                let local: Multiaddr = local.parse().expect("an address");
                if client.dial_back(now, nonce, &local).is_ok()
                    && let Some((probe, came)) = under_way.get_mut(&nonce)
                {
                    assert!(came.is_none(), "twice");
                    // Should the answer be here already, it is about one of these.
                    for addr in probe.addrs.iter().filter(|addr| same_stack(&local, addr)) {
                        spoke.insert((addr.clone(), true, asked_in[&nonce]));
                    }
                    *came = Some(local);
                }
            }
            Op::Answer {
                nth,
                status,
                index,
                dial,
            } => {
                let Some(nonce) = pick(nth) else { continue };
                let (probe, came) = under_way[&nonce].clone();
                if probe.version == Version::V1 {
                    let status = match status % 4 {
                        0 => V1Status::Ok,
                        1 => V1Status::DialError,
                        2 => V1Status::DialRefused,
                        _ => V1Status::Other(7),
                    };
                    let _ = client.answer_v1(now, probe.id, status);
                    under_way.remove(&nonce);
                    continue;
                }
                let response = DialResponse {
                    status: match status % 8 {
                        0 => ResponseStatus::RequestRejected,
                        1 => ResponseStatus::DialRefused,
                        2 => ResponseStatus::InternalError,
                        _ => ResponseStatus::Ok,
                    },
                    index: (index % 12).into(),
                    dial: match dial % 6 {
                        0 => DialStatus::Unused,
                        1 => DialStatus::DialBackError,
                        2 => DialStatus::DialError,
                        3 => DialStatus::Other(7),
                        _ => DialStatus::Ok,
                    },
                };
                let before = client.tested();
                let answered = client.answer(now, probe.id, response);
                if response.status == ResponseStatus::Ok
                    && response.dial == DialStatus::DialError
                    && came.is_none()
                    && answered.is_ok()
                {
                    let addr = &probe.addrs[usize::from(index % 12)];
                    spoke.insert((addr.clone(), false, asked_in[&nonce]));
                }
                if answered.is_err() {
                    assert_eq!(before, client.tested(), "it counted");
                }
            }
            Op::Data { nth, index, bytes } => {
                let Some(nonce) = pick(nth) else { continue };
                let id = under_way[&nonce].0.id;
                if let Ok(granted) = client.data_request(now, id, index.into(), bytes.into()) {
                    assert!(granted <= MAX_DATA && granted == u64::from(bytes));
                    sent.push((now, granted));
                }
            }
            Op::Failed(nth) => {
                if let Some(nonce) = pick(nth) {
                    client.failed(now, under_way[&nonce].0.id);
                    under_way.remove(&nonce);
                }
            }
            Op::Stranger(random) => {
                let local = &ADDRS[0];
                let known = under_way.contains_key(&random);
                assert!(client.dial_back(now, random, local).is_err() || known);
                if known {
                    spoke.extend(under_way[&random].0.addrs.iter().filter_map(|addr| {
                        let fits = same_stack(local, addr);
                        fits.then(|| (addr.clone(), true, asked_in[&random]))
                    }));
                    if let Some((_, came)) = under_way.get_mut(&random) {
                        *came = Some(local.clone());
                    }
                }
            }
        }
        let hour = Duration::from_secs(3600);
        let lately = sent.iter().filter(|(at, _)| now - *at < hour);
        let lately: u64 = lately.map(|(_, bytes)| bytes).sum();
        assert!(lately <= config.data_per_hour);
        for tested in client.tested() {
            let said = |reached: bool| {
                let all = spoke.iter();
                let fits = |(addr, yes, _): &&(Multiaddr, bool, u8)| {
                    *addr == tested.addr && *yes == reached
                };
                all.filter(fits).count()
            };
            assert!(tested.reached <= said(true), "without a nonce");
            assert!(tested.failed <= said(false));
            let (enough, state) = (config.confirmations, tested.reachability);
            assert!(state != Reachability::Public || said(true) >= enough);
            assert!(state != Reachability::Private || said(false) >= enough);
        }
    }
});

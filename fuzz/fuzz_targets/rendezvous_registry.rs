//! A rendezvous registry and a client beside it under arbitrary operations: quotas hold, timers are at most as many as
//! registrations, nothing outlives its time, and every page of DISCOVER leads on.
#![no_main]

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::LazyLock,
    time::{Duration, Instant},
};

use arbitrary::Arbitrary;
use barewire_base::{Keypair, PeerId, peer_record::PeerRecord};
use barewire_rendezvous::{
    Answer, Change, Client, ClientConfig, Failed, Limits, Output, PointId, Registry, Request,
    Status, decode_request,
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

const PEERS: usize = 6;

static PEERS_AND_RECORDS: LazyLock<Vec<(PeerId, [Bytes; 2])>> = LazyLock::new(|| {
    let one = |seed: u8| {
        let keypair = Keypair::from_seed(&[seed; 32]);
        let signed = |seq| {
            let record = PeerRecord {
                peer_id: keypair.peer_id(),
                seq,
                addrs: vec!["/ip4/192.0.2.1/tcp/1".parse().expect("an address")],
            };
            Bytes::from(record.sign(&keypair).expect("its own key"))
        };
        (keypair.peer_id(), [signed(1), signed(2)])
    };
    (1..=PEERS as u8).map(one).collect()
});

#[derive(Arbitrary, Debug)]
enum Op {
    Register {
        who: u8,
        signer: u8,
        newer: bool,
        ns: u8,
        ttl: u16,
        ip: u8,
    },
    Unregister {
        who: u8,
        ns: Option<u8>,
    },
    Discover {
        ns: Option<u8>,
        limit: u8,
        last: bool,
    },
    Raw {
        who: u8,
        message: Vec<u8>,
    },
    Pass {
        millis: u16,
    },
    Timeout,
    Client {
        fails: bool,
        point_goes: bool,
    },
}

fn namespace(ns: u8) -> Bytes {
    Bytes::copy_from_slice(&[b'a' + ns % 4])
}

fuzz_target!(|ops: Vec<Op>| {
    let begun = Instant::now();
    let mut now = begun;
    let mut limits = Limits::default();
    limits.min_ttl = Duration::from_secs(1);
    limits.max_ttl = Duration::from_secs(60);
    limits.default_ttl = Duration::from_secs(10);
    (
        limits.max_per_peer,
        limits.max_per_address,
        limits.max_total,
    ) = (3, 4, 10);
    limits.max_discover = 3;
    let mut registry = Registry::new(limits, [1; 32], now);
    let mut cookie = Bytes::new();
    let mut mirror: BTreeMap<(PeerId, Bytes), Instant> = BTreeMap::new();
    let mut config = ClientConfig::default();
    config.namespaces = vec!["a".into(), "b".into()];
    config.limit = 2;
    let own = PEERS_AND_RECORDS[0].0;
    let mut client = Client::new(config, own, 1, 5).expect("two namespaces");
    let [standard, newer] = PEERS_AND_RECORDS[0].1.clone();
    client.set_records(now, Some([standard, newer]));
    client.connected(now, PointId(0), true);
    for op in ops.into_iter().take(256) {
        match op {
            Op::Register {
                who,
                signer,
                newer,
                ns,
                ttl,
                ip,
            } => {
                let who = usize::from(who) % PEERS;
                let signer = usize::from(signer) % PEERS;
                let peer = PEERS_AND_RECORDS[who].0;
                let ns = namespace(ns);
                let record = PEERS_AND_RECORDS[signer].1[usize::from(newer)].clone();
                let ip = IpAddr::V4(Ipv4Addr::new(192, 0, 2, ip % 3));
                let ttl = u64::from(ttl % 70);
                let request = Request::Register {
                    ns: ns.clone(),
                    record,
                    ttl,
                };
                let had = mirror.contains_key(&(peer, ns.clone()));
                let answer = registry.handle(now, &peer, Some(ip), None, &request);
                let Some(Answer::Register {
                    status,
                    ttl: granted,
                    ..
                }) = answer
                else {
                    panic!("no answer to REGISTER")
                };
                match status {
                    Status::Ok => {
                        assert_eq!(signer, who);
                        mirror.insert((peer, ns), now + Duration::from_secs(granted));
                    }
                    Status::NotAuthorized => assert_ne!(signer, who),
                    Status::InvalidTtl => assert!(ttl > 60),
                    Status::Unavailable => assert!(!had || registry.len() > 0),
                    other => panic!("{other:?}"),
                }
            }
            Op::Unregister { who, ns } => {
                let peer = PEERS_AND_RECORDS[usize::from(who) % PEERS].0;
                let ns = ns.map_or_else(Bytes::new, namespace);
                let request = Request::Unregister { ns: ns.clone() };
                assert_eq!(registry.handle(now, &peer, None, None, &request), None);
                mirror.retain(|key, _| key.0 != peer || !(ns.is_empty() || key.1 == ns));
            }
            Op::Discover { ns, limit, last } => {
                let ns = ns.map_or_else(Bytes::new, namespace);
                let cookie_given = if last { cookie.clone() } else { Bytes::new() };
                let request = Request::Discover {
                    ns,
                    limit: limit.into(),
                    cookie: cookie_given,
                };
                let answer = registry.handle(now, &own, None, None, &request);
                let Some(Answer::Discover {
                    status,
                    registrations,
                    cookie: next,
                    ..
                }) = answer
                else {
                    panic!("no answer to DISCOVER")
                };
                assert!(registrations.len() <= 3);
                if status == Status::Ok {
                    cookie = next;
                }
                for one in registrations {
                    assert!((1..=60).contains(&one.ttl));
                }
            }
            Op::Raw { who, message } => {
                let peer = PEERS_AND_RECORDS[usize::from(who) % PEERS].0;
                if let Ok(request) = decode_request(&message.into())
                    && !matches!(request, Request::Unregister { .. })
                {
                    // No record that the peers have not signed comes in.
                    registry.handle(now, &peer, None, None, &request);
                }
            }
            Op::Pass { millis } => now += Duration::from_millis(millis.into()),
            Op::Timeout => registry.handle_timeout(now),
            Op::Client { fails, point_goes } => {
                while let Some(output) = client.poll_output(now) {
                    let Output::Send(sent) = output else { continue };
                    if point_goes {
                        client.disconnected(PointId(0));
                        client.connected(now + Duration::from_secs(1), PointId(0), false);
                    } else if fails {
                        client.failed(now, sent.point, Failed::Other);
                    } else if let Some(answer) =
                        registry.handle(now, &own, None, None, &sent.request)
                    {
                        if let (
                            Request::Register { ns, .. },
                            Answer::Register {
                                status: Status::Ok,
                                ttl,
                                ..
                            },
                        ) = (&sent.request, &answer)
                        {
                            mirror.insert((own, ns.clone()), now + Duration::from_secs(*ttl));
                        }
                        client.answered(now, sent.point, answer);
                    }
                }
                assert!(client.poll_timeout().is_none_or(|at| at > now));
            }
        }
        while registry.poll_timeout().is_some_and(|at| at <= now) {
            registry.handle_timeout(now);
        }
        mirror.retain(|_, until| *until > now);
        assert_eq!(registry.len(), mirror.len());
        assert!(registry.len() <= 10);
        assert!(registry.timers() <= registry.len());
        for change in registry.take_changes() {
            if let Change::Put(one) = change {
                assert!(one.ttl <= Duration::from_secs(60));
            }
        }
    }
});

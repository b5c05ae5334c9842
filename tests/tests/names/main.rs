//! Names, from honest and hostile name servers, and dials by them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    reason = "tests"
)]

mod server;

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use barewire_node::{
    Config, DialError, Endpoint, Keypair, Multiaddr, Router,
    dial::{DialTarget, LookupError, ResolveError},
    protocols::echo,
};
use hickory_proto::rr::RecordType;
use server::{Reply, Server};

const OTHER: &str = "12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA";

async fn client(server: &Server, private_names: bool) -> Endpoint {
    client_of(vec![server.addr], private_names).await
}

async fn client_of(servers: Vec<SocketAddr>, private_names: bool) -> Endpoint {
    let mut config = Config::default();
    config.dns.servers = servers;
    config.dial.private_names = private_names;
    Endpoint::builder(Keypair::generate(&mut rand::rng()))
        .config(config)
        .bind()
        .await
        .unwrap()
}

async fn node(keypair: Keypair, listen: &str) -> (Router, Multiaddr) {
    let endpoint = Endpoint::builder(keypair).bind().await.unwrap();
    let router = Router::builder(endpoint)
        .accept(echo::PROTOCOL, echo::Echo)
        .spawn()
        .unwrap();
    let listen = listen.parse().unwrap();
    let addr = router.endpoint().listen(listen).await.unwrap();
    (router, addr)
}

fn port(addr: &Multiaddr) -> u16 {
    addr.to_tcp().unwrap().0.port()
}

fn loopback(_: &str, _: RecordType) -> Reply {
    Reply::Ips(vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()])
}

#[tokio::test]
async fn every_kind_of_name_leads_to_the_node() {
    let (v4, addr) = node(Keypair::generate(&mut rand::rng()), "/ip4/127.0.0.1/tcp/0").await;
    let peer = v4.endpoint().peer_id();
    let port = port(&addr);
    let v6 = format!("/ip6/::1/tcp/{port}");
    v4.endpoint().listen(v6.parse().unwrap()).await.unwrap();
    let server = Server::start(move |name, kind| match kind {
        RecordType::TXT if name == "_dnsaddr.boot.example" => Reply::Txt(vec![
            "v=spf1 -all".into(),
            format!("dnsaddr=/ip4/192.0.2.1/tcp/1/p2p/{OTHER}"),
            format!("dnsaddr=/dnsaddr/second.example/p2p/{peer}"),
        ]),
        RecordType::TXT => Reply::Txt(vec![format!(
            "dnsaddr=/dns4/host.example/tcp/{port}/p2p/{peer}"
        )]),
        _ => loopback(name, kind),
    })
    .await;
    for text in [
        format!("/dns4/host.example/tcp/{port}"),
        format!("/dns6/host.example/tcp/{port}"),
        format!("/dns/host.example/tcp/{port}/p2p/{peer}"),
        format!("/dnsaddr/boot.example/p2p/{peer}"),
    ] {
        let before = server.queries();
        let endpoint = client(&server, true).await;
        let addr: Multiaddr = text.parse().unwrap();
        let connection = endpoint.connect(addr).await.unwrap();
        assert_eq!(connection.peer_id(), peer);
        let queries = server.queries() - before;
        println!(
            "scenario 3: {text}: connected to {}, {queries} queries",
            connection.info().remote_addr
        );
    }
}

#[tokio::test]
async fn a_changed_record_is_followed_when_the_link_dies() {
    let keypair = Keypair::from_seed(&[9; 32]);
    let (first, addr) = node(keypair.clone(), "/ip4/127.0.0.1/tcp/0").await;
    let port = port(&addr);
    let host = Arc::new(Mutex::new("127.0.0.1".parse::<IpAddr>().unwrap()));
    let server = Server::start({
        let host = Arc::clone(&host);
        move |_, _| Reply::Ips(vec![*host.lock().unwrap()])
    })
    .await;
    let endpoint = client(&server, true).await;
    let name: Multiaddr = format!("/dns4/moving.example/tcp/{port}").parse().unwrap();
    let kept = endpoint.keep_connected(vec![name]);
    let remote = async |ip: &str| {
        let ip: IpAddr = ip.parse().unwrap();
        while !endpoint
            .connections()
            .iter()
            .any(|connection| connection.info().remote_addr.ip() == Some(ip))
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), remote("127.0.0.1"))
        .await
        .unwrap();
    let (_second, _) = node(keypair, &format!("/ip4/127.0.0.2/tcp/{port}")).await;
    *host.lock().unwrap() = "127.0.0.2".parse().unwrap();
    first.shutdown(Duration::ZERO).await;
    drop(first);
    let began = Instant::now();
    tokio::time::timeout(Duration::from_secs(20), remote("127.0.0.2"))
        .await
        .unwrap();
    println!(
        "scenario 3: the record changed from 127.0.0.1 to 127.0.0.2 (TTL 3600 s): reconnected {:.1?} after the link died",
        began.elapsed()
    );
    drop(kept);
}

/// Row 25.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_name_servers_cost_little_and_end_soon() {
    let counter = Arc::new(AtomicUsize::new(0));
    let fan = move |_: &str, _| {
        let n = counter.fetch_add(1, Ordering::SeqCst);
        Reply::Txt(
            (0..100)
                .map(|i| format!("dnsaddr=/dnsaddr/f{n}x{i}.example"))
                .collect(),
        )
    };
    let fan_of_hosts = |name: &str, kind| match kind {
        RecordType::TXT => Reply::Txt(
            (0..100)
                .map(|i| format!("dnsaddr=/dns/h{i}.{name}/tcp/1"))
                .collect(),
        ),
        _ => Reply::Ips((0..100).map(|n| IpAddr::from([192, 0, 2, n])).collect()),
    };
    let slow_fan = |name: &str, kind| match kind {
        RecordType::TXT if name == "_dnsaddr.evil.example" => Reply::Txt(
            (0..100)
                .map(|i| format!("dnsaddr=/dnsaddr/s{i}.example"))
                .collect(),
        ),
        _ => Reply::Late(Duration::from_secs(10)),
    };
    let loops = |name: &str, _| {
        let next = if name.contains("evil") {
            "other"
        } else {
            "evil"
        };
        Reply::Txt(vec![format!("dnsaddr=/dnsaddr/{next}.example")])
    };
    let cases = [
        ("fan-out 100 x 100", Server::start(fan).await),
        (
            "100 names with 100 addresses",
            Server::start(fan_of_hosts).await,
        ),
        ("cycle", Server::start(loops).await),
        (
            "replies after 10 s",
            Server::start(|_, _| Reply::Late(Duration::from_secs(10))).await,
        ),
        (
            "100 names that answer after 10 s",
            Server::start(slow_fan).await,
        ),
        (
            "TC=1 for ever",
            Server::start(|_, _| Reply::Truncated).await,
        ),
        ("NXDOMAIN", Server::start(|_, _| Reply::NoSuchName).await),
        (
            "10,000 TXT records",
            Server::start(|_, _| {
                Reply::Txt(
                    (0..10_000)
                        .map(|i| format!("dnsaddr=/ip4/192.0.2.1/udp/{i}"))
                        .collect(),
                )
            })
            .await,
        ),
        (
            "a TXT record of 4,000 bytes",
            Server::start(|_, _| Reply::Txt(vec![format!("dnsaddr=/dns4/{}", "a".repeat(4_000))]))
                .await,
        ),
        (
            "another peer's id",
            Server::start(|_, _| {
                Reply::Txt(vec![format!("dnsaddr=/ip4/127.0.0.1/tcp/1/p2p/{OTHER}")])
            })
            .await,
        ),
    ];
    for ((name, server), count) in cases.iter().flat_map(|case| [(case, 1), (case, 2)]) {
        let servers = [server.addr, server.second][..count].to_vec();
        let endpoint = client_of(servers, false).await;
        let before = server.queries();
        let addr: Multiaddr = "/dnsaddr/evil.example".parse().unwrap();
        let began = Instant::now();
        let resolution = endpoint.resolve(&addr).await;
        let took = began.elapsed();
        println!(
            "row 25: {name}: {} queries of {count} server(s), {} look-ups, {} addresses, {} dropped, {took:.2?}",
            server.queries() - before,
            resolution.lookups.len(),
            resolution.addresses.len(),
            resolution.dropped.len() + resolution.dropped_more
        );
        let queries = server.queries() - before;
        assert!(queries <= 32, "{name}: {queries} queries");
        assert!(resolution.addresses.len() <= 16, "{name}");
        assert!(took < Duration::from_millis(5_500), "{name}: {took:?}");
    }
    let nx = client(&cases[6].1, false).await;
    let error = nx
        .connect("/dns4/gone.example/tcp/1".parse::<Multiaddr>().unwrap())
        .await;
    let Err(DialError::Name { error, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(error, ResolveError::Lookup(LookupError::NoSuchName));
    let late = client(&cases[3].1, false).await;
    let began = Instant::now();
    let error = late
        .connect("/dns/late.example/tcp/1".parse::<Multiaddr>().unwrap())
        .await;
    let took = began.elapsed();
    println!(
        "row 25: a dial by a name that is answered late: {} after {took:.2?}",
        error.unwrap_err()
    );
    assert!(took < Duration::from_millis(5_500));
    let other = client(&cases[9].1, true).await;
    let expected = Keypair::generate(&mut rand::rng()).peer_id();
    let target = DialTarget::from((expected, vec!["/dnsaddr/evil.example".parse().unwrap()]));
    let error = other.connect(target).await.unwrap_err();
    println!("row 25: {error}");
    assert!(matches!(error, DialError::Name { .. }), "{error:?}");
    assert!(
        other
            .dial_stats()
            .transports
            .iter()
            .all(|of| of.attempts == 0)
    );
}

/// Row 26.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn public_names_do_not_reach_into_this_network() {
    const IPS: [&str; 20] = [
        "127.0.0.1",
        "127.9.9.9",
        "10.0.0.1",
        "172.16.3.4",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "::1",
        "fd00::1",
        "fe80::1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::169.254.169.254",
        "2002:c0a8:101::1",
        "2002:7f00:1::",
        "::10.0.0.1",
        "fec0::1",
        "192.0.0.1",
        "198.18.0.1",
        "240.0.0.1",
        "::ffff:10.0.0.1",
    ];
    let server = Server::start(|name, _| {
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        let n: usize = digits.parse().unwrap_or(0);
        Reply::Ips(vec![IPS[n % IPS.len()].parse().unwrap()])
    })
    .await;
    let endpoint = client(&server, false).await;
    let mut refused = 0;
    for n in 0..20 {
        for transport in ["tcp/9", "tcp/9/ws", "tcp/9/tls/ws", "udp/9/quic-v1"] {
            let addr: Multiaddr = format!("/dns/r{n}.example/{transport}").parse().unwrap();
            let error = endpoint.connect(addr).await.unwrap_err();
            assert!(matches!(error, DialError::PrivateName { .. }), "{error}");
            refused += 1;
        }
    }
    let stats = endpoint.dial_stats();
    let dials: u64 = stats.transports.iter().map(|of| of.attempts).sum();
    println!("row 26: 20 names x 4 transports: {refused} refused, {dials} dials");
    assert_eq!((refused, dials), (80, 0));
}
